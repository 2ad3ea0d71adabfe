"""A store and its rows in the database, side by side in key order."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agent.journal import Changes
from agent.tables import merge

Row = tuple[bytes, int, bytes]
"""Key, version, value."""


class Difference(NamedTuple):
    """A key with its version and value on each side, None where it is not there."""

    key: bytes
    store: tuple[int, bytes] | None
    mirror: tuple[int, bytes] | None

    @property
    def size(self) -> int:
        """The bytes that mending the mirror takes."""
        return len(self.key) + (len(self.store[1]) if self.store else 0)


def live(directory: Path, overlay: Changes, after: bytes = b"") -> Iterator[Row]:
    """What a store holds now, in key order: its tables, and over them what its logs say.

    Args:
        directory: of the store.
        overlay: the newest value of every key in the logs.
        after: only keys behind this one.

    Raises:
        BadgerError: a table cannot be understood.
    """
    newer = iter(sorted(item for item in overlay.items() if item[0] > after))
    ahead = next(newer, None)
    for entry in merge(directory, after):
        while ahead is not None and ahead[0] < entry.key:
            key, (version, value) = ahead
            if value is not None:
                yield key, version, value
            ahead = next(newer, None)
        key, version, value = entry.key, entry.version, None if entry.deleted else entry.value
        if ahead is not None and ahead[0] == entry.key:
            # The tables are read after the logs: they may have what was written since.
            if ahead[1][0] >= version:
                version, value = ahead[1]
            ahead = next(newer, None)
        if value is not None:
            yield key, version, value
    while ahead is not None:
        key, (version, value) = ahead
        if value is not None:
            yield key, version, value
        ahead = next(newer, None)


def differences(store: Iterator[Row], mirror: Iterator[Row]) -> Iterator[Difference | int]:
    """Walk both sides; yield each difference, and the number of rows so far now and then."""
    count = 0
    ours, theirs = next(store, None), next(mirror, None)
    while ours is not None or theirs is not None:
        count += 1
        if count % _TELL == 0:
            yield count
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            assert ours is not None  # noqa: S101  # for the type checker
            yield Difference(ours[0], ours[1:], None)
            ours = next(store, None)
        elif ours is None or theirs[0] < ours[0]:
            yield Difference(theirs[0], None, theirs[1:])
            theirs = next(mirror, None)
        else:
            if ours != theirs:
                yield Difference(ours[0], ours[1:], theirs[1:])
            ours, theirs = next(store, None), next(mirror, None)


_TELL = 2000
