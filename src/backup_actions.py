"""The actions of backups. Each takes typed parameters and returns its results.

They begin an operation and wait for it in bounded time; what takes longer goes on by itself.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

import credentials
import login
import names
import releases
import report
import volumes
from actions import Action, Call, Results
from backup_service import Row
from backups import Backups
from credentials import BACKUP_KEY
from errors import BlockedError, DifferenceError
from operation import Ended, Kind
from said import moment
from workload import Workload, pebble_errors

_WAIT = 600.0


def _names(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(each.strip() for each in value.split(",") if each.strip()))


class CreateBackupParams(BaseModel):
    """`create-backup` has no parameters."""


class ListBackupsParams(BaseModel):
    """Parameters of `list-backups`; `everywhere` is called `all`."""

    output: Literal["table", "json"] = "table"
    everywhere: Annotated[bool, Field(alias="all")] = False


class RestoreParams(BaseModel):
    """Parameters of `restore`; `source` is called `from`, empty for this application's own."""

    backup_id: str
    confirm: str
    shares: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    source: Annotated[str, Field(alias="from")] = ""
    recovery_key: str = ""


class VerifyBackupParams(BaseModel):
    """Parameters of `verify-backup`; `source` is called `from`, as with `restore`."""

    backup_id: str
    deep: bool = False
    source: Annotated[str, Field(alias="from")] = ""
    recovery_key: str = ""


class DeleteBackupParams(BaseModel):
    """Parameters of `delete-backup`."""

    backup_id: str
    confirm: str


class BackupActions:
    """The actions; every method raises `CharmError` with the text for the user."""

    def __init__(self, call: Call):
        self._call = call
        self._state = call.state
        self._model = call.model

    @property
    def table(self) -> dict[str, Action]:
        """The actions by their names."""
        return {
            "create_backup": Action(CreateBackupParams, self.create_backup, long=True),
            "list_backups": Action(ListBackupsParams, self.list_backups, long=True),
            "restore": Action(RestoreParams, self.restore, long=True),
            "verify_backup": Action(VerifyBackupParams, self.verify_backup, long=True),
            "delete_backup": Action(DeleteBackupParams, self.delete_backup, long=True),
        }

    def create_backup(self, _: CreateBackupParams) -> Results:
        """Make a backup."""
        backups = self._idle()
        self._need_server()
        backups.begin("create", {})
        return self._followed(backups, "backup")

    def list_backups(self, params: ListBackupsParams) -> Results:
        """List the backups in the bucket."""
        backups = self._backups()
        backups.load()
        rows = backups.listed(everywhere=params.everywhere)
        if params.output == "json":
            return {"backups": report.as_json([row.model_dump(by_alias=True) for row in rows])}
        foreign = any(not row.own for row in rows)
        shown = [_shown(row, everywhere=params.everywhere, foreign=foreign) for row in rows]
        return {"backups": "\n".join(report.table(shown)) if shown else "none"}

    def restore(self, params: RestoreParams) -> Results:
        """Bring back what a backup holds."""
        if params.confirm != params.backup_id:
            raise BlockedError(
                f"to put what backup {params.backup_id} holds in the place of what is there now, "
                f"say confirm={params.backup_id}"
            )
        if self._model.app.planned_units() > 1:
            raise BlockedError(
                f"only one unit may be there: juju scale-application {self._state.application} 1"
            )
        backups = self._idle()
        row = self._find(backups, params.backup_id, params.source)
        if not row.complete:
            raise BlockedError(f"backup {row.id} does not restore: {row.problem}")
        self._check_server(row)
        chosen = self._check_shares(params.shares, row)
        self._check_key(params.recovery_key, row)
        given: dict[str, Any] = {
            "backup-id": row.id,
            "from": params.source or None,
            "shares": list(chosen) or None,
        }
        backups.begin("restore", given, params.recovery_key)
        return self._followed(backups, "restore")

    def verify_backup(self, params: VerifyBackupParams) -> Results:
        """Read all of a backup and check it."""
        backups = self._idle()
        row = self._find(backups, params.backup_id, params.source)
        self._check_key(params.recovery_key, row)
        given: dict[str, Any] = {"backup-id": row.id, "deep": params.deep}
        if params.source:
            given["from"] = params.source
        backups.begin("verify", given, params.recovery_key)
        return self._followed(backups, "verification")

    def delete_backup(self, params: DeleteBackupParams) -> Results:
        """Delete a backup."""
        if params.confirm != params.backup_id:
            raise BlockedError(
                f"to delete backup {params.backup_id} for ever, say confirm={params.backup_id}"
            )
        backups = self._idle()
        row = self._find(backups, params.backup_id, "")
        backups.begin("delete", {"backup-id": row.id})
        return self._followed(backups, "deletion")

    def _backups(self) -> Backups:
        """The backups of a unit that has all it needs for them."""
        self._state.need_s3().need_bucket()
        self._state.need_volumes()
        made = self._state.need_credentials()
        with pebble_errors():
            pair = volumes.survey(self._call.containers.dittofs)
        return Backups(self._call.containers, self._state, self._model, made, pair)

    def _idle(self) -> Backups:
        backups = self._backups()
        backups.need_nothing_under_way()
        return backups

    def _need_server(self) -> None:
        """Return where the server serves: what is to be saved must be sound."""
        made = self._state.need_credentials()
        with pebble_errors():
            running = Workload(self._call.containers.dittofs).running
        if not running:
            raise BlockedError("the server does not run: see status-detail")
        with login.connect(self._model, self._state, made):
            pass

    def _find(self, backups: Backups, backup_id: str, source: str) -> Row:
        """A backup in the bucket; of this application where no other is named."""
        home = source or self._state.home
        for row in backups.listed(everywhere=bool(source)):
            if (row.id, row.source) == (backup_id, home):
                return row
        raise BlockedError(f"see list-backups: there is no backup {backup_id} of {home}")

    def _check_shares(self, wanted: tuple[str, ...], row: Row) -> tuple[str, ...]:
        """Return these shares, as the backup has them, where they can be brought back alone."""
        held = {names.canonical(each): each for each in row.shares}
        unknown = [name for name in wanted if names.canonical(name) not in held]
        if unknown:
            raise BlockedError(
                f"backup {row.id} does not hold {', '.join(unknown)}, but {', '.join(row.shares)}"
            )
        if wanted:
            with pebble_errors():
                pair = volumes.look(self._call.containers.dittofs)
            volumes.check(pair, self._state)
        return tuple(dict.fromkeys(held[names.canonical(name)] for name in wanted))

    def _check_server(self, row: Row) -> None:
        """Return where the present server may serve what is there and what comes back."""
        with pebble_errors():
            name = Workload(self._call.containers.dittofs).name()
            pair = volumes.survey(self._call.containers.dittofs)
        made, present = releases.order(row.server), releases.order(name)
        if made and present and present < made:
            raise BlockedError(
                f"attach dittofs-image {row.server} or newer first: it made backup {row.id}, and "
                f"{name} may destroy what it wrote"
            )
        allowed = self._state.options.allow_unknown_server
        if made is None and row.server != name and not allowed:
            raise BlockedError(
                f"set allow-unknown-server=true if {name} is no older than {row.server!r}, which "
                f"made backup {row.id}"
            )
        pair.check_server(name, allow_unknown=allowed)

    def _check_key(self, secret_id: str, row: Row) -> None:
        """Return where the key of the application that made the backup can be had."""
        if secret_id:
            credentials.recovery_key(self._model, secret_id, BACKUP_KEY)
        elif row.source != self._state.home:
            raise BlockedError(
                f"backup {row.id} is of another application: put the key that its secret "
                f"{BACKUP_KEY.label} had into a secret with the key `key`, grant it to "
                f"{self._state.application}, and say recovery-key=<secret>"
            )

    def _followed(self, backups: Backups, word: str) -> Results:
        """Wait for what has begun; `word`: what the result is called that says how it went."""
        operation = backups.operation
        backup_id = operation.backup_id if operation else ""
        ended = backups.follow(self._call.log, _WAIT)
        if isinstance(ended, str):
            return {"backup-id": backup_id, word: ended}
        results = {"backup-id": backup_id, word: "complete"} | _results(ended)
        if not ended.failed:
            return results
        raise DifferenceError(ended.text, results | {word: "failed"})


def _shown(row: Row, *, everywhere: bool, foreign: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": row.id,
        "time": moment(row.time),
        "size-bytes": row.size,
        "shares": _visible(", ".join(row.shares)) or "-",
    }
    if everywhere:
        shown["from"] = _visible(row.source)
    if foreign:
        shown["own"] = "yes" if row.own else "no"
    return shown | {
        "server": _visible(row.server),
        "complete": "yes" if row.complete else f"no: {row.problem}",
    }


def _visible(text: str) -> str:
    """A name out of the bucket as it can be shown: anybody may have written it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


_SHOWN: dict[Kind, tuple[str, ...]] = {
    "create": ("size", "uploaded", "duration", "shares", "skipped", "deleted", "problem"),
    "verify": ("checked-objects", "size", "problems"),
    "delete": ("deleted-objects", "freed", "problem"),
    "restore": (),
}


def _results(ended: Ended) -> Results:
    """What the agent found, as an action returns it; sizes in bytes, spans in seconds."""
    found = ended.result
    shown = {name: _text(found[name]) for name in _SHOWN[ended.kind] if name in found}
    results = {name: text for name, text in shown.items() if text}
    if ended.kind == "restore" and not ended.failed:
        rows = _shares(found)
        results["shares"] = "\n".join(report.table(rows)) if rows else "none"
    return results


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownArgumentType]  # any JSON


def _shares(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each share that came back, of what both steps said of it."""
    equal = {
        str(share.get("name")): bool(share.get("equal"))
        for share in found.get("settle", {}).get("shares", [])
    }
    return [
        {
            "name": (name := str(share.get("name"))),
            "size-bytes": share.get("bytes") or 0,
            "equal": equal.get(name, False),
            "status": share.get("status") or "unknown",
            "message": share.get("message") or "-",
        }
        for share in found.get("finish", {}).get("shares", [])
    ]
