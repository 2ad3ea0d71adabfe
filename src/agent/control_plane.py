"""The server's control plane (users, shares, settings): a copy, compressed and encrypted.

It is one SQLite file that the server writes. The copy is made with SQLite's own backup, so it is
whole; it holds password hashes, so it leaves the pod only encrypted (AES-256-GCM).
"""

import hashlib
import hmac
import os
import sqlite3
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_FORMAT = b"DFSCP\x01"
_NONCE_SIZE = 12
_BUSY_SECONDS = 1.0


class ControlPlaneError(Exception):
    """The copy cannot be made or read; the text says why."""


class Vault(Protocol):
    """Where the copy is kept."""

    def put_control_plane(self, data: bytes, digest: str) -> None: ...  # noqa: D102  # the class docstring says it


class ControlPlane:
    """Keeps a copy of the file in the vault up to date; `instance` is bound to the copy.

    `scratch` is as of `copied`.
    """

    def __init__(self, path: Path, key: bytes, instance: str, scratch: Path):
        self._path = path
        self._key = key
        self._instance = instance
        self._scratch = scratch
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._seen: int | None = None
        self._kept = ""

    def close(self) -> None:
        """Let go of the file."""
        if self._connection:
            self._connection.close()
        self._connection, self._seen = None, None

    def changed(self) -> bool:
        """Whether the file may differ from the copy; cheap.

        Raises:
            ControlPlaneError: it cannot be read.
        """
        try:
            return self._version() not in (None, self._seen)
        except sqlite3.Error as error:
            self.close()
            raise ControlPlaneError(f"{self._path.name}: {error}") from None

    def copy(self, vault: Vault) -> bool:
        """Bring the vault's copy up to date; return whether it had to be written.

        Raises:
            ControlPlaneError: the file cannot be read.
        """
        try:
            version = self._version()
            if version is None or self._connection is None:
                return False
            plain = _backup(self._connection, self._scratch)
        except sqlite3.Error as error:
            self.close()
            raise ControlPlaneError(f"{self._path.name}: {error}") from None
        digest = hmac.new(self._key, plain, hashlib.sha256).hexdigest()
        written = digest != self._kept
        if written:
            vault.put_control_plane(seal(plain, self._key, self._instance), digest)
        self._seen, self._kept = version, digest
        return written

    def _version(self) -> int | None:
        """A number that changes with the file; None where there is no file."""
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            self.close()
            return None
        if self._connection is None or inode != self._inode:
            self.close()
            self._connection = _connect(self._path)
            self._inode = inode
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)


def seal(plain: bytes, key: bytes, instance: str) -> bytes:
    """Compress and encrypt a control plane."""
    nonce = os.urandom(_NONCE_SIZE)
    return _FORMAT + nonce + AESGCM(key).encrypt(nonce, zlib.compress(plain), instance.encode())


def unseal(sealed: bytes, key: bytes, instance: str) -> bytes:
    """The way back.

    Raises:
        ControlPlaneError: the key is not the one, or the copy was damaged.
    """
    if not sealed.startswith(_FORMAT):
        raise ControlPlaneError(
            "the copy of the control plane is damaged or of a newer charm: refresh the charm"
        )
    nonce = sealed[len(_FORMAT) : len(_FORMAT) + _NONCE_SIZE]
    data = sealed[len(_FORMAT) + _NONCE_SIZE :]
    try:
        return zlib.decompress(AESGCM(key).decrypt(nonce, data, instance.encode()))
    except (InvalidTag, zlib.error, ValueError):
        raise ControlPlaneError(
            "the copy of the control plane cannot be decrypted: it needs the key of the "
            "application that wrote it"
        ) from None


def copied(path: Path, scratch: Path) -> bytes:
    """The bytes of a consistent copy of the file; `scratch` begins the names of its own files.

    Raises:
        ControlPlaneError: it cannot be read.
    """
    if not path.exists():
        raise ControlPlaneError(f"{path.name} is not there")
    try:
        with closing(_connect(path)) as connection:
            return _backup(connection, scratch)
    except sqlite3.Error as error:
        raise ControlPlaneError(f"{path.name}: {error}") from None


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)


def _backup(source: sqlite3.Connection, scratch: Path) -> bytes:
    """The bytes of a consistent copy."""
    folder, prefix = scratch.parent, f"{scratch.name}-"
    # A process that was killed left them.
    for left in folder.glob(f"{prefix}*"):
        left.unlink(missing_ok=True)
    # Made with its mode before SQLite writes the first byte into it.
    handle, name = tempfile.mkstemp(prefix=prefix, dir=folder)
    os.close(handle)
    target = Path(name)
    try:
        with closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
        return target.read_bytes()
    finally:
        target.unlink(missing_ok=True)
