"""The agent's program of backups: its settings, its service, and its commands."""

import functools
import json
from typing import Annotated, Any

import ops
from pydantic import Field, SecretStr, ValidationError

import backup_status
import credentials
from backup_status import Report
from credentials import BACKUP_KEY, Credentials
from errors import BlockedError, WaitingError
from operation import Operation
from relations.s3 import Bucket
from said import Part
from sidecar import BACKUP, Agent, agent_errors
from state import State
from version import VERSION
from volumes import Pair
from workload import API_URL, METRICS_URL

_COMMAND_TIMEOUT = 600.0
_READ_ELSEWHERE = frozenset({"fetch", "verify"})


class FailedError(BlockedError):
    """A command of the agent has failed; it may be run again."""


class Row(Part):
    """A backup in the bucket: times in unix time, sizes in bytes; `source` is called `from`.

    `own`: the present volumes' instance made it, so that it counts for what is kept.
    """

    id: str
    time: float
    size: int
    uploaded: int = 0
    duration: float = 0.0
    files: int = 0
    shares: tuple[str, ...] = ()
    application: str = "unknown"
    model: str = "unknown"
    model_uuid: str = "unknown"
    source: Annotated[str, Field(alias="from")]
    instance: str = "unknown"
    own: bool = True
    server: str = "unknown"
    charm: str = "unknown"
    encrypted: bool = False
    complete: bool
    problem: str | None = None


class _Listing(Part):
    backups: tuple[Row, ...]


class BackupService:
    """What the charm asks of it. Methods raise `CharmError`."""

    def __init__(
        self, container: ops.Container, state: State, model: ops.Model, made: Credentials
    ):
        self._agent = Agent(container, BACKUP)
        self._state = state
        self._model = model
        self._made = made
        self._instance = ""

    def know(self, pair: Pair) -> None:
        """Let it know the volumes as they are now: a backup names their instance."""
        self._instance = pair.marker.instance if pair.marker else ""

    def ensure(self, operation: Operation | None) -> None:
        """Let the service run with the settings that fit what is under way."""
        password = self._password(operation).get_secret_value()
        under_way = operation.model_dump_json() if operation else ""
        source = self._state.source(VERSION, self._instance, password, under_way)
        make = functools.partial(self._settings, operation)
        with agent_errors():
            self._agent.ensure_from(source, make, ["backup"], idle=self._state.idle)

    def stop(self) -> None:
        """End the service."""
        with agent_errors():
            self._agent.stop()

    def report(self) -> Report:
        """What it says of itself."""
        with agent_errors():
            return backup_status.parse(self._agent.status())

    def backups(self, operation: Operation | None, *, everywhere: bool = False) -> tuple[Row, ...]:
        """The backups in the bucket, oldest first; `everywhere`: also those of others."""
        words = ["backup-list", *(["--all"] if everywhere else [])]
        answer = self._execute(words, operation)
        try:
            return _Listing.model_validate_json(answer).backups
        except ValidationError:
            raise WaitingError("the agent's list of backups makes no sense") from None

    def run(self, command: str, operation: Operation) -> None:
        """Run a command that is a step of a restore, to its end.

        Raises:
            FailedError: it has failed.
        """
        self._execute([command], operation)

    def _execute(self, words: list[str], operation: Operation | None) -> str:
        """Return the last line that a command prints."""
        settings = self._settings(operation)
        with agent_errors():
            answer = self._agent.execute(settings, words, _COMMAND_TIMEOUT)
        line = (answer.text.strip().splitlines() or [""])[-1]
        if answer.code == 0:
            return line
        try:
            error = _Failing.model_validate_json(line).error
        except ValidationError:
            raise FailedError(f"{words[0]} ended with {answer.code} and without a word") from None
        if words[0] == "backup-list":
            raise backup_status.problem(error.kind, error.text)
        raise FailedError(error.text)

    def _settings(self, operation: Operation | None) -> bytes:
        state, options = self._state, self._state.options
        restores = operation is not None and operation.kind == "restore"
        return json.dumps(
            {
                "s3": _s3(self._bucket(operation)),
                "application": state.application,
                "model": state.model_name,
                "model_uuid": state.model_uuid,
                "charm_version": VERSION,
                # A restore is to go on undisturbed when it gives the volumes another one.
                "instance": "" if restores else self._instance,
                "api": {
                    "url": API_URL,
                    "metrics": METRICS_URL,
                    "user": "admin",
                    "password": self._password(operation).get_secret_value(),
                },
                "key": state.need_backup_key().get_secret_value(),
                "foreign_key": self._foreign_key(operation),
                "encrypt": options.backup_encryption,
                "keep": {"count": options.backup_keep.number, "days": options.backup_keep.days},
                "schedule": options.backup_schedule,
                "log_level": options.log_level,
            },
            sort_keys=True,
            indent=1,
        ).encode()

    def _bucket(self, operation: Operation | None) -> Bucket | None:
        """The bucket; a restore goes on without one: what it cannot fetch fails it."""
        s3 = self._state.s3
        if operation is None or operation.kind != "restore":
            return self._state.need_s3().need_bucket()
        if operation.step == "fetch" and s3 is not None:
            return s3.need_bucket()
        return s3.bucket if s3 is not None else None

    def _password(self, operation: Operation | None) -> SecretStr:
        """The password of `admin`; where the users were replaced the server has made it anew."""
        if operation is not None and operation.replaces_users:
            return self._made.admin_password
        return credentials.present_password(self._model, self._made)

    def _foreign_key(self, operation: Operation | None) -> str | None:
        if (
            operation is None
            or not operation.recovery_key
            or operation.step not in _READ_ELSEWHERE
        ):
            return None
        key = credentials.recovery_key(self._model, operation.recovery_key, BACKUP_KEY)
        return key.get_secret_value()


class _Problem(Part):
    kind: str = ""
    text: str


class _Failing(Part):
    error: _Problem


def _s3(bucket: Bucket | None) -> dict[str, Any] | None:
    if bucket is None:
        return None
    return {
        "endpoint": bucket.endpoint,
        "region": bucket.region,
        "bucket": bucket.name,
        "prefix": bucket.prefix,
        "path_style": bucket.path_style,
        "access_key": bucket.access_key.get_secret_value(),
        "secret_key": bucket.secret_key.get_secret_value(),
        "ca": bucket.ca,
        "proxy": bucket.proxy.get_secret_value() if bucket.proxy else None,
    }
