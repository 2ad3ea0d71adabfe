"""Rows of a share's metadata store, read while the server writes it."""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from agent.badger import read_logs
from agent.comparison import Row, live
from agent.journal import Changes


def logged(directory: Path, *prefixes: bytes) -> Changes:
    """What the logs of a Badger store say of the keys with these prefixes.

    Raises:
        BadgerError: they cannot be read, or not now.
    """
    found: Changes = {}
    for _, transaction in read_logs(directory):
        for entry in transaction.entries:
            if entry.key.startswith(prefixes):
                found[entry.key] = (entry.version, None if entry.deleted else entry.value)
    return found


def rows(directory: Path, changes: Changes, prefix: bytes) -> Iterator[Row]:
    """The rows with this prefix in the order of their keys, from the tables and from `changes`.

    Raises:
        BadgerError: the tables cannot be read, or not now.
    """
    found = live(directory, changes, after=prefix)
    return takewhile(lambda row: row[0].startswith(prefix), found)
