"""The server's control-plane file (SQLite), while the server is down."""

import logging
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import ops

import files
from workload import DATABASE

logger = logging.getLogger(__name__)

_KEPT = f"{DATABASE}.before-adoption"
_SIDE_FILES = ("-wal", "-shm")


def forget_admin(container: ops.Container) -> None:
    """Remove the user `admin`, whose password nobody knows any more.

    The server makes the user at its next start, with the password from its environment; all other
    users, shares and settings stay. The file as it was is kept beside it. Nothing is done where
    there is no file.

    Raises:
        ops.pebble.Error: the container is away, or the files cannot be read or written.
        sqlite3.DatabaseError: the file is damaged.
    """
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "controlplane.db"
        if not _pull(container, DATABASE, copy):
            return
        for side in _SIDE_FILES:
            _pull(container, DATABASE + side, copy.with_name(copy.name + side))
        with closing(sqlite3.connect(copy)) as database:
            # Takes what is only in the side files into the file itself.
            database.execute("PRAGMA journal_mode = DELETE")
        complete = copy.read_bytes()
        with closing(sqlite3.connect(copy)) as database, database:
            database.execute("DELETE FROM users WHERE username = 'admin'")
        container.push(_KEPT, complete, permissions=0o600)
        # In this order a crash at any step leaves the old users or the new ones: side files say
        # nothing new about the complete file, but would spoil the one without admin.
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
