"""What the agent says of backups, typed, and what a person has to know of it."""

import time
from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationError

from errors import BlockedError, CharmError, WaitingError
from operation import Operation
from said import Part, moment
from units import format_size

# A step may be one long call of the server that says nothing.
_SILENT = 1800.0
_A_PERSON_ACTS = frozenset(
    {"credentials", "bucket", "space", "damaged", "key", "missing", "newer", "refused", "settings"}
)


class Step(Part):
    """A step of an operation: `state` is running, done or failed; `message` says more."""

    id: str = ""
    kind: str = ""
    step: str = ""
    state: str = "running"
    message: str = ""
    error_kind: str = ""
    updated: float = 0.0
    bytes_done: int = 0
    bytes_total: int = 0
    result: dict[str, Any] = Field(default_factory=dict[str, Any])

    @property
    def reason(self) -> str:
        """Why it failed."""
        return self.message or "no reason was given"

    def __str__(self) -> str:
        """For people: how far it is."""
        if not self.bytes_total:
            return self.message or self.state
        part = 100 * self.bytes_done // self.bytes_total
        return f"{self.message}, {part} % of {format_size(self.bytes_total)}"


class Success(Part):
    """The last backup that was made; times in unix time, sizes in bytes, seconds."""

    id: str
    at: float
    size: int = 0
    uploaded: int = 0
    duration: float = 0.0


class Failure(Part):
    """The last backup that failed."""

    at: float
    kind: str = ""
    text: str = "no reason was given"


class Report(Part):
    """The agent's backup-status.json; times in unix time, `next` None: never.

    `standing`: what stays wrong in the bucket although backups are made.
    """

    updated: float = 0.0
    operation: Step | None = None
    due: bool = False
    overdue: bool = False
    next: float | None = None
    last_success: Success | None = None
    last_failure: Failure | None = None
    standing: str = ""

    def of(self, operation: Operation) -> Step | None:
        """What it says of this step, None where it has not begun it yet."""
        said = self.operation
        same = said and (said.id, said.step) == (operation.id, operation.step)
        return said if same else None


def parse(text: bytes | None) -> Report:
    """Read backup-status.json; what is not there or makes no sense is a start."""
    try:
        return Report.model_validate_json(text or b"{}")
    except ValidationError:
        return Report()


def problem(kind: str, text: str, more: str = "") -> CharmError:
    """An error of the agent as one of this charm."""
    return (BlockedError if kind in _A_PERSON_ACTS else WaitingError)(text, more=more)


def progress(report: Report, operation: Operation) -> str:
    """How far a step of the agent's is, for people."""
    said = report.of(operation)
    since = _silent_since(report, operation)
    silence = f"; nothing is heard since {moment(since)}" if since else ""
    return f"{said or 'waiting for the agent'}{silence}"


def findings(report: Report, operation: Operation | None) -> Iterator[CharmError]:
    """What is to be said of backups; nothing where all is well."""
    since = _silent_since(report, operation) if operation else None
    if since:
        yield WaitingError(
            f"s3-backup: nothing is heard of {operation} since {moment(since)}",
            more="to give it up, remove the relation",
        )
    if report.standing:
        yield BlockedError(
            f"s3-backup: {report.standing}",
            more="a damaged backup goes by delete-backup, all else is tried again after the next "
            "backup",
        )
    failure, success = report.last_failure, report.last_success
    if failure and (success is None or failure.at > success.at):
        # What a person has to do comes first.
        said = "" if failure.kind in _A_PERSON_ACTS else "the last backup failed: "
        yield problem(
            failure.kind,
            f"s3-backup: {said}{failure.text}",
            more=f"the last backup failed on {moment(failure.at)}; run create-backup when it is "
            "mended",
        )
    elif report.overdue:
        last = f"the last one is of {moment(success.at)}" if success else "there is none yet"
        yield WaitingError(f"s3-backup: a backup is overdue, {last}")


def _silent_since(report: Report, operation: Operation) -> float | None:
    """Since when nothing is heard of a step, where that is too long."""
    said = report.of(operation)
    heard = max(operation.since, said.updated if said else 0.0)
    return heard if time.time() - heard > _SILENT else None
