"""One connection to one MySQL server, with the settings that the mirror relies on."""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pymysql

from agent.mysql_errors import (
    AwayError,
    DatabaseError,
    RefusedError,
    few_connections,
    translate,
)
from agent.mysql_statements import CONNECTIONS, LEAST_PACKET

# A server that lives but is slow has three times as long to answer as a host has to show a sign of
# life: what it was told it would be told again otherwise, and never get done.
_PATIENCE = 3
# Seconds after which the server ends a session that says nothing, and with it the locks that an
# agent has that is gone with its node. A session that lives is checked when it was idle.
_WAIT_TIMEOUT = 60
_IDLE = 15.0
_SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO"
# The numbers of errors that clients find themselves.
_DRIVERS_OWN = range(2000, 3000)
# What PyMySQL makes of a greeting that no MySQL sends, besides its own errors.
_NO_MYSQL = (OSError, ValueError, LookupError, struct.error, AssertionError, RuntimeError)


@dataclass(frozen=True)
class Server:
    """Where the database is, and how to log in.

    Attributes:
        endpoints: hosts and ports, the preferred one first.
        tls: whether the connection has to be encrypted; it is too where the server offers it.
        ca: certificates (PEM) one of which has to have signed the server's; its name is not
            looked at, as relations give addresses. None takes any certificate.
    """

    endpoints: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    database: str
    tls: bool = False
    ca: str | None = field(default=None, repr=False)


class Session:
    """A connection that is in a transaction whenever it has read or written something.

    A context manager that closes it.

    Raises:
        DatabaseError: all its methods do, with the subclass that fits.
    """

    def __init__(self, server: Server, endpoint: tuple[str, int], timeout: float):
        self.endpoint = address(*endpoint)
        self.used = time.monotonic()
        self._database = server.database
        self._account = f"'{server.user}'@'%'"
        self._connection = _connect(server, endpoint, timeout)
        try:
            self._set_up(timeout)
            self.version, self.packet, self.writable = self._look()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Session":  # noqa: PYI034  # typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, statement: str) -> int:
        """Execute a statement and give the number of rows it changed."""
        with self._translated(), self._connection.cursor() as cursor:
            return cursor.execute(statement)

    def select(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._translated(), self._connection.cursor() as cursor:
            cursor.execute(query)
            return [tuple(row) for row in cursor.fetchall()]

    def commit(self) -> None:
        """Commit; where this fails the transaction may have been committed all the same."""
        with self._translated():
            self._connection.commit()

    def rollback(self) -> None:
        """Undo what was not committed, also by ending the connection."""
        try:
            self._connection.rollback()
        except (pymysql.MySQLError, OSError):
            self.close()

    def check(self) -> None:
        """See whether the connection still lives."""
        with self._translated():
            self._connection.ping()

    def idle(self) -> bool:
        """Whether it was not used for so long that the server may have closed it."""
        return time.monotonic() - self.used > _IDLE

    def check_limits(self) -> None:
        """See that the account may have as many connections as the agent needs."""
        ((allowed,),) = self.select("SELECT @@session.max_user_connections")
        if 0 < int(allowed) < CONNECTIONS:
            raise few_connections(int(allowed), self.endpoint, self._account)

    @property
    def open(self) -> bool:
        """Whether it was not closed, by anyone who said so."""
        return self._connection.open

    def close(self) -> None:
        """End the connection; what was not committed is undone."""
        with contextlib.suppress(pymysql.MySQLError, OSError):
            self._connection.close()

    def _set_up(self, timeout: float) -> None:
        # A lock is waited for much shorter than an answer, several times.
        lock = max(1, int(timeout / 5))
        self.execute(
            f"SET SESSION sql_mode = '{_SQL_MODE}', time_zone = '+00:00',"
            f" wait_timeout = {_WAIT_TIMEOUT}, innodb_lock_wait_timeout = {lock},"
            f" lock_wait_timeout = {lock}"
        )
        self.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def _look(self) -> tuple[str, int, bool]:
        ((number, comment, packet, account, *read_only),) = self.select(
            "SELECT VERSION(), @@version_comment, @@max_allowed_packet, CURRENT_USER(),"
            " @@global.read_only, @@global.innodb_read_only"
        )
        self.rollback()
        user, _, host = str(account).rpartition("@")
        self._account = f"'{user}'@'{host}'"
        if int(packet) < LEAST_PACKET:
            raise RefusedError(
                "packet",
                f"SET GLOBAL max_allowed_packet = {LEAST_PACKET}, or more: {self.endpoint}: it is"
                f" {packet}, and has to be {LEAST_PACKET}",
            )
        writable = all(str(value).upper() in {"0", "OFF"} for value in read_only)
        return _product(str(number), str(comment)), int(packet), writable

    @contextlib.contextmanager
    def _translated(self) -> Generator[None, None, None]:
        """Make errors of the driver our own, and leave no connection in the middle of a reply."""
        if not self._connection.open:
            raise AwayError("lost", f"{self.endpoint}: the connection is closed")
        answered = False
        try:
            yield
            answered = True
        except pymysql.MySQLError as error:
            answered = _is_answer(error)
            raise translate(error, self.endpoint, self._database, self._account) from error
        except OSError as error:
            raise translate(error, self.endpoint, self._database, self._account) from error
        finally:
            self.used = time.monotonic()
            if not answered:
                self.close()


def address(host: str, port: int) -> str:
    """An endpoint as people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_answer(error: pymysql.MySQLError) -> bool:
    """Whether the server said it, not the driver."""
    number = error.args[0] if error.args else 0
    return isinstance(number, int) and number > 0 and number not in _DRIVERS_OWN


def _product(number: str, comment: str) -> str:
    """The server's name and version; Percona's and Oracle's differ in the comment only."""
    if "mariadb" in number.lower():
        # Behind a proxy it is 5.5.5-10.11.6-MariaDB.
        return "MariaDB " + number.removeprefix("5.5.5-").split("-")[0]
    name = "Percona Server" if "percona" in comment.lower() else "MySQL"
    return f"{name} {number.split('-', maxsplit=1)[0]}"


def _connect(
    server: Server, endpoint: tuple[str, int], timeout: float
) -> "pymysql.Connection[Any]":
    where, account = address(*endpoint), f"'{server.user}'@'%'"
    connection = _prepared(server, endpoint, timeout)
    try:
        connection.connect(_greeted(endpoint, timeout))
    except (pymysql.MySQLError, *_NO_MYSQL) as error:
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            raise AwayError("refused", f"{where}: {error}") from error
        raise translate(error, where, server.database, account) from error
    return connection


def _prepared(
    server: Server, endpoint: tuple[str, int], timeout: float
) -> "pymysql.Connection[Any]":
    context = _tls_context(server.ca) if server.tls else None
    try:
        return pymysql.connect(
            host=endpoint[0],
            port=endpoint[1],
            user=server.user,
            # As bytes: PyMySQL would encode a string as Latin-1.
            password=server.password.encode(),
            database=server.database,
            charset="utf8mb4",
            autocommit=False,
            read_timeout=timeout * _PATIENCE,
            write_timeout=timeout * _PATIENCE,
            program_name="dittofs-agent",
            defer_connect=True,
            ssl=context,
        )
    except (ValueError, TypeError) as error:
        raise DatabaseError("config", f"{address(*endpoint)}: {error}") from error


def _tls_context(ca: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=ca) if ca else ssl.create_default_context()
    except (ssl.SSLError, ValueError) as error:
        raise RefusedError("tls", f"the relation's CA is no certificate: {error}") from error
    context.check_hostname = False
    # Certificates that MySQL makes for itself lack extensions that newer Pythons ask for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_mode = ssl.CERT_REQUIRED if ca else ssl.CERT_NONE
    return context


def _greeted(endpoint: tuple[str, int], timeout: float) -> socket.socket:
    """A socket on which the server has begun to speak: a stopped one accepts connections too."""
    sock = socket.create_connection(endpoint, timeout)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A host that is gone is noticed within the timeout, however long its answer may take.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(timeout / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(timeout / 4)))
        greeted = select.select([sock], [], [], timeout)[0]
    except BaseException:
        sock.close()
        raise
    if not greeted:
        sock.close()
        raise TimeoutError(f"no greeting within {timeout:g} s")
    return sock
