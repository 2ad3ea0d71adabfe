"""What the stand-in keeps: objects of a few kinds, in an SQLite file."""

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
"""


def now() -> str:
    """The present moment as the server writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Database:
    """Users, and objects by kind and name. `path` None keeps all in memory."""

    def __init__(self, path: Path | None):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False)
        if path is not None:
            self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file, which folds its side files in."""
        with self._lock:
            self._connection.close()

    def all(self, kind: str) -> list[Object]:
        """All objects of a kind, oldest first."""
        query = "SELECT data FROM objects WHERE kind = ? ORDER BY position"
        with self._lock:
            return [json.loads(row[0]) for row in self._connection.execute(query, (kind,))]

    def find(self, kind: str, name_or_id: str) -> Object | None:
        """An object by its name or its id."""
        for each in self.all(kind):
            if name_or_id in {each["name"], each["id"]}:
                return each
        return None

    def put(self, kind: str, data: Object) -> Object:
        """Write an object; one without id gets one, and its times."""
        data = {"id": str(uuid.uuid4()), "created_at": now(), **data, "updated_at": now()}
        with self._lock, self._connection:
            self._connection.execute(
                "INSERT INTO objects (kind, name, data) VALUES (?, ?, ?) "
                "ON CONFLICT (kind, name) DO UPDATE SET data = excluded.data",
                (kind, data["name"], json.dumps(data)),
            )
        return data

    def remove(self, kind: str, name: str) -> None:
        """Forget an object."""
        with self._lock, self._connection:
            self._connection.execute(
                "DELETE FROM objects WHERE kind = ? AND name = ?", (kind, name)
            )

    def users(self) -> list[Object]:
        """All users, without their passwords."""
        with self._lock:
            rows = self._connection.execute("SELECT data FROM users ORDER BY rowid")
            return [json.loads(row[0]) for row in rows]

    def user(self, name: str) -> Object | None:
        """A user by name."""
        return next((each for each in self.users() if each["username"] == name), None)

    def put_user(self, data: Object, password: str) -> Object:
        """Write a user with a password."""
        data = {"id": str(uuid.uuid4()), "created_at": now(), **data}
        with self._lock, self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO users VALUES (?, ?, ?)",
                (data["username"], _hash(password), json.dumps(data)),
            )
        return data

    def accepts(self, name: str, password: str) -> bool:
        """Whether this is the user's password."""
        with self._lock:
            row = self._connection.execute(
                "SELECT password_hash FROM users WHERE username = ?", (name,)
            ).fetchone()
        return row is not None and hmac.compare_digest(row[0], _hash(password, row[0]))


def _hash(password: str, like: str | None = None) -> str:
    salt = like.partition("$")[0] if like else secrets.token_hex(8)
    return f"{salt}${hashlib.pbkdf2_hmac('sha256', password.encode(), salt.encode(), 1).hex()}"
