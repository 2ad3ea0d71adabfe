"""What the stand-in keeps: objects of a few kinds, in an SQLite file.

What tools look for in the real server's file has its names here too: users, local stores, whether
a share is enabled, snapshots, restores that did not end.
"""

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Object = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (username TEXT PRIMARY KEY, password_hash TEXT, data TEXT);
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT, name TEXT, data TEXT, position INTEGER PRIMARY KEY AUTOINCREMENT,
    UNIQUE (kind, name)
);
CREATE TABLE IF NOT EXISTS shares (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE,
    local_block_store_id TEXT NOT NULL,
    remote_block_store_id TEXT,
    enabled NUMERIC NOT NULL DEFAULT true,
    data TEXT
);
CREATE TABLE IF NOT EXISTS block_store_configs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    type TEXT NOT NULL,
    config TEXT,
    created_at DATETIME,
    UNIQUE (name, kind)
);
CREATE TABLE IF NOT EXISTS snapshots (
    id TEXT PRIMARY KEY,
    name TEXT,
    share_name TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'creating',
    metadata_engine TEXT NOT NULL,
    manifest_count INTEGER NOT NULL DEFAULT 0,
    remote_durable NUMERIC NOT NULL DEFAULT false,
    journal_version INTEGER NOT NULL DEFAULT 0,
    scheduled NUMERIC NOT NULL DEFAULT false,
    error TEXT DEFAULT '',
    created_at DATETIME,
    updated_at DATETIME
);
CREATE UNIQUE INDEX IF NOT EXISTS idx_share_creating
    ON snapshots (share_name) WHERE state = 'creating';
CREATE TABLE IF NOT EXISTS restore_markers (
    share_name TEXT PRIMARY KEY,
    target_snapshot_id TEXT NOT NULL,
    safety_snapshot_id TEXT NOT NULL,
    step TEXT NOT NULL,
    created_at DATETIME,
    updated_at DATETIME
);
"""


def now() -> str:
    """The present moment as the server writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _moment() -> str:
    """The present moment as the server stores it."""
    return datetime.now(UTC).isoformat(sep=" ")


class Database:
    """Users, and objects by kind and name. `path` None keeps all in memory."""

    def __init__(self, path: Path | None):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        if path is not None:
            self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file, which folds its side files in."""
        with self._lock:
            self._connection.close()

    def all(self, kind: str) -> list[Object]:
        """All objects of a kind, oldest first."""
        if kind == "share":
            rows = self._rows("SELECT data, enabled FROM shares ORDER BY rowid")
            return [json.loads(row["data"]) | {"enabled": bool(row["enabled"])} for row in rows]
        if kind == "local":
            rows = self._rows("SELECT * FROM block_store_configs ORDER BY created_at")
            return [row | {"config": json.loads(row["config"])} for row in rows]
        rows = self._rows("SELECT data FROM objects WHERE kind = ? ORDER BY position", kind)
        return [json.loads(row["data"]) for row in rows]

    def find(self, kind: str, name_or_id: str) -> Object | None:
        """An object by its name or its id."""
        for each in self.all(kind):
            if name_or_id in {each["name"], each["id"]}:
                return each
        return None

    def put(self, kind: str, data: Object) -> Object:
        """Write an object; one without id gets one, and its times."""
        data = {"id": str(uuid.uuid4()), "created_at": now(), **data, "updated_at": now()}
        if kind == "share":
            self._change(
                "INSERT INTO shares (id, name, local_block_store_id, remote_block_store_id, "
                "enabled, data) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET enabled = excluded.enabled, data = excluded.data",
                data["id"],
                data["name"],
                data["local_block_store_id"],
                data.get("remote_block_store_id"),
                data["enabled"],
                json.dumps(data),
            )
        elif kind == "local":
            self._change(
                "INSERT OR REPLACE INTO block_store_configs VALUES (?, ?, ?, ?, ?, ?)",
                data["id"],
                data["name"],
                kind,
                data["type"],
                json.dumps(data["config"]),
                data["created_at"],
            )
        else:
            self._change(
                "INSERT INTO objects (kind, name, data) VALUES (?, ?, ?) "
                "ON CONFLICT (kind, name) DO UPDATE SET data = excluded.data",
                kind,
                data["name"],
                json.dumps(data),
            )
        return data

    def remove(self, kind: str, name: str) -> None:
        """Forget an object."""
        if kind == "share":
            self._change("DELETE FROM shares WHERE name = ?", name)
        elif kind == "local":
            self._change("DELETE FROM block_store_configs WHERE name = ?", name)
        else:
            self._change("DELETE FROM objects WHERE kind = ? AND name = ?", kind, name)

    def add_snapshot(self, row: Object) -> None:
        """Write a snapshot; sqlite3.IntegrityError: the share has one in flight."""
        row = row | {"created_at": _moment(), "updated_at": _moment()}
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        query = f"INSERT INTO snapshots ({names}) VALUES ({marks})"  # noqa: S608  # our own names
        self._change(query, *row.values())

    def change_snapshot(self, identifier: str, **columns: Any) -> None:
        """Change a snapshot, if it is there."""
        columns |= {"updated_at": _moment()}
        query = f"UPDATE snapshots SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?"  # noqa: S608  # our own names
        self._change(query, *columns.values(), identifier)

    def snapshots(self, share: str) -> list[Object]:
        """All snapshots of a share, oldest first."""
        return self._rows(
            "SELECT * FROM snapshots WHERE share_name = ? ORDER BY created_at", share
        )

    def snapshot(self, share: str, identifier: str) -> Object | None:
        """A snapshot of a share."""
        return next((row for row in self.snapshots(share) if row["id"] == identifier), None)

    def remove_snapshot(self, identifier: str) -> None:
        """Forget a snapshot."""
        self._change("DELETE FROM snapshots WHERE id = ?", identifier)

    def put_marker(self, row: Object) -> None:
        """Note how far the restore of a share is."""
        self._change(
            "INSERT OR REPLACE INTO restore_markers VALUES (?, ?, ?, ?, ?, ?)",
            row["share_name"],
            row["target_snapshot_id"],
            row["safety_snapshot_id"],
            row["step"],
            _moment(),
            _moment(),
        )

    def markers(self) -> list[Object]:
        """The restores that did not end."""
        return self._rows("SELECT * FROM restore_markers")

    def remove_marker(self, share: str) -> None:
        """A restore has ended."""
        self._change("DELETE FROM restore_markers WHERE share_name = ?", share)

    def users(self) -> list[Object]:
        """All users, without their passwords."""
        rows = self._rows("SELECT data FROM users ORDER BY rowid")
        return [json.loads(row["data"]) for row in rows]

    def user(self, name: str) -> Object | None:
        """A user by name."""
        return next((each for each in self.users() if each["username"] == name), None)

    def put_user(self, data: Object, password: str) -> Object:
        """Write a user with a password."""
        data = {"id": str(uuid.uuid4()), "created_at": now(), **data}
        self._change(
            "INSERT OR REPLACE INTO users VALUES (?, ?, ?)",
            data["username"],
            _hash(password),
            json.dumps(data),
        )
        return data

    def accepts(self, name: str, password: str) -> bool:
        """Whether this is the user's password."""
        rows = self._rows("SELECT password_hash FROM users WHERE username = ?", name)
        stored = [row["password_hash"] for row in rows]
        return bool(stored) and hmac.compare_digest(stored[0], _hash(password, stored[0]))

    def _rows(self, query: str, *values: Any) -> list[Object]:
        with self._lock:
            given = [_stored(value) for value in values]
            return [dict(row) for row in self._connection.execute(query, given)]

    def _change(self, query: str, *values: Any) -> None:
        with self._lock, self._connection:
            self._connection.execute(query, [_stored(value) for value in values])


def _stored(value: Any) -> Any:
    """A value as SQLite takes it: a name that is no UTF-8 as bytes."""
    if isinstance(value, str) and any("\udc80" <= each <= "\udcff" for each in value):
        return value.encode(errors="surrogateescape")
    return value


def _hash(password: str, like: str | None = None) -> str:
    salt = like.partition("$")[0] if like else secrets.token_hex(8)
    return f"{salt}${hashlib.pbkdf2_hmac('sha256', password.encode(), salt.encode(), 1).hex()}"
