"""Clients in threads, each with files of its own, and what they count."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, Self, TypeVar

from tests.limits.index import File, Pattern
from tests.limits.nfs3 import NAMES, NO_SPACE, LostError, RefusedError

# The server reads its whole journal at its start.
_PATIENCE = 300.0
_AGAIN = 0.2
# How often a file is emptied before it is written again, instead of overwritten in place.
_EMPTIED, _REMOVED = 0.1, 0.02
_PARTLY = 0.3

Result = TypeVar("Result")


class Connection(Protocol):
    """What a client of files can do; see `nfs3.Client`."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def lookup(self, name: str) -> bytes | None: ...
    def create(self, name: str) -> bytes: ...
    def write(self, handle: bytes, offset: int, data: bytes) -> None: ...
    def commit(self, handle: bytes) -> None: ...
    def truncate(self, handle: bytes, size: int) -> None: ...
    def read(self, handle: bytes, offset: int, size: int) -> bytes: ...
    def remove(self, name: str) -> bool: ...


@dataclass
class Refusal:
    """A write that the server refused.

    Attributes:
        status: the server's, as NFSv3 calls it.
        live: the bytes that the files had then.
        excused: it is within the time in which room comes back.
    """

    status: str
    live: int
    at: float
    excused: bool = False


@dataclass
class Counts:
    """What all clients saw."""

    written: int = 0
    reads: int = 0
    acknowledged: int = 0
    longest_pause: float = 0.0
    refusals: list[Refusal] = field(default_factory=list[Refusal])
    wrong: list[str] = field(default_factory=list[str])
    lost_connections: int = 0
    operations: Counter[str] = field(default_factory=Counter[str])


class Writers:
    """The clients, and the files.

    Args:
        connect: a new connection.
        blocks: how many blocks a file has.
        threads: how many clients write at the same time.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        pattern: Pattern,
        *,
        blocks: int,
        threads: int,
        seed: int,
    ):
        self.pattern = pattern
        self.blocks = blocks
        self.counts = Counts()
        self.files: dict[int, File] = {}
        self._connect = connect
        self._seed = seed
        self.threads = threads
        self._lock = threading.Lock()
        self._rate = self._paid = 0.0
        self._next = 0
        self._version = 0

    def pace(self, rate: float) -> None:
        """Let all clients together write so many bytes in a second at most; 0: without a bound."""
        with self._lock:
            self._rate, self._paid = rate, time.monotonic()

    def pay(self, size: int) -> None:
        """Wait until so many bytes may be written."""
        with self._lock:
            if not self._rate:
                return
            # What was not written while the server was away is not made up for.
            begin = max(self._paid, time.monotonic())
            self._paid = begin + size / self._rate
        time.sleep(max(begin - time.monotonic(), 0))

    @property
    def live(self) -> int:
        """What the files hold, in bytes, those in the making included."""
        with self._lock:
            return sum(max(file.sizes) for file in self.files.values()) * self.pattern.block_size

    def fill(self, most: int) -> None:
        """Make files until there are `most` bytes, or no client may write any more."""

        def work(client: "_Worker") -> bool:
            if self.live >= most:
                return False
            return client.make(self._new_file())

        self._run(work)

    def overwrite(self, until: Callable[[], bool]) -> None:
        """Write files again, at random, until the time has come; their number stays."""
        groups = self._groups()

        def work(client: "_Worker") -> bool:
            mine = groups[client.number]
            if until() or not mine:
                return False
            client.change(mine)
            return True

        self._run(work)

    def remove(self, files: Iterable[File]) -> None:
        """Remove these files."""
        queue = list(files)

        def work(client: "_Worker") -> bool:
            with self._lock:
                file = queue.pop() if queue else None
            if file is None:
                return False
            client.remove(file)
            return True

        self._run(work)

    def check(self) -> int:
        """Compare every byte of every file; how many bytes were compared."""
        queue = list(self.files.values())
        before = self.counts.reads

        def work(client: "_Worker") -> bool:
            with self._lock:
                file = queue.pop() if queue else None
            if file is None:
                return False
            client.compare(file)
            return True

        self._run(work)
        return self.counts.reads - before

    def version(self) -> int:
        """The next version: it is new for every block."""
        with self._lock:
            self._version += 1
            return self._version

    def connect(self) -> Connection:
        """Connect, as long as the server may be away.

        Raises:
            AssertionError: it stays away.
        """
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._connect()
            except (LostError, RefusedError) as error:
                if time.monotonic() > end:
                    raise AssertionError(f"the server is away: {error}") from None
                time.sleep(_AGAIN)

    def _new_file(self) -> File:
        with self._lock:
            self._next += 1
            return self.files.setdefault(self._next, File(self._next))

    def _groups(self) -> list[list[File]]:
        files = list(self.files.values())
        return [files[number :: self.threads] for number in range(self.threads)]

    def _run(self, work: Callable[["_Worker"], bool]) -> None:
        """Let all clients work until each has nothing more to do."""
        failed: list[BaseException] = []

        def run(number: int) -> None:
            worker = _Worker(self, number, Random(f"{self._seed} {number}"))  # noqa: S311
            try:
                while work(worker):
                    pass
            except BaseException as error:
                failed.append(error)
                raise
            finally:
                worker.close()

        threads = [
            threading.Thread(target=run, args=(number,), daemon=True)
            for number in range(self.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise AssertionError(f"a client ended: {failed[0]}")


class _Worker:
    """One client: it goes on after the server was away."""

    def __init__(self, writers: Writers, number: int, random: Random):
        self._writers = writers
        self._counts = writers.counts
        self._random = random
        self.number = number
        self._connection: Connection | None = None

    def close(self) -> None:
        if self._connection:
            self._connection.__exit__(None, None, None)
            self._connection = None

    def make(self, file: File) -> bool:
        """Make a file; whether the server took all of it."""
        return self._do("make", lambda: self._write(file, range(self._writers.blocks)))

    def change(self, mine: list[File]) -> None:
        """Write one of the files again."""
        file = self._random.choice(mine)
        chance = self._random.random()
        if chance < _REMOVED:
            self.remove(file)
            new = self._writers._new_file()  # noqa: SLF001  # it is the same module's
            mine[mine.index(file)] = new
            self.make(new)
            return
        if chance < _EMPTIED:
            self._do("empty", lambda: self._empty(file))
        places = range(self._writers.blocks)
        if chance > 1 - _PARTLY and self._writers.blocks > 1:
            first = self._random.randrange(self._writers.blocks)
            places = range(first, self._random.randrange(first, self._writers.blocks) + 1)
        self._do("write", lambda: self._write(file, places))

    def remove(self, file: File) -> None:
        """Remove a file; it is gone, or goes when the server is there again."""
        file.certain = False
        self._insist("remove", lambda: self._connected().remove(file.name))
        with self._writers._lock:  # noqa: SLF001  # it is the same module's
            self._writers.files.pop(file.number, None)

    def compare(self, file: File) -> None:
        """Read a file, and say what is wrong with it."""
        self._insist("compare", lambda: self._compare(file))

    def _insist(self, what: str, work: Callable[[], object]) -> None:
        """Do an operation again until it is done.

        Raises:
            AssertionError: it is refused all the time.
        """
        end = time.monotonic() + _PATIENCE
        while not self._do(what, work):
            if time.monotonic() > end:
                raise AssertionError(f"{what}: {self._counts.refusals[-1:] or 'no connection'}")
            time.sleep(_AGAIN)

    def _compare(self, file: File) -> None:
        client = self._connected()
        handle = client.lookup(file.name)
        if handle is None:
            if file.certain:
                self._counts.wrong.append(f"{file.name} is missing")
            with self._writers._lock:  # noqa: SLF001  # it is the same module's
                self._writers.files.pop(file.number, None)
            return
        pattern = self._writers.pattern
        data = client.read(handle, 0, (max(file.sizes) + 1) * pattern.block_size)
        self._counts.reads += len(data)
        problems = file.problems(pattern, data)
        self._counts.wrong += problems
        if not problems:
            file.seen(pattern, data)

    def _write(self, file: File, places: range) -> None:
        client = self._connected()
        handle = client.lookup(file.name) or client.create(file.name)
        file.certain = True
        pattern, version = self._writers.pattern, self._writers.version()
        # What is left out in front is a hole from now on.
        for place in places:
            file.writing(place, version)
            data = pattern.block(file.number, place, version)
            self._writers.pay(len(data))
            client.write(handle, place * pattern.block_size, data)
            self._counts.written += len(data)
        client.commit(handle)
        for place in places:
            file.written(place, version)
            self._counts.acknowledged += pattern.block_size

    def _empty(self, file: File) -> None:
        client = self._connected()
        handle = client.lookup(file.name)
        if handle is not None:
            file.truncating()
            client.truncate(handle, 0)
            file.truncated()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._writers.connect()
        return self._connection

    def _do(self, what: str, work: Callable[[], object]) -> bool:
        """Do an operation; False where the server refused it or went away."""
        began = time.monotonic()
        try:
            work()
        except LostError:
            self._counts.lost_connections += 1
            self.close()
            return False
        except RefusedError as refused:
            status = NAMES.get(refused.status, str(refused))
            self._counts.refusals.append(Refusal(f"{what}: {status}", self._writers.live, began))
            if refused.status != NO_SPACE:
                # What the server could not do it may not be able to do again at once.
                time.sleep(_AGAIN)
            return False
        finally:
            took = time.monotonic() - began
            self._counts.longest_pause = max(self._counts.longest_pause, took)
        self._counts.operations[what] += 1
        return True
