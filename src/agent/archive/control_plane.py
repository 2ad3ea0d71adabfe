"""The control plane that a restore puts into place: one SQLite file, made from one or two others.

A share is disabled in it, so that no client sees the share before its files are back. The rows of
snapshots say what the server finds in the folders of the shares: only the backup's own are there.
"""

import os
import shutil
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from agent.archive.errors import ArchiveError
from agent.archive.staging import StagedShare, sync

_SIDE_FILES = ("-wal", "-shm", "-journal")
_WAL = "-wal"
_SNAPSHOTS, _MARKERS, _SHARES = "snapshots", "restore_markers", "shares"


def check(database: Path, shares: Sequence[StagedShare]) -> None:
    """Return where a control plane is whole and knows the snapshots of the shares.

    Raises:
        ArchiveError: `damaged`.
    """
    with _sqlite_errors("the backup"), _opened(database) as opened:
        (said,) = opened.execute("PRAGMA integrity_check").fetchone()
        if said != "ok":
            raise ArchiveError("damaged", f"the control plane of the backup is damaged: {said}")
        for share in shares:
            _row(opened, share)


def replacing(backup: Path, target: Path, shares: Sequence[StagedShare]) -> None:
    """Make the control plane of a full restore from the backup's.

    The user admin is left out: the server makes it anew, with the password it is started with.

    Raises:
        ArchiveError: `damaged`.
    """
    with _made(target), _sqlite_errors("the backup"):
        shutil.copyfile(backup, target)
        with _opened(target) as opened, opened:
            opened.execute("DELETE FROM users WHERE username = 'admin'")
            kept = [share.snapshot for share in shares]
            marks = ",".join("?" * len(kept))
            opened.execute(f"DELETE FROM snapshots WHERE id NOT IN ({marks})", kept)  # noqa: S608  # question marks
            if _columns(opened, _MARKERS):
                opened.execute("DELETE FROM restore_markers")
            for share in shares:
                _disable(opened, share.name)


def merged(present: Path, backup: Path, target: Path, shares: Sequence[StagedShare]) -> None:
    """Make the control plane of a restore of some shares: the present one, with their snapshots.

    The server must be down. The present file is not changed.

    Raises:
        ArchiveError: `refused` or `damaged`.
    """
    with _made(target), _sqlite_errors("the server"):
        shutil.copyfile(present, target)
        wal = present.with_name(present.name + _WAL)
        if wal.exists():
            shutil.copyfile(wal, target.with_name(target.name + _WAL))
        with _opened(target) as opened, _opened(backup) as source:
            # Takes what is only in the side file into the file itself.
            opened.execute("PRAGMA journal_mode = DELETE")
            with opened:
                for share in shares:
                    _graft(source, opened, share)


def _graft(source: sqlite3.Connection, target: sqlite3.Connection, share: StagedShare) -> None:
    """Let the target know one snapshot of the share: the backup's."""
    row = _row(source, share)
    target.execute("DELETE FROM snapshots WHERE share_name = ?", (share.name,))
    if _columns(target, _MARKERS):
        target.execute("DELETE FROM restore_markers WHERE share_name = ?", (share.name,))
    # Servers of different versions have different columns.
    common = [name for name in _columns(target, _SNAPSHOTS) if name in row]
    names = ", ".join(f'"{name}"' for name in common)
    marks = ",".join("?" * len(common))
    target.execute(
        f"INSERT INTO snapshots ({names}) VALUES ({marks})",  # noqa: S608  # names of columns and question marks
        [row[name] for name in common],
    )
    if not _disable(target, share.name):
        raise ArchiveError(
            "refused",
            f"list the share in the option shares: there is no share {share.name} to restore",
        )


def _row(source: sqlite3.Connection, share: StagedShare) -> dict[str, object]:
    found = source.execute(
        "SELECT * FROM snapshots WHERE id = ? AND state = 'ready'", (share.snapshot,)
    )
    row = found.fetchone()
    if row is None:
        raise ArchiveError(
            "damaged", f"the backup's control plane has no snapshot of {share.name}"
        )
    return {column[0]: value for column, value in zip(found.description, row, strict=True)}


def _disable(target: sqlite3.Connection, name: str) -> bool:
    """Disable a share; return whether there is one."""
    if "enabled" not in _columns(target, _SHARES):
        return True
    changed = target.execute("UPDATE shares SET enabled = 0 WHERE name = ?", (name,))
    return changed.rowcount > 0


def _columns(opened: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table, none where there is no such table."""
    return [row[1] for row in opened.execute(f'PRAGMA table_info("{table}")')]


@contextmanager
def _made(target: Path) -> Generator[None]:
    """A file that is made anew, alone, and is on the disk in the end."""
    for side in ("", *_SIDE_FILES):
        target.with_name(target.name + side).unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    yield
    sync(target)
    sync(target.parent)


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as opened:
        yield opened


@contextmanager
def _sqlite_errors(whose: str) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ArchiveError("damaged", f"the control plane of {whose}: {error}") from None
