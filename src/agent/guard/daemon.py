"""The service: looks at the volumes every second, and moves the quotas of the shares."""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.archive import notices
from agent.archive.server import Server, ServerError
from agent.badger import BadgerError
from agent.guard.quotas import ShareQuota
from agent.guard.removed import removed_bytes
from agent.guard.settings import GuardSettings

logger = logging.getLogger("agent.guard")

STATUS = "guard-status.json"
NOTICE = "dittofs.charm/space"
_LOOK_EVERY = 1.0
_ASK_EVERY = 30.0
_ASK_EVERY_NEARLY_FULL = 10.0
_WRITE_EVERY = 5.0


class Guard:
    """Guards the volumes until `stop` is set.

    While a volume has less free space than its bound no share's files may grow: the server answers
    "no space", and its own files, and what clean it up, have the rest.
    """

    def __init__(self, settings: GuardSettings, stop: threading.Event):
        self._settings = settings
        self._stop = stop
        self._server = Server(settings.api)
        self._quotas = {
            name: ShareQuota(share, _counter(settings.stores / share.store))
            for name, share in settings.shares.items()
        }
        self._short: frozenset[str] = frozenset()
        self._since = time.time()
        self._free: dict[str, int] = {}
        self._error: str = ""
        self._ask_at = self._write_at = 0.0

    def run(self) -> None:
        """Work."""
        while True:
            self.look()
            if self._stop.wait(_LOOK_EVERY):
                return

    def look(self) -> None:
        """Look at the volumes once, and tell the server what follows."""
        short = self._short_volumes()
        changed = short != self._short
        if changed:
            self._short, self._since = short, time.time()
            logger.info("short of space: %s", ", ".join(sorted(short)) or "no volume any more")
        error = self._error
        if changed or time.monotonic() >= self._ask_at:
            self._ask()
        if changed or self._error != error or time.monotonic() >= self._write_at:
            self._write()
        if changed:
            notices.notify(NOTICE)

    def _short_volumes(self) -> frozenset[str]:
        """The volumes with less free space than they need; a bound has two edges."""
        short: set[str] = set()
        for name, bounds in self._settings.volumes.items():
            try:
                info = os.statvfs(self._settings.volume(name))
            except OSError:
                # It is away: what was known last holds.
                short |= self._short & {name}
                continue
            self._free[name] = info.f_bavail * info.f_frsize
            edge = bounds.resume if name in self._short else bounds.freeze
            if self._free[name] < edge:
                short.add(name)
        return frozenset(short)

    def _ask(self) -> None:
        """Ask the server what its shares hold, and set the quotas that differ."""
        error: str = ""
        try:
            usage = self._server.usage()
            present = {name: each for name, each in self._quotas.items() if name in usage}
            for name, quota in present.items():
                quota.look(usage[name], freeze=bool(self._short))
                if quota.differs():
                    self._server.set_quota(name, quota.wanted)
                    quota.applied()
        except ServerError as failed:
            error = str(failed)
        if error != self._error:
            logger.info("the server: %s", error or "answers again")
            self._error = error
        near = any(quota.nearly_full for quota in self._quotas.values())
        pause = _ASK_EVERY_NEARLY_FULL if near or self._short else _ASK_EVERY
        # A quota that could not be set is tried again at the next look.
        self._ask_at = 0.0 if error else time.monotonic() + pause

    def _write(self) -> None:
        self._write_at = time.monotonic() + _WRITE_EVERY
        status: dict[str, Any] = {
            "updated": time.time(),
            "short": sorted(self._short),
            "since": self._since,
            "free": self._free,
            "error": self._error,
            "shares": {name: quota.as_json() for name, quota in self._quotas.items()},
        }
        target = self._settings.run / STATUS
        temporary = target.with_suffix(".new")
        # A full disk of the pod is no reason to stop.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(status, sort_keys=True), encoding="utf-8")
            temporary.replace(target)


def _counter(store: Path) -> Callable[[], int]:
    def count() -> int:
        try:
            return removed_bytes(store)
        except (BadgerError, OSError) as error:
            logger.info("the removed files of %s cannot be counted now: %s", store.name, error)
            return 0

    return count
