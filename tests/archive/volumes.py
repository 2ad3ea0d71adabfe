"""Two volumes with data, and a staged restore, without a server: plain files."""

import shutil
import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.archive.request import Request
from agent.archive.settings import Api, ArchiveSettings, Keep
from agent.archive.staging import Staged, StagedShare, Staging

Pair = tuple[bytes, bytes]

OPERATION = "op-1"
PRESENT, BACKUP = "present", "backup"
SHARES = (
    StagedShare("/export", "export", "snap-1", 10, enabled=True),
    StagedShare("/a b", "a%20b", "snap-2", 20, enabled=False),
)
_SCHEMA = """
CREATE TABLE users (id TEXT PRIMARY KEY, username TEXT);
CREATE TABLE shares (id TEXT PRIMARY KEY, name TEXT, enabled INTEGER);
CREATE TABLE snapshots (
    id TEXT PRIMARY KEY, name TEXT, share_name TEXT NOT NULL, state TEXT NOT NULL,
    journal_version INTEGER NOT NULL DEFAULT 0, {extra} TEXT
);
CREATE TABLE restore_markers (share_name TEXT PRIMARY KEY, safety_snapshot_id TEXT);
"""


def dump(pairs: Iterable[Pair]) -> bytes:
    """A snapshot's dump as the server writes it: pairs with their lengths in an envelope."""
    body = b"".join(
        struct.pack("<I", len(key)) + key + struct.pack("<I", len(value)) + value
        for key, value in pairs
    )
    return (
        b"DFBK" + struct.pack("<IH6sI", 1, 6, b"badger", 1) + body + bytes(4) + b"\x01\x02\x03\x04"
    )


def settings_for(root: Path, **fields: Any) -> ArchiveSettings:
    """Settings for volumes below a folder."""
    values: dict[str, Any] = {
        "s3": None,
        "application": "dittofs",
        "model": "files",
        "model_uuid": "uuid-of-files",
        "charm_version": "1",
        "instance": "instance-1",
        "api": Api("http://127.0.0.1:1", "http://127.0.0.1:1/metrics", "admin", "password"),
        "key": bytes(32),
        "foreign_key": None,
        "encrypt": False,
        "keep": Keep(),
        "schedule": "",
        "log_level": 20,
        "root": root,
        "run": root / "run",
    }
    return ArchiveSettings(**values | fields)


def request_for(step: str = "swap", operation: str = OPERATION, **params: Any) -> Request:
    """A step of a restore of everything."""
    values = {"backup-id": "2026-01-01T00:00:00Z", "from": None, "shares": None}
    return Request(operation, "restore", step, values | params)


def make_database(path: Path, word: str, snapshots: dict[str, str]) -> None:
    """A control plane: two users, both shares, and snapshots by id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(_SCHEMA.format(extra=f"of_{word}"))
        users = [(f"{word}-1", "admin"), (f"{word}-2", f"user of {word}")]
        database.executemany("INSERT INTO users VALUES (?, ?)", users)
        shares = [(f"{word}-{share.name}", share.name) for share in SHARES]
        database.executemany("INSERT INTO shares VALUES (?, ?, 1)", shares)
        rows = [(made, word, share, 7, word) for made, share in snapshots.items()]
        database.executemany("INSERT INTO snapshots VALUES (?, ?, ?, 'ready', ?, ?)", rows)
        database.execute("INSERT INTO restore_markers VALUES ('/export', 'lost')")


@dataclass(frozen=True)
class Volumes:
    """Volumes with present data beside a staged backup, below `root`."""

    root: Path

    @classmethod
    def make(cls, root: Path, *, full: bool) -> "Volumes":
        """All shares staged, or only the first."""
        made = cls(root)
        made._present()
        made._stage(full=full)
        return made

    @property
    def settings(self) -> ArchiveSettings:
        return settings_for(self.root)

    @property
    def staging(self) -> Staging:
        return Staging(self.settings)

    def copy(self, root: Path) -> "Volumes":
        """Another pair with the same."""
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root, root)
        return Volumes(root)

    def write(self, path: str, text: str) -> None:
        target = self.root / "data" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def tree(self) -> dict[str, str]:
        """What is on both volumes but for what belongs to the restore itself."""
        found: dict[str, str] = {}
        for path in sorted((self.root / "data").rglob("*")):
            name = path.relative_to(self.root / "data").as_posix()
            root = name.split("/")[1] if "/" in name else ""
            if root.startswith((".restoring", ".dittofs-restore", "aside-restore")):
                continue
            if path.name.startswith("controlplane.db") and path.suffix == ".db":
                found[name] = repr(self.rows(path))
            else:
                found[name] = path.read_text() if path.is_file() else "folder"
        return found

    def leftovers(self) -> list[str]:
        """What a restore has left in the roots of the volumes."""
        roots = (self.settings.metadata, self.settings.content)
        names = [path.name for root in roots for path in root.iterdir()]
        ours = (".restoring", ".dittofs-restore", "aside-restore")
        return sorted(name for name in names if name.startswith(ours) or name.endswith(".new"))

    @staticmethod
    def rows(path: Path) -> dict[str, list[Any]]:
        """The rows of a control plane."""
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as database:
            return {
                table: sorted(database.execute(f"SELECT * FROM {table}"))  # noqa: S608  # the tests' own names
                for table in ("users", "shares", "snapshots", "restore_markers")
            }

    def _present(self) -> None:
        for volume in ("metadata", "content"):
            for name in (".dittofs-charm.json", ".dittofs-operation.json", "aside-1/old"):
                self.write(f"{volume}/{name}", f"{name} of before")
            (self.root / "data" / volume / "lost+found").mkdir()
        self.write("metadata/deleted-stores/gone", "")
        self.write("metadata/notes", PRESENT)
        self.write("content/else/file", PRESENT)
        for share in SHARES:
            self.write(f"metadata/stores/{share.store}/log", PRESENT)
            self.write(f"content/shares/{share.key}/journal/1.seg", PRESENT)
        make_database(
            self.settings.database, PRESENT, {"mine": "/export", "other": "/a b", "third": "/else"}
        )

    def _stage(self, *, full: bool) -> None:
        staging = self.staging
        staging.begin(OPERATION)
        shares = SHARES if full else SHARES[:1]
        for share in shares:
            place = f"content/.restoring/shares/{share.key}"
            self.write(f"{place}/journal/1.seg", BACKUP)
            self.write(f"{place}/snapshots/{share.snapshot}/metadata.dump", BACKUP)
        snapshots = {share.snapshot: share.name for share in SHARES}
        make_database(staging.backup_database, BACKUP, snapshots | {"stray": "/export"})
        staging.complete(
            Staged(OPERATION, "2026-01-01T00:00:00Z", full, size=30, files=3, shares=shares)
        )
