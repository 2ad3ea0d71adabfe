"""Badger's MANIFEST: which tables are live.

It is a log of changes, each a set that is atomic: tables that are live from now on, and tables
that are not. Now and then it is written anew and takes the old one's place.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agent.badger import CHECKSUM_SIZE, BadgerError, crc32c, read_uvarint

MANIFEST = "MANIFEST"
MANIFEST_HEADER = b"Bdgr\0\0\0\x08"
"""Magic, the number an application may have, and the version of the format."""

LENGTH_SIZE = 4

_TABLE_ID, _OPERATION, _LEVEL, _KEY_ID, _COMPRESSION = 1, 2, 3, 4, 6
_CREATE, _REMOVE = 0, 1
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


class Mark(NamedTuple):
    """How far a MANIFEST was read: the bytes that were understood, and their crc32c.

    A set of changes that is not whole yet comes behind them. `inode` is 0 where it is not known.
    """

    size: int = 0
    checksum: int = 0
    inode: int = 0


class Manifest(NamedTuple):
    """What the MANIFEST says, and what happened since it was read up to another mark.

    Attributes:
        live: table id -> level.
        mark: how far it was read.
        continues: whether this is still the file of the other mark, and that has not changed.
        flushed: the tables that were made of memtables since, oldest first.
        dropped: whether all tables were removed at once since, and none was made of them.
    """

    live: dict[int, int]
    mark: Mark
    continues: bool
    flushed: tuple[int, ...]
    dropped: bool


class _Change(NamedTuple):
    table: int
    operation: int
    level: int
    encrypted: int
    compressed: int


NOTHING = Mark()


def table_path(directory: Path, table: int) -> Path:
    """Where a table is."""
    return directory / f"{table:06}.sst"


def read_manifest(directory: Path, since: Mark = NOTHING) -> Manifest:
    """Read which tables are live; a store without the file has none.

    Raises:
        BadgerError: the file is damaged or of another version, or a live table is encrypted or
            compressed.
    """
    path = directory / MANIFEST
    try:
        with path.open("rb", buffering=0) as file:
            inode = os.fstat(file.fileno()).st_ino
            data = file.readall()
    except FileNotFoundError:
        return Manifest({}, NOTHING, since == NOTHING, (), dropped=False)
    except OSError as error:
        raise BadgerError(f"{path}: {error.strerror}") from error
    if data[: len(MANIFEST_HEADER)] != MANIFEST_HEADER:
        raise BadgerError(f"{path}: at offset 0 is no version 8 of Badger's")
    live: dict[int, _Change] = {}
    flushed: list[int] = []
    dropped = False
    size = len(MANIFEST_HEADER)
    for changes, end in _change_sets(data, path):
        _apply(changes, live, f"{path}: the changes at offset {size} do not fit")
        if size >= since.size:
            removals = sum(each.operation == _REMOVE for each in changes)
            dropped = dropped or (not live and 0 < removals == len(changes))
            if not removals:
                flushed += [each.table for each in changes if each.level == 0]
        size = end
    for change in live.values():
        if change.encrypted or change.compressed:
            how = "encrypted" if change.encrypted else "compressed"
            raise BadgerError(f"{table_path(directory, change.table)}: {how}, {path} says")
    levels = {table: change.level for table, change in live.items()}
    mark = Mark(size, crc32c(data[:size]), inode)
    continues = (
        since.inode in {0, inode}
        and since.size <= size
        and crc32c(data[: since.size]) == since.checksum
    )
    return Manifest(levels, mark, continues, tuple(flushed), dropped)


def _change_sets(data: bytes, path: Path) -> Iterator[tuple[list[_Change], int]]:
    """Yield the sets of changes and where each ends, up to one that is not whole."""
    offset = len(MANIFEST_HEADER)
    while True:
        start = offset + LENGTH_SIZE + CHECKSUM_SIZE
        if start > len(data):
            return
        size = int.from_bytes(data[offset : offset + LENGTH_SIZE], "big")
        if size > len(data):
            raise BadgerError(f"{path}: the length at offset {offset} is too large")
        body = data[start : start + size]
        if len(body) < size:
            return
        if crc32c(body) != int.from_bytes(data[offset + LENGTH_SIZE : start], "big"):
            raise BadgerError(f"{path}: the checksum at offset {offset} does not fit")
        try:
            changes = [
                _change(value)
                for field, value in _fields(body)
                if field == 1 and isinstance(value, bytes)
            ]
        except ValueError as error:
            raise BadgerError(f"{path}: the changes at offset {offset} are damaged") from error
        offset = start + size
        yield changes, offset


def _apply(changes: list[_Change], live: dict[int, _Change], problem: str) -> None:
    for change in changes:
        if change.operation == _REMOVE:
            # Badger 4.9 may remove one twice.
            live.pop(change.table, None)
        elif change.operation == _CREATE and change.table not in live:
            live[change.table] = change
        else:
            raise BadgerError(problem)


def _change(data: bytes) -> _Change:
    numbers = {field: value for field, value in _fields(data) if isinstance(value, int)}
    table, operation, level, key, compression = (
        numbers.get(field, 0) for field in (_TABLE_ID, _OPERATION, _LEVEL, _KEY_ID, _COMPRESSION)
    )
    return _Change(table, operation, level, key, compression)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of the fields of a protobuf message.

    Raises:
        ValueError: it is none.
    """
    at = 0
    while at < len(data):
        tag, at = read_uvarint(data, at)
        size = 0
        if tag & 7 == _VARINT and at:
            value, at = read_uvarint(data, at)
            yield tag >> 3, value
        elif tag & 7 == _BYTES and at:
            size, at = read_uvarint(data, at)
            yield tag >> 3, data[at : at + size]
        elif tag & 7 in {_EIGHT_BYTES, _FOUR_BYTES} and at:
            size = 8 if tag & 7 == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"field of unknown kind at {at}")
        if not at or at + size > len(data):
            raise ValueError("field without an end")
        at += size
