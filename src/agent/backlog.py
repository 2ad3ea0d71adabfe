"""Changes that were read from a store and are not in the database yet.

A log is removed soon after it is full, whether the database is there or not. So what was read is
kept: a little in memory, the rest in files, up to a bound. Beyond it the mirror has a gap, which a
comparison in full closes later.

The files are a row of segments, and each goes when all in it was read back: where the database is
a little behind for days, they take no more room than what waits.
"""

import errno
import os
import struct
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from agent.journal import Batch, Changes, Position

PREFIX = "backlog-"
MEMORY_BYTES = 8 * 2**20
DISK_BYTES = 2**30
TAKE_BYTES = 4 * 2**20
_SEGMENTS = 64
_HEAD = struct.Struct("<IIIQ")
_ENTRY = struct.Struct("<IiQ")
_DELETED = -1


class FullError(Exception):
    """No more fits: what is given now is not kept."""


class Waiting(NamedTuple):
    """A batch, and a time before the first of its changes, by the monotonic clock."""

    batch: Batch
    since: float


class _Segment:
    """A file of batches, read in the order in which they were written.

    Attributes:
        size: bytes of the file.
        waiting: the time of each batch that was not read yet, and how many bytes it has here.
    """

    def __init__(self, path: Path):
        self.path = path
        self.size = 0
        self.waiting: deque[tuple[float, int]] = deque()
        self._read_at = 0

    def add(self, data: bytes, since: float) -> None:
        """Write an encoded batch behind the others; an OSError leaves it out."""
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            written = os.pwrite(file, data, self.size)
        finally:
            os.close(file)
        if written != len(data):
            raise OSError(errno.ENOSPC, "the disk of the pod is full")
        self.size += len(data)
        self.waiting.append((since, len(data)))

    def next(self) -> Waiting:
        """Read the oldest batch that waits; after an OSError it still does."""
        since, length = self.waiting[0]
        with self.path.open("rb") as file:
            file.seek(self._read_at)
            data = file.read(length)
        if len(data) != length:
            raise OSError(errno.EIO, f"{self.path.name} was cut")
        self._read_at += length
        self.waiting.popleft()
        return Waiting(_decode(data), since)


class Backlog:
    """First in, first out. One thread puts, another takes; its files are `path` with a number.

    What a process that was killed left there is of no use: the store, or a comparison, has it too.
    """

    def __init__(self, path: Path, memory: int = MEMORY_BYTES, disk: int = DISK_BYTES):
        self._path = path
        self._memory = memory
        self._disk = disk
        self._lock = threading.Lock()
        self._batches: deque[Waiting] = deque()
        self._in_memory = 0
        # Each has a batch that waits.
        self._segments: deque[_Segment] = deque()
        self._number = 0
        self._taken = 0
        self.size = 0
        self.transactions = 0

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._batches.clear()
            self._in_memory = self._taken = 0
            self.size = self.transactions = 0
            while self._segments:
                self._segments.popleft().path.unlink(missing_ok=True)

    def put(self, batch: Batch, since: float) -> None:
        """Keep a batch, of which nothing had happened yet at `since`.

        Raises:
            FullError: there is no more room; the batch is not kept.
        """
        with self._lock:
            if not self._segments and self._in_memory + batch.size <= self._memory:
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
            return self._segments[0].waiting[0][0] if self._segments else None

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
        if sum(each.size for each in self._segments) + len(data) > self._disk:
            raise FullError(f"{self._disk} bytes wait already")
        full = not self._segments or self._segments[-1].size >= self._disk // _SEGMENTS
        segment = self._begin() if full else self._segments[-1]
        try:
            segment.add(data, since)
        except OSError as error:
            if full:
                segment.path.unlink(missing_ok=True)
            raise FullError(f"{self._path.name}: {error.strerror}") from error
        if full:
            self._segments.append(segment)

    def _begin(self) -> _Segment:
        self._number += 1
        return _Segment(self._path.with_name(f"{self._path.name}.{self._number}"))

    def _fill(self, limit: int) -> None:
        """Read the oldest batches back from the files."""
        while self._segments and self._in_memory < limit:
            waiting = self._segments[0].next()
            self._batches.append(waiting)
            self._in_memory += waiting.batch.size
            if not self._segments[0].waiting:
                self._segments.popleft().path.unlink(missing_ok=True)


def remove_left_over(run: Path) -> None:
    """Remove the files of a process that was killed, also those of stores that are gone."""
    for file in run.glob(f"{PREFIX}*"):
        file.unlink(missing_ok=True)


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


def _decode(data: bytes) -> Batch:
    length, count, transactions, size = _HEAD.unpack_from(data)
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
