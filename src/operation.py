"""What is done with backups now: one file on the metadata volume, for the agent and the charm.

The agent works on the step that the file names, where it is one of its own, and reports. The charm
names the next step, and removes the file at the end; what became of it is kept in another file.
"""

import logging
import time
from typing import Any, Literal

import ops
from pydantic import Field, ValidationError

import files
import volumes
from errors import BlockedError
from said import Part

Kind = Literal["create", "verify", "delete", "restore"]
Step = Literal[
    # The agent's.
    "create",
    "verify",
    "delete",
    "fetch",
    "settle",
    "finish",
    # The charm's, of a restore.
    "swap",
    "start",
    "stop",
    "restart",
    "rollback",
    "discard",
]

logger = logging.getLogger(__name__)

_FILE = f"{volumes.PATHS['metadata']}/{volumes.OPERATION}"
_ENDED = f"{volumes.PATHS['metadata']}/{volumes.ENDED}"


class Operation(Part):
    """What is under way; the agent reads the first four fields, and `params`.

    Attributes:
        id: names it; of `create` it is the backup's, too.
        began: unix time; `since`: of the present step.
        params: what the agent has to know, without secrets.
        recovery_key: id of the secret with the key of the application that made the backup.
        reason: why a restore is undone; empty where it is not.
        results: of the steps of a restore that are done.
    """

    id: str
    kind: Kind
    step: Step
    began: float
    since: float
    params: dict[str, Any]
    recovery_key: str = ""
    reason: str = ""
    results: dict[str, dict[str, Any]]

    @classmethod
    def new(
        cls, operation_id: str, kind: Kind, params: dict[str, Any], recovery_key: str = ""
    ) -> "Operation":
        """One that begins now."""
        now = time.time()
        return cls(
            id=operation_id,
            kind=kind,
            step="fetch" if kind == "restore" else kind,
            began=now,
            since=now,
            params=params,
            recovery_key=recovery_key,
            results={},
        )

    @property
    def backup_id(self) -> str:
        """The backup it is about."""
        return str(self.params.get("backup-id") or self.id)

    @property
    def takes_server(self) -> bool:
        """Whether the server is started and stopped for it, and not for anything else."""
        return self.kind == "restore" and self.step not in {"fetch", "discard"}

    @property
    def replaces_users(self) -> bool:
        """Whether users and settings are no longer those from before."""
        return self.takes_server and self.params.get("shares") is None

    def __str__(self) -> str:
        """For people."""
        return {
            "create": "a backup",
            "verify": f"the verification of backup {self.backup_id}",
            "delete": f"the deletion of backup {self.backup_id}",
            "restore": f"the restore of backup {self.backup_id}",
        }[self.kind]

    def then(
        self, step: Step, reason: str = "", result: dict[str, Any] | None = None
    ) -> "Operation":
        """The same with its next step, and the result of the present one."""
        results = self.results if result is None else self.results | {self.step: result}
        return self.model_copy(
            update={
                "step": step,
                "since": time.time(),
                "reason": reason or self.reason,
                "results": results,
            }
        )


class Ended(Part):
    """What became of an operation.

    Attributes:
        at: unix time.
        failed: whether it did not do what it was to do; `text` says why.
        told: whether an action that waited has said so.
        result: what the agent found.
        verified: the backups of this application that were found whole, and when.
    """

    what: str
    kind: Kind
    backup_id: str
    at: float
    failed: bool
    text: str
    told: bool = False
    result: dict[str, Any]
    verified: dict[str, float] = Field(default_factory=dict[str, float])

    @classmethod
    def of(cls, operation: Operation, result: dict[str, Any], problem: str = "") -> "Ended":
        """An operation that ended now; `problem`: why it failed."""
        return cls(
            what=str(operation),
            kind=operation.kind,
            backup_id=operation.backup_id,
            at=time.time(),
            failed=bool(problem),
            text=problem or "done",
            result=result,
        )


class Notes:
    """Both files. Calls belong inside `pebble_errors()`."""

    def __init__(self, container: ops.Container):
        self._container = container

    def read(self) -> Operation:
        """What is under way.

        Raises:
            BlockedError: it cannot be understood.
        """
        try:
            return Operation.model_validate_json(files.read(self._container, _FILE) or b"")
        except ValidationError:
            raise BlockedError(
                f"refresh the charm: {volumes.OPERATION} on the metadata volume is damaged or of "
                "a newer charm"
            ) from None

    def write(self, operation: Operation) -> None:
        """Let the agent, and the charm at the next event, know."""
        text = operation.model_dump_json(indent=1, by_alias=True)
        self._container.push(_FILE, text, permissions=0o644)
        why = f", {operation.reason}" if operation.reason else ""
        logger.info("operation: %s: %s%s", operation, operation.step, why)

    def end(self, ended: Ended) -> None:
        """Nothing is under way any more."""
        text = ended.model_dump_json(indent=1, by_alias=True)
        self._container.push(_ENDED, text, permissions=0o644)
        self._container.remove_path(_FILE, recursive=True)
        logger.info("operation: %s has ended: %s", ended.what, ended.text)

    def last(self) -> Ended | None:
        """What ended last, None where that is not known."""
        try:
            return Ended.model_validate_json(files.read(self._container, _ENDED) or b"")
        except ValidationError:
            return None
