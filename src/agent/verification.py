"""Compare MySQL with the stores while the server runs.

The database's side is one consistent picture with the position it has. A row of the store that is
newer than that position says nothing, and neither does a key that left the store since: such keys
are looked at again when the mirror is past what the store had. So what is reported is a difference
at one and the same moment, and no load hides or invents one.
"""

import json
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.comparison import Difference, Row, differences, live
from agent.journal import Changes, GapError, Journal, Position
from agent.mysql import Database

_FIRST = 10
_SETTLE_SECONDS = 30.0
_LOOK_EVERY = 0.2
_MOVING = 100_000
_NOTE = "verified.json"


class UncertainError(Exception):
    """It could not be told; the text says why."""


@dataclass
class StoreReport:
    """What was compared of a store; checksums are crc32 over its rows in key order."""

    name: str
    equal: bool = True
    rows: int = 0
    bytes: int = 0
    checksum: int = 0
    store_rows: int = 0
    differences: int = 0
    first: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def as_json(self) -> dict[str, Any]:
        """For the action's result."""
        return {
            "name": self.name,
            "equal": self.equal,
            "rows": self.rows,
            "bytes": self.bytes,
            "checksum": f"{self.checksum:08x}",
            "store-rows": self.store_rows,
            "differences": self.differences,
            "first-differences": self.first,
        }


def verify(name: str, directory: Path, database: Database) -> StoreReport:
    """Compare one store with its rows.

    Raises:
        UncertainError: the mirror did not get as far as the store in time, or the logs went.
        BadgerError: the store is not what this program understands.
        DatabaseError: the database failed.
    """
    report = StoreReport(name)
    moving: dict[bytes, Difference] = {}
    with database.snapshot(name) as (position, rows):
        mirrored = _version(position)
        overlay, newest = _logs(directory)
        ours = _counted(live(directory, overlay), report, ours=True)
        theirs = _counted(rows, report, ours=False)
        for found in differences(ours, theirs):
            if not isinstance(found, Difference):
                continue
            if found.store is not None and found.store[0] <= mirrored:
                _different(report, found)
            else:
                moving[found.key] = found
                if len(moving) > _MOVING:
                    raise UncertainError(f"store {name} changes faster than it can be compared")
    gone = {key: found.mirror for key, found in moving.items() if found.mirror and not found.store}
    if gone:
        _wait_for(name, newest, database)
        left = database.versions(name, list(gone))
        for key, mirror in gone.items():
            # A key that came again meanwhile has another version.
            if left.get(key) == mirror[0]:
                _different(report, moving[key])
    report.equal = report.differences == 0
    return report


def note_verified(run: Path, reports: Iterable[StoreReport]) -> None:
    """Keep the result for the service: it tells it, and mends what differs."""
    different = [report.name for report in reports if not report.equal]
    note = {"at": time.time(), "equal": not different, "different": different}
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


def _wait_for(name: str, version: int, database: Database) -> None:
    """Return when MySQL is as far as the store was: what left the store has left MySQL, too."""
    end = time.monotonic() + _SETTLE_SECONDS
    while _version(database.position(name)) < version:
        if time.monotonic() > end:
            raise UncertainError(f"the mirror of {name} does not get on: see its status")
        time.sleep(_LOOK_EVERY)


def _logs(directory: Path) -> tuple[Changes, int]:
    """The newest value of each key in the logs, and the last version."""
    journal = Journal(directory)
    changes: Changes = {}
    try:
        journal.begin()
        while batch := journal.poll():
            changes.update(batch.changes)
    except GapError as error:
        raise UncertainError(f"the logs of {directory.name} went while they were read") from error
    else:
        return changes, journal.position.version
    finally:
        journal.close()


def _version(position: str) -> int:
    parsed = Position.from_text(position)
    if parsed is None:
        raise UncertainError("the store is not in MySQL yet: a first scan is under way")
    return parsed.version


def _counted(rows: Iterator[Row], report: StoreReport, *, ours: bool) -> Iterator[Row]:
    for row in rows:
        if ours:
            report.store_rows += 1
        else:
            key, version, value = row
            report.rows += 1
            report.bytes += len(key) + len(value)
            head = version.to_bytes(8, "big") + len(key).to_bytes(4, "big")
            report.checksum = zlib.crc32(value, zlib.crc32(key, zlib.crc32(head, report.checksum)))
        yield row


def _different(report: StoreReport, found: Difference) -> None:
    report.differences += 1
    if len(report.first) < _FIRST:
        report.first.append(
            {
                "key": found.key.hex(),
                "store": _side(found.store),
                "mysql": _side(found.mirror),
            }
        )


def _side(side: tuple[int, bytes] | None) -> str:
    if side is None:
        return "missing"
    return f"version {side[0]}, {len(side[1])} bytes, crc32 {zlib.crc32(side[1]):08x}"
