"""A metadata volume that was lost comes back from MySQL, before a server is started on it.

What is being recovered is noted on the metadata volume before the agent begins, and the note goes
when the volume has its marker again: a pod that is lost in between goes on where it was. The agent
works in a folder of its own and moves the control plane out of it last: where that is, all is.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import ops
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

import credentials
import files
import mirror_status
import mirroring
import volumes
from credentials import Credentials
from errors import BlockedError, WaitingError
from mirror_status import Holder, Report, foreign
from sidecar import Agent, agent_errors
from state import State
from volumes import Marker, MismatchError, Pair

logger = logging.getLogger(__name__)

_NOTE = f"{volumes.PATHS['metadata']}/{volumes.RECOVERY}"
_WORK = f"{volumes.PATHS['metadata']}/{volumes.RECOVERING}"
_INSPECT_TIMEOUT = 60.0
_POLL = 1.0
_WAYS_OUT = (
    "to serve without it, remove the relation, or run start-without volume=metadata where that "
    "volume is the one that is lost"
)
_ASKED = f"the metadata volume is empty, so MySQL is asked first; {_WAYS_OUT}"


class Mirror(Holder):
    """What a database says of the metadata in it; `marker`: that of the volume, as JSON."""

    generation: int = 0
    model_uuid: str = ""
    marker: str = ""


class Problem(BaseModel):
    """Why a database could not be asked: a short word and a text."""

    kind: str = ""
    text: str = "unknown"


class Inspection(BaseModel):
    """What the agent found in the database."""

    model_config = ConfigDict(extra="ignore")

    mirror: Mirror | None = None
    error: Problem | None = None


class Note(BaseModel):
    """What is being recovered: the marker the volume shall have, and the secret with its key.

    No `secret_id`: the key is this application's own.
    """

    model_config = ConfigDict(frozen=True)

    marker: Marker
    secret_id: str = ""


class Recovery:
    """The steps; `dittofs` has the volumes, `agent` the program.

    Methods raise `CharmError`; Pebble's errors of `agent` are translated, those of `dittofs` not.
    """

    def __init__(
        self, dittofs: ops.Container, agent: ops.Container, state: State, model: ops.Model
    ):
        self._dittofs = dittofs
        self._agent = Agent(agent)
        self._state = state
        self._model = model

    def bring_back(self, pair: Pair, made: Credentials) -> Pair:
        """Return the pair, with its metadata from MySQL where it has lost it and MySQL has it.

        A pair that has lost nothing, or for which there is nothing in MySQL, is returned as it is.

        Raises:
            WaitingError: MySQL could not be asked yet, or the recovery goes on.
            BlockedError: what MySQL holds is not this pair's, or cannot be read.
        """
        if pair.metadata.marker is not None:
            if pair.metadata.recovery:
                self._forget()
            return pair
        note = self._read_note(pair)
        if note and volumes.CONTROL_PLANE in pair.metadata.data:
            return self._complete(note)
        if self._state.mysql is None or (note is None and pair.metadata.data):
            return pair
        if note is None:
            mirror = self.inspect()
            if mirror is None:
                return pair
            self._check_ours(mirror, pair, made)
            note = self.begin(mirror)
        report = self._checked(note, self.advance(note))
        if report.state != "recovered":
            raise WaitingError(f"mysql: recovering the metadata volume: {_progress(report)}")
        return self._complete(note)

    def inspect(self) -> Mirror | None:
        """Ask MySQL whose metadata it holds; None where it holds none.

        Raises:
            WaitingError: it could not be asked now.
            BlockedError: it cannot be asked before a person acts.
        """
        with agent_errors():
            answer = self._agent.execute(
                mirroring.settings(self._state, None), ["inspect"], _INSPECT_TIMEOUT
            )
        try:
            found = Inspection.model_validate_json(answer.text)
        except ValidationError:
            raise WaitingError(
                f"mysql: no server is started: the agent ended with {answer.code} while it asked",
                more=_ASKED,
            ) from None
        if found.error is None:
            return found.mirror
        acts = found.error.kind in mirror_status.A_PERSON_ACTS
        raise (BlockedError if acts else WaitingError)(
            f"mysql: no server is started: {found.error.text}",
            more=_ASKED,
        )

    def begin(self, mirror: Mirror, secret_id: str = "") -> Note:
        """Note on the volume what is to be recovered."""
        note = Note(marker=_marker(mirror, self._state), secret_id=secret_id)
        self._dittofs.push(_NOTE, note.model_dump_json(indent=1), permissions=0o644)
        logger.info("recovery: begin with the metadata of instance %s", mirror.instance)
        return note

    def advance(self, note: Note) -> Report:
        """Let the agent go on, or see how far it is.

        Raises:
            WaitingError: the agent's container or the database's data are not there.
            BlockedError: the key cannot be read.
        """
        key: SecretStr | None = None
        if note.secret_id:
            key = credentials.recovery_key(self._model, note.secret_id, credentials.MIRROR_KEY)
        command = ["recover", "--from", note.marker.instance, "--stay"]
        settings = mirroring.settings(self._state, note.marker, key)
        with agent_errors():
            if self._agent.ensure(settings, command):
                return mirroring.settle(self._agent)
            report = mirroring.read(self._agent)
            if report.state != "failed":
                return report
            self._agent.restart("it gave up")
            return mirroring.settle(self._agent)

    def wait(self, note: Note, log: Callable[[str], None], seconds: float) -> str:
        """Let the agent work until it is done, or for so long; return how far it came.

        Args:
            note: of `begin`.
            log: is told the progress.
            seconds: how long to wait; what is left then goes on without anybody waiting.

        Raises:
            CharmError: it could not be done; the note is gone where nothing was changed.
        """
        end = time.monotonic() + seconds
        said = ""
        report = self.advance(note)
        while self._checked(note, report).state != "recovered":
            text = _progress(report)
            if text != said:
                log(text)
                said = text
            if time.monotonic() > end:
                return f"goes on: {text}"
            time.sleep(_POLL)
            with agent_errors():
                report = mirroring.read(self._agent)
        return "complete"

    def holds_data(self, pair: Pair) -> bool:
        """Whether there is something on the metadata volume that no recovery may touch."""
        if pair.metadata.marker is not None:
            return True
        return bool(pair.metadata.data) and volumes.RECOVERY not in pair.metadata.recovery

    def _check_ours(self, mirror: Mirror, pair: Pair, made: Credentials) -> None:
        """Return where the metadata can only be what this unit has lost.

        Raises:
            MismatchError: it may be somebody else's.
        """
        wanted = _marker(mirror, self._state)
        ours = (self._state.application, self._state.model_uuid, made.life)
        content = pair.content.marker
        known = self._state.instance in {None, mirror.instance}
        fits = content is not None and content.instance == mirror.instance
        fits = fits or (pair.fresh and known)
        if fits and (mirror.application, mirror.model_uuid, wanted.life) == ours:
            return
        raise MismatchError(
            f"mysql: run recover-metadata from={mirror.instance} or relate a fresh database",
            lost=None if pair.fresh else "metadata",
            more=f"{foreign(mirror)}; to serve it, run recover-metadata from={mirror.instance} "
            f"confirm={mirror.instance} recovery-key=<secret>; to serve without it, relate a "
            "fresh database, or remove the relation",
        )

    def _complete(self, note: Note) -> Pair:
        """Mark the volume as what it was; the generation is the higher one of the pair's.

        MySQL may have missed the last start of the server, the content volume has not.
        """
        content = volumes.look(self._dittofs).content.marker
        marker = note.marker
        if content is not None and content.instance == marker.instance:
            generation = max(content.generation, marker.generation)
            marker = marker.model_copy(update={"generation": generation})
        volumes.write_metadata_marker(self._dittofs, marker)
        self._forget()
        return volumes.look(self._dittofs)

    def _checked(self, note: Note, report: Report) -> Report:
        """Return the report of a recovery that has not failed.

        Raises:
            WaitingError: it has. Where nothing was changed MySQL is asked anew at the next event:
                it may be another database then.
            BlockedError: the same, where a person has to act before.
        """
        if report.state != "failed":
            return report
        logger.info("recovery: failed, %s", report.message)
        if not volumes.look(self._dittofs).metadata.data:
            self._forget()
        acts = report.kind in mirror_status.A_PERSON_ACTS
        raise (BlockedError if acts else WaitingError)(
            f"mysql: no server is started: {report.message}",
            more=f"the metadata of {note.marker.instance} could not be recovered, which is tried "
            f"again; {_WAYS_OUT}",
        )

    def _forget(self) -> None:
        for place in (_WORK, _NOTE):
            self._dittofs.remove_path(place, recursive=True)

    def _read_note(self, pair: Pair) -> Note | None:
        if volumes.RECOVERY not in pair.metadata.recovery:
            return None
        try:
            return Note.model_validate_json(files.read(self._dittofs, _NOTE) or b"")
        except ValidationError:
            return None


def _progress(report: Report) -> str:
    return str(report.progress or report.message or report.state)


def _marker(mirror: Mirror, state: State) -> Marker:
    """The marker that the volume had, made this application's.

    Raises:
        BlockedError: a newer charm wrote it: what that knows of the metadata is not known here.
    """
    known: dict[str, Any] = {"shares": {}, "life": ""}
    try:
        kept = Marker.model_validate_json(mirror.marker)
        known = {name: getattr(kept, name) for name in ("shares", "life", "server", "build")}
    except ValidationError:
        if volumes.is_newer(mirror.marker):
            raise BlockedError(
                f"refresh the charm: the metadata of {mirror.instance} in MySQL is of a newer one"
            ) from None
    return Marker(
        instance=mirror.instance,
        generation=mirror.generation,
        committed=True,
        application=state.application,
        model_uuid=state.model_uuid,
        **known,
    )
