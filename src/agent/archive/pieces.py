"""Files as pieces of 4 MiB: found on the volume, put into the bucket, read back."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from agent.archive.bucket import Bucket
from agent.archive.errors import ArchiveError
from agent.archive.progress import Progress
from agent.archive.sealing import Sealer

PIECE = 4 * 1024 * 1024
WORKERS = 8
_AHEAD = 2 * WORKERS

Item = TypeVar("Item")


def folder(home: str) -> str:
    """Where the pieces of an application are."""
    return f"{home}/pieces/"


def key_of(home: str, name: str) -> str:
    """The key of a piece."""
    return f"{home}/pieces/{name[:2]}/{name}"


def count(size: int) -> int:
    """How many pieces a file of so many bytes has."""
    return -(-size // PIECE)


def reader(bucket: Bucket, home: str, sealer: Sealer) -> Callable[[str], bytes]:
    """A function that returns the plain bytes of a piece, checked.

    It raises `ArchiveError`: `damaged` also where the object is not there.
    """

    def read(name: str) -> bytes:
        try:
            return sealer.unseal(name, bucket.view(key_of(home, name)))
        except ArchiveError as error:
            if error.kind == "missing":
                raise ArchiveError("damaged", f"piece {name[:12]} is missing") from None
            raise

    return read


class Writer:
    """Puts pieces that are not there yet; for any number of threads.

    Attributes:
        uploaded: bytes that were sent.
    """

    def __init__(self, bucket: Bucket, home: str):
        self._bucket = bucket
        self._home = home
        self._lock = threading.Lock()
        self._underway: dict[str, threading.Event] = {}
        self.uploaded = 0
        self.known = {
            found.key.rpartition("/")[2] for found in bucket.objects(folder(home)) if found.size
        }

    def write(self, sealer: Sealer, plain: bytes) -> str:
        """Make sure that a piece is in the bucket; return its name."""
        name = sealer.name(plain)
        while True:
            with self._lock:
                if name in self.known:
                    return name
                other = self._underway.get(name)
                if other is None:
                    self._underway[name] = threading.Event()
                    break
            # Another thread sends the same bytes just now: what it finds out counts.
            other.wait()
        try:
            sealed = sealer.seal(name, plain)
            self._bucket.put(key_of(self._home, name), sealed)
            with self._lock:
                self.known.add(name)
                self.uploaded += len(sealed)
        finally:
            with self._lock:
                self._underway.pop(name).set()
        return name


def each(function: Callable[[Item], object], items: Iterable[Item], progress: Progress) -> None:
    """Call a function for each item, in several threads; the first error ends it.

    Items are taken from their source as they are needed.

    Raises:
        ArchiveError: what the function raised first, or `cancelled`.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: set[Future[Any]] = set()
        try:
            for item in items:
                progress.check()
                waiting.add(pool.submit(function, item))
                if len(waiting) >= _AHEAD:
                    waiting = _finished(waiting)
            while waiting:
                progress.check()
                waiting = _finished(waiting)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _finished(waiting: set[Future[Any]]) -> set[Future[Any]]:
    """Wait for one of them; return the others. What one raised is raised."""
    done, left = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return left
