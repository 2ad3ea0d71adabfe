"""The commands of backups, as `python3 -m agent` runs them."""

import argparse
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from agent.archive import memory, swapping
from agent.archive.bucket import open_bucket
from agent.archive.catalogue import Catalogue, row
from agent.archive.daemon import Daemon
from agent.archive.errors import ArchiveError
from agent.archive.request import Request, read
from agent.archive.settings import OPERATION, ArchiveSettings, load
from agent.archive.status import Status
from agent.process import end_with_any_thread, stopped_by_signals
from agent.report import listen

logger = logging.getLogger(__name__)

PORT = 9092
_LIST_PATIENCE = 20.0
_WATCH_SECONDS = 5.0

Said = dict[str, Any]


def run(asked: argparse.Namespace) -> tuple[int, Said | None]:
    """Run a command; return its exit code and what it says."""
    try:
        settings = load(asked.config, asked.root)
    except ArchiveError as error:
        return 2, _error(error)
    if asked.command == "backup":
        return _serve(settings, asked.port), None
    try:
        return 0, _COMMANDS[asked.command](settings, asked)
    except ArchiveError as error:
        return 1, _error(error)


def _serve(settings: ArchiveSettings, port: int | None) -> int:
    memory.reuse()
    # It has nothing to work off at the pod's end: what it does goes on in the next one.
    stop = stopped_by_signals().now
    status = Status(settings.run, settings.notes, settings.instance)
    # Nothing is noted then: an operation that ends it again and again is given up.
    end_with_any_thread(lambda _: None)
    server = listen(status, PORT if port is None else port)
    worker = threading.Thread(target=Daemon(settings, status, stop).run, name="worker")
    worker.start()
    while not stop.wait(_WATCH_SECONDS):
        if status.silent:
            # Pebble starts it again; an operation that ends like this each time is given up.
            logger.critical("the service hangs, and ends")
            os._exit(1)
    status.interrupted()
    worker.join()
    if server:
        server.close()
    return 0


def _list(settings: ArchiveSettings, asked: argparse.Namespace) -> Said:
    catalogue = Catalogue(open_bucket(settings, _LIST_PATIENCE), settings)
    entries = catalogue.everywhere() if asked.all else catalogue.entries()
    return {"backups": [row(entry) for entry in entries], "error": None}


def _restoring(work: Callable[[ArchiveSettings, Request], None]) -> Callable[..., Said]:
    """A step of the restore that the operation file names."""

    def command(settings: ArchiveSettings, _: argparse.Namespace) -> Said:
        request = read(settings.metadata / OPERATION)
        if request is None or request.kind != "restore":
            raise ArchiveError("settings", "no restore is underway")
        work(settings, request)
        return {"error": None}

    return command


_COMMANDS: Mapping[str, Callable[..., Said]] = {
    "backup-list": _list,
    "backup-swap": _restoring(swapping.swap),
    "backup-rollback": _restoring(swapping.rollback),
    "backup-discard": _restoring(swapping.discard),
}


def _error(error: ArchiveError) -> Said:
    return {"error": {"kind": error.kind, "text": str(error)}}
