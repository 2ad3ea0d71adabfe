"""What a store's tables tell of transactions that were not seen in its logs.

A table that is made of a memtable has all that was in it, also what was overwritten or deleted.
So where the tables that were made since the MANIFEST was looked at are all still there, they have
every transaction of that time, whole: the numbers of the versions say that none is missing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agent.badger import INTERNAL, BadgerError, Entry, GoneError
from agent.manifest import table_path
from agent.position import Changes, GapError
from agent.table import open_table
from agent.tables import resolve

_LARGEST_CHANGES = 32 * 2**20
_LARGEST_TABLES = 256 * 2**20
_TOO_MUCH = "the tables have too much that was not seen in the logs"


def newest(directory: Path, tables: tuple[int, ...]) -> list[int] | None:
    """The highest version of each table; None where one of them is gone, compacted with others.

    Raises:
        BadgerError: a table is damaged.
    """
    found: list[int] = []
    for table in tables:
        try:
            with open_table(table_path(directory, table)) as opened:
                found.append(opened.max_version)
        except GoneError:
            return None
    return found


class Missed(NamedTuple):
    """Changes that were not seen in the logs, their bytes, and the last version."""

    changes: Changes
    size: int
    version: int


def missed(directory: Path, tables: tuple[int, ...], flushed: int, version: int) -> Missed:
    """What tables that were memtables have beyond a version.

    Args:
        directory: of the store.
        tables: all that were made since `flushed` was the highest version in a table.
        flushed: from the next version on all have to be there: after a `DropAll` they are not.
        version: what is known already.

    Raises:
        GapError: they do not have every transaction, or what they have is too much.
    """
    found: dict[bytes, Entry] = {}
    seen: set[int] = set()
    size = 0
    try:
        if sum(table_path(directory, each).stat().st_size for each in tables) > _LARGEST_TABLES:
            raise GapError(_TOO_MUCH)
        for entry, written in _every(directory, tables):
            if written:
                seen.add(entry.version)
                if entry.version <= flushed:
                    raise GapError(f"version {entry.version} was used again")
            before = found.get(entry.key)
            if entry.version > version and not (before and before.version > entry.version):
                found[entry.key] = entry
                size += len(entry.key) + len(entry.value)
                if size > _LARGEST_CHANGES:
                    raise GapError(_TOO_MUCH)
        if len(seen) != max(seen, default=flushed) - flushed:
            raise GapError("the tables do not have all that was not seen in the logs")
        return Missed(_changes(directory, found), size, max(seen, default=flushed))
    except (FileNotFoundError, GoneError):
        raise GapError("the tables that had what was missed are compacted already") from None
    except (BadgerError, OSError) as error:
        raise GapError(f"the tables cannot tell what was missed: {error}") from error


def _every(directory: Path, tables: tuple[int, ...]) -> Iterator[tuple[Entry, bool]]:
    for table in tables:
        with open_table(table_path(directory, table)) as opened:
            yield from opened.every()


def _changes(directory: Path, found: dict[bytes, Entry]) -> Changes:
    changes: Changes = {}
    for key, entry in found.items():
        if not key.startswith(INTERNAL):
            value = None if entry.deleted else resolve(directory, entry)
            if value and value.version != entry.version:
                raise GapError(f"a value of version {entry.version} is gone")
            changes[key] = (entry.version, value.value if value else None)
    return changes
