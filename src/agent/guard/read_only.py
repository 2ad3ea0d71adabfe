"""The server's own note that a share is read-only, which stands in the share's metadata store.

The server (seen on v0.29.0) makes it when it opens a share that is read-only just then, and never
takes it back: whatever its API says afterwards, that share cannot be written any more. The note is
in the row `s:<name>`, JSON with `share.Options.ReadOnly` (pkg/metadata/store/badger/encoding.go).
"""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import closing
from pathlib import Path
from typing import Any

from agent.badger import BadgerError
from agent.guard.rows import logged, rows
from agent.guard.settings import GuardSettings
from agent.log_writer import LogWriter

logger = logging.getLogger("agent.guard")

_SHARE = b"s:"


def is_noted(directory: Path) -> bool:
    """Whether a Badger store has the note; it may be in use.

    Raises:
        BadgerError: the store cannot be read, or not now.
    """
    # One in memory has no directory, and forgets the note.
    return directory.is_dir() and any(_noted(directory))


def make_writable(settings: GuardSettings) -> list[str]:
    """Take the note back for all shares that may be written; the names of those that had it.

    Raises:
        BadgerError: it could not be taken back for some of them; for all others it was.
    """
    done: list[str] = []
    problems: list[str] = []
    for name, share in settings.shares.items():
        try:
            if not share.read_only and take_back(settings.stores / share.store):
                done.append(name)
        except (BadgerError, OSError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise BadgerError("; ".join(problems))
    return done


def take_back(directory: Path) -> bool:
    """Take the note back where a Badger store has it; return whether it had.

    Raises:
        BadgerError: the server has the store open, or the store cannot be read.
        OSError: there is no space.
    """
    if not directory.is_dir():
        return False
    with closing(LogWriter(directory)) as writer:
        changes: dict[bytes, bytes | None] = {}
        for key, value in _noted(directory):
            value["share"]["Options"]["ReadOnly"] = False
            changes[key] = json.dumps(value, separators=(",", ":")).encode()
        if changes:
            writer.write(changes)
        return bool(changes)


class Note:
    """Whether one share has the note; `stuck` is what is known.

    Args:
        directory: of the share's Badger store.
        executor: reads it, which takes a second where much was written last.
    """

    def __init__(self, directory: Path, executor: Executor):
        self.stuck = False
        self._directory = directory
        self._executor = executor
        self._due = True
        self._looking: Future[bool | None] | None = None

    @property
    def pending(self) -> bool:
        """Whether `look` has something to find out."""
        return self._due or self._looking is not None

    def look(self, *, read_only: bool) -> None:
        """Look at the store where that is due.

        Args:
            read_only: whether the server has the share read-only now. The note is made as long as
                it is, and looked for afterwards.
        """
        if read_only:
            self._due = True
            return
        if self._looking is not None and self._looking.done():
            found, self._looking = self._looking.result(), None
            # Where it cannot be told now it is looked at again, as long as the note is there too.
            self._due |= found is None or found
            self.stuck = self.stuck if found is None else found
        if self._due and self._looking is None:
            self._due = False
            self._looking = self._executor.submit(self._read)

    def _read(self) -> bool | None:
        try:
            return is_noted(self._directory)
        except (BadgerError, OSError) as error:
            logger.info("%s cannot be read now: %s", self._directory.name, error)
            return None


def _noted(directory: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The rows of shares that have the note; one of another kind has none."""
    for key, _, text in rows(directory, logged(directory, _SHARE), _SHARE):
        try:
            value = json.loads(text)
            if value["share"]["Options"]["ReadOnly"]:
                yield key, value
        except (ValueError, KeyError, TypeError):
            continue
