"""All of a store's tables as one, read while the server writes the store.

A table never changes, and is removed after the MANIFEST says so. So when a table cannot be read,
the MANIFEST tells why: it has changed, and the table was compacted away, or the table is damaged.
"""

import contextlib
import itertools
from bisect import bisect_right
from collections.abc import Generator, Iterator
from operator import itemgetter
from pathlib import Path

from agent.badger import (
    INTERNAL,
    LARGEST_VERSION,
    VERSION_SIZE,
    BadgerError,
    Entry,
    find_in_logs,
    read_logs,
    read_value,
)
from agent.manifest import Manifest, read_manifest, table_path
from agent.table import Pointer, open_table

_FILE_NUMBER_SIZE = 4
_KEY = itemgetter(0)


def max_version(directory: Path, manifest: Manifest) -> int:
    """The highest version in the live tables, 0 where there are none.

    Raises:
        GoneError: a table was removed meanwhile: read the MANIFEST again.
        BadgerError: a table is damaged.
    """
    highest = 0
    for table in manifest.live:
        with open_table(table_path(directory, table)) as opened:
            highest = max(highest, opened.max_version)
    return highest


def merge(directory: Path, after: bytes = b"") -> Iterator[Entry]:
    """Yield every key of the tables behind `after`, in order, with its newest version there.

    Deletions are among them, Badger's own keys are not. Tables may come and go meanwhile; what was
    flushed before this began is there.

    Raises:
        BadgerError: something is damaged, or not what this module understands.
    """
    manifest = read_manifest(directory)
    while True:
        try:
            for batch in _merge(directory, manifest, after):
                yield from batch
                after = batch[-1].key
        except BadgerError as error:
            again = read_manifest(directory)
            if again == manifest:
                raise BadgerError(str(error)) from error
            manifest = again
        else:
            return


def read_store(directory: Path) -> dict[bytes, tuple[int, bytes]]:
    """Version and value of every key, from logs and tables; all of it is in memory.

    Raises:
        BadgerError: see `badger.read_logs` and `merge`.
    """
    newest: dict[bytes, Entry] = {}
    for _, transaction in read_logs(directory):
        for entry in transaction.entries:
            present = newest.get(entry.key)
            if present is None or present.version <= entry.version:
                newest[entry.key] = entry
    for entry in merge(directory):
        present = newest.get(entry.key)
        if present is None or present.version < entry.version:
            newest[entry.key] = entry
    return {
        key: (entry.version, entry.value)
        for key, entry in newest.items()
        if not entry.deleted and not key.startswith(INTERNAL)
    }


def snapshot(directory: Path) -> dict[bytes, bytes]:
    """The value of every key; see `read_store`."""
    return {key: value for key, (_, value) in read_store(directory).items()}


class _Run:
    """Sorted entries from tables that follow on each other, as far as they were read."""

    def __init__(self, paths: list[Path], after: bytes):
        self._chunks = self._read(paths, after)
        self.entries: list[Entry] = []
        self.advance(0)

    def advance(self, count: int) -> None:
        """Drop the first `count` entries; read more when none are left."""
        self.entries = self.entries[count:]
        if not self.entries:
            self.entries = next(self._chunks, self.entries)

    def close(self) -> None:
        self._chunks.close()

    @staticmethod
    def _read(paths: list[Path], after: bytes) -> Generator[list[Entry]]:
        last = b""
        for path in paths:
            with open_table(path) as table:
                for found in table.blocks(after):
                    if found[0].key <= last:
                        raise BadgerError(f"{path}: begins before another table ends")
                    last = found[-1].key
                    yield found


def _merge(directory: Path, manifest: Manifest, after: bytes) -> Iterator[list[Entry]]:
    """Yield the newest entries of all tables in pieces, in order."""
    with contextlib.ExitStack() as undo:
        runs: list[_Run] = []
        for paths in _runs(directory, manifest, after):
            run = _Run(paths, after)
            undo.callback(run.close)
            runs.append(run)
        while runs := [run for run in runs if run.entries]:
            bound = min(run.entries[-1].key for run in runs)
            found: list[Entry] = []
            sources = 0
            for run in runs:
                count = bisect_right(run.entries, bound, key=_KEY)
                if count:
                    sources += 1
                    found += run.entries[:count]
                    run.advance(count)
            if sources > 1:
                found.sort(key=_KEY)
                found = _newest(found)
            yield from _resolved(directory, found)


def _newest(entries: list[Entry]) -> list[Entry]:
    """One entry per key of sorted ones, the one with the highest version."""
    found = entries[:1]
    last = found[0]
    for entry in itertools.islice(entries, 1, None):
        if entry[0] != last[0]:
            found.append(entry)
            last = entry
        elif entry[2] > last[2] or (entry[2] == last[2] and _moved(last, entry)):
            found[-1] = last = entry
    return found


def _moved(before: Entry, entry: Entry) -> bool:
    """Whether Badger moved a value from one place to the other: to a file with a later number.

    Level and number of a table do not tell which of two is newer.
    """
    numbers = [
        int.from_bytes(each.value[:_FILE_NUMBER_SIZE], "little") for each in (before, entry)
    ]
    return before.__class__ is entry.__class__ is Pointer and numbers[0] < numbers[1]


def _runs(directory: Path, manifest: Manifest, after: bytes) -> list[list[Path]]:
    """The tables in runs: each of level 0 is one, the tables of any other level are one."""
    runs: list[list[Path]] = []
    for level in sorted(set(manifest.live.values())):
        paths = [table_path(directory, each) for each, at in manifest.live.items() if at == level]
        if level == 0:
            runs += [[path] for path in paths]
        else:
            runs.append(_in_order(paths, after))
    return runs


def _in_order(paths: list[Path], after: bytes) -> list[Path]:
    """Tables by their first key, without those that have nothing behind `after`."""
    firsts: list[tuple[bytes, Path]] = []
    for path in paths:
        with open_table(path) as table:
            firsts.append((table.first_key, path))
    firsts.sort()
    begun = sum(first <= after for first, _ in firsts)
    return [path for _, path in firsts[max(0, begun - 1) :]]


def _resolved(directory: Path, entries: list[Entry]) -> Iterator[list[Entry]]:
    """Yield entries with their values in pieces; each has one large value at most."""
    start = 0
    for at, entry in enumerate(entries):
        if entry.__class__ is Pointer:
            yield [*entries[start:at], resolve(directory, entry)]
            start = at + 1
    if start < len(entries):
        yield entries[start:]


def resolve(directory: Path, entry: Entry) -> Entry:
    """An entry with its value from the value log, or the one that took its place.

    Raises:
        BadgerError: the value is gone, or damaged.
    """
    if entry.__class__ is not Pointer:
        return entry
    key, pointer, version, _ = entry
    try:
        stored = key + (LARGEST_VERSION - version).to_bytes(VERSION_SIZE, "big")
        return Entry(key, read_value(directory, pointer, stored), version)
    except BadgerError:
        # Badger moved the value; the log has where to, until a table has it.
        found = find_in_logs(directory, key, version)
        if found:
            return found
        raise
