"""A real server for the whole run, and a database on it for each test."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.mysql import Database, Identity, Server
from tests import bed, databases

PASSWORD = "p'ä\\ss"
IDENTITY = Identity("instance-1", 1, "dittofs", "prod", "model-uuid", '{"a": "ä"}')
_MYSQL = {
    "gtid_mode": "ON",
    "enforce_gtid_consistency": "ON",
    "sql_require_primary_key": "ON",
    "sql_mode": "ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH",
    "transaction_isolation": "SERIALIZABLE",
    "character_set_server": "latin1",
}
_MARIADB = {
    "innodb_force_primary_key": "ON",
    "lower_case_table_names": 1,
    "sql_mode": "ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH",
    "transaction_isolation": "SERIALIZABLE",
    "character_set_server": "latin1",
}
_numbers = itertools.count(1)


@dataclass
class Place:
    """A database, and how it is reached."""

    server: databases.DatabaseServer
    name: str
    password: str = PASSWORD

    def access(self, port: int | None = None, **changes: object) -> Server:
        """How the user of the database logs in, by a proxy where `port` is one."""
        given = {
            "endpoints": ((databases.HOST, port or self.server.port),),
            "user": self.name,
            "password": self.password,
            "database": self.name,
            **changes,
        }
        return Server(**given)  # pyright: ignore[reportArgumentType]  # a test's own fields

    def query(self, statement: str) -> list[tuple]:
        return self.server.execute(statement, database=self.name)

    def tables(self) -> set[str]:
        return {name for (name,) in self.query("SHOW TABLES")}

    def count(self, table: str) -> int:
        return self.query(f"SELECT COUNT(*) FROM dittofs_{table}")[0][0]


@pytest.fixture(scope="session", autouse=True)
def own_namespaces() -> None:
    """They are entered before anything is started, where the machine allows it."""
    bed.enter()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """A server with the smallest packets and the strictest settings that the mirror works with."""
    server = databases.DatabaseServer(
        tmp_path_factory.mktemp("mysql") / "server",
        max_allowed_packet=2**20,
        local_infile=0,
        server_id=1,
        log_bin="binlog",
    )
    server.start(**(_MARIADB if server.program.mariadb else _MYSQL))
    yield server
    server.close()


@pytest.fixture
def new_place() -> Callable[..., Place]:
    """Makes a database on a server."""

    def make(server: databases.DatabaseServer, rights: str = databases.RIGHTS) -> Place:
        name = f"mirror_{next(_numbers)}"
        server.create(name, name, PASSWORD, rights)
        return Place(server, name)

    return make


@pytest.fixture
def place(shared_server, new_place):
    """A database on the shared server."""
    return new_place(shared_server)


@pytest.fixture
def connect():
    """Makes connected Database objects and ends their connections."""
    made: list[Database] = []

    def make(access: Server, **options: float) -> Database:
        database = Database(access, **options)
        made.append(database)
        database.connect()
        return database

    yield make
    for database in made:
        database.close()


@pytest.fixture
def database(place, connect):
    """A connected Database that has claimed its mirror."""
    made = connect(place.access())
    made.claim(IDENTITY)
    return made


@pytest.fixture
def own_server(tmp_path: Path):
    """A server for one test, which may do to it what it wants; it is not started."""
    server = databases.DatabaseServer(tmp_path / "server", max_allowed_packet=2**20, durable=True)
    yield server
    server.close()


def pytest_terminal_summary(terminalreporter):
    """Say what it was that was tested."""
    terminalreporter.write_line(f"mysql: {databases.find_program()}")
