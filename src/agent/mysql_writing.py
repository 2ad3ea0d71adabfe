"""Writing rows of a copy, and deleting those that nothing refers to any more."""

from collections.abc import Iterator, Mapping, Sequence

from agent import mysql_statements as sql
from agent.mysql_errors import RefusedError
from agent.mysql_session import Session

# What a transaction deletes, or writes of the control plane, at the most; Group Replication takes
# 150 MB.
_TRANSACTION_SIZE = 16 * 2**20
PARTS_AT_ONCE = _TRANSACTION_SIZE // sql.PART_SIZE
_ENTRIES, _PARTS, _TOMBSTONES = "dittofs_entries", "dittofs_parts", "dittofs_tombstones"
_TABLES = (_ENTRIES, _PARTS, _TOMBSTONES)


class Writer:
    """Writes rows; knows which keys have values in several parts.

    That is asked once for a copy: the agent is the only one that writes. Such values are rare, and
    knowing them saves looking for parts with each key.
    """

    def __init__(self) -> None:
        # By copy, as of the transaction that writes.
        self._large: dict[int, set[bytes]] = {}

    def reset(self) -> None:
        """Somebody else may have written, or what was written was undone."""
        self._large.clear()

    def write(
        self, session: Session, copy: int, changes: Mapping[bytes, sql.Change], *, bury: bool
    ) -> None:
        """Write changes, in the order of the keys; `bury` leaves tombstones where one is gone."""
        small: list[sql.Row] = []
        large: list[sql.Row] = []
        deleted: dict[bytes, int] = {}
        for key in sorted(changes):
            version, value = changes[key]
            if value is None:
                deleted[key] = version
            elif len(value) <= sql.PART_SIZE:
                small.append((key, version, value))
            else:
                large.append((key, version, value))
        _execute(session, sql.replacing(copy, small))
        _execute(session, sql.burying(copy, deleted) if bury else sql.deleting(copy, deleted))
        known = self._known(session, copy)
        for key in changes.keys() & known:
            session.execute(sql.forgetting_parts(copy, key))
            known.discard(key)
        for row in large:
            known.add(row[0])
            session.execute(sql.replacing_large(copy, row))
            _execute(session, sql.large_parts(copy, row))

    def add(self, session: Session, copy: int, rows: Sequence[sql.Row]) -> None:
        """Add rows; those that are there stay."""
        _execute(session, sql.adding(copy, (row for row in rows if len(row[2]) <= sql.PART_SIZE)))
        for row in rows:
            if len(row[2]) > sql.PART_SIZE and session.execute(sql.adding_large(copy, row)):
                self._known(session, copy).add(row[0])
                _execute(session, sql.large_parts(copy, row))

    def _known(self, session: Session, copy: int) -> set[bytes]:
        if copy not in self._large:
            found = session.select(f"SELECT DISTINCT name FROM {_PARTS} WHERE copy = {copy}")
            self._large[copy] = {name for (name,) in found}
        return self._large[copy]


def check_keys(keys: Mapping[bytes, object] | Sequence[bytes]) -> None:
    """Refuse keys that MySQL cannot have.

    Raises:
        RefusedError: kind "key".
    """
    if max(map(len, keys), default=0) > sql.LONGEST_KEY:
        longest = max(keys, key=len)
        raise RefusedError(
            "key",
            f"a key has {len(longest)} bytes, MySQL can have {sql.LONGEST_KEY}: {longest[:200]!r}",
        )


def unused_copy(session: Session) -> int:
    """A number that no row has, also where somebody deleted some of the tables' rows."""
    numbers = ["SELECT copies AS number FROM dittofs_mirror"]
    numbers += ["SELECT MAX(copy) FROM dittofs_stores", "SELECT MAX(building) FROM dittofs_stores"]
    numbers += [f"SELECT MAX(copy) FROM {table}" for table in _TABLES]
    found = session.select(f"SELECT MAX(number) FROM ({' UNION ALL '.join(numbers)}) numbers")
    return int(found[0][0] or 0) + 1


class Purge:
    """Deletes the rows of copies that no store refers to, and the tombstones of finished copies.

    It keeps a list of what is to go, and where it is in the first copy of it: InnoDB still steps
    over the rows that were deleted a moment ago.
    """

    def __init__(self) -> None:
        self._garbage: list[tuple[str, int]] = []
        self._reached = b""

    def reset(self) -> None:
        """Somebody else may have written."""
        self._garbage.clear()
        self._reached = b""

    def step(self, session: Session, limit: int) -> bool:
        """Delete up to `limit` rows; whether there may be more."""
        if not self._garbage:
            self._find(session)
        if self._garbage:
            table, copy = self._garbage[0]
            if self._delete(session, table, copy, limit):
                self._garbage.pop(0)
                self._reached = b""
            return True
        found = session.select("SELECT DISTINCT copy FROM dittofs_stores WHERE copy > 0")
        return any(_dig_up(session, copy, limit) for (copy,) in found)

    def _find(self, session: Session) -> None:
        found = session.select("SELECT copy, building FROM dittofs_stores")
        used = {copy for row in found for copy in row}
        self._garbage = [
            (table, copy)
            for table in _TABLES
            for copy in _copies(session, table)
            if copy not in used
        ]

    def _delete(self, session: Session, table: str, copy: int, limit: int) -> bool:
        """Delete some rows of a copy; whether that was the end of it."""
        where = f"copy = {copy}"
        if table != _ENTRIES:
            limit = min(limit, PARTS_AT_ONCE) if table == _PARTS else limit
            statement = f"DELETE FROM {table} WHERE {where} ORDER BY name LIMIT {limit}"
            return session.execute(statement) < limit
        where += f" AND name > {sql.binary(self._reached)}"
        count, size, end = _first(session, where, limit)
        if size > _TRANSACTION_SIZE:
            count, size, end = _first(session, where, max(1, count * _TRANSACTION_SIZE // size))
        if not count:
            return True
        session.execute(f"DELETE FROM {table} WHERE {where} AND name <= {sql.binary(end)}")
        self._reached = end
        return False


def _first(session: Session, where: str, limit: int) -> tuple[int, int, bytes]:
    """Rows, bytes and last key of the first `limit` entries."""
    ((count, size, end),) = session.select(
        f"SELECT COUNT(*), SUM(LEAST(size, {sql.PART_SIZE})), MAX(name) FROM"
        f" (SELECT name, size FROM {_ENTRIES} WHERE {where} ORDER BY name LIMIT {limit}) first"
    )
    return int(count), int(size or 0), end or b""


def _copies(session: Session, table: str) -> Iterator[int]:
    """The copies that a table has rows of."""
    copy = 0
    while True:
        ((found,),) = session.select(f"SELECT MIN(copy) FROM {table} WHERE copy > {copy}")
        if found is None:
            return
        copy = int(found)
        yield copy


def _dig_up(session: Session, copy: int, limit: int) -> bool:
    """Delete tombstones of a finished copy; whether there were any."""
    found = session.select(
        f"SELECT name FROM {_TOMBSTONES} WHERE copy = {copy} ORDER BY name LIMIT {limit}"
    )
    _execute(session, sql.digging_up(copy, [name for (name,) in found]))
    return bool(found)


def _execute(session: Session, statements: Iterator[str]) -> None:
    for statement in statements:
        session.execute(statement)
