"""One of Badger's tables (`NNNNNN.sst`): entries in key order.

They are in blocks, and an index of the blocks follows: a flatbuffers table, its length, its
checksum and the length of that. A block is its entries, where each begins (u32, little-endian
all), how many there are, a checksum and its length. The key of an entry stands as how many bytes
it has in common with the first key of the block, how many are left (u16, little-endian both), and
these; then meta, user meta, expiry and the value. Keys end with the version, as in a log.
"""

import contextlib
import itertools
import os
import struct
from bisect import bisect_right
from collections.abc import Generator, Iterator
from pathlib import Path

from agent.badger import (
    DELETE,
    DISCARD_EARLIER,
    INTERNAL,
    LARGEST_VERSION,
    POINTER_SIZE,
    TRANSACTION,
    VALUE_POINTER,
    VERSION_SIZE,
    BadgerError,
    Entry,
    GoneError,
    crc32c,
    pread,
    uvarint,
)
from agent.manifest import LENGTH_SIZE

_CHUNK = 256 * 1024
_KNOWN = DELETE | VALUE_POINTER | DISCARD_EARLIER | TRANSACTION
# What stands before the value of an ordinary entry: meta, user meta, expiry.
_PLAIN = (b"\x40\0\0", b"\0\0\0")
_BEFORE_VALUE = 3
_END_OF_INTERNAL = INTERNAL[:-1] + bytes([INTERNAL[-1] + 1])
_HEAD = struct.Struct("<HH")
# The fields of the flatbuffers tables.
_BLOCKS, _MAX_VERSION = 0, 2
_FIRST_KEY, _OFFSET, _SIZE = range(3)


class Pointer(Entry):
    """An entry whose value is a pointer to it."""

    __slots__ = ()


def checksum_of(data: bytes) -> bytes:
    """The message with the checksum of a block or an index, as Badger writes it."""
    checksum = crc32c(data)
    return b"\x10" + uvarint(checksum) if checksum else b""


class Table:
    """An open table."""

    def __init__(self, path: Path, file: int):
        self.path = path
        self._file = file
        self._index_at, self._index = self._read_index()

    def blocks(self, after: bytes) -> Iterator[list[Entry]]:
        """Yield the entries of one or more blocks at a time, those with a key > `after`.

        Of each key only the newest version comes; a value that is a pointer comes as `Pointer`.
        """
        keys: list[bytes] = []
        offsets: list[int] = []
        sizes: list[int] = []
        for key, offset, size in self._parse_index():
            keys.append(key)
            offsets.append(offset)
            sizes.append(size)
        # The last block that begins before it may have keys behind it.
        block = max(0, bisect_right(keys, after) - 1)
        last = after
        while block < len(keys):
            ahead = block + 1
            size = sizes[block]
            while ahead < len(keys) and size + sizes[ahead] <= _CHUNK:
                size += sizes[ahead]
                ahead += 1
            start = offsets[block]
            window = self._read(start, size)
            found: list[Entry] = []
            for each in range(block, ahead):
                at = offsets[each] - start
                self._parse(window[at : at + sizes[each]], offsets[each], after, last, found)
                last = found[-1].key if found else last
            if found and found[0].key < _END_OF_INTERNAL and found[-1].key >= INTERNAL:
                found = [entry for entry in found if not entry.key.startswith(INTERNAL)]
            if found:
                yield found
            block = ahead

    def every(self) -> Iterator[tuple[Entry, bool]]:
        """Yield every entry, older versions too, and whether a transaction wrote it.

        What no transaction wrote is a value that Badger moved.
        """
        for _, offset, size in self._parse_index():
            body, starts = self._body(self._read(offset, size), offset)
            base = b""
            try:
                for start, end in itertools.pairwise(starts):
                    common, rest = _HEAD.unpack_from(body, start)
                    value_at = start + _HEAD.size + rest
                    stored = base[:common] + body[start + _HEAD.size : value_at]
                    if value_at + _BEFORE_VALUE > end or len(stored) != common + rest:
                        raise self._error(f"the block at offset {offset} has no entry at {start}")
                    base = base or stored
                    version = LARGEST_VERSION - int.from_bytes(stored[-VERSION_SIZE:], "big")
                    value = body[value_at:end]
                    entry = self._unusual(stored[:-VERSION_SIZE], version, value, offset + start)
                    yield entry, bool(value[0] & TRANSACTION)
            except struct.error as error:
                raise self._error(f"the block at offset {offset} is damaged") from error

    def _parse(
        self, block: bytes, offset: int, after: bytes, last: bytes, found: list[Entry]
    ) -> None:
        """Append the entries of a block with keys > `last`, each key's newest version only.

        This runs for every entry of a store: local names, and few calls.
        """
        body, starts = self._body(block, offset)
        from_bytes, unpack, plain = int.from_bytes, _HEAD.unpack_from, _PLAIN
        base = b""
        try:
            for start, end in itertools.pairwise(starts):
                common, rest = unpack(body, start)
                key_at = start + _HEAD.size
                value_at = key_at + rest
                stored = base[:common] + body[key_at:value_at]
                if value_at + _BEFORE_VALUE > end or len(stored) != common + rest:
                    raise self._error(f"the block at offset {offset} has no entry at {start}")
                base = base or stored
                key = stored[:-VERSION_SIZE]
                if key <= last:
                    # An older version, or in front of `after`; the first ones may be there only.
                    if not key or (key < last and last is not after):
                        raise self._error(f"the block at offset {offset} is not in order")
                    continue
                last = key
                version = LARGEST_VERSION - from_bytes(stored[-VERSION_SIZE:], "big")
                if body[value_at : value_at + _BEFORE_VALUE] in plain:
                    found.append(Entry(key, body[value_at + _BEFORE_VALUE : end], version))
                else:
                    value = body[value_at:end]
                    found.append(self._unusual(key, version, value, offset + start))
        except struct.error as error:
            raise self._error(f"the block at offset {offset} is damaged") from error

    def _unusual(self, key: bytes, version: int, value: bytes, offset: int) -> Entry:
        """An entry that is more than key and value."""
        meta, user, expires = value[:3]
        if user or expires or meta & ~_KNOWN:
            raise self._error(f"the entry at offset {offset} expires, or is of unknown kind")
        if meta & DELETE:
            return Entry(key, b"", version, deleted=True)
        if meta & VALUE_POINTER:
            if len(value) != _BEFORE_VALUE + POINTER_SIZE:
                raise self._error(f"the entry at offset {offset} has no pointer")
            return Pointer(key, value[3:], version)
        return Entry(key, value[3:], version)

    def _body(self, block: bytes, offset: int) -> tuple[bytes, list[int]]:
        """The entries of a block, where each begins, and where the last one ends."""
        size = int.from_bytes(block[-LENGTH_SIZE:], "big")
        end = len(block) - LENGTH_SIZE - size
        data = block[:end] if end >= LENGTH_SIZE else b""
        if not data or block[end:-LENGTH_SIZE] != checksum_of(data):
            raise self._error(f"the checksum of the block at offset {offset} does not fit")
        count = int.from_bytes(data[-LENGTH_SIZE:], "big")
        end = len(data) - LENGTH_SIZE * (1 + count)
        if count == 0 or end <= 0:
            raise self._error(f"the block at offset {offset} has no entries")
        starts = [*struct.unpack_from(f"<{count}I", data, end), end]
        return data[:end], starts

    @property
    def first_key(self) -> bytes:
        """Without its version."""
        return next(self._parse_index())[0]

    @property
    def max_version(self) -> int:
        """The highest version of any entry."""
        try:
            at = _field(self._index, _u32(self._index, 0), _MAX_VERSION)
            return int(struct.unpack_from("<Q", self._index, at)[0]) if at else 0
        except struct.error as error:
            raise self._damaged() from error

    def _read_index(self) -> tuple[int, bytes]:
        size = os.fstat(self._file).st_size
        end = size - LENGTH_SIZE
        checksum_at = end - self._number(end)
        index_end = checksum_at - LENGTH_SIZE
        start = index_end - self._number(index_end)
        if not 0 < start <= index_end:
            raise self._error(f"there is no index before offset {size}")
        checksum = self._read(checksum_at, end - checksum_at)
        data = self._read(start, index_end - start)
        if checksum != checksum_of(data):
            raise self._error(f"the checksum of the index at offset {start} does not fit")
        return start, data

    def _parse_index(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield the first key of each block, without its version, its offset and its size."""
        data, expected = self._index, 0
        try:
            at = _field(data, _u32(data, 0), _BLOCKS)
            at += _u32(data, at)
            for reference in range(at + 4, at + 4 + 4 * _u32(data, at), 4):
                block = reference + _u32(data, reference)
                key_at, offset_at, size_at = (
                    _field(data, block, field) for field in (_FIRST_KEY, _OFFSET, _SIZE)
                )
                key_at += _u32(data, key_at)
                key = data[key_at + 4 : key_at + 4 + _u32(data, key_at) - VERSION_SIZE]
                offset = _u32(data, offset_at) if offset_at else 0
                size = _u32(data, size_at)
                if not key or offset != expected:
                    raise self._damaged()
                expected += size
                yield key, offset, size
        except struct.error as error:
            raise self._damaged() from error
        if expected != self._index_at or not expected:
            raise self._damaged()

    def _damaged(self) -> BadgerError:
        return self._error(f"the index at offset {self._index_at} is damaged")

    def _number(self, offset: int) -> int:
        """A length in the file; none can be there where the file is too short for it."""
        if offset < 0:
            raise self._gone()
        return int.from_bytes(self._read(offset, LENGTH_SIZE), "big")

    def _read(self, offset: int, size: int) -> bytes:
        data = pread(self._file, offset, size, str(self.path)) if offset >= 0 else b""
        if len(data) < size or offset < 0:
            raise self._gone()
        return data

    def _gone(self) -> GoneError:
        return GoneError(f"{self.path}: was cut short")

    def _error(self, text: str) -> BadgerError:
        return BadgerError(f"{self.path}: {text}")


@contextlib.contextmanager
def open_table(path: Path) -> Generator[Table]:
    """Open a table, whose index is checked.

    Raises:
        GoneError: it was removed, or is being removed.
        BadgerError: it is damaged.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise GoneError(f"{path}: is gone") from None
    except OSError as error:
        raise BadgerError(f"{path}: {error.strerror}") from error
    try:
        yield Table(path, file)
    finally:
        os.close(file)


def _field(data: bytes, table: int, field: int) -> int:
    """Where a field of a flatbuffers table is, 0 where it has its default."""
    names = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, names)[0]
    at = 4 + 2 * field
    if at + 2 > size:
        return 0
    offset = struct.unpack_from("<H", data, names + at)[0]
    return table + offset if offset else 0


def _u32(data: bytes, offset: int) -> int:
    return struct.unpack_from("<I", data, offset)[0]
