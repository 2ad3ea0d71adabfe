"""The actions of the unit that serves. Each takes typed parameters and returns its results."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import ops
from pydantic import BaseModel, Field

import credentials
import login
import names
import report
import serving
import sidecar
import space_guard
import volumes
from api import Api, Share, Store
from errors import BlockedError, CharmError, DifferenceError
from options import ShareOptions
from present import Present
from sidecar import Containers
from state import State
from stores import CONTENT_DIRECTORY, METADATA_DIRECTORY
from workload import METRICS_URL, Workload, pebble_errors

logger = logging.getLogger(__name__)

Results = dict[str, str]
_RECOVERY_WAIT = 600.0
_DELETED = f"{volumes.PATHS['metadata']}/{volumes.DELETED}"


class FormatParams(BaseModel):
    """Parameters of `status-detail` and `list-shares`."""

    format: Literal["text", "json"] = "text"


class DeleteShareParams(BaseModel):
    """Parameters of `delete-share`."""

    name: str
    confirm: str


class StartWithoutParams(BaseModel):
    """Parameters of `start-without`."""

    volume: volumes.Lost
    confirm: str


class AdoptVolumesParams(BaseModel):
    """Parameters of `adopt-volumes`."""

    confirm: str


class RecoverMetadataParams(BaseModel):
    """Parameters of `recover-metadata`; `source` is called `from`."""

    source: str = Field(alias="from")
    confirm: str
    recovery_key: str = ""


class VerifyMetadataParams(BaseModel):
    """`verify-metadata` has no parameters."""


class PreRefreshCheckParams(BaseModel):
    """Parameters of `pre-refresh-check`; `server` is the version that is to come, if any."""

    server: str = ""


class Call(NamedTuple):
    """What an action has to do with.

    Attributes:
        log: tells the user how far it is.
        findings: the reasons behind the status, where they were looked for.
    """

    containers: Containers
    model: ops.Model
    state: State
    log: Callable[[str], None]
    findings: list[CharmError]


class Action(NamedTuple):
    """An action: the type of its parameters, what takes them, and whether that may take long."""

    params: type[BaseModel]
    run: Callable[[Any], Results]
    long: bool = False


def find(name: str, call: Call) -> Action:
    """The action of this name, with `_` in it."""
    found = Actions(call).table.get(name)
    if found is not None:
        return found
    from backup_actions import BackupActions  # noqa: PLC0415  # most units have no S3

    return BackupActions(call).table[name]


class _Doomed(NamedTuple):
    """What `delete-share` deletes.

    Attributes:
        share: as the server has it; None where it has none any more.
        true_name: the server's name of it, which may be no UTF-8.
        store: its metadata store.
        key: the name of its store.
        places: where its files are.
    """

    share: Share | None
    true_name: str
    store: Store | None
    key: str
    places: list[str]


class Actions:
    """The actions; every method raises `CharmError` with the text for the user."""

    def __init__(self, call: Call):
        self._call = call
        self._containers = call.containers
        self._container = call.containers.dittofs
        self._model = call.model
        self._state = call.state
        self._workload = Workload(call.containers.dittofs)

    @property
    def table(self) -> dict[str, Action]:
        """The actions by their names."""
        return {
            "status_detail": Action(FormatParams, self.status_detail),
            "list_shares": Action(FormatParams, self.list_shares),
            "delete_share": Action(DeleteShareParams, self.delete_share),
            "start_without": Action(StartWithoutParams, self.start_without),
            "adopt_volumes": Action(AdoptVolumesParams, self.adopt_volumes),
            "recover_metadata": Action(RecoverMetadataParams, self.recover_metadata, long=True),
            "verify_metadata": Action(VerifyMetadataParams, self.verify_metadata, long=True),
            "pre_refresh_check": Action(PreRefreshCheckParams, self.pre_refresh_check),
        }

    def status_detail(self, params: FormatParams) -> Results:
        """Show everything; what cannot be reached is said in its place."""
        guard = self._guard()
        detail: dict[str, object] = {
            "reasons": [f"{error.status.name}: {error.whole}" for error in self._call.findings],
            "volumes": report.volume_rows(self._container, self._state),
            **report.guard_detail(guard),
            **report.mirror_detail(self._containers.agent, self._state),
            **report.backup_detail(self._containers, self._state, self._model),
        }
        try:
            with self._connect() as api:
                detail |= report.server_detail(api, self._state, METRICS_URL, guard)
        except CharmError as error:
            detail["server"] = {"version": "unknown", "reason": error.whole}
        if params.format == "json":
            return {"status": report.as_json(detail)}
        return {"status": report.as_text(detail)}

    def list_shares(self, params: FormatParams) -> Results:
        """List the shares of the server."""
        with self._connect() as api:
            rows = report.share_rows(Present.ask(api, ()), self._state, self._guard())
        if params.format == "json":
            return {"shares": report.as_json(rows)}
        return {"shares": "\n".join(report.table(rows)) if rows else "none"}

    def _guard(self) -> space_guard.Report:
        """What the guard of the volumes said last; nothing where nobody can be asked."""
        try:
            return space_guard.look(self._containers.agent)
        except CharmError:
            return space_guard.Report()

    def delete_share(self, params: DeleteShareParams) -> Results:
        """Delete a share with its files: the server is restarted to let go of them."""
        if params.confirm != params.name:
            raise BlockedError(f"to delete {params.name} for ever, say confirm={params.name}")
        listed = self._state.options.shares
        if listed is None:
            raise BlockedError("mend the option shares first: it is not known what it lists")
        self._need_nothing_under_way()
        with self._connect() as api:
            doomed = self._doomed(Present.ask(api, ()), params.name, listed)
            if doomed.share:
                api.delete_share(doomed.true_name)
                logger.info("server: took the share %s out", params.name)
            if doomed.store:
                api.delete_metadata_store(doomed.store.name)
                logger.info("server: took the metadata store %s out", doomed.store.name)
        with pebble_errors():
            # The server has the store's files open until it ends.
            self._workload.stop(f"to delete the share {params.name}")
            # The mirror forgets what is noted here. The note may be read while the files still go,
            # and the store be taken for a new one: so it is made again.
            self._container.push(f"{_DELETED}/{doomed.key}", "", make_dirs=True)
            for place in doomed.places:
                self._container.remove_path(place, recursive=True)
                logger.info("volumes: deleted %s", place)
            self._container.push(f"{_DELETED}/{doomed.key}", "", make_dirs=True)
        freed = doomed.share.used_bytes if doomed.share else 0
        return {"deleted": params.name, "freed-bytes": str(freed)}

    def _doomed(self, present: Present, name: str, listed: Sequence[ShareOptions]) -> "_Doomed":
        """What is to be deleted under this name, also what an earlier try left of it.

        Raises:
            BlockedError: there is nothing of this charm, or it is served.
        """
        if not name.startswith("/"):
            raise _no_share(name)
        share = _named(present, name)
        true_name = (present.true_name(share) if share else names.as_read(name)) or name
        wanted = names.canonical(names.as_told(share.name if share else true_name))
        if wanted in {each.name for each in listed}:
            raise BlockedError(f"the option shares lists {wanted}: take it out of the list first")
        try:
            ours = share and present.made_by_charm(share)
            key = (
                present.metadata[share.metadata_store_id].name
                if share and ours
                else names.key(name)
            )
            folder = names.folder(true_name)
        except ValueError:
            raise _no_share(name) from None
        if not share and ("/" in name[1:] or present.find(wanted)):
            raise _no_share(name)
        places = [f"{METADATA_DIRECTORY}/{key}", f"{CONTENT_DIRECTORY}/shares/{folder}"]
        store = next((each for each in present.metadata.values() if each.name == key), None)
        with pebble_errors():
            left = any(self._container.exists(place) for place in places)
        if share is None and store is None and not (left or self._mirrored(key)):
            raise BlockedError(f"there is no share {name}: see list-shares")
        if share and (store is None or share.metadata_store_id != store.id):
            raise BlockedError(f"{name} was not made by this charm: delete it with dfsctl")
        return _Doomed(share, true_name, store, key, places)

    def _mirrored(self, key: str) -> bool:
        """Whether MySQL has the metadata of a share that is nowhere else any more."""
        if self._state.mysql is None:
            return False
        import mirroring  # noqa: PLC0415  # most events have no use for it

        said = mirroring.look(self._containers.agent)
        return any(store.name == key for store in said.stores)

    def start_without(self, params: StartWithoutParams) -> Results:
        """Put what cannot be served aside and let the server start with empty shares."""
        if params.confirm != params.volume:
            raise BlockedError(
                f"to put aside what cannot be served, say confirm={params.volume}; nothing is "
                "deleted"
            )
        pair, mismatch = self._mismatch()
        if mismatch is None or mismatch.lost is None:
            raise BlockedError("no volume is missing: there is nothing to do without")
        if mismatch.lost != params.volume:
            raise BlockedError(f"what is not right is volume={mismatch.lost}: {mismatch.whole}")
        self._need_nothing_under_way()
        # It may be at work on the volume.
        sidecar.stop(self._containers.agent, sidecar.MIRROR)
        with pebble_errors():
            self._workload.stop(f"to start without volume={params.volume}")
            places = volumes.set_aside(self._container, pair, params.volume)
            self._workload.forget_exit()
            # The users that may have stayed are of another life: admin is made anew. Their file
            # stays what the newest server made of it.
            server = pair.served[0] if params.volume == "content" else ""
            left = volumes.look(self._container)
            volumes.commit(self._container, left, self._state, "", server)
        return {"kept-aside": ", ".join(places) or "nothing"}

    def adopt_volumes(self, params: AdoptVolumesParams) -> Results:
        """Make a pair of another application or model this application's."""
        pair, mismatch = self._mismatch()
        if mismatch is None or mismatch.adopt is None:
            raise BlockedError("the volumes are no pair of another application")
        if mismatch.adopt != params.confirm:
            raise BlockedError(f"to serve these volumes, say confirm={mismatch.adopt}")
        self._need_nothing_under_way()
        with pebble_errors():
            volumes.adopt(self._container, pair, self._state)
            self._workload.forget_exit()
        return {"adopted": mismatch.adopt}

    def recover_metadata(self, params: RecoverMetadataParams) -> Results:
        """Bring the metadata of another instance from MySQL onto the empty metadata volume."""
        from recovering import Recovery  # noqa: PLC0415  # most events have no use for it

        if params.confirm != params.source:
            raise BlockedError(f"to serve the metadata of another, say confirm={params.source}")
        self._state.need_volumes()
        recovery = Recovery(*self._containers, self._state, self._model)
        with pebble_errors():
            if recovery.holds_data(volumes.look(self._container)):
                raise BlockedError(
                    "the metadata volume is not empty: recover on an application whose is, or "
                    "put it aside with start-without where it is not right"
                )
        self._need_nothing_under_way()
        mirror = recovery.inspect()
        if mirror is None or mirror.instance != params.source:
            raise BlockedError(f"mysql: the database holds the metadata of {mirror or 'nobody'}")
        if params.recovery_key:
            credentials.recovery_key(self._model, params.recovery_key, credentials.MIRROR_KEY)
        with pebble_errors():
            note = recovery.begin(mirror, params.recovery_key)
            text = recovery.wait(note, self._call.log, _RECOVERY_WAIT)
        return {"instance": mirror.instance, "recovery": text}

    def verify_metadata(self, _: VerifyMetadataParams) -> Results:
        """Compare MySQL with the stores, while the server serves."""
        import mirroring  # noqa: PLC0415  # most events have no use for it
        import verifying  # noqa: PLC0415  # the same

        self._state.need_volumes()
        with pebble_errors():
            marker = volumes.look(self._container).metadata.marker
        settings = mirroring.settings(self._state, marker)
        return verifying.verify(self._containers.agent, settings)

    def pre_refresh_check(self, params: PreRefreshCheckParams) -> Results:
        """Say all that stands in the way of a refresh."""
        from refreshing import Refresh  # noqa: PLC0415  # most events have no use for it

        server = params.server.strip()
        reasons = Refresh(self._containers, self._state, self._model, server).reasons()
        if reasons:
            text = f"not ready for a refresh: {'; '.join(reasons)}"
            raise DifferenceError(text, {"reasons": "\n".join(reasons)})
        return {"refresh": "ready"}

    def _connect(self) -> AbstractContextManager[Api]:
        operation = serving.under_way(self._containers, self._state)
        if operation is not None and operation.takes_server:
            # A login would change the password that the restore goes on with.
            raise _busy(operation)
        return login.connect(self._model, self._state, self._state.need_credentials())

    def _need_nothing_under_way(self) -> None:
        operation = serving.under_way(self._containers, self._state)
        if operation is not None:
            raise _busy(operation)

    def _mismatch(self) -> tuple[volumes.Pair, volumes.MismatchError | None]:
        self._state.need_volumes()
        with pebble_errors():
            pair = volumes.look(self._container)
        try:
            volumes.check(pair, self._state)
        except volumes.MismatchError as error:
            return pair, error
        return pair, None


def _named(present: Present, name: str) -> Share | None:
    """The share of this name, or the one that the charm made when it was asked for this name."""
    found = present.find(names.canonical(name))
    stores = (each for each in present.metadata.values() if names.asked(each.name) == name)
    made = next(stores, None)
    ours = (each for each in present.shares.values() if made and each.metadata_store_id == made.id)
    return found or next(ours, None)


def _no_share(name: str) -> BlockedError:
    return BlockedError(f"{name} is no share of this charm: see list-shares")


def _busy(operation: object) -> BlockedError:
    return BlockedError(f"{operation} is under way: wait until it is done, see status-detail")
