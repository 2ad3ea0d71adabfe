"""The figures of backups: ratios to a plain copy by S3, or to the same work without a backup.

The volumes are in memory where there is room for them: a disk that is slow to sync would be all
that is measured. S3 is the tests' own server, a process of its own; what it takes for each request
is in both sides of a ratio. It is nearer than any bucket: some rows have a network between.
"""

import contextlib
import itertools
import os
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Self

from agent.archive import creation, laying, memory, swapping
from agent.archive.progress import Progress
from agent.archive.request import Request
from agent.archive.settings import load as load_settings
from tests import servers
from tests.archive.rig import Unit
from tests.bench import load, mirror, network
from tests.bench.copies import COPIES, Copier
from tests.bench.load import Creators
from tests.bench.rows import Row, say
from tests.nfs import Client
from tests.s3 import S3Server

_MIB = 2**20
_SIZE = 512 * _MIB
_SMALLEST, _LARGEST = 64 * 1024, 4 * _MIB
_VOLUME = 16 * 2**30
_CLIENTS = 4
_RATE, _RATE_NAME = "1gbit", "1 Gbit/s"
_COPY_ROUNDS = 2
_LOAD_ROUNDS, _LOAD_SECONDS = 3, 6.0
_PAUSE_ROUNDS, _PAUSE_SECONDS = 2, 4.0
_BETWEEN = 0.005
# Of rates: of a backup or a restore to a copy's, of creations to those without a backup.
_BOUND = 0.8
_OLD = 3600.0
_SHARE = "/export"


def measure(only: Sequence[str]) -> Iterator[Row]:
    """The rows of the table, in its order.

    Args:
        only: the parts to do, of PARTS.
    """
    if load.no_server():
        yield Row("backups", load.no_server(), "")
        return
    memory.reuse()
    where = f"in {mirror.fast()}" if mirror.fast() else "on the disk"
    say(f"bench: {servers.server()}, volumes {where}, S3 by moto")
    for name, part in PARTS.items():
        if name in only:
            yield from part()


class Setup:
    """The server with one share, an agent for its backups, and S3; a context manager.

    Args:
        kind: of the server of S3.
    """

    def __init__(self, kind: type[S3Server] = S3Server) -> None:
        self._kind = kind
        self._undo = contextlib.ExitStack()
        self._ids = map(_backup_id, itertools.count())
        self._made: list[str] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            root = Path(undo.enter_context(tempfile.TemporaryDirectory(dir=mirror.fast())))
            self.s3 = undo.enter_context(self._kind(root / "s3"))
            settings = self.s3.settings(self.s3.make_bucket("bench"))
            self.unit = undo.enter_context(Unit(servers.server(), root / "unit", settings))
            server = self.unit.server
            server.start()
            make_share(self.unit, _VOLUME)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @property
    def port(self) -> int:
        """Where the server speaks NFS."""
        return nfs_port(self.unit)

    @property
    def journal(self) -> list[Path]:
        """The files that hold what was written into the share."""
        return sorted((self.unit.server.folder(_SHARE) / "journal").glob("*.seg"))

    def next_id(self) -> str:
        """Of a backup that is not there yet."""
        return next(self._ids)

    def back_up(self) -> None:
        """Let the agent make a backup."""
        self._made.append(self.next_id())
        self.unit.back_up(self._made[-1])

    def delete_all(self) -> None:
        """Delete the backups that the agent has made: the next one is the first again."""
        for identifier in self._made:
            self.unit.perform("delete", f"delete-{identifier}", backup_id=identifier)
            self.unit.forget()
        self._made = []

    @contextlib.contextmanager
    def far(self) -> Iterator[None]:
        """S3 is behind a network, where this machine can do that."""
        if network.missing():
            yield
        else:
            with network.limited(self.s3.port, _RATE):
                yield


class Elsewhere(S3Server):
    """S3 that takes only time that nobody else wants: were it elsewhere, it would take none."""

    def start(self) -> None:
        """Start it."""
        super().start()
        assert self._process
        os.sched_setscheduler(self._process.pid, os.SCHED_IDLE, os.sched_param(0))


def make_share(unit: Unit, size: int) -> None:
    """A share whose content may have so many bytes."""
    server = unit.server
    config = f'{{"path": "{server.content}", "max_size": {size}}}'
    made = server.api(
        "POST", "/store/block/local", {"name": "volume", "type": "fs", "config": config}
    )
    assert made.status_code == 201, made.text
    server.make_share(_SHARE)


def nfs_port(unit: Unit) -> int:
    """Where its server speaks NFS."""
    found = {each["type"]: each for each in unit.server.api("GET", "/adapters").json()}
    return int(found["nfs"]["port"])


def fill(port: int, size: int) -> None:
    """Write files of all sizes, of bytes that nothing can compress."""
    random = Random(1)  # noqa: S311  # no secret
    sizes: list[int] = []
    while sum(sizes) < size:
        sizes.append(random.randint(_SMALLEST, _LARGEST))

    def write(first: int) -> None:
        with Client(_SHARE, port) as client:
            for number in range(first, len(sizes), _CLIENTS):
                client.create(f"/data-{number}", os.urandom(sizes[number]))

    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(write, range(_CLIENTS)))


def _backup_id(number: int) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


# -- to and from S3 --


class _Watch:
    """Takes the time of all that is said of an operation."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def alive(self, silence: float) -> None:
        """It goes on."""
        del silence

    def told(self, message: str, done: int | None, total: int | None) -> None:
        """Something was said."""
        del done, total
        now = time.monotonic()
        self._first.setdefault(message, now)
        self._last[message] = now

    def between(self, first: str, last: str) -> float:
        """Seconds from the first time that one thing was said to the last of another."""
        return self._last[last] - self._first[first]


@dataclass
class _Spent:
    """Seconds of one kind of work, by round, and of plain copies by their names."""

    ours: list[float] = field(default_factory=list)
    copies: dict[str, list[float]] = field(default_factory=dict)

    def copied(self, name: str, seconds: float) -> None:
        """Note what a plain copy took."""
        self.copies.setdefault(name, []).append(seconds)

    @property
    def fastest(self) -> tuple[str, float]:
        """The fastest way to copy, and its seconds."""
        found = {name: statistics.median(each) for name, each in self.copies.items()}
        best = min(found, key=lambda name: found[name])
        return best, found[best]

    def row(self, what: str, mib: float, more: str = "") -> Row:
        """How it compares, for so much data."""
        ours = statistics.median(self.ours)
        best, seconds = self.fastest
        ratio = seconds / ours
        rates = f"{mib / ours:.0f} : {mib / seconds:.0f} MiB/s by {best}"
        return Row(what, f"{ratio:.2f} ({rates}{more})", f"{_BOUND}", ratio >= _BOUND)


@dataclass
class _Transfers:
    """What several rounds have taken."""

    up: _Spent = field(default_factory=_Spent)
    down: _Spent = field(default_factory=_Spent)
    uploading: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)


def _transfer() -> Iterator[Row]:
    """Backups and a restore's download, beside plain copies of the same files."""
    with Setup() as setup:
        fill(setup.port, _SIZE)
        mib = sum(path.stat().st_size for path in setup.journal) / _MIB
        say(f"bench: the journal has {mib:.0f} MiB in {len(setup.journal)} files")
        near = _rounds(setup, _COPY_ROUNDS)
        if network.missing():
            yield Row("backups : copies", f"there is no {network.missing()} here", f"{_BOUND}")
        else:
            with setup.far():
                # The network is the same all the time.
                far = _rounds(setup, 1)
            yield _up(f"first backup : the fastest copy, over {_RATE_NAME}", mib, far)
            yield far.down.row(f"download of a restore : the fastest copy, over {_RATE_NAME}", mib)
        # All that these measure is who needs the processors most: a copy checks nothing.
        yield _up("first backup : the fastest copy, S3 on the same machine", mib, near)
        yield near.down.row(
            "download of a restore : the fastest copy, S3 on the same machine", mib
        )
    sent = statistics.median(near.sent)
    yield Row(
        "bytes sent by a second backup, nothing changed : by the first",
        f"{sent:.5f}",
        "0.05",
        sent <= 0.05,
    )
    first, second = statistics.median(near.up.ours), statistics.median(near.again)
    yield Row(
        "time of a second backup, nothing changed : of the first",
        f"{second / first:.2f} ({second:.2f} s : {first:.2f} s)",
        "0.2",
        second / first <= 0.2,
    )


def _up(what: str, mib: float, found: _Transfers) -> Row:
    alone = found.up.fastest[1] / statistics.median(found.uploading)
    return found.up.row(what, mib, f"; its upload alone {alone:.2f}")


def _rounds(setup: Setup, count: int) -> _Transfers:
    found = _Transfers()
    for number in range(count):
        work = [_copies, _backups]
        for each in work if number % 2 else work[::-1]:
            each(setup, found)
    return found


def _copies(setup: Setup, found: _Transfers) -> None:
    for name in COPIES:
        bucket = setup.s3.make_bucket(f"copy-{secrets.token_hex(4)}")
        with (
            Copier(name, setup.s3.settings(bucket)) as copier,
            tempfile.TemporaryDirectory(dir=setup.unit.root) as folder,
        ):
            found.up.copied(name, copier.up(setup.journal))
            found.down.copied(name, copier.down(setup.journal, Path(folder)))
        setup.s3.remove_bucket(bucket)


def _backups(setup: Setup, found: _Transfers) -> None:
    """A first backup, one more, and a restore's download; in this process, to see more of it."""
    for path in setup.journal:
        # As if the files had not been written just now: what is new is read a second time.
        then = time.time() - _OLD
        os.utime(path, (then, then))
    bucket = setup.s3.make_bucket(f"backup-{secrets.token_hex(4)}")
    unit = setup.unit
    settings = load_settings(unit.configure(s3=setup.s3.settings(bucket)), unit.root)
    settings.notes.mkdir(exist_ok=True)
    (settings.notes / creation.CACHE).unlink(missing_ok=True)
    watch = _Watch()
    ids = [setup.next_id(), setup.next_id()]
    sent: list[int] = []

    def create(identifier: str) -> None:
        request = Request(identifier, "create", "create", {})
        sent.append(creation.create(settings, request, Progress(watch))["uploaded"])

    found.up.ours.append(_timed(lambda: create(ids[0])))
    found.uploading.append(watch.between("looking at what is in the bucket", "uploading"))
    found.again.append(_timed(lambda: create(ids[1])))
    found.sent.append(sent[1] / sent[0])
    fetch = Request("restore", "restore", "fetch", {"backup-id": ids[0]})
    found.down.ours.append(_timed(lambda: laying.fetch(settings, fetch, Progress(watch))))
    swapping.discard(settings, fetch)
    setup.s3.remove_bucket(bucket)


def _timed(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


# -- clients meanwhile --


def _load() -> Iterator[Row]:
    """Creations while a first backup is made, a plain copy of the same files, or nothing."""
    rates: dict[str, list[float]] = {}
    with Setup(Elsewhere) as setup, setup.far():
        bucket = setup.s3.settings(setup.s3.make_bucket("copies"))
        with Copier("obstore, whole files", bucket) as copier:
            kinds: list[tuple[str, Callable[[], object]]] = [
                ("backup", setup.back_up),
                ("without", lambda: time.sleep(_LOAD_SECONDS)),
                ("copy", lambda: copier.up(setup.journal)),
            ]
            fill(setup.port, _SIZE)
            setup.unit.start()
            for number in range(_LOAD_ROUNDS):
                for name, work in kinds if number % 2 else kinds[::-1]:
                    rate, seconds = _creations(setup, work)
                    rates.setdefault(name, []).append(rate)
                    say(f"bench: {name}: {rate:.0f} creations/s for {seconds:.1f} s")
    backup, without, copy = (statistics.median(rates[name]) for name, _ in kinds)
    yield Row(
        f"creations/s while {_SIZE // _MIB} MiB are backed up : without",
        f"{backup / without:.2f} ({backup:.0f} : {without:.0f}; while they are copied to S3"
        f" {copy / without:.2f})",
        f"{_BOUND}",
        backup / without >= _BOUND,
    )


def _creations(setup: Setup, work: Callable[[], object]) -> tuple[float, float]:
    """Creations a second while something is done, and its seconds."""
    # What was created before is not to be counted: the server does something for each new file
    # when it takes a snapshot, or when it is asked to.
    setup.unit.server.api("POST", "/system/drain-uploads")
    name, port = secrets.token_hex(4), str(setup.port)
    clients = Creators(*(["client", _SHARE, f"/{name}-{each}", port] for each in range(_CLIENTS)))
    try:
        clients.begin()
        seconds = _timed(work)
        rate = clients.end()
    finally:
        clients.close()
    setup.delete_all()
    return rate, seconds


def _meanwhile(setup: Setup, seconds: float, *, backups: bool) -> int:
    """Let so much time pass, or make backups until it has; the number of them."""
    made = 0
    end = time.monotonic() + seconds
    while backups and time.monotonic() < end:
        setup.back_up()
        made += 1
    time.sleep(max(end - time.monotonic(), 0))
    return made


def _pauses() -> Iterator[Row]:
    """How long a steady client waits at most, while backups are made and without, by turns."""
    names = ("writer", "reader")
    longest: dict[bool, list[list[float]]] = {False: [], True: []}
    made = 0
    with Setup(Elsewhere) as setup:
        fill(setup.port, _SIZE)
        setup.unit.start()
        with Client(_SHARE, setup.port) as client:
            client.create("/read", bytes(4096))
        for number in range(_PAUSE_ROUNDS):
            for each in (False, True) if number % 2 else (True, False):
                with Steady(setup.port) as steady:
                    made += _meanwhile(setup, _PAUSE_SECONDS, backups=each)
                longest[each].append(steady.longest)
    for at, name in enumerate(names):
        with_, without = (max(each[at] for each in longest[kind]) for kind in (True, False))
        yield Row(
            f"longest pause of a {name} while {made} backups are made, beyond the one without",
            f"{(with_ - without) * 1000:.0f} ms ({with_ * 1000:.0f} - {without * 1000:.0f} ms)",
            "1 s",
            with_ - without <= 1,
        )


class Steady:
    """A client that writes small files and one that reads one, all the time; a context manager.

    Attributes:
        longest: seconds of the longest write and the longest read, when it has ended.
    """

    def __init__(self, port: int):
        self._port = port
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(2)
        self.longest: list[float] = []

    def __enter__(self) -> Self:
        directory = f"/{secrets.token_hex(4)}"
        numbers = itertools.count()

        def write(client: Client) -> None:
            client.create(f"{directory}-{next(numbers)}", bytes(4096))

        def read(client: Client) -> None:
            client.read("/read")

        self._underway = [self._pool.submit(self._work, each) for each in (write, read)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.longest = [each.result() for each in self._underway]
        self._pool.shutdown()

    def _work(self, operation: Callable[[Client], None]) -> float:
        longest = 0.0
        with Client(_SHARE, self._port) as client:
            while not self._stop.wait(_BETWEEN):
                longest = max(longest, _timed(lambda: operation(client)))
        return longest


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "transfer": _transfer,
    "load": _load,
    "pauses": _pauses,
}
