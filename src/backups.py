"""Backups beside a server that serves: what is under way, what ended, and when one is due."""

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import ops

import backup_status
import volumes
from backup_service import BackupService, Row
from backup_status import Report
from credentials import Credentials
from deadline import EVENT, HOOK
from errors import BlockedError, CharmError, WaitingError, WorkingError
from operation import Ended, Kind, Notes, Operation
from restoring import Restore
from sidecar import Containers
from state import State
from volumes import Pair
from workload import pebble_errors

_ID = "%Y-%m-%dT%H:%M:%SZ"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
_SHOWN = 3
# How long it counts that a backup was made, and found whole, before a refresh; in seconds.
RECENT = 24 * 3600
_ACTIVITIES: dict[Kind, str] = {
    "create": "backup running",
    "verify": "verification of a backup running",
    "delete": "deletion of a backup running",
    "restore": "restore running",
}


@dataclass
class Outcome:
    """What a pass found.

    Attributes:
        findings: what is to be said of backups.
        activity: what is under way or was done, for a unit that serves; empty for nothing.
    """

    findings: list[CharmError] = field(default_factory=list[CharmError])
    activity: str = ""


class Detail(NamedTuple):
    """All there is to show."""

    report: Report
    progress: str
    last: Ended | None

    @property
    def verified(self) -> frozenset[str]:
        """The backups of this application that were found whole not long ago."""
        found = self.last.verified if self.last else {}
        return frozenset(each for each, at in found.items() if at > time.time() - RECENT)


class Backups:
    """The backups of one unit, for one event.

    Attributes:
        operation: what is under way, as far as is known.
    """

    def __init__(
        self,
        containers: Containers,
        state: State,
        model: ops.Model,
        made: Credentials,
        pair: Pair,
    ):
        self._state = state
        self._notes = Notes(containers.dittofs)
        self._noted = pair.metadata.notes
        self._service = BackupService(containers.agent, state, model, made)
        self._service.know(pair)
        self._restore = Restore(containers, self._service, state, made)
        self._last: Ended | None = None
        self._stuck: CharmError | None = None
        self._cut = False
        self.operation: Operation | None = None

    def load(self) -> None:
        """Read what is under way and what ended last.

        Raises:
            CharmError: it cannot be read.
        """
        with pebble_errors():
            if volumes.OPERATION in self._noted:
                self.operation = self._notes.read()
            if volumes.ENDED in self._noted:
                self._last = self._notes.last()

    def advance(self) -> list[CharmError] | None:
        """Go on with what is under way.

        Returns:
            None where the server may be served as ever, else what is to be said instead.
        """
        try:
            self.load()
        except CharmError as error:
            # The server may be in the middle of a restore.
            return [error]
        stuck: CharmError | None = None
        try:
            self._go_on()
            progress = self.progress()
        except CharmError as error:
            stuck, progress = error, str(error)
        self._stuck = stuck
        operation = self.operation
        if operation is None or not operation.takes_server:
            return None
        kind = BlockedError if isinstance(stuck, BlockedError) else WorkingError
        return [kind(self._restoring(progress), more=stuck.more if stuck else "")]

    def reconcile(self, pair: Pair, *, serves: bool) -> Outcome:
        """Run the agent's service, and let a backup begin that is due.

        Args:
            pair: the volumes as they are now.
            serves: whether the server serves now, so that a backup can be made of it.
        """
        self._service.know(pair)
        outcome = Outcome(findings=self._untold())
        if self._stuck and self.operation and self.operation.step == "discard":
            again = WaitingError(f"s3-backup: {self._stuck}", more=self._stuck.more)
            outcome.findings.append(again)
        try:
            if self._state.s3 is None and self.operation is None:
                self._service.stop()
                return outcome
            self._service.ensure(self.operation)
            report = self._service.report()
            outcome.findings += backup_status.findings(report, self.operation)
            if self.operation and self.operation.step == "fetch" and not serves:
                outcome.findings.append(WorkingError(self._restoring(self.progress())))
            if report.due and serves and self.operation is None and self._scheduled:
                self.begin("create", {})
        except CharmError as error:
            outcome.findings.append(error)
        if self.operation is not None:
            outcome.activity = _ACTIVITIES[self.operation.kind]
        elif self._last and self._last.kind == "restore" and not self._last.failed:
            outcome.activity = "" if self._last.told else f"backup {self._last.backup_id} restored"
        return outcome

    def need_nothing_under_way(self) -> None:
        """Return where an operation may begin.

        Raises:
            BlockedError: there is one; the text names it.
        """
        self.load()
        self._go_on()
        if self.operation is not None:
            raise BlockedError(
                f"{self.operation} is under way ({self.progress()}): wait until it is done, see "
                "status-detail"
            )

    def begin(self, kind: Kind, params: dict[str, Any], recovery_key: str = "") -> None:
        """Let an operation begin.

        Raises:
            CharmError: it could not even begin.
        """
        operation_id = self._backup_id() if kind == "create" else uuid.uuid4().hex
        operation = Operation.new(operation_id, kind, params, recovery_key)
        self._service.ensure(operation)
        with pebble_errors():
            self._notes.write(operation)
        self.operation = operation

    def follow(self, log: Callable[[str], None], seconds: float) -> Ended | str:
        """Wait until what is under way has ended, or for so long; return how, or how far it is.

        Args:
            log: is told the progress.
            seconds: how long to wait; what is left then goes on without anybody waiting.
        """
        end = time.monotonic() + seconds
        said, pause = "", _FIRST_PAUSE
        while True:
            EVENT.begin(HOOK)
            try:
                ended = self._go_on(told=True)
                if ended is not None:
                    return ended
                text = self.progress()
            except CharmError as error:
                text = error.whole
                if isinstance(error, BlockedError):
                    return f"goes on: {text}"
            if text != said:
                log(text)
                said = text
            if time.monotonic() >= end:
                return f"goes on: {text}"
            time.sleep(pause)
            pause = min(pause * 1.2, _LONGEST_PAUSE)

    def listed(self, *, everywhere: bool = False) -> tuple[Row, ...]:
        """The backups in the bucket, oldest first; `everywhere`: also those of others."""
        return self._service.backups(self.operation, everywhere=everywhere)

    def progress(self) -> str:
        """How far what is under way is, for people; empty where there is nothing."""
        return self._restore.progress(self.operation) if self.operation else ""

    def detail(self) -> Detail:
        """All there is to show."""
        self.load()
        return Detail(self._service.report(), self.progress(), self._last)

    @property
    def _scheduled(self) -> bool:
        return bool(self._state.options.backup_schedule)

    def _go_on(self, *, told: bool = False) -> Ended | None:
        """Take what is under way as far as it goes now; what has ended is noted and forgotten."""
        while self.operation is not None:
            operation = self.operation
            if self._cut:
                self._note(operation)
            if operation.kind == "restore":
                following = self._restore.advance(operation)
            else:
                following = self._reported(operation)
            if following is operation:
                break
            if isinstance(following, Ended):
                verified = self._verified(operation, following)
                ended = following.model_copy(update={"told": told, "verified": verified})
                with pebble_errors():
                    self._notes.end(ended)
                self.operation, self._last = None, ended
                return ended
            if following.takes_server:
                # Also where the note is cut: nothing else is to start the server any more.
                self.operation = following
            self._note(following)
            self.operation = following
        return None

    def _verified(self, operation: Operation, ended: Ended) -> dict[str, float]:
        """What was known to be whole before this operation, with what it has found."""
        known = self._last.verified if self._last else {}
        found = {each: at for each, at in known.items() if at > ended.at - RECENT}
        home = self._state.home
        if operation.kind in {"verify", "delete"} and operation.params.get("from", home) == home:
            found.pop(operation.backup_id, None)
            if operation.kind == "verify" and not ended.failed:
                found[operation.backup_id] = ended.at
        return found

    def _note(self, operation: Operation) -> None:
        """Write a step down; where that fails, the agent does not know of it."""
        self._cut = True
        with pebble_errors():
            self._notes.write(operation)
        self._cut = False

    def _reported(self, operation: Operation) -> Operation | Ended:
        """What became of an operation that is the agent's alone."""
        said = self._service.report().of(operation)
        if said is None or said.state == "running":
            if self._state.s3 is None:
                text = f"{operation} was given up: S3 is not related any more"
                return Ended.of(operation, {}, text)
            # A container that was lost meanwhile comes back without it.
            self._service.ensure(operation)
            return operation
        if said.state == "failed":
            return Ended.of(operation, said.result, said.reason)
        problems = [str(each) for each in said.result.get("problems") or ()]
        if not problems:
            return Ended.of(operation, said.result)
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        text = f"{operation.backup_id} would not restore: {'; '.join(problems[:_SHOWN])}"
        return Ended.of(operation, said.result, f"make or use another backup: {text}{more}")

    def _restoring(self, progress: str) -> str:
        backup_id = self.operation.backup_id if self.operation else ""
        return f"restoring backup {backup_id}: {progress}"

    def _untold(self) -> list[CharmError]:
        """What failed after the action that began it had stopped waiting."""
        last = self._last
        if last is None or not last.failed or last.told or last.kind == "create":
            return []
        more = "this is said until something else is done"
        return [BlockedError(f"s3-backup: {last.text}", more=more)]

    def _backup_id(self) -> str:
        """A backup is named by the second it begins in; no two begin in one."""
        now = datetime.now(UTC)
        said = self._service.report().operation
        with suppress(ValueError):
            before = datetime.strptime(said.id if said else "", _ID).replace(tzinfo=UTC)
            now = max(now, before + timedelta(seconds=1))
        return now.strftime(_ID)
