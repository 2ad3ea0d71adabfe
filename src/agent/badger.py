"""Badger's memtable logs (`NNNNN.mem`): whole transactions out of their bytes, and back.

Written for Badger v4 as DittoFS uses it: no encryption, no compression, one writer. A log is a
20-byte header and then entries back to back:

    meta(1) userMeta(1) uvarint(klen) uvarint(vlen) uvarint(expiresAt) key value crc32c(4)

The key ends with 8 bytes, 2^64-1 minus the version. Entries with the transaction bit belong
together up to the entry with the end bit; an entry with neither is a transaction of its own. A log
is preallocated with zeros, so a zero key length or a wrong checksum is its end: what follows is
not written yet, or was torn by a crash.

Files are read with `pread`, never mapped: Badger truncates a log before it removes it.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

HEADER_SIZE = 20
VERSION_SIZE = 8
LARGEST_VERSION = 2**64 - 1

DELETE = 0x01
VALUE_POINTER = 0x02
TRANSACTION = 0x40
TRANSACTION_END = 0x80

_END_KEY = b"!badger!txn"
_CHECKSUM_SIZE = 4
# klen, vlen: 32 bits; expiresAt: 64 bits.
_VARINT_BYTES = 10
_LARGEST_PART = 2**31
_NAME = re.compile(r"(\d{5,})\.mem")


class BadgerError(Exception):
    """A file is not what this module understands; the text names file and offset."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: `key` without its version; `value` is empty where `deleted`."""

    key: bytes
    value: bytes
    version: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Transaction:
    """Entries that were written as one, and the offset of the first byte behind them."""

    entries: tuple[Entry, ...]
    end: int


@dataclass(frozen=True, slots=True)
class _Raw:
    meta: int
    key: bytes
    value: bytes
    end: int


def log_paths(directory: Path) -> list[Path]:
    """The logs of a store, oldest first."""
    found = [
        (int(match[1]), path)
        for path in directory.iterdir()
        if (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def read_log(path: Path, offset: int = HEADER_SIZE) -> Iterator[Transaction]:
    """Yield the whole transactions of a log from `offset` on, which must be a transaction's end.

    A log that is gone, or was truncated because it is about to go, has none.

    Raises:
        BadgerError: an entry that cannot be read without another file.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            data = os.pread(file.fileno(), _written(file.fileno(), size), 0)
    except FileNotFoundError:
        return
    yield from parse_log(data, offset, str(path))


def parse_log(data: bytes, offset: int = HEADER_SIZE, name: str = "log") -> Iterator[Transaction]:
    """Yield the whole transactions in the bytes of a log; see `read_log`."""
    pending: list[Entry] = []
    pending_version: int | None = None
    while (raw := _parse_entry(data, offset)) is not None:
        version = LARGEST_VERSION - int.from_bytes(raw.key[-VERSION_SIZE:], "big")
        key = raw.key[:-VERSION_SIZE]
        start, offset = offset, raw.end
        if raw.meta & TRANSACTION_END:
            # Badger, too, drops entries whose end is of another version.
            if key == _END_KEY and pending and pending_version == version:
                yield Transaction(tuple(pending), offset)
            pending, pending_version = [], None
            continue
        if raw.meta & VALUE_POINTER:
            raise BadgerError(f"{name}: the value at offset {start} is in the value log")
        entry = Entry(key, raw.value, version, bool(raw.meta & DELETE))
        if not raw.meta & TRANSACTION:
            pending, pending_version = [], None
            yield Transaction((entry,), offset)
        elif pending_version in {None, version}:
            pending.append(entry)
            pending_version = version
        else:
            return


def snapshot(directory: Path) -> dict[bytes, bytes]:
    """The newest value of every key in the logs of a store.

    Raises:
        BadgerError: the store has data outside its logs.
    """
    newest: dict[bytes, Entry] = {}
    for path in log_paths(directory):
        for transaction in read_log(path):
            for entry in transaction.entries:
                present = newest.get(entry.key)
                if present is None or present.version <= entry.version:
                    newest[entry.key] = entry
    return {key: entry.value for key, entry in newest.items() if not entry.deleted}


def encode_entry(entry: Entry, meta: int = 0) -> bytes:
    """The bytes of an entry as they stand in a log."""
    key = entry.key + (LARGEST_VERSION - entry.version).to_bytes(VERSION_SIZE, "big")
    meta |= DELETE if entry.deleted else 0
    head = bytes([meta, 0]) + _uvarint(len(key)) + _uvarint(len(entry.value)) + _uvarint(0)
    body = head + key + entry.value
    return body + _crc32c(body).to_bytes(_CHECKSUM_SIZE, "big")


def encode_transaction(entries: Iterable[Entry], version: int) -> bytes:
    """The bytes of a transaction: its entries and the end, all of one version."""
    end = Entry(_END_KEY, str(version).encode(), version)
    parts = [encode_entry(entry, TRANSACTION) for entry in entries]
    return b"".join([*parts, encode_entry(end, TRANSACTION_END)])


class LogWriter:
    """Writes transactions into the logs of a directory, as Badger would; the only writer of it.

    An existing directory is continued behind its last whole transaction; what a crash tore is
    overwritten with zeros.

    Raises:
        BadgerError: another process writes there.
    """

    def __init__(self, directory: Path, log_size: int = 16 * 1024 * 1024):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._log_size = log_size
        self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise BadgerError(f"{directory}: another process has the store open") from None
        self.version = 0
        self._offset = HEADER_SIZE
        self._file = -1
        self._continue()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._file)
        os.close(self._lock)

    def write(self, changes: dict[bytes, bytes | None]) -> int:
        """Write a transaction and wait until it is on the disk; None deletes. Its version.

        Raises:
            OSError: there is no space; the log is as it was.
        """
        version = self.version + 1
        entries = [
            Entry(key, value or b"", version, deleted=value is None)
            for key, value in changes.items()
        ]
        data = encode_transaction(entries, version)
        if self._offset > HEADER_SIZE and self._offset + len(data) > self._log_size:
            self._rotate()
        try:
            _pwrite(self._file, data, self._offset)
            os.fdatasync(self._file)
        except OSError:
            # Half a transaction is none: readers stop at it, and the next one overwrites it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._offset)
            raise
        self._offset += len(data)
        self.version = version
        return version

    def _continue(self) -> None:
        paths = log_paths(self._directory)
        for path in paths:
            self._offset = HEADER_SIZE
            for transaction in read_log(path):
                self._offset = transaction.end
                self.version = max(self.version, *(each.version for each in transaction.entries))
        if not paths:
            self._open(self._directory / "00001.mem")
            return
        self._file = os.open(paths[-1], os.O_RDWR)
        os.ftruncate(self._file, self._offset)

    def _rotate(self) -> None:
        number = int(_number(log_paths(self._directory)[-1])) + 1
        os.close(self._file)
        self._open(self._directory / f"{number:05}.mem")

    def _open(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._offset = HEADER_SIZE
        # Key id 0: not encrypted; the IV is random, as Badger's.
        _pwrite(self._file, bytes(VERSION_SIZE) + os.urandom(HEADER_SIZE - VERSION_SIZE), 0)
        os.fsync(self._file)
        os.fsync(self._lock)


def _crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # it has no types


def _number(path: Path) -> str:
    return path.name.partition(".")[0]


def _parse_entry(data: bytes, offset: int) -> _Raw | None:
    """The entry at an offset; None where the log ends or is torn."""
    start = offset
    offset += 2
    lengths: list[int] = []
    for _ in range(3):
        number = _read_uvarint(data, offset)
        if number is None:
            return None
        lengths.append(number[0])
        offset = number[1]
    klen, vlen, _ = lengths
    end = offset + klen + vlen
    if klen < VERSION_SIZE or max(klen, vlen) > _LARGEST_PART or end + _CHECKSUM_SIZE > len(data):
        return None
    checksum = int.from_bytes(data[end : end + _CHECKSUM_SIZE], "big")
    if _crc32c(data[start:end]) != checksum:
        return None
    key = data[offset : offset + klen]
    return _Raw(data[start], key, data[offset + klen : end], end + _CHECKSUM_SIZE)


def _read_uvarint(data: bytes, offset: int) -> tuple[int, int] | None:
    number = 0
    for index in range(_VARINT_BYTES):
        if offset + index >= len(data):
            return None
        byte = data[offset + index]
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004  # the bit that says another byte follows
            return number, offset + index + 1
    return None


def _uvarint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:  # noqa: PLR2004  # seven bits a byte
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _pwrite(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _written(file: int, size: int) -> int:
    """Where the hole at the end begins: a preallocated log is mostly that."""
    with contextlib.suppress(OSError):
        position = 0
        while position < size:
            data = os.lseek(file, position, os.SEEK_DATA)
            position = os.lseek(file, data, os.SEEK_HOLE)
        return position
    return size
