"""What writes during the soak: the stand-in's writer, or the real server under NFS clients."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Protocol

from tests import servers
from tests.agent.rig import Agent
from tests.contract.server import Server
from tests.databases import ROOT
from tests.nfs import Client
from tests.soak.writer import Record

_CLIENTS = 4


class Load(Protocol):
    """Something that writes the store `export` of a volume."""

    record: Record | None

    def start(self) -> None:
        """Begin to write."""

    def kill(self) -> None:
        """End it as a crash does; everything that was acknowledged is in the store."""

    def stop(self) -> None:
        """End it in good order."""

    def summary(self) -> str:
        """What was written."""
        ...


class StandInLoad:
    """Random transactions, each on record."""

    def __init__(self, agent: Agent, scratch: Path, seed: int, rate: int):
        self._store = agent.stores / "export"
        self._path = scratch / "record"
        self._seed = seed
        self._rate = rate
        self._process: subprocess.Popen[bytes] | None = None
        self.record: Record | None = Record(self._path)
        database = agent.metadata / "controlplane.db"
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE users (name TEXT)")

    def start(self) -> None:
        """Begin to write."""
        self._seed += 1
        # fmt: off
        command = [
            sys.executable, "-m", "tests.soak.writer",
            str(self._store), str(self._path), str(self._seed), str(self._rate),
        ]
        # fmt: on
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it with -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it: everything is in tables afterwards."""
        self._end(signal.SIGTERM)

    def summary(self) -> str:
        """The transactions on record."""
        with self._path.open() as file:
            return f"{sum(1 for _ in file)} transactions written"

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None


class ServerLoad:
    """The real server; clients create, rename, link, truncate and remove files over NFS."""

    record: Record | None = None

    def __init__(self, agent: Agent, scratch: Path, seed: int):
        self._seed = seed
        self._counts = scratch / "counts"
        self._log = scratch / "clients.log"
        self._server = Server(servers.server(), agent.root)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._clients: dict[int, subprocess.Popen[bytes]] = {}
        self._made = False

    def start(self) -> None:
        """Start the server and the clients."""
        self._server.start()
        if not self._made:
            self._server.make_share()
            self._server.api("PUT", "/shares/export", {"default_permission": "read-write"})
            self._made = True
        self._stop.clear()
        self._threads = [
            threading.Thread(target=self._work, args=(number,)) for number in range(_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def kill(self) -> None:
        """End the server with -9, under the clients' load."""
        self._server.stop(signal.SIGKILL)
        self._end_clients()

    def stop(self) -> None:
        """End the clients, then the server, in good order."""
        self._end_clients()
        self._server.stop()

    def summary(self) -> str:
        """The operations that were acknowledged."""
        names = {"c": "create", "r": "rename", "l": "link", "t": "truncate", "u": "unlink"}
        counts = Counter(self._counts.read_text())
        return ", ".join(f"{counts[letter]} x {name}" for letter, name in names.items())

    def tree(self) -> dict[str, str]:
        """Every path of the share, with a digest of what the server reads there."""
        self._server.start()
        try:
            with Client("/export") as client:
                return {
                    path: hashlib.sha256(client.read(path)).hexdigest() for path in client.walk()
                }
        finally:
            self._server.stop()

    def _end_clients(self) -> None:
        self._stop.set()
        for client in list(self._clients.values()):
            client.kill()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        """Keep one client at work."""
        # fmt: off
        command = [
            sys.executable, "-m", "tests.soak.client",
            str(number), str(self._seed), str(self._counts),
        ]
        # fmt: on
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        while not self._stop.is_set():
            with self._log.open("ab") as log:
                client = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self._clients[number] = client
            client.wait()
            self._stop.wait(0.1)
