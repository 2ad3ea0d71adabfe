"""Makes a store that Badger opens out of rows in key order: tables at the last level.

`tables.py` has the format. The MANIFEST comes last: without it Badger removes the tables, and with
it all of them are whole and on the disk. The tables have no filter for keys that are not there,
and large values stand in them rather than in a value log; Badger takes both, and makes its own
when it rewrites the tables.
"""

import os
import struct
from pathlib import Path
from types import TracebackType

from agent.badger import (
    CHECKSUM_SIZE,
    INTERNAL,
    LARGEST_KEY,
    LARGEST_VERSION,
    VERSION_SIZE,
    BadgerError,
    crc32c,
    uvarint,
)
from agent.manifest import LENGTH_SIZE, MANIFEST, MANIFEST_HEADER, table_path
from agent.table import checksum_of

LARGEST_VALUE = 2**28
"""Badger takes more, but not much more."""

# As large as Badger makes them where there are some gigabytes.
_TABLE_SIZE = 16 * 2**20
_BLOCK_SIZE = 4096
# What a row takes beside key and value: its head, version, what it is, and its offset.
_ROW_SIZE = 4 + VERSION_SIZE + 3 + 4
_LAST_LEVEL = 6
_WRITE_SIZE = 2**20

# An index is a flatbuffers table: the offset of its root, what fields a root and a block have
# (sizes, then offsets in the table, 0 for the filter that is left out), and then the root.
_HEAD = struct.Struct("<I 9H 2x 5H 2x 4x iI QIIII")
_ROOT, _ROOT_FIELDS, _BLOCK_FIELDS = 40, 4, 24
_ROOT_SHAPE = (18, 32, 4, 0, 8, 16, 20, 24, 28)
_BLOCK_SHAPE = (10, 16, 4, 8, 12)
_BLOCK = struct.Struct("<iIII")

_Row = tuple[bytes, bytes, int]


class StoreWriter:
    """Writes a store into a directory that is empty or not there yet.

    As a context manager it is finished where nothing was raised. Memory is bounded: a table's
    index and a block.

    Raises:
        BadgerError: there is something in the directory.
        OSError: the disk is full, or fails.
    """

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(directory.iterdir()):
            raise BadgerError(f"{directory}: is not empty")
        self._directory = directory
        self._last = b""
        self._rows: list[_Row] = []
        self._size = 0
        self._table: _Table | None = None
        self._count = 0

    def __enter__(self) -> "StoreWriter":  # noqa: PYI034  # Python 3.10 has no Self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._table:
            self._table.close()

    def add(self, key: bytes, value: bytes, version: int) -> None:
        """Add a row; its key comes behind that of the row before.

        Raises:
            BadgerError: it does not, or Badger would not take the row.
        """
        if (
            key <= self._last
            or len(key) > LARGEST_KEY
            or len(value) > LARGEST_VALUE
            or not 0 < version < LARGEST_VERSION
            or key.startswith(INTERNAL)
        ):
            raise BadgerError(self._problem(key, value, version))
        self._last = key
        size = len(key) + len(value) + _ROW_SIZE
        if self._size + size > _BLOCK_SIZE and self._rows:
            self._finish_block()
        self._rows.append((key, value, version))
        self._size += size

    def close(self) -> None:
        """Finish the store: afterwards it is on the disk, and Badger opens it.

        Raises:
            OSError: the disk is full, or fails.
        """
        if self._rows:
            self._finish_block()
        if self._table:
            self._table.finish()
            self._table = None
        changes = b"".join(_creation(table) for table in range(1, self._count + 1))
        data = b"".join(
            [
                MANIFEST_HEADER,
                len(changes).to_bytes(LENGTH_SIZE, "big"),
                crc32c(changes).to_bytes(CHECKSUM_SIZE, "big"),
                changes,
            ]
        )
        # A name that Badger does not look at.
        temporary = self._directory / f"{MANIFEST}.new"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._directory / MANIFEST)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _finish_block(self) -> None:
        if self._table is None:
            self._count += 1
            self._table = _Table(table_path(self._directory, self._count))
        self._table.add(self._rows)
        self._rows, self._size = [], 0
        if self._table.size > _TABLE_SIZE:
            self._table.finish()
            self._table = None

    def _problem(self, key: bytes, value: bytes, version: int) -> str:
        name = f"{key[:40]!r}{'…' if len(key) > 40 else ''}"  # noqa: PLR2004  # enough to know it
        if not key or len(key) > LARGEST_KEY or key.startswith(INTERNAL):
            return f"{name} ({len(key)} bytes) cannot be a key"
        if key <= self._last:
            return f"{name} does not come behind the key before it"
        if len(value) > LARGEST_VALUE:
            return f"{name}: a value of {len(value)} bytes is too large"
        return f"{name}: {version} cannot be a version"


class _Table:
    """A table that is being written."""

    def __init__(self, path: Path):
        self._file = path.open("xb", buffering=_WRITE_SIZE)
        self.size = 0
        self._keys: list[bytes] = []
        self._sizes: list[int] = []
        self._count = 0
        self._version = 0

    def close(self) -> None:
        self._file.close()

    def add(self, rows: list[_Row]) -> None:
        """Add rows as a block."""
        first = rows[0][0]
        common = _common(first, rows[-1][0])
        head, offset = common.to_bytes(2, "little"), 0
        parts: list[bytes] = []
        offsets: list[int] = []
        # The first key stands there in full: the others refer to it.
        start, before = 0, b"\0\0"
        for key, value, version in rows:
            rest = key[start:] + (LARGEST_VERSION - version).to_bytes(VERSION_SIZE, "big")
            part = b"%b%b%b\0\0\0%b" % (before, len(rest).to_bytes(2, "little"), rest, value)
            parts.append(part)
            offsets.append(offset)
            offset += len(part)
            start, before = common, head
        parts.append(struct.pack(f"<{len(rows)}I", *offsets))
        parts.append(len(rows).to_bytes(LENGTH_SIZE, "big"))
        data = b"".join(parts)
        checksum = checksum_of(data)
        self._file.write(data)
        self._file.write(checksum + len(checksum).to_bytes(LENGTH_SIZE, "big"))
        size = len(data) + len(checksum) + LENGTH_SIZE
        self._keys.append(first + (LARGEST_VERSION - rows[0][2]).to_bytes(VERSION_SIZE, "big"))
        self._sizes.append(size)
        self.size += size
        self._count += len(rows)
        self._version = max(self._version, *(version for _, _, version in rows), 0)

    def finish(self) -> None:
        """Write the index, and wait until the table is on the disk."""
        index = self._index()
        checksum = checksum_of(index)
        with self._file as file:
            file.write(index + len(index).to_bytes(LENGTH_SIZE, "big"))
            file.write(checksum + len(checksum).to_bytes(LENGTH_SIZE, "big"))
            file.flush()
            os.fsync(file.fileno())

    def _index(self) -> bytes:
        """Head, list of the blocks, the blocks, their keys: what is referred to comes later."""
        count = len(self._keys)
        vector = _HEAD.size
        block_at = vector + 4 + 4 * count
        key_at = block_at + _BLOCK.size * count
        references = [count]
        blocks: list[bytes] = []
        keys: list[bytes] = []
        offset = 0
        for number, (key, size) in enumerate(zip(self._keys, self._sizes, strict=True)):
            at = block_at + _BLOCK.size * number
            references.append(at - (vector + 4 + 4 * number))
            blocks.append(_BLOCK.pack(at - _BLOCK_FIELDS, key_at - (at + 4), offset, size))
            padding = bytes(-len(key) % 4)
            keys.append(len(key).to_bytes(4, "little") + key + padding)
            key_at += len(keys[-1])
            offset += size
        head = _HEAD.pack(
            _ROOT,
            *_ROOT_SHAPE,
            *_BLOCK_SHAPE,
            _ROOT - _ROOT_FIELDS,
            vector - (_ROOT + 4),
            self._version,
            self._count,
            offset % 2**32,
            (offset + key_at) % 2**32,
            0,
        )
        return b"".join([head, struct.pack(f"<{count + 1}I", *references), *blocks, *keys])


def _common(first: bytes, last: bytes) -> int:
    """How many bytes two keys begin with are the same; so do all keys between them."""
    size = min(len(first), len(last))
    difference = int.from_bytes(first[:size], "big") ^ int.from_bytes(last[:size], "big")
    return size - (difference.bit_length() + 7) // 8


def _creation(table: int) -> bytes:
    """The change in the MANIFEST that makes a table live."""
    change = b"\x08" + uvarint(table) + b"\x18" + uvarint(_LAST_LEVEL)
    return b"\x0a" + uvarint(len(change)) + change
