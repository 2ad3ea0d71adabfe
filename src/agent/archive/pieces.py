"""Files as pieces of 4 MiB: found on the volume, put into the bucket, read back."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from agent.archive.bucket import Bucket
from agent.archive.errors import ArchiveError
from agent.archive.ledger import Ledger, Seen
from agent.archive.progress import Progress
from agent.archive.sealing import Sealer

PIECE = 4 * 1024 * 1024
WORKERS = 8
_AHEAD = 2 * WORKERS

# What is wrong with one object, and says nothing of the others.
UNREADABLE = frozenset({"damaged", "missing", "refused"})

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


def reader(
    bucket: Bucket, home: str, sealer: Sealer, ledger: Ledger | None = None
) -> Callable[[str], bytes]:
    """A function that returns the plain bytes of a piece, checked.

    It raises `ArchiveError`: `damaged` also where the object is not there. The next backup that
    needs a piece that was found bad sends it anew: the ledger forgets it.
    """

    def read(name: str) -> bytes:
        try:
            return _read(bucket, key_of(home, name), sealer, name)
        except ArchiveError as error:
            if ledger and error.kind in UNREADABLE:
                ledger.forget(name)
            if error.kind == "missing":
                raise ArchiveError("damaged", f"piece {name[:12]} is missing") from None
            raise

    return read


def _read(bucket: Bucket, key: str, sealer: Sealer, name: str) -> bytes:
    try:
        return sealer.unseal(name, bucket.get(key))
    except ArchiveError as error:
        if error.kind != "damaged":
            raise
    # It may have been damaged on its way.
    return sealer.unseal(name, bucket.get(key))


class Writer:
    """Puts pieces that are not there, or not right; for any number of threads.

    Args:
        bucket: where they go.
        home: of the application.
        ledger: what is known of those that are there.
        backup_id: the backup that needs them.

    Attributes:
        uploaded: bytes that were sent.
        doubtful: the names of those that are there, and may not be right, with their ETags.
    """

    def __init__(self, bucket: Bucket, home: str, ledger: Ledger, backup_id: str):
        self._bucket = bucket
        self._home = home
        self._ledger = ledger
        self._backup_id = backup_id
        self._lock = threading.Lock()
        self._underway: dict[str, threading.Event] = {}
        self.uploaded = 0
        self._right: set[str] = set()
        self.doubtful: dict[str, str] = {}
        self._wrong: set[str] = set()
        for found in bucket.objects(folder(home)):
            name = found.key.rpartition("/")[2]
            if ledger.right(name, found):
                self._right.add(name)
            else:
                self.doubtful[name] = found.tag
        ledger.keep(self._right)

    def write(self, sealer: Sealer, plain: bytes) -> str:
        """Make sure that a piece is in the bucket, and right; return its name."""
        name = sealer.name(plain)

        def make_sure() -> None:
            if not self._read_back(sealer, name):
                self._send(name, sealer.seal(name, plain))

        self._once(name, make_sure)
        return name

    def has(self, sealer: Sealer, name: str) -> bool:
        """Whether a piece is in the bucket, and right."""
        if name not in self._right and name in self.doubtful:
            self._once(name, lambda: self._read_back(sealer, name))
        return name in self._right

    def _once(self, name: str, work: Callable[[], object]) -> None:
        """Do the work for a piece that is not known to be right, in one thread."""
        while True:
            with self._lock:
                if name in self._right:
                    return
                other = self._underway.get(name)
                if other is None:
                    self._underway[name] = threading.Event()
                    break
            # Another thread sends the same bytes just now: what it finds out counts.
            other.wait()
        try:
            work()
        finally:
            with self._lock:
                self._underway.pop(name).set()

    def _read_back(self, sealer: Sealer, name: str) -> bool:
        """Whether an object that is there under this name is right, which nobody has seen yet."""
        tag = self.doubtful.get(name)
        if tag is None:
            return False
        try:
            sealed = self._bucket.get(key_of(self._home, name))
            sealer.unseal(name, sealed)
        except ArchiveError as error:
            if error.kind not in UNREADABLE:
                raise
            with self._lock:
                self.doubtful.pop(name, None)
                self._wrong.add(name)
            return False
        self._known(name, Seen(len(sealed), tag, ""))
        return True

    def _send(self, name: str, sealed: bytes) -> None:
        tag = self._bucket.put(key_of(self._home, name), sealed)
        sent_for = "" if name in self._wrong else self._backup_id
        self._known(name, Seen(len(sealed), tag, sent_for))
        with self._lock:
            self.uploaded += len(sealed)

    def _known(self, name: str, seen: Seen) -> None:
        self._ledger.note(name, seen)
        with self._lock:
            self._right.add(name)


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
