"""Stores that tests write: as the server does, with what its Badger does to the files."""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from agent import tables
from agent.badger import log_paths
from agent.log_writer import LogWriter
from agent.rebuild import StoreWriter

Change = Mapping[bytes, "bytes | None"]


def write(store: Path, *transactions: Change, log_size: int = 16 * 2**20) -> int:
    """Write transactions; the last one's version."""
    with contextlib.closing(LogWriter(store, log_size)) as writer:
        for changes in transactions:
            writer.write(changes, sync=False)
        return writer.version


def flush(store: Path) -> None:
    """What a clean stop does: everything is in tables afterwards, and there are no logs."""
    rows = tables.read_store(store)
    temporary = store.with_name(f"{store.name}.flushed")
    temporary.mkdir()
    with StoreWriter(temporary) as writer:
        for key, (version, value) in sorted(rows.items()):
            writer.add(key, value, version)
    for path in log_paths(store):
        # Badger truncates first.
        path.write_bytes(b"")
        path.unlink()
    for path in store.iterdir():
        path.unlink()
    for path in temporary.iterdir():
        shutil.move(path, store / path.name)
    temporary.rmdir()


def content(store: Path) -> dict[bytes, bytes]:
    """Key to value, by the module that reads stores at rest."""
    return {key: value for key, (_, value) in tables.read_store(store).items()}
