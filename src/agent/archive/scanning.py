"""Which files a backup of a share needs, and what is known of them from the last one.

A segment of the server's journal that has not changed since it was read is not read again. It is
told by inode, size and time of change; one that changed a moment before it was read may change
again within the same tick, so it is read the next time.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agent.archive import pieces
from agent.archive.errors import ArchiveError

_VERSION = 1
_SETTLED_SECONDS = 60.0
_SEGMENT = ".seg"
# Of servers after v0.29: what is only in the remote store, and how the segments are written.
_BESIDE_SEGMENTS = frozenset({"cold.log", "format"})


class Source(NamedTuple):
    """A file to be kept: `size` is how much of it the backup needs, in bytes."""

    path: Path
    relative: str
    size: int
    mode: int
    stamp: tuple[int, int, int]
    seen: float

    @property
    def settled(self) -> bool:
        """Whether its time of change tells the next change."""
        return self.seen - self.stamp[2] / 1e9 > _SETTLED_SECONDS


def share_folder(content: Path, snapshot: str) -> Path:
    """The folder of the share that has a snapshot: its name is the server's own business.

    Raises:
        ArchiveError: `api`: there is none.
    """
    with contextlib.suppress(OSError):
        for folder in sorted((content / "shares").iterdir()):
            if (folder / "snapshots" / snapshot).is_dir():
                return folder
    raise ArchiveError("api", f"the snapshot {snapshot} is not on the content volume")


def sources(folder: Path, snapshot: str) -> Iterator[Source]:
    """The files that a restore of the snapshot needs, in order, as they are now."""
    journal = [
        path
        for path in (folder / "journal").glob("*")
        if path.suffix == _SEGMENT or path.name in _BESIDE_SEGMENTS
    ]
    for path in (*sorted(journal), *sorted((folder / "snapshots" / snapshot).glob("*"))):
        if path.is_file():
            yield source(path, path.relative_to(folder).as_posix())


def source(path: Path, relative: str) -> Source:
    """A file as it is now.

    Raises:
        ArchiveError: `api`: it went away, although a snapshot needs it.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ArchiveError("api", f"{relative} cannot be read: {error.strerror}") from None
    stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
    return Source(path, relative, found.st_size, found.st_mode & 0o777, stamp, time.time())


def read(source: Source, number: int) -> bytes:
    """A piece of a file; always all the bytes that belong to it.

    Raises:
        ArchiveError: `api`: the file got shorter or went away.
    """
    begin = number * pieces.PIECE
    size = min(pieces.PIECE, source.size - begin)
    try:
        with source.path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, begin)
    except OSError as error:
        raise ArchiveError("api", f"{source.relative} cannot be read: {error.strerror}") from None
    if len(data) != size:
        raise ArchiveError("api", f"{source.relative} got shorter while it was read")
    return data


class Cache:
    """The pieces of files as they were read last; `basis` tells how they were named.

    It is only a help: one that cannot be read or written is as good as empty.
    """

    def __init__(self, path: Path, basis: str):
        self._path = path
        self._basis = basis
        self._known = self._load()
        self._seen: dict[str, Any] = {}

    def find(self, source: Source) -> list[str | None] | None:
        """The pieces of a file that has not changed, None where it has to be read."""
        known = self._known.get(str(source.path))
        if known is None or tuple(known["stamp"]) != source.stamp:
            return None
        return list(known["pieces"])

    def note(self, source: Source, names: list[str | None]) -> None:
        """Remember the pieces of a file."""
        if source.settled:
            self._seen[str(source.path)] = {"stamp": list(source.stamp), "pieces": names}

    def save(self) -> None:
        """Keep what was noted, and nothing else."""
        text = json.dumps({"version": _VERSION, "basis": self._basis, "files": self._seen})
        temporary = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._path)

    def _load(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if (found["version"], found["basis"]) == (_VERSION, self._basis):
                return dict(found["files"])
        except (OSError, KeyError, TypeError, ValueError):
            pass
        return {}
