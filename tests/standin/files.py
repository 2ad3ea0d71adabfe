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
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from agent.badger import BadgerError, read_uvarint
from agent.log_writer import LogWriter
from agent.tables import snapshot
from tests.standin.database import Object
from tests.standin.dumps import dump, undump, write
from tests.standin.journal import Journal
from tests.standin.stores import SnapshotDamagedError, SnapshotGoneError, Stores

_ROOT = b"\0root"
_REGISTRY = "KEYREGISTRY"
_DUMP, _MANIFEST = "metadata.dump", "manifest.hashes"
_BATCH = 1000
# A file's record and its link count, as the real server writes them: after a remove both stay.
_FILE, _LINKS = "f:{}", "l:{}"
_HEAD, _TYPE, _SIZE = b"\xd5\xf5\x01", 3, 8
_RECORDS = (b"f:", b"l:")
# The share's own row; that it was read-only when it was opened is noted there for ever.
_SHARE = "s:{}"
_ROWS = (*_RECORDS, b"s:")


class Full(Exception):  # noqa: N818  # what NFS calls it
    """The quota of the share, or of the volume, has no space for the file."""


class Stale(Exception):  # noqa: N818  # what NFS calls it
    """What clients hold of the share is not there any more."""


class _Store:
    """A metadata store; `path` None: in memory."""

    def __init__(self, path: Path | None):
        self._path = path
        if path and not (path / _REGISTRY).exists():
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            (path / _REGISTRY).write_bytes(os.urandom(28))
        self._writer = LogWriter(path) if path else None
        self.entries = snapshot(path) if path else {}

    @property
    def root(self) -> bytes:
        return self.entries.get(_ROOT, b"")

    @property
    def digests(self) -> set[str]:
        """What the files have in them."""
        return {entry["sha256"] for entry in self.files()}

    @property
    def used(self) -> int:
        """The sizes of all files, those included that were removed: as the real one counts."""
        return sum(
            _size(value)
            for key, value in self.entries.items()
            if key.startswith(_RECORDS[0]) and value.startswith(_HEAD)
        )

    def files(self) -> list[Object]:
        return [
            json.loads(value)
            for key, value in self.entries.items()
            if key != _ROOT and not key.startswith(_ROWS)
        ]

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
                if path.name != _REGISTRY:
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
    journal: Journal | None = None


class VolumeStores(Stores):
    """Stores on the volumes; one in memory is lost with the process.

    Args:
        wait: how long a write waits where a store is full, in seconds.
    """

    def __init__(self, wait: float = 60.0) -> None:
        self._wait = wait
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
            row = _SHARE.format(share["name"]).encode(errors="surrogateescape")
            known = row in self._stores[store].entries
            if share["read_only"] or not known:
                options = {"ReadOnly": share["read_only"]}
                value = {"share": {"Options": options}}
                self._stores[store].write({row: json.dumps(value).encode()})
        opened.root = self._stores[store].root
        if opened.place:
            cap = int(content["config"].get("max_size") or 0)
            opened.journal = Journal(opened.place, cap, self._wait, lambda: self._alive(store))
        if present := self._shares.get(share["name"]):
            _close(present)
        self._shares[share["name"]] = opened

    def close_share(self, share: Object) -> None:
        """Remove the share's snapshots; the rest of its content stays."""
        opened = self._shares.pop(share["name"])
        _close(opened)
        if opened.place:
            shutil.rmtree(opened.place / "snapshots", ignore_errors=True)

    def used_bytes(self, share: Object, store: str) -> int:
        """The sizes of the share's files, and of those that were removed."""
        del share
        with self._lock:
            found = self._stores.get(store)
            return found.used if found else 0

    def noted_read_only(self, share: Object, store: str) -> bool:
        """Whether it was read-only when it was opened once."""
        row = _SHARE.format(share["name"]).encode(errors="surrogateescape")
        value = self._stores[store].entries.get(row, b"{}")
        return bool(json.loads(value).get("share", {}).get("Options", {}).get("ReadOnly"))

    def put(self, share: Object, store: str, name: str, data: bytes) -> None:
        """Write a file; it is on the disk when this returns.

        Raises:
            Full: the quota has no space for its growth; the file is as it was before.
            OSError: the volume has no space; the file is as it was before.
            Stale: the share was restored since the start.
        """
        place = self._served(share, store)
        journal = self._shares[share["name"]].journal
        digest = hashlib.sha256(data).hexdigest()
        if journal:
            journal.make_room(len(data))
        with self._lock:
            found = self._stores[store]
            old = found.find(name) or {"size": 0, "id": str(uuid.uuid4())}
            quota = share.get("quota_bytes") or 0
            if len(data) > old["size"] and 0 < quota < found.used + len(data) - old["size"]:
                raise Full("share quota exceeded")
            if place and journal:
                if not _segment(place, digest).exists():
                    write(_segment(place, digest), [data])
                journal.wrote(name, digest, len(data))
            entry = {"size": len(data), "sha256": digest, "id": old["id"]}
            found.write(
                {
                    name.encode(): json.dumps(entry).encode(),
                    _FILE.format(old["id"]).encode(): _record(len(data)),
                    _LINKS.format(old["id"]).encode(): (1).to_bytes(4),
                }
            )

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
        """Remove a file; its record stays, and its space is free when the cleaner was there.

        Raises:
            Stale: the share was restored since the start.
        """
        self._served(share, store)
        with self._lock:
            found = self._stores[store]
            entry = found.find(name)
            if entry is not None:
                links = _LINKS.format(entry["id"]).encode()
                found.write({name.encode(): None, links: (0).to_bytes(4)})

    def begin_snapshot(self, share: Object, snapshot: str) -> None:
        """Make the snapshot's folder."""
        self._folder(share, snapshot).mkdir(parents=True, exist_ok=True, mode=0o750)

    def write_snapshot(self, share: Object, store: str, snapshot: str) -> tuple[int, int]:
        """Write all names, always in the same bytes, and the digests of what is in the files."""
        folder = self._folder(share, snapshot)
        with self._lock:
            found = self._stores[store]
            digests = sorted(found.digests)
            write(folder / _DUMP, dump(found.entries))
            write(folder / _MANIFEST, [f"{digest}\n".encode() for digest in digests])
            version = sum(1 for _ in (folder.parents[1] / "journal").glob("*.seg"))
            self._pin(share)
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
            entries = list(undump(data).items())
            for first in range(0, len(entries), _BATCH):
                self._stores[store].write(dict(entries[first : first + _BATCH]))

    def remove_snapshot(self, share: Object, snapshot: str) -> None:
        """Remove its folder; what only it needed goes with the cleaner."""
        shutil.rmtree(self._folder(share, snapshot), ignore_errors=True)
        self._pin(share)

    def close(self) -> None:
        """Let go of all stores."""
        for share in self._shares.values():
            _close(share)
        for store in self._stores.values():
            store.close()

    def _alive(self, store: str) -> set[str]:
        with self._lock:
            return self._stores[store].digests

    def _pin(self, share: Object) -> None:
        if journal := self._shares[share["name"]].journal:
            journal.pin()

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


def _digests(folder: Path) -> set[str]:
    return set((folder / _MANIFEST).read_text(encoding="ascii").split())


def _close(share: _Open) -> None:
    if share.journal:
        share.journal.close()


def _record(size: int) -> bytes:
    """A regular file's record."""
    payload = _uvarint(size)
    return _HEAD + bytes((_TYPE, 1, 0, _SIZE, len(payload))) + payload


def _size(record: bytes) -> int:
    return read_uvarint(record, len(_HEAD) + 5)[0]


def _uvarint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))
