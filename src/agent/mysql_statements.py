"""The text of the mirror's SQL: its tables, and statements built quickly from many rows.

Bytes stand in a statement as hex literals, which no server setting and no character set changes.
Integers are formatted as integers, so that nothing that comes from outside is ever taken for SQL.
All statements here run on MySQL 8.0 and later and on MariaDB 10.6 and later.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping

SCHEMA_VERSION = 1

LONGEST_KEY = 3000
"""Bytes of the longest key; the longest that InnoDB can index beside the number of a copy."""

PART_SIZE = 256 * 1024
"""Bytes of a value that one row holds; a hex literal of it fits in a packet of 1 MiB."""

LEAST_PACKET = 1024 * 1024
"""The smallest `max_allowed_packet` that the mirror works with."""

INLINE_SIZE = 8 * 1024
"""Bytes of the largest value that is read together with other rows."""

STATEMENT_SIZE = 256 * 1024
"""Bytes of a statement with many rows; larger ones were slower with each server."""

DELETES_IN_STATEMENT = 500
"""Few enough for every optimizer to look each name up instead of reading the table."""

RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE"
"""What the user of the mirror needs on its database."""

COMPARISONS = 2
"""How many stores the mirror compares at once; each reads by a connection of its own."""

CONNECTIONS = 1 + COMPARISONS + 2
"""The most that the agent has: the mirror to write and to compare, and `verify`, which has 2."""

Change = tuple[int, bytes | None]
"""A version, and the value or None where the key was deleted."""
Row = tuple[bytes, int, bytes]
"""Key, version, value."""

# A table of the version comes first and the version itself last: a creation that was cut short is
# simply done again.
TABLES = (
    """CREATE TABLE IF NOT EXISTS dittofs_schema (
        id TINYINT UNSIGNED NOT NULL,
        version INT UNSIGNED NOT NULL,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE IF NOT EXISTS dittofs_mirror (
        id TINYINT UNSIGNED NOT NULL,
        instance VARCHAR(255) NOT NULL,
        generation BIGINT UNSIGNED NOT NULL,
        application VARCHAR(255) NOT NULL,
        model VARCHAR(255) NOT NULL,
        model_uuid VARCHAR(255) NOT NULL,
        marker MEDIUMTEXT NOT NULL,
        epoch BIGINT UNSIGNED NOT NULL,
        updated DECIMAL(20, 6) NOT NULL,
        writes BIGINT UNSIGNED NOT NULL,
        copies INT UNSIGNED NOT NULL,
        control_plane INT UNSIGNED NOT NULL,
        control_plane_size BIGINT UNSIGNED NOT NULL,
        control_plane_digest VARCHAR(255) NOT NULL,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE IF NOT EXISTS dittofs_stores (
        name VARBINARY(1024) NOT NULL,
        copy INT UNSIGNED NOT NULL,
        building INT UNSIGNED NOT NULL,
        sequence BIGINT UNSIGNED NOT NULL,
        position MEDIUMTEXT NOT NULL,
        PRIMARY KEY (name)
    )""",
    f"""CREATE TABLE IF NOT EXISTS dittofs_entries (
        copy INT UNSIGNED NOT NULL,
        name VARBINARY({LONGEST_KEY}) NOT NULL,
        version BIGINT UNSIGNED NOT NULL,
        size INT UNSIGNED NOT NULL,
        value MEDIUMBLOB NULL,
        PRIMARY KEY (copy, name)
    )""",
    f"""CREATE TABLE IF NOT EXISTS dittofs_parts (
        copy INT UNSIGNED NOT NULL,
        name VARBINARY({LONGEST_KEY}) NOT NULL,
        part SMALLINT UNSIGNED NOT NULL,
        value MEDIUMBLOB NOT NULL,
        PRIMARY KEY (copy, name, part)
    )""",
    f"""CREATE TABLE IF NOT EXISTS dittofs_tombstones (
        copy INT UNSIGNED NOT NULL,
        name VARBINARY({LONGEST_KEY}) NOT NULL,
        PRIMARY KEY (copy, name)
    )""",
    """CREATE TABLE IF NOT EXISTS dittofs_control_plane (
        id INT UNSIGNED NOT NULL,
        part INT UNSIGNED NOT NULL,
        data MEDIUMBLOB NOT NULL,
        PRIMARY KEY (id, part)
    )""",
)
TABLE_OPTIONS = " ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"

_ENTRIES = "dittofs_entries (copy, name, version, size, value) VALUES "
_PARTS = "REPLACE INTO dittofs_parts (copy, name, part, value) VALUES "
_TOMBSTONES = "REPLACE INTO dittofs_tombstones (copy, name) VALUES "
# What follows `INSERT ... VALUES` to leave a row that is there as it is. IGNORE would do that too,
# and hide each other error.
_KEEP = " ON DUPLICATE KEY UPDATE copy = copy"

# Rows are read many at a time, as one string of bytes: PyMySQL alone would take several times as
# long for a row as the parser below. A row is 4 bytes with its sizes, the version, the key and the
# value. The topmost bit of the sizes is always set, as CHAR() would leave out leading zeros.
_TOPMOST = 1 << 31
_APART = 1 << 30
_KEY_UNIT = 1 << 16
_ROW_HEAD = struct.Struct(">IQ")
_PACKED_ROW = (
    f"CHAR({_TOPMOST} + {_KEY_UNIT} * LENGTH(name)"
    f" + IF(size > {INLINE_SIZE}, {_APART}, LENGTH(value))),"
    " UNHEX(LPAD(HEX(version), 16, '0')), name,"
    f" IF(size > {INLINE_SIZE}, x'', value)"
)


def text(value: str) -> str:
    """A string as SQL."""
    return f"_utf8mb4 x'{value.encode().hex()}'"


def binary(value: bytes) -> str:
    """Bytes as SQL."""
    return f"x'{value.hex()}'"


def replacing(copy: int, rows: Iterable[Row]) -> Iterator[str]:
    """Statements that write rows with values of at most PART_SIZE, whatever was there."""
    return _inserting("REPLACE INTO " + _ENTRIES, copy, rows, "")


def adding(copy: int, rows: Iterable[Row]) -> Iterator[str]:
    """Statements that add rows with values of at most PART_SIZE; one that is there stays."""
    return _inserting("INSERT INTO " + _ENTRIES, copy, rows, _KEEP)


def _inserting(head: str, copy: int, rows: Iterable[Row], tail: str) -> Iterator[str]:
    pieces: list[str] = []
    size = 0
    for key, version, value in rows:
        piece = f"({copy},x'{key.hex()}',{version:d},{len(value)},x'{value.hex()}')"
        size += len(piece)
        pieces.append(piece)
        if size > STATEMENT_SIZE:
            yield f"{head}{','.join(pieces)}{tail}"
            pieces, size = [], 0
    if pieces:
        yield f"{head}{','.join(pieces)}{tail}"


def replacing_large(copy: int, row: Row) -> str:
    """The statement for the first part of a value of more than PART_SIZE; the others follow it."""
    return f"REPLACE INTO {_ENTRIES}{_large_head(copy, row)}"


def adding_large(copy: int, row: Row) -> str:
    """The same, which changes no row where the key is there."""
    return f"INSERT INTO {_ENTRIES}{_large_head(copy, row)}{_KEEP}"


def _large_head(copy: int, row: Row) -> str:
    key, version, value = row
    first = value[:PART_SIZE].hex()
    return f"({copy},x'{key.hex()}',{version:d},{len(value)},x'{first}')"


def large_parts(copy: int, row: Row) -> Iterator[str]:
    """Statements for what is behind the first part of a value of more than PART_SIZE."""
    key, _, value = row
    for part in range(1, parts(len(value))):
        piece = value[part * PART_SIZE : (part + 1) * PART_SIZE]
        yield f"{_PARTS}({copy},x'{key.hex()}',{part},x'{piece.hex()}')"


def parts(size: int) -> int:
    """How many rows a value of `size` bytes takes, the first one included."""
    return max(1, -(-size // PART_SIZE))


def forgetting_parts(copy: int, key: bytes) -> str:
    """The statement that deletes all the parts of a value but the first."""
    return f"DELETE FROM dittofs_parts WHERE copy = {copy} AND name = {binary(key)}"


def deleting(copy: int, keys: Iterable[bytes]) -> Iterator[str]:
    """Statements that delete rows."""
    for names in _batches([f"x'{key.hex()}'" for key in keys]):
        yield f"DELETE FROM dittofs_entries WHERE copy = {copy} AND name IN ({names})"


def burying(copy: int, changes: Mapping[bytes, int]) -> Iterator[str]:
    """Statements that leave tombstones for deleted keys, given with their versions."""
    for rows in _batches([f"({copy},x'{k.hex()}',{v:d},0,NULL)" for k, v in changes.items()]):
        yield f"REPLACE INTO {_ENTRIES}{rows}"
    for rows in _batches([f"({copy},x'{key.hex()}')" for key in changes]):
        yield f"{_TOMBSTONES}{rows}"


def digging_up(copy: int, keys: Iterable[bytes]) -> Iterator[str]:
    """Statements that delete the tombstones of keys, but not a row written over one."""
    for names in _batches([f"x'{key.hex()}'" for key in keys]):
        where = f"WHERE copy = {copy} AND name IN ({names})"
        yield f"DELETE FROM dittofs_entries {where} AND value IS NULL"
        yield f"DELETE FROM dittofs_tombstones {where}"


def _batches(pieces: list[str]) -> Iterator[str]:
    """Join pieces with commas, as many as a statement takes; a piece is 6 KiB at the most."""
    size = DELETES_IN_STATEMENT
    if pieces and max(map(len, pieces)) * size > LEAST_PACKET // 2:
        size = LEAST_PACKET // 2 // max(map(len, pieces))
    for start in range(0, len(pieces), size):
        yield ",".join(pieces[start : start + size])


def page_end(copy: int, after: bytes, count: int) -> str:
    """The query for the last of the `count` keys behind `after`; no row where they are fewer."""
    return (
        f"SELECT name FROM dittofs_entries WHERE copy = {copy} AND name > {binary(after)}"
        f" ORDER BY name LIMIT 1 OFFSET {count - 1}"
    )


def page(copy: int, after: bytes, end: bytes | None) -> str:
    """The query for the rows behind `after` up to `end`: their number, and all of them as one."""
    return (
        f"SELECT COUNT(*), GROUP_CONCAT({_PACKED_ROW} SEPARATOR '') FROM dittofs_entries"
        f" WHERE {_between(copy, after, end)}"
    )


def page_size(copy: int, after: bytes, end: bytes | None) -> str:
    """The query for how many they are, and the bytes of their values."""
    return f"SELECT COUNT(*), SUM(size) FROM dittofs_entries WHERE {_between(copy, after, end)}"


def _between(copy: int, after: bytes, end: bytes | None) -> str:
    upto = "" if end is None else f" AND name <= {binary(end)}"
    return f"copy = {copy} AND name > {binary(after)}{upto} AND value IS NOT NULL"


def unpack(packed: bytes) -> tuple[list[Row], set[bytes]]:
    """The rows of a page, and the keys of those whose values have to be fetched.

    Raises:
        struct.error: the bytes end within a row's head.
    """
    rows: list[Row] = []
    apart: set[bytes] = set()
    add, head, head_size = rows.append, _ROW_HEAD.unpack_from, _ROW_HEAD.size
    position, end = 0, len(packed)
    while position < end:
        sizes, version = head(packed, position)
        start = position + head_size
        middle = start + ((sizes >> 16) & 0x3FFF)
        if sizes & _APART:
            apart.add(packed[start:middle])
            position = middle
        else:
            position = middle + (sizes & 0xFFFF)
        add((packed[start:middle], version, packed[middle:position]))
    return rows, apart
