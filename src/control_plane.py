"""The server's control-plane file (SQLite), while the server is down."""

import json
import logging
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import ops
from pydantic import TypeAdapter, ValidationError

import files
from errors import BlockedError
from stores import NEVER_EVICTS, holds_only_copies, may_evict
from volumes import DATABASE

logger = logging.getLogger(__name__)

_KEPT = f"{DATABASE}.before-adoption"
_SIDE_FILES = ("-wal", "-shm")
_CONFIG = TypeAdapter(dict[str, Any])


def forget_admin(container: ops.Container) -> None:
    """Remove the user `admin`, whose password nobody knows any more.

    The server makes the user at its next start, with the password from its environment; all other
    users, shares and settings stay. The file as it was is kept beside it. Nothing is done where
    there is no file.

    Raises:
        ops.pebble.Error: the container is away, or the files cannot be read or written.
        BlockedError: the file is damaged.
    """

    def forget(database: sqlite3.Connection) -> bool:
        database.execute("DELETE FROM users WHERE username = 'admin'")
        return True

    _change(container, forget, kept=_KEPT)


def keep_only_copies(container: ops.Container) -> None:
    """Let no local store delete content that is nowhere else, however much it has.

    The server reads this at its start only. Stores of shares that all have a remote store stay as
    they are: there it is a cache. Nothing is written where nothing is to be changed.

    Raises:
        ops.pebble.Error: the container is away, or the files cannot be read or written.
        BlockedError: the file is damaged.
    """
    _change(container, _lift_limits)


def _lift_limits(database: sqlite3.Connection) -> bool:
    query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    if not {"block_store_configs", "shares"} <= {name for (name,) in database.execute(query)}:
        return False
    query = "SELECT local_block_store_id, remote_block_store_id FROM shares"
    alone = {str(local) for local, remote in database.execute(query) if not remote}
    query = "SELECT id, name, type, config FROM block_store_configs WHERE kind = 'local'"
    changed = False
    for store_id, name, store_type, text in database.execute(query).fetchall():
        # The server does not open a store whose configuration it cannot read.
        with suppress(ValidationError):
            config = _CONFIG.validate_json(text)
            if holds_only_copies(store_id, name, alone) and may_evict(store_type, config):
                lifted = json.dumps(config | {"max_size": NEVER_EVICTS})
                update = "UPDATE block_store_configs SET config = ? WHERE id = ?"
                database.execute(update, (lifted, store_id))
                changed = True
    return changed


def _change(
    container: ops.Container, change: Callable[[sqlite3.Connection], bool], kept: str = ""
) -> None:
    """Change the file where there is one and `change` says that it did.

    Args:
        container: has the file.
        change: is called with the database, and returns whether it has changed it.
        kept: where the file is kept as it was; empty for nowhere.
    """
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "controlplane.db"
        if not _pull(container, DATABASE, copy):
            return
        for side in _SIDE_FILES:
            _pull(container, DATABASE + side, copy.with_name(copy.name + side))
        try:
            with closing(sqlite3.connect(copy)) as database:
                # Takes what is only in the side files into the file itself.
                database.execute("PRAGMA journal_mode = DELETE")
            complete = copy.read_bytes()
            with closing(sqlite3.connect(copy)) as database, database:
                changed = change(database)
        except sqlite3.DatabaseError as error:
            raise BlockedError(
                f"restore a backup or bring the metadata volume back: {DATABASE} is damaged",
                more=f"this file has the server's settings: {error}",
            ) from error
        if not changed:
            return
        if kept:
            container.push(kept, complete, permissions=0o600)
        # In this order a crash at any step leaves the file as it was or as it shall be: side files
        # say nothing new about the complete file, but would spoil the one that was changed.
        container.push(DATABASE, complete, permissions=0o600)
        for side in _SIDE_FILES:
            container.remove_path(DATABASE + side, recursive=True)
        container.push(DATABASE, copy.read_bytes(), permissions=0o600)
    logger.info("server: removed the user admin, who is made anew; the file before is %s", _KEPT)


def _pull(container: ops.Container, source: str, target: Path) -> bool:
    content = files.read(container, source)
    if content is not None:
        target.write_bytes(content)
    return content is not None
