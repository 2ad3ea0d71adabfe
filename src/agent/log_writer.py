"""Writes Badger's logs: transactions that Badger reads when it opens the store.

`badger.py` has the format. What stands in a log is at once part of the store for whoever reads it.
"""

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from agent.badger import (
    CHECKSUM_SIZE,
    DELETE,
    HEADER_SIZE,
    INTERNAL,
    LARGEST_KEY,
    LARGEST_VERSION,
    TRANSACTION,
    TRANSACTION_END,
    VERSION_SIZE,
    BadgerError,
    Entry,
    crc32c,
    log_paths,
    read_logs,
    uvarint,
)
from agent.manifest import read_manifest
from agent.tables import max_version

# What Badger takes: a larger value goes to its value log, and a larger log does not fit into the
# memory it has for one where it was told to be small.
LARGEST_VALUE = 2**20 - 1
LARGEST_LOG = 16 * 2**20

_END_KEY = b"!badger!txn"


def encode_entry(entry: Entry, meta: int = 0) -> bytes:
    """The bytes of an entry as they stand in a log."""
    key = entry.key + (LARGEST_VERSION - entry.version).to_bytes(VERSION_SIZE, "big")
    meta |= DELETE if entry.deleted else 0
    head = bytes([meta, 0]) + uvarint(len(key)) + uvarint(len(entry.value)) + uvarint(0)
    body = head + key + entry.value
    return body + crc32c(body).to_bytes(CHECKSUM_SIZE, "big")


def encode_transaction(changes: Mapping[bytes, bytes | None], version: int) -> bytes:
    """The bytes of a transaction; a value of None deletes.

    Raises:
        BadgerError: Badger would not take it.
    """
    if not changes:
        raise BadgerError("a transaction needs a change: Badger cuts a log at an empty one")
    parts: list[bytes] = []
    for key, value in changes.items():
        if not 0 < len(key) <= LARGEST_KEY or key.startswith(INTERNAL):
            raise BadgerError(f"{key[:20]!r}… ({len(key)} bytes) cannot be a key")
        if value is not None and len(value) > LARGEST_VALUE:
            raise BadgerError(
                f"{key[:20]!r}…: a value of {len(value)} bytes is too large for a log"
            )
        parts.append(encode_entry(Entry(key, value or b"", version, value is None), TRANSACTION))
    end = Entry(_END_KEY, str(version).encode(), version)
    data = b"".join([*parts, encode_entry(end, TRANSACTION_END)])
    if HEADER_SIZE + len(data) > LARGEST_LOG:
        raise BadgerError(f"a transaction of {len(data)} bytes does not fit into a log")
    return data


class LogWriter:
    """Writes transactions into the logs of a directory, as Badger would; the only writer of it.

    An existing directory is continued behind its last whole transaction; what a crash tore there
    is cut off. It holds the lock that Badger takes, which is on the directory itself: nothing but
    logs is left behind, and Badger opens the store when this is closed. Not for several threads at
    once.

    Raises:
        BadgerError: another process writes there, or see `read_logs`.
    """

    def __init__(self, directory: Path, log_size: int = LARGEST_LOG):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._log_size = min(log_size, LARGEST_LOG)
        self._number = 0
        self._end = HEADER_SIZE
        self._clean = True
        self.version = 0
        with contextlib.ExitStack() as undo:
            self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            undo.callback(os.close, self._lock)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadgerError(f"{directory}: another process has the store open") from None
            self._file = self._continue()
            undo.pop_all()

    def close(self) -> None:
        """Let go of the directory; the second time it does nothing."""
        if self._file >= 0:
            os.close(self._file)
            os.close(self._lock)
            self._file = self._lock = -1

    def write(self, changes: Mapping[bytes, bytes | None], *, sync: bool = True) -> int:
        """Write a transaction; None deletes. Gives its version.

        When this returns it is on the disk, or without `sync` it is after the next `sync()`.

        Raises:
            BadgerError: Badger would not take it; nothing was written.
            OSError: there is no space, or the writer is closed; the store is as it was.
        """
        version = self.version + 1
        data = encode_transaction(changes, version)
        if not self._clean:
            self._cut()
        if self._end > HEADER_SIZE and self._end + len(data) > self._log_size:
            self._rotate()
        self._clean = False
        try:
            _pwrite(self._file, data, self._end)
            if sync:
                self.sync()
        except OSError:
            # When it cannot be cut off now, it is before anything else is written.
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._clean = True
        self._end += len(data)
        self.version = version
        return version

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        os.fdatasync(self._file)

    def _continue(self) -> int:
        """Find the end of what is there; the descriptor of the log to write on."""
        for path in self._directory.glob("*.mem.new"):
            path.unlink()
        last = None
        for path, transaction in read_logs(self._directory):
            last, self._end = path, transaction.end
            self.version = max(self.version, *(each.version for each in transaction.entries))
        # What Badger flushed is in tables, and it may have removed the log.
        flushed = max_version(self._directory, read_manifest(self._directory))
        self.version = max(self.version, flushed)
        paths = log_paths(self._directory)
        if not paths:
            return self._create(1)
        if last != paths[-1]:
            self._end = HEADER_SIZE
        self._number = int(paths[-1].stem)
        os.truncate(paths[-1], self._end)
        return os.open(paths[-1], os.O_RDWR | os.O_CLOEXEC)

    def _cut(self) -> None:
        os.ftruncate(self._file, self._end)
        self._clean = True

    def _rotate(self) -> None:
        self.sync()
        file = self._create(self._number + 1)
        os.close(self._file)
        self._file = file
        self._end = HEADER_SIZE

    def _create(self, number: int) -> int:
        """Make a log, at once with its header: Badger does not open a store with an empty one."""
        path = self._directory / f"{number:05}.mem"
        temporary = path.with_suffix(".mem.new")
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Key id 0: not encrypted; the IV is random, as Badger's.
            _pwrite(file, bytes(VERSION_SIZE) + os.urandom(HEADER_SIZE - VERSION_SIZE), 0)
            os.fsync(file)
            temporary.rename(path)
            os.fsync(self._lock)
        except OSError:
            os.close(file)
            temporary.unlink(missing_ok=True)
            raise
        self._number = number
        return file


def _pwrite(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
