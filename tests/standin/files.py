"""The stand-in's files: content on the content volume, names in real Badger logs.

The real server speaks NFS; this has an HTTP route instead, so that tests can write and read files.
What was answered is on the disk. A lost content volume is read as zeros, as the real one does.
"""

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path
from urllib.parse import quote

from agent.badger import BadgerError
from agent.log_writer import LogWriter
from agent.tables import snapshot
from tests.standin.core import Object, Stores

Names = dict[str, Object]


class Full(Exception):  # noqa: N818  # what NFS calls it
    """There is no space for the file."""


class VolumeStores(Stores):
    """Stores on the volumes; one in memory is lost with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writers: dict[str, LogWriter] = {}
        self._names: dict[str, Names] = {}
        self._places: dict[str, Path | None] = {}

    def open_metadata(self, store: Object) -> None:
        """Open a store and read what is in it."""
        super().open_metadata(store)
        name = store["name"]
        if store["type"] != "badger":
            self._names[name] = {}
            return
        path = Path(store["config"]["path"])
        try:
            self._writers[name] = LogWriter(path)
            found = snapshot(path)
        except (OSError, BadgerError) as error:
            raise ValueError(f"failed to open badger: {error}") from error
        self._names[name] = {key.decode(): json.loads(value) for key, value in found.items()}

    def open_share(self, share: Object, content: Object) -> None:
        """Make the share's directory, as the real server does."""
        place = None
        if content["type"] == "fs":
            directory = quote(share["name"].removeprefix("/"), safe="")
            place = Path(content["config"]["path"]) / "shares" / directory
            with contextlib.suppress(OSError):
                (place / "journal").mkdir(parents=True, exist_ok=True)
        self._places[share["name"]] = place

    def used_bytes(self, share: Object, store: str) -> int:
        """The sizes of the share's files, by their names."""
        del share
        return sum(entry["size"] for entry in self._names.get(store, {}).values())

    def put(self, share: Object, store: str, name: str, data: bytes) -> None:
        """Write a file; it is on the disk when this returns.

        Raises:
            Full: there is no space; the file is as it was before.
        """
        place = self._places[share["name"]]
        digest = hashlib.sha256(data).hexdigest()
        entry = {"size": len(data), "sha256": digest}
        try:
            if place is not None:
                _write(place / "journal" / digest, data)
            with self._lock:
                if store in self._writers:
                    self._writers[store].write({name.encode(): json.dumps(entry).encode()})
                self._names[store][name] = entry
        except OSError as error:
            raise Full(str(error)) from error

    def get(self, share: Object, store: str, name: str) -> bytes | None:
        """Read a file; None where there is no such name, zeros where its content is lost."""
        entry = self._names[store].get(name)
        place = self._places[share["name"]]
        if entry is None:
            return None
        with contextlib.suppress(OSError):
            if place is not None:
                return (place / "journal" / entry["sha256"]).read_bytes()
        return bytes(entry["size"])

    def remove(self, share: Object, store: str, name: str) -> None:
        """Remove a file; its space is free when no other file has the same content."""
        with self._lock:
            entry = self._names[store].pop(name, None)
            if entry is None:
                return
            if store in self._writers:
                self._writers[store].write({name.encode(): None})
            place = self._places[share["name"]]
            shared = any(each["sha256"] == entry["sha256"] for each in self._names[store].values())
            if place is not None and not shared:
                (place / "journal" / entry["sha256"]).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all stores."""
        for writer in self._writers.values():
            writer.close()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
