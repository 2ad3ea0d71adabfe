"""The stand-in's journal of a share, as far as its limits go.

The real server (v0.29.0) appends to segments of 256 MiB, 16 of them side by side, chosen by the
file. Only full ones are cleaned, every 30 s, and one only when half of it is dead: what is alive
is written anew, which needs room, and a pass ends where there is none. At `max_size` whole
segments are evicted that count as copied elsewhere; one that was written anew counts as that
although there is no copy, so what was in it is read as zeros. Where nothing can be evicted a write
waits, and then fails. After a restart nothing can be evicted that was there before.

Here each content is a file of its own; which of them share a segment is in memory only.
"""

import contextlib
import os
import re
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_SEGMENT = int(os.environ.get("STANDIN_SEGMENT_BYTES", str(256 * 2**20)))
_SHARDS = int(os.environ.get("STANDIN_SHARDS", "16"))
_CLEAN_EVERY = float(os.environ.get("STANDIN_CLEAN_SECONDS", "30"))
_DEAD = 0.5
_LOOK_AGAIN = 0.01
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A duration, such as `1m30s`."""
    found = re.findall(r"(\d+)(ms|s|m|h)", text)
    return sum(int(number) * _UNITS[unit] for number, unit in found)


@dataclass
class _Segment:
    """Contents by their digests, with their sizes; those that are dead stay until it goes."""

    sizes: dict[str, int] = field(default_factory=dict[str, int])
    evictable: bool = False
    pinned: bool = False

    @property
    def size(self) -> int:
        return sum(self.sizes.values())


class Journal:
    """What a share has on the content volume.

    Args:
        place: the share's folder.
        cap: `max_size` of its store; 0 for none.
        wait: how long a write waits at the cap, in seconds.
        alive: the digests of what the files have in them.
    """

    def __init__(self, place: Path, cap: int, wait: float, alive: Callable[[], set[str]]):
        self._place = place
        self._cap = cap
        self._wait = wait
        self._alive = alive
        self._lock = threading.RLock()
        self._active = [_Segment() for _ in range(_SHARDS)]
        self._sealed: list[_Segment] = []
        self._stop = threading.Event()
        found = {path.stem: path.stat().st_size for path in (place / "journal").glob("*.seg")}
        if found:
            self._sealed.append(_Segment(found))
            self.pin()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of it."""
        self._stop.set()
        self._thread.join()

    def make_room(self, size: int) -> None:
        """Wait until so many bytes may be written.

        Raises:
            OSError: there is no room, and nothing made some.
        """
        end = time.monotonic() + self._wait
        while self._cap and self._used() + size > self._cap:
            if self._evict():
                continue
            if time.monotonic() > end:
                raise OSError("journal: local store full, all segments pinned by unsynced bytes")
            time.sleep(_LOOK_AGAIN)

    def wrote(self, name: str, digest: str, size: int) -> None:
        """A content was appended for the file of this name."""
        with self._lock:
            shard = zlib.crc32(name.encode()) % _SHARDS
            if any(digest in each.sizes for each in (*self._active, *self._sealed)):
                return
            if self._active[shard].size + size > _SEGMENT:
                self._sealed.append(self._active[shard])
                self._active[shard] = _Segment()
            self._active[shard].sizes[digest] = size

    def pin(self) -> None:
        """Keep everything that is there as long as there is a snapshot."""
        with self._lock:
            there = any((self._place / "snapshots").glob("*"))
            for segment in (*self._active, *self._sealed):
                segment.pinned = there

    def clean(self) -> None:
        """One pass of the cleaner; it ends where there is no room."""
        alive = self._alive()
        with self._lock:
            for segment in list(self._sealed):
                kept = {name: size for name, size in segment.sizes.items() if name in alive}
                dead = segment.size - sum(kept.values())
                if segment.pinned or not dead or dead < segment.size * _DEAD:
                    continue
                info = os.statvfs(self._place)
                if kept and info.f_bavail * info.f_frsize < sum(kept.values()):
                    return
                self._sealed.remove(segment)
                if kept:
                    self._sealed.append(_Segment(kept, evictable=True))
                self._remove(set(segment.sizes) - set(kept))

    def _used(self) -> int:
        with self._lock:
            return sum(segment.size for segment in (*self._active, *self._sealed))

    def _evict(self) -> bool:
        """Remove a segment that counts as copied elsewhere; whether there was one."""
        with self._lock:
            for segment in self._sealed:
                if segment.evictable and not segment.pinned:
                    self._sealed.remove(segment)
                    self._remove(set(segment.sizes))
                    return True
        return False

    def _remove(self, digests: set[str]) -> None:
        for digest in digests:
            (self._place / "journal" / f"{digest}.seg").unlink(missing_ok=True)

    def _work(self) -> None:
        while not self._stop.wait(_CLEAN_EVERY):
            with contextlib.suppress(OSError):
                self.clean()
