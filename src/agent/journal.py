"""Follow a store's logs from outside, while the server writes them.

The server's store (`badger.py` has the format) is read by position: the number of a log, an
offset in it, and a checksum of all that stands before. Nothing is assumed to have been seen that
was not: where a log went before its end was known, the store's tables tell whether something was
missed, and where they cannot, `GapError` says that both sides have to be compared in full.

What makes that sound, checked against the real Badger in `tests/badger`:

- The versions of a store's transactions are consecutive numbers, in the order of its logs.
- Log N is complete when log N+1 exists, and is removed after its table is in the MANIFEST.
- A clean stop turns the last log into a table, too; then numbers begin at 1 again.
- Dropping all data removes every log and every table. So a table that has the last version that
  was followed says at once that all of it was kept and that nothing was dropped.
- A log can lose its end only when the kernel goes down; a killed server loses nothing.
"""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import google_crc32c

from agent.badger import HEADER_SIZE, GoneError, log_paths, read_log
from agent.tables import max_version, read_manifest

Changes = dict[bytes, tuple[int, "bytes | None"]]
"""Key to version and value; None deletes."""

BATCH_BYTES = 4 * 2**20
_INTERNAL = b"!badger!"
_UNKNOWN = -1
_TRIES = 5


class GapError(Exception):
    """Something may have been missed: compare both sides in full."""


@dataclass(frozen=True)
class Position:
    """How far a store was followed.

    Attributes:
        log: number of the log, 0 where there was none.
        offset: of the first byte that was not read.
        checksum: crc32c of all bytes of the log before it; -1 where it is not known.
        version: of the last transaction.
        boot: the run of the kernel that the log was read on.
    """

    log: int = 0
    offset: int = HEADER_SIZE
    checksum: int = _UNKNOWN
    version: int = 0
    boot: str = ""

    def to_text(self) -> str:
        """As it is kept in the database."""
        return json.dumps([1, self.log, self.offset, self.checksum, self.version, self.boot])

    @classmethod
    def from_text(cls, text: str) -> "Position | None":
        """Read it back; None where it is of another kind."""
        try:
            kind, *numbers, boot = json.loads(text)
        except (ValueError, TypeError):
            return None
        fits = kind == 1 and len(numbers) == 4 and all(isinstance(each, int) for each in numbers)  # noqa: PLR2004  # the fields
        return cls(*numbers, boot=str(boot)) if fits else None


class Batch(NamedTuple):
    """Whole transactions, the newest value of each key, and the position behind them.

    `size` counts the bytes they have in the log.
    """

    changes: Changes
    transactions: int
    size: int
    position: Position


@functools.cache
def boot_id() -> str:
    """Which run of the kernel this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class _Log:
    """A log that is held open, so that its inode tells it from one that took its name."""

    def __init__(self, path: Path):
        self.path = path
        self.number = int(path.stem)
        self.offset = HEADER_SIZE
        self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.checksum = self._checksum_of(0, HEADER_SIZE, 0)

    def close(self) -> None:
        os.close(self.file)

    def replaced(self) -> bool:
        """Whether another file has its name."""
        try:
            return self.path.stat().st_ino != os.fstat(self.file).st_ino
        except FileNotFoundError:
            return False

    def gone(self) -> bool:
        """Whether it was removed, or truncated because it is about to be."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return True
        return stat.st_size < self.offset or stat.st_ino != os.fstat(self.file).st_ino

    def seek(self, offset: int, checksum: int) -> bool:
        """Go to an offset if what stands before it has this checksum."""
        if self._checksum_of(0, offset, 0) != checksum:
            return False
        self.offset, self.checksum = offset, checksum
        return True

    def advance(self, end: int) -> None:
        """What stands before `end` was read."""
        if self.checksum != _UNKNOWN:
            self.checksum = self._checksum_of(self.offset, end - self.offset, self.checksum)
        self.offset = end

    def _checksum_of(self, offset: int, size: int, checksum: int) -> int:
        while size > 0:
            data = os.pread(self.file, min(size, 2**20), offset)
            if not data:
                return _UNKNOWN
            checksum = int(google_crc32c.extend(checksum, data))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # it has no types
            offset, size = offset + len(data), size - len(data)
        return checksum


class Journal:
    """The changes of one store, in order, each once; not for several threads at once."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._log: _Log | None = None
        self._version = 0
        # Whether the next transaction has to follow directly on the one before.
        self._consecutive = False

    @property
    def position(self) -> Position:
        """How far it was followed."""
        if self._log is None:
            return Position(version=self._version, boot=boot_id())
        log = self._log
        return Position(log.number, log.offset, log.checksum, self._version, boot_id())

    def close(self) -> None:
        """Let go of the files."""
        if self._log:
            self._log.close()
        self._log = None

    def begin(self) -> None:
        """Start at the first byte of the oldest log that is there."""
        self.close()
        self._version, self._consecutive = 0, False

    def resume(self, position: Position) -> None:
        """Go on behind a position.

        Raises:
            GapError: what happened since cannot be told from the store.
        """
        self.close()
        self._version, self._consecutive = position.version, True
        log = _open(self.directory / f"{position.log:05}.mem") if position.log else None
        if log and log.seek(position.offset, position.checksum):
            self._log = log
            return
        if log:
            log.close()
        if position.boot != boot_id():
            # The log may have lost what only the memory of another kernel had, and its versions
            # may have been used again: the tables prove nothing.
            raise GapError("the log that was followed went with another run of the node")
        self._bridge()

    def settle(self) -> Position:
        """The position when the logs were read to their end and had nothing.

        Raises:
            GapError: the tables change too fast to tell.
        """
        if self._version == 0:
            self._version = self._newest_table()
            self._consecutive = True
        return self.position

    def poll(self, limit: int = BATCH_BYTES) -> Batch | None:
        """The next whole transactions, of about `limit` bytes at most; None where there are none.

        Raises:
            GapError: something may have been missed.
            BadgerError: the store is not what this program understands.
        """
        while True:
            if self._log is None and not self._open_oldest():
                return None
            assert self._log is not None  # noqa: S101  # for the type checker
            log = self._log
            successor = self.directory / f"{log.number + 1:05}.mem"
            complete = successor.exists()
            batch = self._read(log, limit)
            if batch:
                return batch
            if log.gone():
                self._bridge()
            elif complete and (following := _open(successor)):
                log.close()
                self._log, self._consecutive = following, self._version > 0
            else:
                return None

    def _open_oldest(self) -> bool:
        for path in log_paths(self.directory):
            self._log = _open(path)
            if self._log:
                return True
        return False

    def _read(self, log: _Log, limit: int) -> Batch | None:
        changes: Changes = {}
        count, end, version = 0, log.offset, self._version
        try:
            for transaction in read_log(log.path, log.offset):
                entries = transaction.entries
                if len(entries) == 1 and entries[0].version <= version:
                    # The value log was cleaned up: a value that is known moved into this log.
                    entries = ()
                else:
                    version = self._following(version, entries[0].version)
                for entry in entries:
                    if not entry.key.startswith(_INTERNAL):
                        changes[entry.key] = (
                            entry.version,
                            None if entry.deleted else entry.value,
                        )
                end = transaction.end
                count += 1
                if end - log.offset >= limit:
                    break
        except GoneError:
            # What was read before is whole; whether all was read is found out next.
            pass
        if not count or log.replaced():
            return None
        size = end - log.offset
        log.advance(end)
        self._version = version
        return Batch(changes, count, size, self.position)

    def _following(self, before: int, version: int) -> int:
        """Return `version` if it may come after `before`."""
        if version <= before or (self._consecutive and version != before + 1):
            raise GapError(f"version {version} comes after {before}")
        self._consecutive = False
        return version

    def _bridge(self) -> None:
        """The log went before its end was seen: go on where the tables say that nothing is missed.

        Raises:
            GapError: they do not.
        """
        self.close()
        kept = self._newest_table()
        if kept != self._version:
            raise GapError(f"followed up to version {self._version}, the tables have {kept}")
        self._consecutive = True

    def _newest_table(self) -> int:
        """The last version that is in the tables, 0 where there are none."""
        return _retried(lambda: max_version(self.directory, read_manifest(self.directory)))


def _open(path: Path) -> _Log | None:
    try:
        return _Log(path)
    except FileNotFoundError:
        return None


def _retried(look: Callable[[], int]) -> int:
    """Tables are compacted away while they are looked at; that ends."""
    for _ in range(_TRIES):
        try:
            return look()
        except GoneError:
            continue
    raise GapError("the tables change faster than they can be looked at")
