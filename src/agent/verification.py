"""Compare MySQL with the stores while the server runs: equal, different, or not to be told.

First it is waited until MySQL has got as far as a store was when this was called. Then the
database's side is one consistent picture with the position it has, and all of the store that is
not newer than that position has to be in it. What is newer, or left the store since, is looked at
again when MySQL has got so far, and again where it was changed meanwhile; how many keys were
changed each time is counted. So what is reported is a difference at one and the same moment, no
load hides or invents one, and what MySQL lacks is never taken for something that is on its way.
"""

import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.badger import BadgerError
from agent.comparison import Difference, Row, differences, live
from agent.journal import Changes, GapError, Journal, Position
from agent.mysql import Database

PATIENCE = 30.0
"""Seconds in which MySQL has to get on."""

_FIRST = 10
_ROUNDS = 5
_LONGEST_WAIT = 300.0
_LOOK_EVERY = 0.2
_FORGET_SECONDS = 3.0
_MOVING = 100_000
_NOTE = "verified.json"

_Side = tuple[int, int, int] | None
"""Version, size and crc32 of a value; None where there is none."""


class UncertainError(Exception):
    """It could not be told; the text says why."""


@dataclass
class StoreReport:
    """What was compared of a store; checksums are crc32 over its rows in key order.

    Attributes:
        uncertain: why it could not be told; empty where it could.
        moving: keys that were changed each time they were looked at, and are not compared.
    """

    name: str
    uncertain: str = ""
    rows: int = 0
    size: int = 0
    checksum: int = 0
    store_rows: int = 0
    moving: int = 0
    differences: int = 0
    first: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    @property
    def result(self) -> str:
        """Return equal, different or uncertain."""
        if self.differences:
            return "different"
        return "uncertain" if self.uncertain else "equal"

    def tell(self, key: bytes, store: _Side, mirror: _Side) -> None:
        """Count a difference, and keep the first ones."""
        self.differences += 1
        if len(self.first) < _FIRST:
            sides = {"store": _told(store), "mysql": _told(mirror)}
            self.first.append({"key": key.hex(), **sides})

    def as_json(self) -> dict[str, Any]:
        """For the action's result."""
        return {
            "name": self.name,
            "result": self.result,
            "uncertain": self.uncertain,
            "rows": self.rows,
            "bytes": self.size,
            "checksum": f"{self.checksum:08x}",
            "store-rows": self.store_rows,
            "not-compared": self.moving,
            "differences": self.differences,
            "first-differences": self.first,
        }


def verify_all(
    stores: Mapping[str, Path], database: Database, patience: float = PATIENCE
) -> list[StoreReport]:
    """Compare all stores of a volume, and see that MySQL has no others.

    Args:
        stores: name and directory of those on the volume.
        database: connected.
        patience: seconds in which MySQL has to get on.

    Raises:
        DatabaseError: the database failed.
    """
    reports = [StoreReport(name) for name in sorted(stores)]
    for report in reports:
        try:
            _verify(report, stores[report.name], database, patience)
        except (UncertainError, BadgerError, OSError) as error:
            report.uncertain = str(error)
        except GapError as error:
            report.uncertain = f"the store changes faster than it can be read: {error}"
    for name, copy in _others(stores, database).items():
        rows, size = database.summary(copy)
        reports.append(StoreReport(name, rows=rows, size=size, differences=rows))
    return reports


def overall(reports: Iterable[StoreReport]) -> str:
    """Return equal, different or uncertain: a difference is certain whatever the others are."""
    results = {report.result for report in reports}
    return next((each for each in ("different", "uncertain") if each in results), "equal")


def note_verified(run: Path, reports: Iterable[StoreReport]) -> None:
    """Keep the result for the service: it tells it, and mends what differs.

    What could not be told leaves what was told before.
    """
    reports = list(reports)
    result = overall(reports)
    if result == "uncertain":
        return
    different = [report.name for report in reports if report.result == "different"]
    note = {"at": time.time(), "equal": result == "equal", "different": different}
    target = run / _NOTE
    temporary = target.with_suffix(".new")
    temporary.write_text(json.dumps(note), encoding="utf-8")
    temporary.replace(target)


def last_verified(run: Path) -> dict[str, Any] | None:
    """`at`, `equal` and the names of the `different`; None where none was made in this pod."""
    try:
        return json.loads((run / _NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _others(stores: Mapping[str, Path], database: Database) -> dict[str, int]:
    """The stores that only MySQL has, and their copies; one that was just deleted leaves it."""
    end = time.monotonic() + _FORGET_SECONDS
    while True:
        rows = database.stores().values()
        found = {row.name: row.copy for row in rows if row.name not in stores and row.copy}
        if not found or time.monotonic() > end:
            return dict(sorted(found.items()))
        time.sleep(_LOOK_EVERY)


class _Followed:
    """A store, and what was changed in it since its tables were looked at.

    Attributes:
        changes: the newest value of each key up to `freeze`.
        version: of the last transaction.
    """

    def __init__(self, directory: Path):
        self.changes: Changes = {}
        self.version = 0
        self._later: dict[bytes, tuple[int, _Side]] = {}
        self._frozen = False
        self._journal = Journal(directory)
        self._journal.begin()

    def close(self) -> None:
        self._journal.close()

    def freeze(self) -> None:
        """From here on only remember what values look like: there may be many."""
        self._frozen = True

    def read(self) -> None:
        """Read to the end of the logs."""
        while batch := self._journal.poll():
            if self._frozen:
                for key, (version, value) in batch.changes.items():
                    self._later[key] = version, _side(version, value)
            else:
                self.changes.update(batch.changes)
        self.version = self._journal.position.version

    def last(self, key: bytes) -> tuple[int, _Side]:
        """The version that changed a key last, and to what; 0 where none did."""
        if key in self._later:
            return self._later[key]
        version, value = self.changes.get(key, (0, None))
        return version, _side(version, value)


def _verify(report: StoreReport, directory: Path, database: Database, patience: float) -> None:
    """Compare one store with its rows.

    Raises:
        UncertainError: MySQL did not get as far as the store in time.
        GapError: the logs went before they were read.
        BadgerError: the store is not what this program understands.
        DatabaseError: the database failed.
    """
    store = _Followed(directory)
    try:
        _wait_for(report.name, store, database, patience)
        moving = _compare(report, directory, database, store)
        for _ in range(_ROUNDS):
            if moving:
                _wait_for(report.name, store, database, patience)
                moving = _compare_again(report, moving, database, store)
        report.moving = len(moving)
    finally:
        store.close()


def _compare(
    report: StoreReport, directory: Path, database: Database, store: _Followed
) -> set[bytes]:
    """Compare both sides; the keys that were changed beyond the position that MySQL has."""
    moving: set[bytes] = set()
    with database.snapshot(report.name) as (position, rows):
        mirrored = _version(position, store.version)
        store.read()
        store.freeze()
        ours = _counted(live(directory, store.changes), report, ours=True)
        theirs = _counted(rows, report, ours=False)
        for found in differences(ours, theirs):
            if not isinstance(found, Difference):
                # The logs of a busy store go while this runs.
                store.read()
            elif found.store is not None and found.store[0] <= mirrored:
                mirror = found.mirror and _side(*found.mirror)
                report.tell(found.key, _side(*found.store), mirror)
            else:
                moving.add(found.key)
                if len(moving) > _MOVING:
                    raise UncertainError("the store changes faster than it can be compared")
    return moving


def _compare_again(
    report: StoreReport, keys: set[bytes], database: Database, store: _Followed
) -> set[bytes]:
    """Compare some keys; those that were changed beyond the position that MySQL has now."""
    with database.snapshot(report.name, sorted(keys)) as (position, rows):
        mirrored = _version(position, store.version)
        found = {key: _side(version, value) for key, version, value in rows}
    # Whatever came before the position is known then.
    store.read()
    moving: set[bytes] = set()
    for key in keys:
        version, side = store.last(key)
        if version > mirrored:
            moving.add(key)
        elif side != found.get(key):
            report.tell(key, side, found.get(key))
    return moving


def _wait_for(name: str, store: _Followed, database: Database, patience: float) -> None:
    """Return when MySQL is as far as the store is now.

    Raises:
        UncertainError: it does not get on.
    """
    store.read()
    seen = _version(database.position(name))
    begin = moved = time.monotonic()
    while seen < store.version:
        now = time.monotonic()
        if now - moved > patience or now - begin > _LONGEST_WAIT:
            raise UncertainError(
                f"MySQL does not get on: the store is at version {store.version}, MySQL at {seen};"
                " see the status of the mirror"
            )
        time.sleep(_LOOK_EVERY)
        before, seen = seen, _version(database.position(name))
        moved = moved if seen == before else time.monotonic()


def _version(position: str, least: int = 0) -> int:
    parsed = Position.from_text(position)
    if parsed is None:
        raise UncertainError("the store is not in MySQL yet: a first scan is under way")
    if parsed.version < least:
        raise UncertainError("MySQL went back while it was looked at: a comparison is under way")
    return parsed.version


def _counted(rows: Iterator[Row], report: StoreReport, *, ours: bool) -> Iterator[Row]:
    for row in rows:
        if ours:
            report.store_rows += 1
        else:
            key, version, value = row
            report.rows += 1
            report.size += len(key) + len(value)
            head = version.to_bytes(8, "big") + len(key).to_bytes(4, "big")
            report.checksum = zlib.crc32(value, zlib.crc32(key, zlib.crc32(head, report.checksum)))
        yield row


def _side(version: int, value: bytes | None) -> _Side:
    return None if value is None else (version, len(value), zlib.crc32(value))


def _told(side: _Side) -> str:
    return "missing" if side is None else "version {}, {} bytes, crc32 {:08x}".format(*side)
