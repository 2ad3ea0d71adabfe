"""What writes while the mirror is measured: the real server under NFS clients, or a writer."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from tests import servers
from tests.bench import store
from tests.bench.process import pinned
from tests.contract.server import Server
from tests.databases import ROOT
from tests.nfs import Client, missing
from tests.ports import HOST

_CLIENTS = 4
_RATE = 500
_TIMEOUT = 60.0
_SAMPLES = "samples"


def no_server() -> str:
    """Why creations cannot be counted; empty where they can."""
    if not servers.server().real:
        return "there is no real server here (`dfs` on PATH)"
    return f"there is no {missing()} here" if missing() else ""


class Creators:
    """Processes that create files between `begin` and `end`."""

    def __init__(self, *calls: Sequence[str]):
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.creator", *call],
                env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for call in calls
        ]

    def begin(self) -> None:
        """Let them create files."""
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        self._tell()

    def end(self) -> float:
        """Creations a second, of all of them."""
        self._tell()
        rate = 0.0
        for process in self._processes:
            assert process.stdout is not None
            count, seconds = process.stdout.readline().split()
            rate += int(count) / float(seconds)
            process.wait(_TIMEOUT)
        return rate

    def close(self) -> None:
        """End them now."""
        for process in self._processes:
            process.kill()
            process.communicate()

    def _tell(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")


class Load(Protocol):
    """Something that writes the store `export` of a volume; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self) -> None:
        """Begin to create files."""
        ...

    def end(self) -> float:
        """Cease; creations a second."""
        ...

    def sample(self) -> tuple[float, bytes]:
        """When a key that is new was acknowledged, by the monotonic clock, and the key's end."""
        ...


class ServerLoad:
    """The real server with one share, and NFS clients that create files of 4 KiB.

    Args:
        root: a folder; the metadata volume is `data/metadata` in it.
        cores: of server and clients; None: all.
        postgres: the port of a PostgreSQL server to use instead of Badger.
    """

    def __init__(self, root: Path, cores: set[int] | None = None, postgres: int = 0):
        self._server = Server(servers.server(), root)
        self._cores = cores
        self._postgres = postgres
        self._creators: Creators | None = None
        self._sampler: Client | None = None
        self._sampled = 0
        self._rounds = 0

    def __enter__(self) -> Self:
        with pinned(self._cores):
            self._server.start()
        try:
            if self._postgres:
                self._make_postgres_share()
            else:
                self._server.make_share()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._creators:
            self._creators.close()
        if self._server.process:
            self._server.process.kill()
            self._server.process.wait()

    def begin(self) -> None:
        """Begin to create files, in new directories."""
        self._rounds += 1
        with pinned(self._cores):
            self._creators = Creators(
                *(["client", "/export", f"/{self._rounds}-{each}"] for each in range(_CLIENTS))
            )
        self._creators.begin()

    def end(self) -> float:
        """Cease; creations a second."""
        assert self._creators
        return self._creators.end()

    def sample(self) -> tuple[float, bytes]:
        """Create an empty file."""
        if self._sampler is None:
            self._sampler = Client("/export")
            self._sampler.mkdir(f"/{_SAMPLES}")
        self._sampled += 1
        name = f"sample-{self._sampled}"
        self._sampler.create(f"/{_SAMPLES}/{name}", b"")
        return time.monotonic(), f":{name}".encode()

    def _make_postgres_share(self) -> None:
        config = (
            f'{{"host": "{HOST}", "port": {self._postgres}, "database": "postgres",'
            ' "user": "dittofs", "password": "unused"}'
        )
        content = f'{{"path": "{self._server.root}/content", "max_size": 1073741824}}'
        made = [
            self._server.api(
                "POST",
                "/store/metadata",
                {"name": "export", "type": "postgres", "config": config},
            ),
            self._server.api(
                "POST",
                "/store/block/local",
                {"name": "volume", "type": "fs", "config": content},
            ),
            self._server.api(
                "POST",
                "/shares",
                {
                    "name": "/export",
                    "metadata_store_id": "export",
                    "local_block_store": "volume",
                    "default_permission": "read-write",
                },
            ),
        ]
        assert all(each.status_code == 201 for each in made), [each.text for each in made]


class WriterLoad:
    """What the server writes into its store for each creation, at a fixed rate, without it."""

    def __init__(self, volume: Path, rate: int = _RATE):
        self._store = volume / "stores/export"
        self._noted = volume / "noted"
        self._rate = rate
        self._creators: Creators | None = None
        self._read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._creators:
            self._creators.close()

    def begin(self) -> None:
        """Begin to write."""
        self._creators = Creators(["writer", str(self._store), str(self._rate), str(self._noted)])
        self._creators.begin()

    def end(self) -> float:
        """Cease; creations a second."""
        assert self._creators
        return self._creators.end()

    def sample(self) -> tuple[float, bytes]:
        """The next one that the writer noted, from now on."""
        before = time.monotonic()
        while True:
            for line in self._noted.read_text().splitlines():
                noted, key = line.split()
                if float(noted) > before:
                    return float(noted), bytes.fromhex(key)
            time.sleep(0.001)


def make(root: Path, cores: set[int] | None = None) -> Load:
    """The best load that there can be here, on the metadata volume `data/metadata` of a root."""
    return WriterLoad(root / "data/metadata") if no_server() else ServerLoad(root, cores)


def entries(transactions: float) -> float:
    """How many changes of keys are in so many transactions of creations."""
    return transactions * store.ENTRIES / store.TRANSACTIONS
