"""The stand-in's files: content on the content volume, names in real Badger logs.

The real server speaks NFS; this has an HTTP route instead, so that tests can write and read files.
What was answered is on the disk. A lost content volume is read as zeros, as the real one does.

A share's root is made when an empty store is opened, and clients' handles are of that one: when a
restore brings another root back, no file is served until the next start, as with the real one.
"""

import contextlib
import hashlib
import json
import os
import shutil
import struct
import threading
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from agent.badger import BadgerError
from agent.log_writer import LogWriter
from agent.tables import snapshot
from tests.standin.database import Object
from tests.standin.stores import SnapshotDamagedError, SnapshotGoneError, Stores

_ROOT = b"\0root"
_DUMP, _MANIFEST = "metadata.dump", "manifest.hashes"
_MAGIC = b"STANDIN\1"
_BATCH = 1000
_LENGTH, _CHECKSUM = struct.Struct("<I"), struct.Struct("<I")


class Full(Exception):  # noqa: N818  # what NFS calls it
    """There is no space for the file."""


class Stale(Exception):  # noqa: N818  # what NFS calls it
    """What clients hold of the share is not there any more."""


class _Store:
    """A metadata store; `path` None: in memory."""

    def __init__(self, path: Path | None):
        self._path = path
        self._writer = LogWriter(path) if path else None
        self.entries = snapshot(path) if path else {}

    @property
    def root(self) -> bytes:
        return self.entries.get(_ROOT, b"")

    @property
    def digests(self) -> set[str]:
        """What the files have in them."""
        return {entry["sha256"] for entry in self.files()}

    def files(self) -> list[Object]:
        return [json.loads(value) for key, value in self.entries.items() if key != _ROOT]

    def find(self, name: str) -> Object | None:
        value = self.entries.get(name.encode())
        return None if value is None else json.loads(value)

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        if self._writer:
            self._writer.write(changes)
        for key, value in changes.items():
            if value is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = value

    def empty(self) -> None:
        """Drop everything as Badger does: the files go, the versions go on."""
        self.entries = {}
        if self._path and self._writer:
            version = self._writer.version
            self._writer.close()
            for path in self._path.iterdir():
                path.unlink()
            self._writer = LogWriter(self._path)
            self._writer.version = version

    def close(self) -> None:
        if self._writer:
            self._writer.close()


@dataclass
class _Open:
    """A share that is served: where its content is, and the root that clients know."""

    place: Path | None
    root: bytes = b""


class VolumeStores(Stores):
    """Stores on the volumes; one in memory is lost with the process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stores: dict[str, _Store] = {}
        self._shares: dict[str, _Open] = {}

    def open_metadata(self, store: Object) -> None:
        """Open a store and read what is in it."""
        super().open_metadata(store)
        path = Path(store["config"]["path"]) if store["type"] == "badger" else None
        try:
            self._stores[store["name"]] = _Store(path)
        except (OSError, BadgerError) as error:
            raise ValueError(f"failed to open badger: {error}") from error

    def open_share(self, share: Object, content: Object, store: str) -> None:
        """Make the share's directory, as the real server does, and its root."""
        opened = _Open(None)
        if content["type"] == "fs":
            name = share["name"].removeprefix("/")
            directory = quote(name, safe="$&+=:@", errors="surrogateescape")
            opened.place = Path(content["config"]["path"]) / "shares" / directory
            with contextlib.suppress(OSError):
                (opened.place / "journal").mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            if not self._stores[store].root:
                self._stores[store].write({_ROOT: uuid.uuid4().bytes})
        opened.root = self._stores[store].root
        self._shares[share["name"]] = opened

    def close_share(self, share: Object) -> None:
        """Remove the share's snapshots; the rest of its content stays."""
        opened = self._shares.pop(share["name"])
        if opened.place:
            shutil.rmtree(opened.place / "snapshots", ignore_errors=True)

    def used_bytes(self, share: Object, store: str) -> int:
        """The sizes of the share's files, by their names."""
        del share
        with self._lock:
            found = self._stores.get(store)
            return sum(entry["size"] for entry in found.files()) if found else 0

    def put(self, share: Object, store: str, name: str, data: bytes) -> None:
        """Write a file; it is on the disk when this returns.

        Raises:
            Full: there is no space; the file is as it was before.
            Stale: the share was restored since the start.
        """
        place = self._served(share, store)
        digest = hashlib.sha256(data).hexdigest()
        entry = {"size": len(data), "sha256": digest}
        try:
            with self._lock:
                if place:
                    _write(_segment(place, digest), [data])
                self._stores[store].write({name.encode(): json.dumps(entry).encode()})
        except OSError as error:
            raise Full(str(error)) from error

    def get(self, share: Object, store: str, name: str) -> bytes | None:
        """Read a file; None where there is no such name, zeros where its content is lost.

        Raises:
            Stale: the share was restored since the start.
        """
        place = self._served(share, store)
        with self._lock:
            entry = self._stores[store].find(name)
            if entry is None:
                return None
            with contextlib.suppress(OSError):
                if place:
                    return _segment(place, entry["sha256"]).read_bytes()
            return bytes(entry["size"])

    def remove(self, share: Object, store: str, name: str) -> None:
        """Remove a file; its space is free when no other file or snapshot has its content.

        Raises:
            Stale: the share was restored since the start.
        """
        place = self._served(share, store)
        with self._lock:
            found = self._stores[store]
            entry = found.find(name)
            if entry is None:
                return
            found.write({name.encode(): None})
            if place:
                _free(place, {entry["sha256"]} - found.digests)

    def begin_snapshot(self, share: Object, snapshot: str) -> None:
        """Make the snapshot's folder."""
        self._folder(share, snapshot).mkdir(parents=True, exist_ok=True, mode=0o750)

    def write_snapshot(self, share: Object, store: str, snapshot: str) -> tuple[int, int]:
        """Write all names, always in the same bytes, and the digests of what is in the files."""
        folder = self._folder(share, snapshot)
        with self._lock:
            found = self._stores[store]
            digests = sorted(found.digests)
            _write(folder / _DUMP, _dump(found.entries))
            _write(folder / _MANIFEST, [f"{digest}\n".encode() for digest in digests])
            version = sum(1 for _ in (folder.parents[1] / "journal").glob("*.seg"))
        return len(digests), version

    def snapshot_sizes(self, share: Object, snapshot: str) -> tuple[int, int]:
        """How many digests there are, and how large the dump is."""
        folder = self._folder(share, snapshot)
        try:
            return len(_digests(folder)), (folder / _DUMP).stat().st_size
        except OSError:
            return 0, 0

    def check_snapshot(self, share: Object, snapshot: str) -> None:
        """Read the digests."""
        try:
            digests = _digests(self._folder(share, snapshot))
        except OSError:
            raise SnapshotGoneError from None
        if any(len(digest) != 64 for digest in digests):
            raise SnapshotDamagedError

    def has_dump(self, share: Object, snapshot: str) -> bool:
        """Whether it is there."""
        return (self._folder(share, snapshot) / _DUMP).is_file()

    def empty(self, store: str) -> None:
        """Drop all names and the root."""
        with self._lock:
            self._stores[store].empty()

    def restore_snapshot(self, share: Object, store: str, snapshot: str) -> None:
        """Bring back all names and the root, when the dump is whole."""
        try:
            data = (self._folder(share, snapshot) / _DUMP).read_bytes()
        except OSError:
            raise SnapshotGoneError from None
        with self._lock:
            entries = list(_undump(data).items())
            for first in range(0, len(entries), _BATCH):
                self._stores[store].write(dict(entries[first : first + _BATCH]))

    def remove_snapshot(self, share: Object, snapshot: str) -> None:
        """Remove its folder, and the content that is in no file and no other snapshot."""
        folder = self._folder(share, snapshot)
        with self._lock:
            digests: set[str] = set()
            with contextlib.suppress(OSError):
                digests = _digests(folder)
            shutil.rmtree(folder, ignore_errors=True)
            used = [store.digests for store in self._stores.values()]
            _free(folder.parents[1], digests.difference(*used))

    def close(self) -> None:
        """Let go of all stores."""
        for store in self._stores.values():
            store.close()

    def _served(self, share: Object, store: str) -> Path | None:
        opened = self._shares[share["name"]]
        if opened.root != self._stores[store].root:
            raise Stale("stale file handle")
        return opened.place

    def _folder(self, share: Object, snapshot: str) -> Path:
        place = self._shares[share["name"]].place
        assert place, "only shares with a place have snapshots"
        return place / "snapshots" / snapshot


def _segment(place: Path, digest: str) -> Path:
    return place / "journal" / f"{digest}.seg"


def _free(place: Path, digests: set[str]) -> None:
    """Remove content that no file has, where no snapshot needs it."""
    needed: set[str] = set()
    for folder in place.glob("snapshots/*"):
        with contextlib.suppress(OSError):
            needed |= _digests(folder)
    for digest in digests - needed:
        _segment(place, digest).unlink(missing_ok=True)


def _digests(folder: Path) -> set[str]:
    return set((folder / _MANIFEST).read_text(encoding="ascii").split())


def _dump(entries: Mapping[bytes, bytes]) -> list[bytes]:
    """Lengths, keys and values in order, and a checksum over all of it."""
    parts = [_MAGIC]
    for key, value in sorted(entries.items()):
        parts += [_LENGTH.pack(len(key)), key, _LENGTH.pack(len(value)), value]
    parts.append(_LENGTH.pack(0))
    return [*parts, _CHECKSUM.pack(zlib.crc32(b"".join(parts)))]


def _undump(data: bytes) -> dict[bytes, bytes]:
    body, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    if not body.startswith(_MAGIC) or _CHECKSUM.pack(zlib.crc32(body)) != checksum:
        raise SnapshotDamagedError
    entries: dict[bytes, bytes] = {}
    place = len(_MAGIC)
    while (size := _LENGTH.unpack_from(body, place)[0]) > 0:
        key = body[place + _LENGTH.size :][:size]
        place += _LENGTH.size + size
        (size,) = _LENGTH.unpack_from(body, place)
        entries[key] = body[place + _LENGTH.size :][:size]
        place += _LENGTH.size + size
    return entries


def _write(path: Path, parts: Iterable[bytes]) -> None:
    temporary = path.with_suffix(".new")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
