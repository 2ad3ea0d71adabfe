"""Stores that tests write: as the server does, with what its Badger does to the files."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent import tables
from agent.badger import DELETE, TRANSACTION, log_paths, read_log
from agent.log_writer import LogWriter, encode_transaction
from agent.manifest import MANIFEST, read_manifest, table_path
from agent.tables import merge
from tests.tables import change, change_set, put, row, table_of

Change = Mapping[bytes, "bytes | None"]


def write(store: Path, *transactions: Change, log_size: int = 16 * 2**20) -> int:
    """Write transactions; the last one's version."""
    with contextlib.closing(LogWriter(store, log_size)) as writer:
        for changes in transactions:
            writer.write(changes, sync=False)
        return writer.version


def flush(store: Path) -> None:
    """What a clean stop does: everything is in tables afterwards, and there are no logs."""
    for _ in stopping(store):
        pass


def stopping(store: Path) -> Iterator[str]:
    """The steps of a clean stop, one by one: each tells what was just done."""
    for path in log_paths(store):
        if make_table(store, path):
            yield "table"
        path.write_bytes(b"")
        yield "truncated"
        path.unlink()
        yield "removed"


def make_table(store: Path, log: Path) -> bool:
    """Make a table of a log, as of a memtable: whole. Return whether there was something in it."""
    rows = [
        (each.key, TRANSACTION | (DELETE if each.deleted else 0), each.value, each.version)
        for transaction in read_log(log)
        for each in transaction.entries
    ]
    if rows:
        put(store, (0, rows), first=max(read_manifest(store).live, default=0) + 1)
    return bool(rows)


def compact(store: Path) -> None:
    """Make one table of all, the newest version of each key; deletions leave nothing."""
    before = read_manifest(store).live
    rows = [row(each.key, each.value, each.version) for each in merge(store) if not each.deleted]
    number = max(before, default=0) + 1
    changes = [change(each, operation=1) for each in before]
    if rows:
        table_path(store, number).write_bytes(table_of(rows))
        changes.insert(0, change(number, level=6))
    with (store / MANIFEST).open("ab") as file:
        file.write(change_set(*changes))
    for each in before:
        table_path(store, each).unlink()


def drop(store: Path) -> Iterator[str]:
    """Drop all data, step by step: the logs, a new one with the next number, the tables."""
    logs = log_paths(store)
    for path in logs:
        path.write_bytes(b"")
        path.unlink()
    yield "logs"
    begin_log(store, int(logs[-1].stem) + 1 if logs else 1)
    yield "log"
    live = read_manifest(store).live
    if live:
        with (store / MANIFEST).open("ab") as file:
            file.write(change_set(*[change(each, operation=1) for each in live]))
    yield "manifest"
    for each in live:
        table_path(store, each).unlink()
    yield "tables"


def begin_log(store: Path, number: int = 1) -> Path:
    """Make a log with nothing in it."""
    path = store / f"{number:05}.mem"
    path.write_bytes(bytes(8) + os.urandom(12))
    return path


def log(store: Path, number: int, changes: Change, version: int) -> Path:
    """A log with one transaction."""
    path = begin_log(store, number)
    path.write_bytes(path.read_bytes() + encode_transaction(changes, version))
    return path


def content(store: Path) -> dict[bytes, bytes]:
    """Key to value, by the module that reads stores at rest."""
    return {key: value for key, (_, value) in tables.read_store(store).items()}
