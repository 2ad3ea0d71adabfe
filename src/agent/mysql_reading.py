"""Reading the mirror: many rows quickly, long values, the control plane's file."""

import struct
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from agent import mysql_statements as sql
from agent.mysql_errors import AwayError, DatabaseError
from agent.mysql_session import Session

_FIRST_PAGE = 1000
_LARGEST_PAGE = 5000
_LARGEST_PACKED = 2 * 2**20
_SUMMARY_PAGE = 50_000
_PARTS_AT_ONCE = 64
_KEYS_AT_ONCE = 50


def rows(session: Session, copy: int, after: bytes) -> Iterator[sql.Row]:
    """The rows of a copy behind a key, in key order."""
    limit = min(session.packet // 2, _LARGEST_PACKED)
    session.execute(f"SET SESSION group_concat_max_len = {limit}")
    count = _FIRST_PAGE
    while True:
        found = session.select(sql.page_end(copy, after, count))
        end = found[0][0] if found else None
        ((got, packed),) = session.select(sql.page(copy, after, end))
        if got and len(packed) >= limit:
            # The server cuts what is longer, so that there is nothing to be had of this.
            count = max(1, count // 4)
            continue
        if got:
            yield from _unpacked(session, copy, packed, got)
        if end is None:
            return
        after = end
        fitting = limit // 2 * got // len(packed) if got else _LARGEST_PAGE
        count = max(1, min(fitting, _LARGEST_PAGE))


def _unpacked(session: Session, copy: int, packed: bytes, count: int) -> Iterator[sql.Row]:
    """The rows of a page, with the values that are not in it."""
    try:
        found, apart = sql.unpack(packed)
    except struct.error as error:
        raise DatabaseError("damaged", f"{session.endpoint}: a page of rows is cut") from error
    if len(found) != count:
        raise DatabaseError("damaged", f"{session.endpoint}: {len(found)} rows of {count} came")
    # No server says that it puts them together in order, though all do.
    found.sort(key=itemgetter(0))
    if not apart:
        yield from found
        return
    for key, version, value in found:
        yield key, version, _value(session, copy, key) if key in apart else value


def store(session: Session, name: str) -> tuple[int, str]:
    """The copy of a store that counts and its position; 0 and "" where there is none."""
    found = unless_missing(
        session,
        f"SELECT copy, position FROM dittofs_stores WHERE name = {sql.binary(name.encode())}",
    )
    return found[0] if found else (0, "")  # pyright: ignore[reportReturnType]  # the columns' types


def rows_of(session: Session, copy: int, keys: Sequence[bytes]) -> Iterator[sql.Row]:
    """The rows of some keys, those that are there; in no order."""
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = ", ".join(sql.binary(key) for key in keys[start : start + _KEYS_AT_ONCE])
        for key, version, size, value in session.select(
            "SELECT name, version, size, value FROM dittofs_entries"
            f" WHERE copy = {copy} AND name IN ({some}) AND value IS NOT NULL"
        ):
            yield key, version, value if len(value) == size else _value(session, copy, key)


def summary(session: Session, copy: int) -> tuple[int, int]:
    """The number of keys of a copy, and the bytes of their values."""
    keys = size = 0
    after: bytes | None = b""
    while after is not None:
        found = session.select(sql.page_end(copy, after, _SUMMARY_PAGE))
        end = found[0][0] if found else None
        ((count, total),) = session.select(sql.page_size(copy, after, end))
        keys, size, after = keys + int(count), size + int(total or 0), end
    return keys, size


def _value(session: Session, copy: int, key: bytes) -> bytes:
    """A value that is too long to be read with others."""
    where = f"WHERE copy = {copy} AND name = {sql.binary(key)}"
    ((size, first),) = session.select(f"SELECT size, value FROM dittofs_entries {where}")
    if size <= sql.PART_SIZE:
        return first
    value = bytearray(first)
    for (piece,) in session.select(f"SELECT value FROM dittofs_parts {where} ORDER BY part"):
        value += piece
    if len(value) != size:
        raise DatabaseError("damaged", f"{size - len(value)} bytes of the value of {key!r} miss")
    return bytes(value)


def control_plane(session: Session) -> tuple[bytes, str] | None:
    """The control plane's file and its digest."""
    number, size, digest = control_plane_row(session)
    if not number:
        return None
    data = bytearray()
    count = -(-size // sql.PART_SIZE)
    for start in range(0, count, _PARTS_AT_ONCE):
        for (piece,) in session.select(
            f"SELECT data FROM dittofs_control_plane WHERE id = {number}"
            f" AND part >= {start} AND part < {min(count, start + _PARTS_AT_ONCE)}"
            " ORDER BY part"
        ):
            data += piece
    if len(data) != size:
        raise DatabaseError("damaged", f"{size - len(data)} bytes of the control plane miss")
    return bytes(data), digest


def control_plane_row(session: Session) -> tuple[int, int, str]:
    """Number, size and digest of the control plane's file; zeros where there is none."""
    found = unless_missing(
        session,
        "SELECT control_plane, control_plane_size, control_plane_digest FROM dittofs_mirror",
    )
    if not found:
        return 0, 0, ""
    ((number, size, digest),) = found
    return number, size, digest


def unless_missing(session: Session, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query; none where there is no such table."""
    try:
        return session.select(query)
    except AwayError as error:
        if error.kind != "emptied":
            raise
        return []
