"""Badger's logs (`NNNNN.mem`, `NNNNNN.vlog`): whole transactions out of their bytes.

Written for Badger v4 as DittoFS uses it: no encryption, no compression, one writer. A log is a
20-byte header and then entries back to back:

    meta(1) userMeta(1) uvarint(klen) uvarint(vlen) uvarint(expiresAt) key value crc32c(4)

The key ends with 8 bytes, 2^64-1 minus the version. Entries with the transaction bit belong
together up to the entry with the end bit; an entry with neither is a transaction of its own. A log
is preallocated with zeros, so a zero key length or a wrong checksum is its end: what follows is
not written yet, or was torn by a crash. Where Badger would stop and cut a log, this stops too.

A value of 1 MiB and more is an entry of the value log, which has the same form; the memtable log
then has a pointer to it. Badger moves such values when it collects garbage: it writes the same key
with the same version once more, and removes the file. So a value that is gone stands further on.

Files are read with `pread`, never mapped: Badger truncates a file before it removes it.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c

HEADER_SIZE = 20
VERSION_SIZE = 8
LARGEST_VERSION = 2**64 - 1
LARGEST_KEY = 65_000

DELETE = 0x01
VALUE_POINTER = 0x02
DISCARD_EARLIER = 0x04
TRANSACTION = 0x40
TRANSACTION_END = 0x80

INTERNAL = b"!badger!"
"""What Badger's own keys begin with."""

CHECKSUM_SIZE = 4
POINTER_SIZE = 12
# Badger takes an entry with a longer key, version included, for the torn end of a log.
_LARGEST_KEY_IN_LOG = 2**16
_LARGEST_VARINT = 10
_MORE = 0x80  # the bit of a varint's byte that says another one follows
_KNOWN = DELETE | VALUE_POINTER | DISCARD_EARLIER | TRANSACTION
_HEAD_SIZE = 5  # at least
_FIRST_STEP = 64 * 1024
_LARGEST_STEP = 1024 * 1024
_NAME = re.compile(r"(\d{5,})\.mem")

Read = Callable[[int, int], bytes]
"""Takes offset and size; gives fewer bytes at the end of the data only."""


class BadgerError(Exception):
    """A store is not what this module understands; the text names file and offset."""


class GoneError(BadgerError):
    """A file was removed or truncated while it was read: look at the store again."""


class Entry(NamedTuple):
    """One change: `key` without its version; `value` is empty where `deleted`."""

    key: bytes
    value: bytes
    version: int
    deleted: bool = False


class Transaction(NamedTuple):
    """Entries that were written as one, and the offset of the first byte behind them.

    `moved`: Badger wrote it to move a value, with the version that the value had before.
    """

    entries: tuple[Entry, ...]
    end: int
    moved: bool = False


class _Raw(NamedTuple):
    """An entry as it stands in a log, from `start` to `end`; its key has the version."""

    meta: int
    unused: bool
    key: bytes
    value: bytes
    start: int
    end: int


Resolve = Callable[[_Raw], Entry]
"""Gives what a log's entry with a pointer to the value log stands for."""


def log_paths(directory: Path) -> list[Path]:
    """The logs of a store, oldest first."""
    # The agent asks this all the time, and most names are those of tables.
    names = os.listdir(directory)  # noqa: PTH208  # a path for each takes much longer
    found = sorted(
        (int(name[:-4]), name) for name in names if name[-4:] == ".mem" and _NAME.fullmatch(name)
    )
    return [directory / name for _, name in found]


def read_log(path: Path, offset: int = HEADER_SIZE) -> Iterator[Transaction]:
    """Yield the whole transactions of a log from `offset` on, which must be a transaction's end.

    A log that is gone, or was truncated because it is about to go, has no (more) transactions. A
    log that is being written can be read again from the last end.

    Raises:
        GoneError: a value is gone, because the whole log is.
        BadgerError: the log cannot be read, or has what this module does not understand.
    """
    name = str(path)
    try:
        with path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            for raws, end in _read_transactions(_reader(descriptor, path), offset, name):
                entries = _entries(raws, name, lambda raw: _resolve(raw, path, descriptor))
                yield Transaction(entries, end, not raws[0].meta & TRANSACTION)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadgerError(f"{name}: {error.strerror}") from error


def parse_log(data: bytes, offset: int = HEADER_SIZE, name: str = "log") -> Iterator[Transaction]:
    """Yield the whole transactions in the bytes of a log; see `read_log`.

    A value in the value log is a `BadgerError`, because that is not at hand.
    """

    def resolve(raw: _Raw) -> Entry:
        raise BadgerError(f"{name}: the value at offset {raw.start} is in the value log")

    for raws, end in _read_transactions(lambda at, size: data[at : at + size], offset, name):
        moved = not raws[0].meta & TRANSACTION
        yield Transaction(_entries(raws, name, resolve), end, moved)


def read_logs(directory: Path) -> Iterator[tuple[Path, Transaction]]:
    """Yield the whole transactions of all logs of a store, oldest first; not of its tables.

    Only the last log may end with something torn: one before it that does is damaged, and what
    follows would be a state that never was.

    Raises:
        BadgerError: a log is damaged; see also `read_log`.
    """
    paths = log_paths(directory)
    for path in paths:
        end = HEADER_SIZE
        for transaction in read_log(path):
            yield path, transaction
            end = transaction.end
        if path != paths[-1] and not _is_zero_from(path, end):
            raise BadgerError(f"{path}: damaged at offset {end}")


def read_value(directory: Path, pointer: bytes, key: bytes) -> bytes:
    """A value of the value log.

    Args:
        directory: of the store.
        pointer: 12 bytes: number of the file, size of the entry there, its offset.
        key: with its version; the entry must have the same.

    Raises:
        GoneError: the file is not there, or is shorter.
        BadgerError: the value is not what was written.
    """
    number, size, offset = (
        int.from_bytes(pointer[at : at + 4], "little") for at in range(0, POINTER_SIZE, 4)
    )
    path = directory / f"{number:06}.vlog"
    name = str(path)
    try:
        with path.open("rb", buffering=0) as file:
            header = pread(file.fileno(), 0, HEADER_SIZE, name)
            data = pread(file.fileno(), offset, size, name)
    except FileNotFoundError:
        raise GoneError(f"{name}: is gone") from None
    except OSError as error:
        raise BadgerError(f"{name}: {error.strerror}") from error
    if len(header) < HEADER_SIZE or len(data) < size:
        raise GoneError(f"{name}: ends before the value at offset {offset} does")
    if any(header[:VERSION_SIZE]):
        raise BadgerError(f"{name}: encrypted, by the key id at offset 0")
    for raw in _read_entries(lambda at, count: data[at : at + count], 0):
        if raw.key == key and raw.end == size:
            return raw.value
        break
    raise BadgerError(f"{name}: the value at offset {offset} is damaged")


def _reader(file: int, path: Path) -> Read:
    return lambda offset, size: pread(file, offset, size, str(path))


def pread(file: int, offset: int, size: int, name: str) -> bytes:
    """Read up to `size` bytes, all there are; fewer than 2 GiB, which is the kernel's limit.

    Raises:
        BadgerError: the disk failed; the text has `name`.
    """
    try:
        # A torn length may ask for more than there is memory for.
        left = os.fstat(file).st_size - offset
        return os.pread(file, min(size, left), offset) if left > 0 else b""
    except OSError as error:
        raise BadgerError(f"{name}: at offset {offset}: {error.strerror}") from error


def crc32c(data: bytes) -> int:
    """The checksum that Badger uses everywhere."""
    return int(google_crc32c.value(data))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # it has no types


def read_uvarint(data: bytes, offset: int) -> tuple[int, int]:
    """The number at an offset and where it ends, which is 0 when it does not end."""
    number = 0
    for shift in range(0, 7 * _LARGEST_VARINT, 7):
        if offset >= len(data):
            break
        byte = data[offset]
        offset += 1
        number |= (byte & 0x7F) << shift
        if byte < _MORE:
            return number, offset
    return 0, 0


def uvarint(number: int) -> bytes:
    """The bytes of a number, seven bits each."""
    parts = bytearray()
    while number >= _MORE:
        parts.append(number & 0x7F | _MORE)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _read_transactions(read: Read, offset: int, name: str) -> Iterator[tuple[list[_Raw], int]]:
    """Yield the entries of each transaction, and where it ends."""
    header = read(0, HEADER_SIZE)
    if len(header) < HEADER_SIZE:
        return
    if any(header[:VERSION_SIZE]):
        raise BadgerError(f"{name}: encrypted, by the key id at offset 0")
    pending: list[_Raw] = []
    for raw in _read_entries(read, offset):
        if raw.meta & TRANSACTION:
            if pending and pending[0].key[-VERSION_SIZE:] != raw.key[-VERSION_SIZE:]:
                return
            pending.append(raw)
        elif raw.meta & TRANSACTION_END:
            # Badger compares the number in the value, and cuts the log where it differs.
            if not pending or raw.value != b"%d" % _version(pending[0]):
                return
            yield pending, raw.end
            pending = []
        elif pending:
            return
        else:
            yield [raw], raw.end


def _version(raw: _Raw) -> int:
    return LARGEST_VERSION - int.from_bytes(raw.key[-VERSION_SIZE:], "big")


def _entries(raws: list[_Raw], name: str, resolve: Resolve) -> tuple[Entry, ...]:
    """The entries of a transaction, which has one version."""
    found: list[Entry] = []
    version = _version(raws[0])
    for raw in raws:
        meta, unused, key, value, start, _ = raw
        if unused or meta & ~_KNOWN:
            raise BadgerError(
                f"{name}: the entry at offset {start} expires, or is of unknown kind"
            )
        if len(key) <= VERSION_SIZE:
            raise BadgerError(f"{name}: the entry at offset {start} has no key")
        if meta & DELETE:
            found.append(Entry(key[:-VERSION_SIZE], b"", version, deleted=True))
        elif meta & VALUE_POINTER:
            found.append(resolve(raw))
        else:
            found.append(Entry(key[:-VERSION_SIZE], value, version))
    return tuple(found)


def _read_entries(read: Read, offset: int) -> Iterator[_Raw]:
    """Yield entries up to the end or what is torn, reading in steps.

    This runs for every change of a store: local names, no calls but the checksum's.
    """
    checksum, from_bytes, step = google_crc32c.value, int.from_bytes, _FIRST_STEP  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # it has no types
    window, base, at = b"", offset, 0
    while True:
        head = window[at : at + _HEAD_SIZE]
        need = 0
        if len(head) == _HEAD_SIZE:
            meta, user, klen, vlen, expires = head
            # Nearly all have a key of less than 128 bytes, and none expires.
            if klen < _MORE and vlen < _MORE > expires:
                key_at = at + _HEAD_SIZE
            elif klen < _MORE and expires < _MORE and window[at + 5 : at + 6] == b"\0":
                vlen, expires, key_at = vlen & 0x7F | expires << 7, 0, at + _HEAD_SIZE + 1
            else:
                klen, key_at = read_uvarint(window, at + 2)
                vlen, key_at = read_uvarint(window, key_at) if key_at else (0, 0)
                expires, key_at = read_uvarint(window, key_at) if key_at else (0, 0)
            if key_at:
                if not 0 < klen <= _LARGEST_KEY_IN_LOG:
                    return
                value_at = key_at + klen
                body_end = value_at + vlen
                end = body_end + CHECKSUM_SIZE
                if end <= len(window):
                    if checksum(window[at:body_end]) != from_bytes(window[body_end:end], "big"):
                        return
                    yield _Raw(
                        meta,
                        bool(user or expires),
                        window[key_at:value_at],
                        window[value_at:body_end],
                        base + at,
                        base + end,
                    )
                    at = end
                    continue
                need = end - at
        more = read(base + at, max(need, step))
        if len(more) <= len(window) - at:
            return
        window, base, at = more, base + at, 0
        step = min(2 * step, _LARGEST_STEP)


def _resolve(raw: _Raw, path: Path, file: int) -> Entry:
    """The entry with its value from the value log, or the one that took its place.

    Where the value is gone, the log has the key again further on, with the same version, or it has
    a newer one: only then Badger removes a value.
    """
    try:
        value = read_value(path.parent, raw.value, raw.key)
        return Entry(raw.key[:-VERSION_SIZE], value, _version(raw))
    except BadgerError as error:
        found = find_in_logs(path.parent, raw.key[:-VERSION_SIZE], _version(raw))
        if found:
            return found
        if _is_gone(path, file):
            raise GoneError(f"{path}: is gone") from error
        raise BadgerError(f"{path}: at offset {raw.start}: {error}") from error


def find_in_logs(directory: Path, key: bytes, version: int) -> Entry | None:
    """The newest entry of a key in the logs whose value is there, if it has at least this version.

    This reads all logs: it is for values that Badger moved while a reader was behind.

    Raises:
        BadgerError: a log cannot be read.
    """
    newest: _Raw | None = None
    for path in log_paths(directory):
        with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            for raws, _ in _read_transactions(
                _reader(file.fileno(), path), HEADER_SIZE, str(path)
            ):
                for raw in raws:
                    if raw.key[:-VERSION_SIZE] == key and _version(raw) >= version:
                        newest, version = raw, _version(raw)
    if newest is None:
        return None
    if newest.meta & DELETE:
        return Entry(key, b"", version, deleted=True)
    if not newest.meta & VALUE_POINTER:
        return Entry(key, newest.value, version)
    with contextlib.suppress(BadgerError):
        return Entry(key, read_value(directory, newest.value, newest.key), version)
    return None


def _is_gone(path: Path, file: int) -> bool:
    """Whether an open log was removed, or truncated because it is about to be."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return True
    return stat.st_size < HEADER_SIZE or stat.st_ino != os.fstat(file).st_ino


def _is_zero_from(path: Path, offset: int) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        while data := file.read(_FIRST_STEP):
            if data.count(0) != len(data):
                return False
    return True
