"""How far a store was followed, and what came since."""

import functools
import json
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import NamedTuple

from agent.badger import HEADER_SIZE
from agent.manifest import NOTHING, Mark

UNKNOWN = -1
_KIND = 3
# Badger makes it with a store, from random bytes, and leaves it alone while nothing is encrypted.
_REGISTRY = "KEYREGISTRY"

Changes = dict[bytes, tuple[int, "bytes | None"]]
"""Key to version and value; None deletes."""


class GapError(Exception):
    """Something may have been missed: compare both sides in full."""


@dataclass(frozen=True)
class Position:
    """How far a store was followed.

    Attributes:
        log: number of the log, 0 where there was none.
        offset: of the first byte that was not read.
        checksum: crc32c of all bytes of the log before it; -1 where it is not known.
        version: of the last transaction.
        flushed: the highest version that was known to be in a table.
        tables: the MANIFEST, as far as it was understood.
        boot: the run of the kernel that the log was read on.
        store: which store it is, see `store_id`.
    """

    log: int = 0
    offset: int = HEADER_SIZE
    checksum: int = UNKNOWN
    version: int = 0
    flushed: int = 0
    tables: Mark = NOTHING
    boot: str = ""
    store: str = ""

    def to_text(self) -> str:
        """As it is kept in the database."""
        log = [self.log, self.offset, self.checksum, self.version]
        tables = [self.flushed, self.tables.size, self.tables.checksum]
        return json.dumps([_KIND, *log, *tables, self.boot, self.store])

    @classmethod
    def from_text(cls, text: str) -> "Position | None":
        """Read it back; None where it is of another kind."""
        try:
            kind, *numbers, boot, store = json.loads(text)
            log, offset, checksum, version, flushed, *tables = map(index, numbers)
            # The inode says nothing: volumes are copied.
            size, of_tables = tables
        except (ValueError, TypeError):
            return None
        if kind != _KIND:
            return None
        mark = Mark(size, of_tables)
        return cls(log, offset, checksum, version, flushed, mark, str(boot), str(store))


class Batch(NamedTuple):
    """Whole transactions, the newest value of each key, and the position behind them.

    `size` counts the bytes they have in the log.
    """

    changes: Changes
    transactions: int
    size: int
    position: Position


def store_id(directory: Path) -> str:
    """Tells a store from one that was put into its place; "" as long as it has nothing to tell it.

    A copy of a volume has the same. A restored store is a new one, whose numbers of logs and
    versions may be those of the one before.
    """
    try:
        return (directory / _REGISTRY).read_bytes().hex()[:64]
    except FileNotFoundError:
        return ""


@functools.cache
def boot_id() -> str:
    """Which run of the kernel this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
