"""The mirror in MySQL: one row per key of each store, and the position that they stand for.

A mirror belongs to one instance (a metadata volume), and one agent writes it: each transaction
that writes first changes the mirror's own row, on the condition that the epoch in it is still the
one this agent was given by `claim`. That is the lock between two agents too, also where they are
connected to two members of a cluster. A store has a number that goes up with each transaction, so
that a failover to a server that lost some is noticed.

Entries belong to a copy, a number: a scan fills a new copy while the old one is still what counts,
and one short transaction makes it the current one. What no store refers to any more is garbage.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TypeVar

from agent import mysql_owner, mysql_reading
from agent import mysql_statements as sql
from agent.mysql_errors import AwayError, DatabaseError, RefusedError, SupersededError
from agent.mysql_owner import NOW, ForeignError, Identity, MirrorRow
from agent.mysql_sequence import Sequences, StoreRow
from agent.mysql_session import Server, Session
from agent.mysql_writing import PARTS_AT_ONCE, Purge, Writer, check_keys, unused_copy

__all__ = [
    "AwayError",
    "Database",
    "DatabaseError",
    "ForeignError",
    "Identity",
    "MirrorRow",
    "RefusedError",
    "Server",
    "StoreRow",
    "SupersededError",
]

_TRIES = 4
_FIRST_PAUSE = 0.05

_Result = TypeVar("_Result")


class Database:
    """The mirror's database; for one thread at a time.

    After an AwayError: `connect` again, read `stores` again, go on from the positions there. What
    was tried has happened wholly or not at all; doing it again is harmless.

    Args:
        server: where it is.
        timeout: seconds for a host to show a sign of life. A statement may take three times as
            long.

    Raises:
        AwayError, RefusedError, SupersededError, DatabaseError: by any method that asks MySQL.
    """

    def __init__(self, server: Server, *, timeout: float = 10.0):
        self._server = server
        self._timeout = timeout
        self._session: Session | None = None
        self._endpoint = ("", 0)
        self._mine: tuple[str, int] | None = None
        self._sequences = Sequences()
        self._building: dict[int, str] = {}
        self._writer = Writer()
        self._purge = Purge()
        self.version = ""
        self.endpoint = ""

    # -- connection --

    def connect(self) -> None:
        """Connect to the first endpoint that can be written to.

        Raises:
            RefusedError: there is none, and this is why one of them is none for good.
            AwayError: there is none now.
        """
        self.close()
        problems: list[DatabaseError] = []
        for endpoint in self._server.endpoints:
            try:
                session = Session(self._server, endpoint, self._timeout)
            except DatabaseError as error:
                problems.append(error)
                continue
            if session.writable:
                self._session, self._endpoint = session, endpoint
                self.version, self.endpoint = session.version, session.endpoint
                return
            session.close()
            text = f"{session.endpoint}: the server is read-only"
            problems.append(AwayError("read-only", text))
        raise _worst(problems)

    def close(self) -> None:
        """End the connection."""
        if self._session:
            self._session.close()
            self._session = None

    def ping(self) -> None:
        """See whether MySQL is there."""
        self._ready().check()

    def _ready(self) -> Session:
        """The connection; a new one where the server may have closed it as nobody used it."""
        session = self._session
        if session and session.open and session.idle():
            try:
                session.check()
            except AwayError:
                session.close()
        if session is None or not session.open:
            self.connect()
        if self._session is None:
            raise AwayError("lost", "there is no connection")
        return self._session

    def _transact(self, work: Callable[[Session], _Result]) -> _Result:
        """Do `work` in a transaction, again where another one was in the way."""
        pause = _FIRST_PAUSE
        tries = 1
        while True:
            session = self._ready()
            done = False
            try:
                result = work(session)
                session.commit()
                done = True
            except AwayError as error:
                if error.kind != "lock" or tries == _TRIES:
                    raise
            else:
                return result
            finally:
                if not done:
                    session.rollback()
                    self._writer.reset()
            time.sleep(pause)
            pause, tries = pause * 2, tries + 1

    # -- whose mirror it is --

    def inspect(self) -> MirrorRow | None:
        """Whose mirror the database has; it is not changed, and None where it has none."""

        def work(session: Session) -> MirrorRow | None:
            return mysql_owner.read(session) if mysql_owner.schema_exists(session) else None

        return self._transact(work)

    def claim(self, identity: Identity) -> MirrorRow:
        """Become the one that writes: make what is missing, and start a new epoch.

        Raises:
            ForeignError: it is the mirror of another instance.
            SupersededError: an agent of a newer generation has it.
            RefusedError: among others, it may not do all that it will have to do.
        """
        self._transact(Session.check_limits)
        if not self._transact(mysql_owner.schema_exists):
            self._transact(mysql_owner.create_schema)

        def work(session: Session) -> MirrorRow | None:
            found = mysql_owner.read(session, lock=True)
            if found:
                mysql_owner.check(found, identity)
            mysql_owner.write(session, identity, found)
            # Rights that nothing else here asks for, each of its own: the first one that is
            # missing is named.
            session.execute("DELETE FROM dittofs_entries WHERE copy = 0 AND name = x''")
            session.execute(
                "INSERT INTO dittofs_tombstones SELECT copy, name FROM dittofs_entries WHERE FALSE"
            )
            return mysql_owner.read(session)

        taken = self._transact(work)
        if not taken:
            raise AwayError("emptied", "somebody removed the mirror's row while it was taken")
        self._mine = (taken.instance, taken.epoch)
        self._sequences.reset({})
        self._building.clear()
        self._writer.reset()
        self._purge.reset()
        return taken

    # -- one writer --

    def _own(self, session: Session) -> None:
        """Lock the mirror, and see that it is still this agent's."""
        instance, epoch = self._claimed()
        if not session.execute(
            f"UPDATE dittofs_mirror SET writes = writes + 1, updated = {NOW} WHERE id = 1"
            f" AND instance = {sql.text(instance)} AND epoch = {epoch}"
        ):
            raise self._disowned(session)

    def _own_store(self, session: Session, name: str, where: str, change: str = "") -> int:
        """The same, and count a transaction of the store.

        Args:
            session: the connection.
            name: the store's.
            where: how the store's row `s` has to be.
            change: sets further columns of that row.

        Returns:
            What `Sequences.seen` is to be told when the transaction was committed.
        """
        instance, epoch = self._claimed()
        first, last, number = self._sequences.next(name)
        if not session.execute(
            "UPDATE dittofs_mirror m"
            f" JOIN dittofs_stores s ON s.name = {sql.binary(name.encode())}"
            f" SET m.writes = m.writes + 1, m.updated = {NOW}, s.sequence = {number}{change}"
            f" WHERE m.id = 1 AND m.instance = {sql.text(instance)} AND m.epoch = {epoch}"
            f" AND s.sequence BETWEEN {first} AND {last} AND {where}"
        ):
            raise self._disowned(session, name, where)
        return number

    def _claimed(self) -> tuple[str, int]:
        if self._mine is None:
            raise DatabaseError("unclaimed", "claim() the mirror before writing to it")
        return self._mine

    def _disowned(self, session: Session, name: str = "", where: str = "TRUE") -> DatabaseError:
        """Why nothing was changed."""
        found = mysql_owner.read(session)
        if not found:
            return AwayError("emptied", f"{session.endpoint}: somebody removed the mirror's row")
        if (found.instance, found.epoch) != self._mine:
            return SupersededError(
                "superseded",
                f"instance {found.instance}, generation {found.generation}, epoch {found.epoch}"
                f" has the mirror; this agent was epoch {self._claimed()[1]}",
            )
        if session.select(
            "SELECT s.sequence FROM dittofs_stores s"
            f" WHERE s.name = {sql.binary(name.encode())} AND {where}"
        ):
            return AwayError(
                "rewound",
                f"{session.endpoint}: MySQL lacks transactions of {name} that it acknowledged"
                " (a failover to a server that lagged behind?)",
            )
        return DatabaseError("copy", f"{name} is not in MySQL, or not with this copy")

    # -- following --

    def stores(self) -> dict[str, StoreRow]:
        """The stores of the mirror by name, as they are now; none where there is no mirror."""

        def work(session: Session) -> dict[str, StoreRow]:
            found = mysql_reading.unless_missing(
                session, "SELECT name, copy, position, sequence FROM dittofs_stores"
            )
            return {
                name.decode(): StoreRow(name.decode(), copy, position, sequence)
                for name, copy, position, sequence in found
            }

        found = self._transact(work)
        self._sequences.reset(found)
        return found

    def apply(
        self, store: StoreRow, changes: Mapping[bytes, tuple[int, bytes | None]], position: str
    ) -> None:
        """Write changes of a store and the position behind them, in one transaction.

        Args:
            store: as `stores` or `finish_copy` gave it; one from before earlier calls will do.
            changes: key -> (version, value), or (version, None) where it was deleted.
            position: text of at most 64 KiB.
        """
        check_keys(changes)
        self._sequences.seen_before(store.name, store.sequence)

        def work(session: Session) -> int:
            number = self._own_store(
                session,
                store.name,
                f"s.copy = {store.copy} AND s.copy > 0",
                f", s.position = {sql.text(position)}",
            )
            self._writer.write(session, store.copy, changes, bury=False)
            return number

        self._sequences.seen(store.name, self._transact(work))

    def forget(self, name: str) -> bool:
        """Take a store out of the mirror; whether it was in it."""

        def work(session: Session) -> bool:
            self._own(session)
            key = sql.binary(name.encode())
            return bool(session.execute(f"DELETE FROM dittofs_stores WHERE name = {key}"))

        was_there = self._transact(work)
        self._stop_building(name)
        return was_there

    # -- scanning --

    def begin_copy(self, name: str) -> int:
        """Start a new copy of a store, which does not count yet; unfinished ones are garbage."""

        def work(session: Session) -> tuple[int, int]:
            self._own(session)
            copy = unused_copy(session)
            session.execute(f"UPDATE dittofs_mirror SET copies = {copy} WHERE id = 1")
            key = sql.binary(name.encode())
            found = session.select(f"SELECT sequence FROM dittofs_stores WHERE name = {key}")
            if found:
                self._sequences.seen_before(name, found[0][0])
            else:
                self._sequences.seen(name, 0)
                session.execute(
                    "INSERT INTO dittofs_stores (name, copy, building, sequence, position)"
                    f" VALUES ({key}, 0, 0, 0, '')"
                )
            return copy, self._own_store(session, name, "TRUE", f", s.building = {copy}")

        copy, number = self._transact(work)
        self._sequences.seen(name, number)
        self._stop_building(name)
        self._building[copy] = name
        return copy

    def load(self, copy: int, entries: Sequence[tuple[bytes, int, bytes]]) -> None:
        """Add rows (key, version, value), best in key order, to a copy that is being built.

        A key that is there, or was deleted there by `follow`, stays as it is.
        """
        check_keys([key for key, _, _ in entries])
        self._build(copy, lambda session: self._writer.add(session, copy, entries))

    def follow(self, copy: int, changes: Mapping[bytes, tuple[int, bytes | None]]) -> None:
        """Write changes to a copy that is being built; `load` does not bring back what it deletes.

        Args:
            copy: what `begin_copy` gave.
            changes: as of `apply`.
        """
        check_keys(changes)
        self._build(copy, lambda session: self._writer.write(session, copy, changes, bury=True))

    def _build(self, copy: int, write: Callable[[Session], None]) -> None:
        name = self._builds(copy)

        def work(session: Session) -> int:
            number = self._own_store(session, name, f"s.building = {copy}")
            write(session)
            return number

        self._sequences.seen(name, self._transact(work))

    def finish_copy(self, name: str, copy: int, position: str) -> StoreRow:
        """Make a copy the one that counts, at this position; the former one is garbage."""
        if self._builds(copy) != name:
            raise DatabaseError("copy", f"copy {copy} is not one of {name}")
        # Where the answer to the first try was lost it counts already.
        where = f"(s.building = {copy} OR s.copy = {copy})"
        change = f", s.copy = {copy}, s.building = 0, s.position = {sql.text(position)}"
        number = self._transact(lambda session: self._own_store(session, name, where, change))
        self._sequences.seen(name, number)
        self._stop_building(name)
        # Of the former copy.
        self._writer.reset()
        return StoreRow(name, copy, position, number)

    def _builds(self, copy: int) -> str:
        if copy not in self._building:
            raise DatabaseError("copy", f"copy {copy} is not being built")
        return self._building[copy]

    def _stop_building(self, name: str) -> None:
        self._building = {c: other for c, other in self._building.items() if other != name}

    def purge(self, limit: int = 5000) -> bool:
        """Delete up to `limit` rows that nothing refers to; whether there may be more."""

        def work(session: Session) -> bool:
            self._own(session)
            return self._purge.step(session, limit)

        return self._transact(work)

    # -- reading --

    def rows(self, copy: int, after: bytes = b"") -> Iterator[tuple[bytes, int, bytes]]:
        """The rows of a copy behind `after` (key, version, value) in key order, at one moment.

        They come by a connection of their own, in pages of at most a few MiB.

        Raises:
            DatabaseError: kind "damaged", where a part of a value is missing.
        """
        with self._reader() as session:
            yield from mysql_reading.rows(session, copy, after)

    def summary(self, copy: int) -> tuple[int, int]:
        """The number of keys of a copy, and the bytes of their values, at one moment."""
        with self._reader() as session:
            return mysql_reading.summary(session, copy)

    @contextlib.contextmanager
    def snapshot(
        self, name: str, keys: Sequence[bytes] | None = None
    ) -> Generator[tuple[str, Iterator[tuple[bytes, int, bytes]]], None, None]:
        """The position of a store and its rows (see `rows`), both at one moment.

        With `keys` only those that these keys have. The position is "" and there are no rows where
        it is not in MySQL.
        """
        with self._reader() as session:
            copy, position = mysql_reading.store(session, name)
            if not copy:
                yield position, iter(())
            elif keys is None:
                yield position, mysql_reading.rows(session, copy, b"")
            else:
                yield position, mysql_reading.rows_of(session, copy, keys)

    def position(self, name: str) -> str:
        """The position of a store now; "" where it is not in MySQL."""
        return self._transact(lambda session: mysql_reading.store(session, name)[1])

    @contextlib.contextmanager
    def _reader(self) -> Generator[Session, None, None]:
        """A connection of its own on which everything is as it was at one moment."""
        self._ready()
        with Session(self._server, self._endpoint, self._timeout) as session:
            session.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            session.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            yield session

    # -- the control plane --

    def put_control_plane(self, data: bytes, digest: str) -> None:
        """Replace the control plane's file by these bytes, all at once for whoever reads it."""
        number = 1 + self._transact(lambda session: mysql_reading.control_plane_row(session)[0])
        count = sql.parts(len(data))
        for start in range(0, count, PARTS_AT_ONCE):
            some = range(start, min(count, start + PARTS_AT_ONCE))
            self._transact(lambda session, some=some: self._put_parts(session, number, some, data))
        change = f"control_plane = {number}, control_plane_size = {len(data)}"
        change += f", control_plane_digest = {sql.text(digest)}"

        def switch(session: Session) -> None:
            self._own(session)
            session.execute(f"UPDATE dittofs_mirror SET {change} WHERE id = 1")

        self._transact(switch)
        while self._transact(lambda session: self._drop_parts(session, number)):
            pass

    def _put_parts(self, session: Session, number: int, some: range, data: bytes) -> None:
        self._own(session)
        for part in some:
            piece = data[part * sql.PART_SIZE : (part + 1) * sql.PART_SIZE]
            session.execute(
                "REPLACE INTO dittofs_control_plane (id, part, data)"
                f" VALUES ({number}, {part}, {sql.binary(piece)})"
            )

    def _drop_parts(self, session: Session, current: int) -> bool:
        """Delete parts of other files than the current one; whether there are more."""
        self._own(session)
        deleted = session.execute(
            f"DELETE FROM dittofs_control_plane WHERE id <> {current}"
            f" ORDER BY id, part LIMIT {PARTS_AT_ONCE}"
        )
        return deleted == PARTS_AT_ONCE

    def control_plane(self) -> tuple[bytes, str] | None:
        """The control plane's file and its digest, as they were put; None where there is none.

        Raises:
            DatabaseError: kind "damaged", where a part is missing.
        """
        with self._reader() as session:
            return mysql_reading.control_plane(session)


def _worst(problems: list[DatabaseError]) -> DatabaseError:
    """What to say of several servers: rather what a person has to mend than what may pass."""
    if not problems:
        return RefusedError("config", "the relation gives no endpoint")
    for_good = [problem for problem in problems if not isinstance(problem, AwayError)]
    if for_good:
        return for_good[0]
    return AwayError(problems[-1].kind, "; ".join(map(str, problems)))
