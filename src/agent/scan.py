"""Make the database equal to a store while the server writes it.

First it is seen what the tables have, and the logs are followed from there; then the tables are
read. So whatever is flushed, compacted or removed meanwhile was either in the tables already or is
among the changes that were followed, and replaying a change is harmless.

A store that is in the database already is compared, and what differs is written in one transaction
with the position: the database goes from one state of the store to a later one. Where too much
differs, and the first time, the store is copied beside what is there, and the copy takes its place
in one short transaction.
"""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from agent.comparison import Difference, Row, differences, live
from agent.journal import Batch, Changes, GapError
from agent.mysql import Database
from agent.report import Progress
from agent.store_mirror import StoreMirror
from agent.tables import merge

_MEND_BYTES = 32 * 2**20
_LOAD_ROWS = 8000
_LOAD_BYTES = 2 * 2**20
_EVERYTHING = 2**62
_COUNTED_ROWS = 500_000


def scan(store: StoreMirror, database: Database, progress: Progress) -> Iterator[None]:
    """Do it step by step, yielding between the steps; the store is mirrored afterwards.

    Raises:
        GapError: the logs went faster than they were followed: begin again.
        BadgerError: the store is not what this program understands.
        DatabaseError: the database failed; it is as it was.
    """
    known = store.row is not None and store.row.copy and store.row.position
    if not (known and (yield from _mend(store, database, progress))):
        progress.rows = progress.bytes = 0
        yield from _copy(store, database, progress)
    if store.row and progress.rows < _COUNTED_ROWS:
        # What is only in the logs is not among the rows that went by.
        progress.rows, _ = database.summary(store.row.copy)


def _mend(
    store: StoreMirror, database: Database, progress: Progress
) -> Generator[None, None, bool]:
    """Return whether it was possible."""
    row = store.row
    assert row is not None  # noqa: S101  # for the type checker
    begin = store.begin()
    yield from store.read_all()
    # What waits is held in memory for this, and after a long comparison that may be much.
    if store.backlog.size > _MEND_BYTES:
        return False
    overlay = _take_all(store)
    changes: Changes = {}
    size = 0
    rows = database.rows(row.copy)
    for found in differences(live(store.directory, overlay.changes if overlay else {}), rows):
        if isinstance(found, Difference):
            changes[found.key] = found.store or (0, None)
            size += found.size
            if size > _MEND_BYTES:
                return False
        else:
            progress.rows = found
            yield
    yield from store.read_all()
    if store.backlog.size > _MEND_BYTES:
        return False
    newer = _take_all(store)
    if newer:
        changes.update(newer.changes)
    # Not how far it was read by now: what came since may not have been compared.
    last = newer or overlay
    position = (last.position if last else begin).to_text()
    database.apply(row, changes, position)
    store.finish(replace(row, position=position))
    return True


def _copy(store: StoreMirror, database: Database, progress: Progress) -> Iterator[None]:
    begin = store.begin()
    copy = database.begin_copy(store.name)
    last: Batch | None = None
    # While the database takes a chunk, a thread reads the next one.
    with ThreadPoolExecutor(1) as reader:
        chunks = _chunks(store.directory)
        ahead = reader.submit(next, chunks, None)
        while chunk := ahead.result():
            ahead = reader.submit(next, chunks, None)
            database.load(copy, chunk)
            progress.rows += len(chunk)
            progress.bytes += sum(len(key) + len(value) for key, _, value in chunk)
            last = _follow(store, database, copy) or last
            if store.gap:
                raise GapError(store.gap)
            yield
    yield from store.read_all()
    while batch := _follow(store, database, copy):
        last = batch
        yield
    position = last.position if last else begin
    store.finish(database.finish_copy(store.name, copy, position.to_text()))


def _chunks(directory: Path) -> Iterator[list[Row]]:
    """The rows of the tables, as many at a time as one transaction takes."""
    chunk: list[Row] = []
    size = 0
    for key, value, version, deleted in merge(directory):
        if deleted:
            continue
        chunk.append((key, version, value))
        size += len(key) + len(value)
        if size >= _LOAD_BYTES or len(chunk) >= _LOAD_ROWS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _follow(store: StoreMirror, database: Database, copy: int) -> Batch | None:
    """Write some of what was followed meanwhile into the copy; None where there is nothing."""
    batch = store.backlog.take()
    if batch:
        database.follow(copy, batch.changes)
        store.backlog.drop()
    return batch


def _take_all(store: StoreMirror) -> Batch | None:
    batch = store.backlog.take(_EVERYTHING)
    store.backlog.drop()
    return batch
