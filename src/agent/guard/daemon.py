"""The service: looks at the volumes every second, and moves what the shares may hold."""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agent.archive import notices
from agent.archive.server import Server, ServerError, Usage
from agent.badger import BadgerError
from agent.guard.quotas import Level, ShareQuota
from agent.guard.read_only import Note
from agent.guard.removed import removed_bytes
from agent.guard.settings import STATUS, GuardSettings

logger = logging.getLogger("agent.guard")

NOTICE = "dittofs.charm/space"
# Seconds; the second where a volume has not much more free than its bound: a client may write a
# gigabyte in one.
_LOOK_EVERY, _LOOK_EVERY_NEAR = 1.0, 0.05
_NEAR = 4
_ASK_EVERY, _ASK_EVERY_SHORT = 30.0, 5.0
_WRITE_EVERY = 5.0
_NOTES_EVERY = 1.0
# No client writes more than this in a second, in bytes: how long the server need not be asked.
_FASTEST = 300 * 2**20
_CROWDED = 0.9
# What has to be free again of what all shares may hold.
_ROOM_AGAIN = 0.02


class Guard:
    """Guards the volumes until `stop` is set.

    Files may not grow while a volume has less free space than its bound, or while the shares hold
    more than the content volume has room for: the server answers "no space", and its own files,
    and what cleans them up, have the rest. What is written in place takes new space, too, and is
    never refused for a quota; so while next to nothing is left the shares are read-only, for as
    long as the server needs to clean up.
    """

    def __init__(self, settings: GuardSettings, stop: threading.Event):
        self._settings = settings
        self._stop = stop
        self._server = Server(settings.api)
        executor = ThreadPoolExecutor(1, thread_name_prefix="count")
        self._quotas = {
            name: ShareQuota(share, _counter(settings.stores / share.store), executor)
            for name, share in settings.shares.items()
        }
        self._notes = {
            name: Note(settings.stores / share.store, executor)
            for name, share in settings.shares.items()
            if not share.read_only
        }
        self._stuck: frozenset[str] = frozenset()
        self._free: dict[str, int] = {}
        self._short: frozenset[str] = frozenset()
        self._halted: frozenset[str] = frozenset()
        self._tight: frozenset[str] = frozenset()
        self._full = False
        self._since = time.time()
        self._error: str = ""
        self._error_since: float | None = None
        self._ask_at = self._write_at = 0.0

    def run(self) -> None:
        """Work."""
        while True:
            self.look()
            if self._stop.wait(_LOOK_EVERY_NEAR if self._near else _LOOK_EVERY):
                return

    def look(self) -> None:
        """Look at the volumes once, and tell the server what follows."""
        before = self._seen
        self._measure()
        changed = before[:2] != (self._short, self._halted)
        if changed or time.monotonic() >= self._ask_at:
            self._ask()
        after = self._seen
        if before[:3] != after[:3]:
            self._since = time.time()
            logger.info("%s", self._describe())
        if before != after or time.monotonic() >= self._write_at:
            self._write()
        if before[:4] != after[:4]:
            notices.notify(NOTICE)

    @property
    def _seen(self) -> tuple[object, ...]:
        """What is told: of the first four the charm is, and of the first three the log."""
        return self._short, self._halted, self._full, self._stuck, self._tight, self._error

    @property
    def _near(self) -> bool:
        """Whether a volume may soon have less space than it needs."""
        return any(
            self._free.get(name, 0) < _NEAR * bounds.freeze
            for name, bounds in self._settings.volumes.items()
        )

    @property
    def level(self) -> Level:
        """What clients may do now."""
        if self._halted:
            return Level.HALTED
        return Level.FROZEN if self._short or self._full else Level.OPEN

    def _measure(self) -> None:
        """Find the volumes with less free space than they need."""
        for name, bounds in self._settings.volumes.items():
            try:
                info = os.statvfs(self._settings.volume(name))
            except OSError:
                # It is away: what was known last holds.
                continue
            free = self._free[name] = info.f_bavail * info.f_frsize
            short = free < (bounds.resume if name in self._short else bounds.freeze)
            halted = free < (bounds.freeze if name in self._halted else bounds.halt)
            self._short = self._short | {name} if short else self._short - {name}
            self._halted = self._halted | {name} if halted else self._halted - {name}
            tight = free < bounds.tight
            self._tight = self._tight | {name} if tight else self._tight - {name}

    def _ask(self) -> None:
        """Ask the server what its shares hold, and change what differs."""
        error: str = ""
        pause = _ASK_EVERY
        try:
            usage = self._server.usage()
            present = {name: each for name, each in self._quotas.items() if name in usage}
            room = self._settings.room
            held = sum(usage[name].used_bytes - each.removed for name, each in present.items())
            crowded = bool(room) and held > room * _CROWDED
            for name, quota in present.items():
                quota.look(usage[name], crowded=crowded or bool(self._full))
            if any(quota.uncertain for quota in present.values()):
                pause = _LOOK_EVERY
            else:
                pause = self._judge(room, sum(each.live for each in present.values()))
            # Before anything is changed: where that fails, it is still seen what was there.
            if self._look_at_notes(usage):
                pause = min(pause, _NOTES_EVERY)
            for name, quota in present.items():
                quota.apply(self._server, name, self.level)
        except ServerError as failed:
            error = str(failed)
        if error != self._error:
            logger.info("the server: %s", error or "answers again")
            self._error, self._error_since = error, time.time() if error else None
        if self._short or any(quota.nearly_full for quota in self._quotas.values()):
            pause = min(pause, _ASK_EVERY_SHORT)
        # What could not be set is tried again at the next look.
        self._ask_at = 0.0 if error else time.monotonic() + pause

    def _look_at_notes(self, usage: Mapping[str, Usage]) -> bool:
        """Find the shares that the server keeps read-only although they may be written.

        Returns:
            Whether there is something left to find out.
        """
        notes = {name: note for name, note in self._notes.items() if name in usage}
        for name, note in notes.items():
            note.look(read_only=usage[name].read_only)
        stuck = (name for name, note in notes.items() if note.stuck)
        self._stuck = frozenset() if self._halted else frozenset(stuck)
        return any(note.pending for note in notes.values())

    def _judge(self, room: int, live: int) -> float:
        """Find whether the shares hold all that there is room for; when to ask again, seconds."""
        if not room:
            return _ASK_EVERY
        self._full = live >= room * (1 - _ROOM_AGAIN if self._full else 1)
        return min(max((room - live) / _FASTEST, _LOOK_EVERY), _ASK_EVERY)

    def _describe(self) -> str:
        if self.level is Level.OPEN:
            return "there is space: files may grow"
        why = [f"the {name} volume is short of space" for name in sorted(self._short)]
        why += ["the shares hold what the content volume has room for"] if self._full else []
        so = "shares are read-only" if self._halted else "no file may grow"
        return f"{so}: {', '.join(why)}"

    def _write(self) -> None:
        self._write_at = time.monotonic() + _WRITE_EVERY
        counting = [each.counting_since for each in self._quotas.values()]
        status: dict[str, Any] = {
            "updated": time.time(),
            "short": sorted(self._short),
            "tight": sorted(self._tight),
            "full": self._full,
            "halted": sorted(self._quotas) if self._halted else [],
            "stuck": sorted(self._stuck),
            "since": self._since,
            "free": self._free,
            "error": self._error,
            "error-since": self._error_since,
            "counting-since": min((since for since in counting if since), default=None),
            "shares": {name: quota.as_json() for name, quota in self._quotas.items()},
        }
        target = self._settings.run / STATUS
        temporary = target.with_suffix(".new")
        # A full disk of the pod is no reason to stop.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(status, sort_keys=True), encoding="utf-8")
            temporary.replace(target)


def _counter(store: Path) -> Callable[[], int | None]:
    def count() -> int | None:
        try:
            return removed_bytes(store)
        except (BadgerError, OSError) as error:
            logger.info("the removed files of %s cannot be counted now: %s", store.name, error)
            return None

    return count
