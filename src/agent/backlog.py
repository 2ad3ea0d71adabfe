"""Changes that were read from a store and are not in the database yet.

A log is removed soon after it is full, whether the database is there or not. So what was read is
kept: a little in memory, the rest in a file, up to a bound. Beyond it the mirror has a gap, which
a comparison in full closes later.
"""

import contextlib
import os
import struct
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from agent.journal import Batch, Changes, Position

MEMORY_BYTES = 8 * 2**20
FILE_BYTES = 2**30
TAKE_BYTES = 4 * 2**20
_HEAD = struct.Struct("<IIIQ")
_ENTRY = struct.Struct("<IiQ")
_DELETED = -1


class FullError(Exception):
    """No more fits: what is given now is not kept."""


class Waiting(NamedTuple):
    """A batch, and a time before the first of its changes, by the monotonic clock."""

    batch: Batch
    since: float


class Backlog:
    """First in, first out. One thread puts, another takes; `path` is its file."""

    def __init__(self, path: Path, memory: int = MEMORY_BYTES, disk: int = FILE_BYTES):
        self._path = path
        self._memory = memory
        self._disk = disk
        self._lock = threading.Lock()
        self._batches: deque[Waiting] = deque()
        self._in_memory = 0
        self._file: int | None = None
        self._read_at = self._write_at = 0
        self._taken = 0
        self._spooled: deque[tuple[float, int, int]] = deque()
        self.size = 0
        self.transactions = 0

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._batches.clear()
            self._spooled.clear()
            self._in_memory = self._read_at = self._write_at = self._taken = 0
            self.size = self.transactions = 0
            if self._file is not None:
                os.close(self._file)
                self._file = None
                with contextlib.suppress(FileNotFoundError):
                    self._path.unlink()

    def put(self, batch: Batch, since: float) -> None:
        """Keep a batch, of which nothing had happened yet at `since`.

        Raises:
            FullError: there is no more room; the batch is not kept.
        """
        with self._lock:
            if not self._spooled and self._in_memory + batch.size <= self._memory:
                self._batches.append(Waiting(batch, since))
                self._in_memory += batch.size
            else:
                self._spool(batch, since)
            self.size += batch.size
            self.transactions += batch.transactions

    def oldest(self) -> float | None:
        """A time before the oldest change that waits; None where none waits."""
        with self._lock:
            if self._batches:
                return self._batches[0].since
            return self._spooled[0][0] if self._spooled else None

    def take(self, limit: int = TAKE_BYTES) -> Batch | None:
        """The oldest changes as one batch of about `limit` bytes; they stay until `drop`.

        None where there are none.
        """
        with self._lock:
            if not self._batches:
                self._fill(limit)
            chosen: list[Batch] = []
            size = 0
            for waiting in self._batches:
                if chosen and size + waiting.batch.size > limit:
                    break
                chosen.append(waiting.batch)
                size += waiting.batch.size
            self._taken = len(chosen)
            return merged(chosen) if chosen else None

    def drop(self) -> None:
        """What was taken is in the database."""
        with self._lock:
            for _ in range(self._taken):
                batch = self._batches.popleft().batch
                self._in_memory -= batch.size
                self.size -= batch.size
                self.transactions -= batch.transactions
            self._taken = 0

    def _spool(self, batch: Batch, since: float) -> None:
        data = _encode(batch)
        if self._write_at + len(data) > self._disk:
            raise FullError(f"{self._disk} bytes wait already")
        try:
            if self._file is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._file = os.open(self._path, flags, 0o600)
            if os.pwrite(self._file, data, self._write_at) != len(data):
                raise FullError("the disk of the pod is full")
        except OSError as error:
            raise FullError(f"{self._path.name}: {error.strerror}") from error
        self._write_at += len(data)
        self._spooled.append((since, len(data), batch.size))

    def _fill(self, limit: int) -> None:
        """Read the oldest batches back from the file."""
        while self._spooled and self._in_memory < limit:
            assert self._file is not None  # noqa: S101  # for the type checker
            since, length, size = self._spooled.popleft()
            batch = _decode(os.pread(self._file, length, self._read_at), size)
            self._read_at += length
            self._batches.append(Waiting(batch, since))
            self._in_memory += size
        if not self._spooled and self._file is not None:
            os.ftruncate(self._file, 0)
            self._read_at = self._write_at = 0


def merged(batches: list[Batch]) -> Batch:
    """Consecutive batches as one."""
    if len(batches) == 1:
        return batches[0]
    changes: Changes = {}
    for batch in batches:
        changes.update(batch.changes)
    return Batch(
        changes,
        sum(batch.transactions for batch in batches),
        sum(batch.size for batch in batches),
        batches[-1].position,
    )


def _encode(batch: Batch) -> bytes:
    position = batch.position.to_text().encode()
    parts = [
        _HEAD.pack(len(position), len(batch.changes), batch.transactions, batch.size),
        position,
    ]
    for key, (version, value) in batch.changes.items():
        if value is None:
            parts += (_ENTRY.pack(len(key), _DELETED, version), key)
        else:
            parts += (_ENTRY.pack(len(key), len(value), version), key, value)
    return b"".join(parts)


def _decode(data: bytes, size: int) -> Batch:
    length, count, transactions, _ = _HEAD.unpack_from(data)
    at = _HEAD.size + length
    position = Position.from_text(data[_HEAD.size : at].decode())
    assert position is not None  # noqa: S101  # written above
    changes: Changes = {}
    for _ in range(count):
        key_size, value_size, version = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        key = data[at : at + key_size]
        at += key_size
        value = None
        if value_size != _DELETED:
            value = data[at : at + value_size]
            at += value_size
        changes[key] = (version, value)
    return Batch(changes, transactions, size, position)
