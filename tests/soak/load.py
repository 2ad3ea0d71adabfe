"""What writes during the soak: the stand-in's writer, or the real server under NFS clients."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Protocol

from tests import servers
from tests.agent.rig import Agent
from tests.contract.server import Server
from tests.databases import ROOT
from tests.soak.clients import Clients, tree
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

    def end(self) -> None:
        """End what writes in good order while it is asked to write on."""

    def lost(self, seconds: float) -> None:
        """What was acknowledged for so long may be lost."""

    def differences(self) -> list[str]:
        """What was acknowledged and is not there; nothing may be at work."""
        ...

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

    def end(self) -> None:
        """The same: it writes until it is told to end."""
        self.stop()

    def lost(self, seconds: float) -> None:
        """The record knows the state of every version."""

    def differences(self) -> list[str]:
        """The record is compared with MySQL instead, all the time."""
        return []

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
        self.clients = Clients(
            scratch / "clients", seed, [f"/client-{number}" for number in range(_CLIENTS)]
        )
        self._server = Server(servers.server(), agent.root)
        self._made = False

    def start(self) -> None:
        """Start the server and the clients."""
        self._server.start()
        if not self._made:
            self._server.make_share()
            self._server.api("PUT", "/shares/export", {"default_permission": "read-write"})
            self._made = True
        self.clients.start()

    def kill(self) -> None:
        """End the server with -9, under the clients' load."""
        self._server.stop(signal.SIGKILL)
        self.clients.end()

    def stop(self) -> None:
        """End the clients, then the server, in good order."""
        self.clients.end()
        self._server.stop()

    def end(self) -> None:
        """End the server in good order, under the clients' load."""
        self.clients.ending()
        self._server.stop()
        self.clients.end()

    def lost(self, seconds: float) -> None:
        """What was acknowledged for so long may be lost."""
        self.clients.lost(seconds)

    def summary(self) -> str:
        """The operations that were acknowledged."""
        known = self.clients.known()
        return ", ".join(f"{count} x {name}" for name, count in known.operations.items())

    def tree(self) -> dict[str, str]:
        """Every path of the share, with a digest of what the server reads there."""
        self._server.start()
        try:
            return tree("/")
        finally:
            self._server.stop()

    def differences(self) -> list[str]:
        """What the clients were told and is not so."""
        return self.clients.known().differences(self.tree())
