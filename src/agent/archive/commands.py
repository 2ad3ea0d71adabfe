"""The commands of backups, as `python3 -m agent` runs them."""

import argparse
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
from agent.report import listen

PORT = 9092
_LIST_PATIENCE = 20.0

Said = dict[str, Any]


def run(asked: argparse.Namespace, stop: Callable[[], threading.Event]) -> tuple[int, Said | None]:
    """Run a command; return its exit code and what it says.

    Args:
        asked: the command line.
        stop: makes an event that signals set.
    """
    try:
        settings = load(asked.config, asked.root)
    except ArchiveError as error:
        return 2, _error(error)
    if asked.command == "backup":
        return _serve(settings, asked.port, stop()), None
    try:
        return 0, _COMMANDS[asked.command](settings, asked)
    except ArchiveError as error:
        return 1, _error(error)


def _serve(settings: ArchiveSettings, port: int | None, stop: threading.Event) -> int:
    memory.reuse()
    status = Status(settings.run, settings.notes, settings.instance)
    server = listen(status, PORT if port is None else port)

    def work() -> None:
        try:
            Daemon(settings, status, stop).run()
        finally:
            stop.set()

    # In a thread of its own: signals are only seen by this one, and only while S3 is not asked.
    worker = threading.Thread(target=work)
    worker.start()
    stop.wait()
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
