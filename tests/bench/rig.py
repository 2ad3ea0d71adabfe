"""One volume with something that writes it, a database server, and an agent between them."""

import contextlib
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import pymysql

from tests.agent.rig import Agent, wait_until
from tests.bench import load
from tests.bench.load import Load
from tests.bench.process import pinned
from tests.databases import DatabaseServer
from tests.ports import HOST

_GIB = 2**30
_POLL = 0.001
_FIND = (
    "SELECT 1 FROM dittofs_entries e JOIN dittofs_stores s ON e.copy = s.copy WHERE e.name = %s"
)
_SEEN = 0.5  # it looks more often


def database_server(folder: Path) -> DatabaseServer:
    """A server whose commits are durable, as is the default, and that has some memory."""
    server = DatabaseServer(
        folder,
        durable=True,
        innodb_buffer_pool_size=_GIB,
        max_allowed_packet=16 * 2**20,
        local_infile=1,
    )
    name = "innodb_log_file_size" if server.program.mariadb else "innodb_redo_log_capacity"
    server.options[name] = _GIB // 2
    return server


def connected(database: DatabaseServer, name: str) -> "pymysql.Connection[Any]":
    """A connection of an administrator who may send files; each statement commits."""
    return pymysql.connect(
        host=HOST,
        port=database.port,
        user="admin",
        database=name,
        autocommit=True,
        local_infile=True,
    )


class Setup:
    """A new volume and database for each use; a context manager.

    Args:
        database: the server, which runs.
        place: where to make the volume; None: the usual place for temporary files.
        cores: of everything but the database server; None: all.
        mirrored: whether there is an agent.
    """

    def __init__(
        self,
        database: DatabaseServer,
        place: Path | None = None,
        cores: set[int] | None = None,
        *,
        mirrored: bool = True,
    ):
        self._place = place
        self._undo = contextlib.ExitStack()
        self._database = database
        self._cores = cores
        self._mirrored = mirrored
        self._name = f"bench_{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            root = Path(undo.enter_context(tempfile.TemporaryDirectory(dir=self._place)))
            self.agent = Agent(root, self._database, name=self._name, user=self._name)
            self._database.create(self._name, self._name, self.agent.password)
            undo.callback(self._database.execute, f"DROP DATABASE {self._name}")
            undo.enter_context(self.agent)
            self.load: Load = undo.enter_context(load.make(self.agent.root, self._cores))
            if self._mirrored:
                self.start_agent()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def start_agent(self) -> None:
        """Start it and wait until it follows the store, if there is one yet."""
        with pinned(self._cores):
            self.agent.start()
        self.agent.wait()
        if any(self.agent.stores.iterdir()):
            wait_until(lambda: self.agent.status.get("stores"))
            self.agent.wait()

    @property
    def process(self) -> int:
        """The agent's."""
        assert self.agent.process
        return self.agent.process.pid

    def creations(self, seconds: float) -> float:
        """Creations a second over so many seconds."""
        self.load.begin()
        time.sleep(seconds)
        return self.load.end()

    def catch_up(self) -> None:
        """Wait until the agent has nothing left to write."""
        time.sleep(_SEEN)
        wait_until(lambda: self._behind() == 0)

    def _behind(self) -> float:
        return self.agent.metrics()["behind_transactions"]

    def reader(self) -> "Reader":
        """Somebody else who reads the database."""
        return Reader(self._database, self._name)


class Reader:
    """Reads the mirror's tables with a connection of its own; a context manager."""

    def __init__(self, database: DatabaseServer, name: str):
        self._connection = connected(database, name)
        self._directory = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def lag(self, load: Load) -> float:
        """Seconds from an acknowledgement to the moment that the key is there."""
        acknowledged, key = load.sample()
        if key.startswith(b":"):
            key = self._whole(key)
        while not self._select(_FIND, key):
            time.sleep(_POLL)
        return time.monotonic() - acknowledged

    def _whole(self, end: bytes) -> bytes:
        """The key of a sample in the server's store."""
        while not self._directory:
            for (value,) in self._select(
                "SELECT value FROM dittofs_entries WHERE name LIKE 'c:%:samples'"
            ):
                self._directory = str(UUID(bytes=value)).encode()
        return b"c:" + self._directory + end

    def _select(self, query: str, *values: bytes) -> tuple[Any, ...]:
        with self._connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return tuple(cursor.fetchall())
