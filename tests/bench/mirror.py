"""The mirror's figures: ratios to the same work without it, in one run.

What creates files writes into memory, with the database server beside it: a disk that is slow to
sync would be all that is measured. Large stores are on the disk. Commits are durable, as is the
default of MySQL.
"""

import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.mysql_statements import TABLE_OPTIONS, TABLES
from tests import servers
from tests.agent.rig import Agent, wait_until
from tests.bench import load, postgres, store
from tests.bench.load import ServerLoad, WriterLoad
from tests.bench.process import cpu_seconds, peak_memory, pinned, reset_peak
from tests.bench.rig import Setup, connected, database_server
from tests.bench.rows import Row, say
from tests.databases import HOST, DatabaseServer, find_program
from tests.stores import write

_SECONDS = 15.0
_ROUNDS = 4
_AWAY = 60.0
_IDLE = 60.0
_LONG = 1200.0
_CAUGHT_UP = 0.5
_MEMORY = Path("/dev/shm")  # noqa: S108  # in a directory of its own there
_ENOUGH = 6 * 2**30


def measure(files: int, only: Sequence[str]) -> Iterator[Row]:
    """The rows of the table, in its order.

    Args:
        files: of the large store.
        only: the parts to do, of PARTS.
    """
    program = find_program()
    if isinstance(program, str):
        yield Row("the mirror", program, "")
        return
    what = f"the stand-in's writer ({load.no_server()})"
    say(
        f"bench: {what if load.no_server() else servers.server()}, {program},"
        f" files are created {f'in {fast()}' if fast() else 'on the disk'}"
    )
    for name, part in PARTS.items():
        if name in only:
            yield from part(files)


@contextlib.contextmanager
def _database(
    place: Path | None = None, cores: set[int] | None = None
) -> Iterator[DatabaseServer]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        database = database_server(Path(folder))
        try:
            with pinned(cores):
                database.start()
            yield database
        finally:
            database.close()


def _placements() -> Iterator[tuple[str, set[int] | None, set[int] | None]]:
    """Where MySQL and everything else run."""
    cores = sorted(os.sched_getaffinity(0))
    yield f"on {len(cores)} cores, MySQL among all else", None, None
    if len(cores) > 1:
        yield "MySQL on a core of its own", {cores[-1]}, set(cores[:-1])


def fast() -> Path | None:
    """Where files are created: in memory, or None for the disk."""
    chosen = os.environ.get("BENCH_PLACE")
    if chosen:
        return Path(chosen)
    with contextlib.suppress(OSError):
        return _MEMORY if shutil.disk_usage(_MEMORY).free > _ENOUGH else None
    return None


# -- creations --


def _creations(_: int) -> Iterator[Row]:
    """With the mirror and without, by turns."""
    if load.no_server():
        yield Row("creations/s with the mirror : without", load.no_server(), "0.9")
        return
    shared = 0.0
    for where, its, others in _placements():
        without: list[float] = []
        mirrored: list[float] = []
        with _database(fast(), its) as database:
            for number in range(_ROUNDS):
                for each in (False, True) if number % 2 else (True, False):
                    with Setup(database, fast(), others, mirrored=each) as setup:
                        rate = setup.creations(_SECONDS)
                        (mirrored if each else without).append(rate)
                        say(f"bench: {where}, {'mirrored' if each else 'without'}: {rate:.0f}/s")
        ratio = statistics.median(mirrored) / statistics.median(without)
        yield Row(
            f"creations/s with the mirror : without, {where}",
            f"{ratio:.2f} ({statistics.median(mirrored):.0f} : {statistics.median(without):.0f})",
            "0.9" if its else "none",
            ratio >= 0.9 if its else None,
        )
        shared = shared or statistics.median(mirrored)
    yield _against_postgres(shared)


def _against_postgres(mirrored: float) -> Row:
    what = "creations/s with the mirror : the server's PostgreSQL engine"
    programs = postgres.find()
    if not programs:
        return Row(what, "there is no PostgreSQL here", "5")
    with (
        tempfile.TemporaryDirectory(dir=fast()) as folder,
        postgres.Postgres(programs, fast()) as database,
        ServerLoad(Path(folder), postgres=database.port) as server,
    ):
        server.begin()
        time.sleep(_SECONDS)
        rate = server.end()
    ratio = mirrored / rate
    return Row(what, f"{ratio:.1f} ({mirrored:.0f} : {rate:.0f})", "5", ratio >= 5)


# -- following --


def _lag(_: int) -> Iterator[Row]:
    """Behind by how much, and what that costs the agent."""
    for where, its, others in _placements():
        with (
            _database(fast(), its) as database,
            Setup(database, fast(), others) as setup,
        ):
            begin, before = cpu_seconds(setup.process), setup.agent.metrics()
            setup.load.begin()
            time.sleep(1)
            found = _samples(setup, _SECONDS)
            rate = setup.load.end()
            setup.catch_up()
            spent = cpu_seconds(setup.process) - begin
            after = setup.agent.metrics()
            memory = peak_memory(setup.process)
        transactions, batches = (
            after[name] - before[name] for name in ("transactions_total", "batches_total")
        )
        middle, late = statistics.median(found), statistics.quantiles(found, n=100)[98]
        yield Row(
            f"behind at {rate:.0f} creations/s, p99, {where}",
            f"{late * 1000:.0f} ms (p50 {middle * 1000:.0f} ms, {len(found)} samples)",
            "50 ms",
            late <= 0.05,
        )
        each = spent / load.entries(transactions)
        yield Row(
            f"CPU of the agent per entry, {where}",
            f"{each * 1e6:.0f} us ({load.entries(transactions) / batches:.0f} entries a batch),"
            f" memory {memory:.0f} MiB",
            "40 us",
            each <= 40e-6,
        )


def _samples(setup: Setup, seconds: float) -> list[float]:
    """How many seconds MySQL was behind, again and again."""
    found: list[float] = []
    end = time.monotonic() + seconds
    with setup.reader() as reader:
        while time.monotonic() < end:
            found.append(reader.lag(setup.load))
            time.sleep(0.02)
    return found


def _away(_: int) -> Iterator[Row]:
    """MySQL goes for a minute under load, which goes on when it is back."""
    with _database(fast()) as database, Setup(database, fast()) as setup:
        setup.load.begin()
        time.sleep(2)
        database.kill()
        time.sleep(_AWAY)
        database.start()
        begin = time.monotonic()
        behind = setup.agent.metrics()["behind_transactions"]
        with setup.reader() as reader:
            while reader.lag(setup.load) > _CAUGHT_UP:
                pass
        seconds = time.monotonic() - begin
        rate = setup.load.end()
        scans = setup.agent.metrics()["scans_total"]
    note = "" if scans == 1 else ", with a comparison in full"
    yield Row(
        f"to catch up after {_AWAY:.0f} s without MySQL, at {rate:.0f} creations/s",
        f"{seconds:.0f} s ({behind:.0f} transactions waited{note})",
        f"{_AWAY:.0f} s",
        seconds < _AWAY,
    )


# -- large stores --


def _scan(files: int) -> Iterator[Row]:
    """The first scan and the recovery of a large store, and the agent's memory meanwhile."""
    with contextlib.ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        needed = files * 6000
        if shutil.disk_usage(place).free < needed:
            text = f"{needed // 2**30} GiB of disk are needed in {place.parent}"
            yield Row(f"first scan of {files} files", text, "3 x")
            return
        database = undo.enter_context(_database())
        agent = undo.enter_context(Agent(place / "unit", database))
        directory = agent.stores / "export"
        keys = store.make(directory, files)
        say(f"bench: {keys} keys, {_size(directory) >> 20} MiB")
        read = _cat(directory)
        loaded = _load_data(database, place / "rows", files)
        database.create(agent.name, agent.user, agent.password)
        with contextlib.closing(sqlite3.connect(agent.metadata / "controlplane.db")) as plane:
            plane.execute("CREATE TABLE users (name TEXT)")
        begin = time.monotonic()
        agent.start()
        agent.wait(seconds=_LONG)
        wait_until(lambda: agent.status.get("control-plane", {}).get("copied"), _LONG)
        agent.wait(seconds=_LONG)
        seconds = time.monotonic() - begin
        yield _scanned(files, seconds, read, loaded)
        yield _memory(agent, files)
        yield _recovered(agent, files)


def _scanned(files: int, seconds: float, read: float, loaded: float) -> Row:
    ratio = seconds / (read + loaded)
    return Row(
        f"first scan of {files} files : `cat` and `LOAD DATA`",
        f"{ratio:.2f} ({seconds:.0f} s : {read:.1f} s + {loaded:.0f} s)",
        "3",
        ratio <= 3,
    )


def _cat(directory: Path) -> float:
    begin = time.monotonic()
    subprocess.run(["cat", *directory.iterdir()], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin


def _load_data(database: DatabaseServer, rows: Path, files: int) -> float:
    """Seconds for the same rows in the same tables."""
    store.write_for_load(rows, files)
    database.execute("CREATE DATABASE baseline")
    for table in TABLES:
        database.execute(table + TABLE_OPTIONS, database="baseline")
    begin = time.monotonic()
    with connected(database, "baseline") as connection, connection.cursor() as cursor:
        cursor.execute(
            f"LOAD DATA LOCAL INFILE '{rows}' INTO TABLE dittofs_entries"
            " CHARACTER SET binary (copy, name, version, size, value)"
        )
        assert cursor.rowcount == files * store.KEYS
    seconds = time.monotonic() - begin
    database.execute("DROP DATABASE baseline")
    rows.unlink()
    return seconds


def _memory(agent: Agent, files: int) -> Row:
    """At its peak while scanning, and while following afterwards."""
    assert agent.process
    scanning = peak_memory(agent.process.pid)
    reset_peak(agent.process.pid)
    with WriterLoad(agent.metadata) as writer:
        writer.begin()
        time.sleep(_SECONDS)
        writer.end()
    wait_until(lambda: agent.metrics()["behind_transactions"] == 0)
    following = peak_memory(agent.process.pid)
    return Row(
        f"memory of the agent at {files} files",
        f"{scanning:.0f} MiB scanning, {following:.0f} MiB following",
        "200 MiB",
        max(scanning, following) <= 200,
    )


def _recovered(agent: Agent, files: int) -> Row:
    what = f"recovery of {files} files : `mysqldump` of the tables"
    agent.stop()
    shutil.rmtree(agent.stores)
    (agent.metadata / "controlplane.db").unlink()
    dump = shutil.which("mariadb-dump") or shutil.which("mysqldump")
    # Before and after, as a machine is not the same all the time.
    dumped = [_dump(dump, agent)] if dump else []
    begin = time.monotonic()
    process = agent.spawn("recover")
    try:
        code = process.wait(_LONG)
    finally:
        process.kill()
    assert code == 0, agent.log[-3000:]
    seconds = time.monotonic() - begin
    if not dump:
        return Row(what, f"{seconds:.0f} s; there is no mariadb-dump or mysqldump here", "2")
    dumped.append(_dump(dump, agent))
    ratio = seconds / statistics.mean(dumped)
    return Row(
        what, f"{ratio:.2f} ({seconds:.1f} s : {statistics.mean(dumped):.1f} s)", "2", ratio <= 2
    )


def _dump(program: str, agent: Agent) -> float:
    """Seconds to write all of its tables into a file."""
    command = [program, "--no-defaults", "--host", HOST, "--port", str(agent.database.port)]
    command += ["--user", "admin", "--single-transaction", "--protocol", "tcp", agent.name]
    target = agent.root / "dump"
    begin = time.monotonic()
    with target.open("wb") as file:
        subprocess.run(command, stdout=file, check=True)
    seconds = time.monotonic() - begin
    target.unlink()
    return seconds


def _size(directory: Path) -> int:
    return sum(each.stat().st_size for each in directory.iterdir())


# -- nothing to do --


def _idle(_: int) -> Iterator[Row]:
    """What the agent uses while nothing changes, with one store and with five at a time."""
    counts = (1, 5)
    with contextlib.ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        database = undo.enter_context(_database())
        processes: list[int] = []
        for count in counts:
            name = f"idle_{count}"
            agent = undo.enter_context(Agent(place / name, database, name=name, user=name))
            database.create(name, name, agent.password)
            for number in range(count):
                write(agent.stores / f"store-{number}", {b"key": b"value"})
            agent.start()
            wait_until(
                lambda agent=agent, count=count: len(agent.status.get("stores", [])) == count
            )
            agent.wait()
            assert agent.process
            processes.append(agent.process.pid)
        time.sleep(2)
        before = [cpu_seconds(each) for each in processes]
        time.sleep(_IDLE)
        used = [
            cpu_seconds(each) - each_before
            for each, each_before in zip(processes, before, strict=True)
        ]
    shares = [each / _IDLE * 100 for each in used]
    yield Row(
        f"CPU of the agent in a minute without a change, {counts[0]} store and {counts[1]}",
        " and ".join(f"{each:.2f} %" for each in shares) + " of a core",
        "0.5 %",
        max(shares) <= 0.5,
    )


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "creations": _creations,
    "lag": _lag,
    "away": _away,
    "scan": _scan,
    "idle": _idle,
}
