"""Badger's memtable logs (`NNNNN.mem`): whole transactions out of their bytes, and back.

Written for Badger v4 as DittoFS uses it: no encryption, no compression, one writer. A log is a
20-byte header and then entries back to back:

    meta(1) userMeta(1) uvarint(klen) uvarint(vlen) uvarint(expiresAt) key value crc32c(4)

The key ends with 8 bytes, 2^64-1 minus the version. Entries with the transaction bit belong
together up to the entry with the end bit; an entry with neither is a transaction of its own. A log
is preallocated with zeros, so a zero key length or a wrong checksum is its end: what follows is
not written yet, or was torn by a crash. Where Badger would stop and cut a log, this stops too.

Files are read with `pread`, never mapped: Badger truncates a log before it removes it.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import google_crc32c

HEADER_SIZE = 20
VERSION_SIZE = 8
LARGEST_VERSION = 2**64 - 1

DELETE = 0x01
VALUE_POINTER = 0x02
DISCARD_EARLIER = 0x04
TRANSACTION = 0x40
TRANSACTION_END = 0x80

# What Badger takes: a larger value goes to its value log, and a larger log does not fit into the
# memory it has for one where it was told to be small.
LARGEST_KEY = 65_000
LARGEST_VALUE = 2**20 - 1
LARGEST_LOG = 16 * 2**20

_INTERNAL = b"!badger!"
_END_KEY = b"!badger!txn"
_CHECKSUM_SIZE = 4
# Badger takes an entry with a longer key, version included, for the torn end of a log.
_LARGEST_KEY_IN_LOG = 2**16
_LARGEST_VARINT = 10
_STEP = 64 * 1024
_NAME = re.compile(r"(\d{5,})\.mem")
_MANIFEST_HEADER_SIZE = 8
_MANIFEST_VERSION = 8

Read = Callable[[int, int], bytes]
"""Takes offset and size; gives fewer bytes at the end of the data only."""


class BadgerError(Exception):
    """A store is not what this module understands; the text names file and offset."""


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


class _Head(NamedTuple):
    """What stands before the key of an entry, and how long both are."""

    klen: int
    vlen: int
    expires: int
    size: int
    entry_size: int


@dataclass(frozen=True, slots=True)
class _Raw:
    """An entry as it stands in a log, from `start` to `end`; its key has the version."""

    meta: int
    unused: bool
    key: bytes
    value: bytes
    start: int
    end: int

    @property
    def version(self) -> int:
        return LARGEST_VERSION - int.from_bytes(self.key[-VERSION_SIZE:], "big")


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

    A log that is gone, or was truncated because it is about to go, has no (more) transactions. A
    log that is being written can be read again from the last end.

    Raises:
        BadgerError: the log cannot be read, or has what this module does not understand.
    """
    name = str(path)
    try:
        with path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            yield from _read_transactions(
                lambda at, size: _pread(descriptor, at, size, name), offset, name
            )
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadgerError(f"{name}: {error.strerror}") from error


def parse_log(data: bytes, offset: int = HEADER_SIZE, name: str = "log") -> Iterator[Transaction]:
    """Yield the whole transactions in the bytes of a log; see `read_log`."""
    return _read_transactions(lambda at, size: data[at : at + size], offset, name)


def read_logs(directory: Path) -> Iterator[tuple[Path, Transaction]]:
    """Yield the whole transactions of all logs of a store that nothing writes, oldest first.

    Only the last log may end with something torn: one before it that does is damaged, and what
    follows would be a state that never was.

    Raises:
        BadgerError: a log is damaged, or the store has data outside its logs.
    """
    _check_all_is_in_logs(directory)
    paths = log_paths(directory)
    for path in paths:
        end = HEADER_SIZE
        for transaction in read_log(path):
            yield path, transaction
            end = transaction.end
        if path != paths[-1] and not _is_zero_from(path, end):
            raise BadgerError(f"{path}: damaged at offset {end}")


def snapshot(directory: Path) -> dict[bytes, bytes]:
    """The newest value of every key in a store that nothing writes and that has only logs.

    Raises:
        BadgerError: see `read_logs`.
    """
    newest: dict[bytes, Entry] = {}
    for _, transaction in read_logs(directory):
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


def encode_transaction(changes: Mapping[bytes, bytes | None], version: int) -> bytes:
    """The bytes of a transaction; a value of None deletes.

    Raises:
        BadgerError: Badger would not take it.
    """
    if not changes:
        raise BadgerError("a transaction needs a change: Badger cuts a log at an empty one")
    parts: list[bytes] = []
    for key, value in changes.items():
        if not 0 < len(key) <= LARGEST_KEY or key.startswith(_INTERNAL):
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


def _read_transactions(read: Read, offset: int, name: str) -> Iterator[Transaction]:
    header = read(0, HEADER_SIZE)
    if len(header) < HEADER_SIZE:
        return
    if any(header[:VERSION_SIZE]):
        raise BadgerError(f"{name}: encrypted, by the key id at offset 0")
    pending: list[_Raw] = []
    for raw in _read_entries(read, offset):
        if raw.meta & TRANSACTION:
            if pending and pending[0].version != raw.version:
                return
            pending.append(raw)
        elif raw.meta & TRANSACTION_END:
            # Badger compares the number in the value, and cuts the log where it differs.
            if not pending or raw.value != str(pending[0].version).encode():
                return
            yield Transaction(tuple(_entry(each, name) for each in pending), raw.end)
            pending = []
        elif pending:
            return
        else:
            yield Transaction((_entry(raw, name),), raw.end)


def _read_entries(read: Read, offset: int) -> Iterator[_Raw]:
    """Yield entries up to the end or what is torn, reading in steps."""
    window, base = b"", offset
    while True:
        head = _parse_head(window, offset - base)
        if head and not 0 < head.klen <= _LARGEST_KEY_IN_LOG:
            return
        if head is None or offset + head.entry_size > base + len(window):
            more = read(offset, max(head.entry_size if head else 0, _STEP))
            if len(more) <= base + len(window) - offset:
                return
            window, base = more, offset
            continue
        raw = _parse_entry(window, offset - base, head, base)
        if raw is None:
            return
        yield raw
        offset = raw.end


def _parse_head(data: bytes, start: int) -> _Head | None:
    """What stands before the key; None where more data could tell."""
    klen, offset = _read_uvarint(data, start + 2)
    vlen, offset = _read_uvarint(data, offset) if offset else (0, 0)
    expires, offset = _read_uvarint(data, offset) if offset else (0, 0)
    if not offset:
        return None
    return _Head(
        klen, vlen, expires, offset - start, offset - start + klen + vlen + _CHECKSUM_SIZE
    )


def _parse_entry(data: bytes, start: int, head: _Head, base: int) -> _Raw | None:
    """The entry with that head; None where its checksum says it is torn."""
    end = start + head.entry_size
    body = data[start : end - _CHECKSUM_SIZE]
    if _crc32c(body) != int.from_bytes(data[end - _CHECKSUM_SIZE : end], "big"):
        return None
    value_at = head.size + head.klen
    unused = bool(head.expires or body[1])
    key, value = body[head.size : value_at], body[value_at:]
    return _Raw(body[0], unused, key, value, base + start, base + end)


def _entry(raw: _Raw, name: str) -> Entry:
    if raw.meta & VALUE_POINTER:
        raise BadgerError(f"{name}: the value at offset {raw.start} is in the value log")
    if raw.unused or raw.meta & ~(DELETE | DISCARD_EARLIER | TRANSACTION):
        raise BadgerError(
            f"{name}: the entry at offset {raw.start} expires, or is of unknown kind"
        )
    if len(raw.key) <= VERSION_SIZE:
        raise BadgerError(f"{name}: the entry at offset {raw.start} has no key")
    deleted = bool(raw.meta & DELETE)
    return Entry(raw.key[:-VERSION_SIZE], b"" if deleted else raw.value, raw.version, deleted)


def _check_all_is_in_logs(directory: Path) -> None:
    manifest = directory / "MANIFEST"
    with contextlib.suppress(FileNotFoundError), manifest.open("rb") as file:
        header = file.read(_MANIFEST_HEADER_SIZE)
        if header[:4] != b"Bdgr" or int.from_bytes(header[6:], "big") != _MANIFEST_VERSION:
            raise BadgerError(
                f"{manifest}: at offset 0 is no version {_MANIFEST_VERSION} of Badger's"
            )
    for table in directory.glob("*.sst"):
        raise BadgerError(f"{table}: tables are not read yet")


def _is_zero_from(path: Path, offset: int) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        while data := file.read(_STEP):
            if data.count(0) != len(data):
                return False
    return True


def _pread(file: int, offset: int, size: int, name: str) -> bytes:
    try:
        # A torn length may ask for more than there is memory for.
        left = os.fstat(file).st_size - offset
        return os.pread(file, min(size, left), offset) if left > 0 else b""
    except OSError as error:
        raise BadgerError(f"{name}: at offset {offset}: {error.strerror}") from error


def _pwrite(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # it has no types


def _read_uvarint(data: bytes, offset: int) -> tuple[int, int]:
    """The number at an offset and where it ends, which is 0 when it does not end."""
    number = 0
    for shift in range(0, 7 * _LARGEST_VARINT, 7):
        if offset >= len(data):
            break
        byte = data[offset]
        offset += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  # the bit that says another byte follows
            return number, offset
    return 0, 0


def _uvarint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:  # noqa: PLR2004  # seven bits a byte
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
