"""The two volumes: do they belong together, and to this application?

The server serves a metadata volume beside a lost content volume without a word, and every file
reads as zeros. So both volumes carry a marker with the same instance id and the same generation,
written by the charm before the server is started, and the server is started only where they match.

A generation is written in three steps (content prepared, metadata committed, content committed),
so that a pair torn by a crash between two steps is told from a volume brought back from a copy:
the server has not run on a generation before its third step.
"""

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal, Protocol

import ops
from ops import pebble
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

import files
import releases
from errors import BlockedError

logger = logging.getLogger(__name__)

MARKER = ".dittofs-charm.json"
PATHS: dict[str, str] = {"metadata": "/data/metadata", "content": "/data/content"}
# While the metadata comes back from MySQL: what the charm is about, and where the agent works.
RECOVERY, RECOVERING = ".dittofs-charm-recovery.json", ".recovering"
# On the metadata volume: what is done with backups now, and what was done last.
OPERATION, ENDED = ".dittofs-operation.json", ".dittofs-charm-ended.json"
DELETED = "deleted-stores"
_PROBE = ".dittofs-charm-probe"
# What is the charm's or the agent's own, or was put aside; neither moved nor replaced. A fresh
# ext4 volume has lost+found; the server's user may not even look into it.
_NOT_DATA = frozenset({"lost+found", RECOVERING, DELETED, ".restoring"})
_ASIDE = "aside-"
_NOT_DATA_BEGINNINGS = (".dittofs-", _ASIDE)
CONTROL_PLANE = "controlplane.db"
DATABASE = f"{PATHS['metadata']}/{CONTROL_PLANE}"
_CONTROL_PLANE = frozenset({CONTROL_PLANE, f"{CONTROL_PLANE}-wal", f"{CONTROL_PLANE}-shm"})

VolumeName = Literal["metadata", "content"]
# What is to be done without: one of them, or both.
Lost = Literal["metadata", "content", "both"]


class Owner(Protocol):
    """Whose volumes they are to be: an application in a model.

    `instance`: that of the volumes it has had; None where it has had none, or that is not known.
    """

    @property
    def application(self) -> str: ...  # noqa: D102  # the class docstring says it
    @property
    def model_uuid(self) -> str: ...  # noqa: D102  # the class docstring says it
    @property
    def instance(self) -> str | None: ...  # noqa: D102  # the class docstring says it


def _release(name: str) -> str:
    if name and releases.order(name) is None:
        raise ValueError("no release")
    return name


class Marker(BaseModel):
    """What a volume says of itself; the file `.dittofs-charm.json` in its root.

    Attributes:
        instance: made with the pair, never changed.
        generation: counted up on both volumes at each start by the charm.
        committed: False between the first and the third step of a generation.
        life: which credentials the server's admin was made with.
        shares: name of each share to its backends, `metadata/content`, for people to read.
        server: the highest release of the server that has served; empty where that is not known.
        build: a build that is no release and was the last to serve; empty for none.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    instance: str
    generation: int
    committed: bool
    application: str
    model_uuid: str
    life: str
    shares: dict[str, str] = {}
    server: Annotated[str, AfterValidator(_release)] = ""
    build: str = ""


@dataclass(frozen=True)
class Volume:
    """What was found on a volume: its marker, if it has one, and the names of all else.

    `recovery` has those of `RECOVERY` and `RECOVERING` that are there, `notes` those of
    `OPERATION` and `ENDED`. `damaged`: there is a marker that cannot be understood.
    """

    name: VolumeName
    marker: Marker | None
    data: tuple[str, ...]
    recovery: frozenset[str] = frozenset()
    notes: frozenset[str] = frozenset()
    damaged: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing on it."""
        return self.marker is None and not self.data and not self.damaged


@dataclass(frozen=True)
class Pair:
    """Both volumes as they were found."""

    metadata: Volume
    content: Volume

    @property
    def marker(self) -> Marker | None:
        """The marker that names the pair: the metadata volume's, it is written in between."""
        return self.metadata.marker

    def check_server(self, name: str, *, allow_unknown: bool) -> None:
        """Return where a server of this name may be started on them.

        Raises:
            BlockedError: it may not, see `releases`.
        """
        release, build = self.served
        releases.check(name, release=release, build=build, allow_unknown=allow_unknown)

    def served_by(self, name: str) -> dict[str, str]:
        """What the markers say of servers when one of this name is about to serve."""
        release, build = self.served
        if name:
            build = "" if releases.order(name) else name
        return {"server": releases.highest(release, name), "build": build}

    @property
    def served(self) -> tuple[str, str]:
        """The highest release that has served, and the build since that is none."""
        markers = [each.marker for each in (self.metadata, self.content) if each.marker]
        build = next((each.build for each in markers if each.build), "")
        return releases.highest(*(each.server for each in markers)), build

    @property
    def fresh(self) -> bool:
        """Whether both are empty, or were until a crash in the first step of all."""
        begun = self.content.marker
        interrupted = begun is not None and not begun.committed and begun.generation == 1
        return self.metadata.empty and not self.content.data and (begun is None or interrupted)


class MismatchError(BlockedError):
    """The volumes may not be served; `lost` names what to do without, if there is a way."""

    def __init__(
        self, text: str, lost: Lost | None = None, adopt: str | None = None, more: str = ""
    ):
        super().__init__(text, more=more)
        self.lost = lost
        self.adopt = adopt


def look(container: ops.Container) -> Pair:
    """Read the markers and the names in the root of both volumes.

    Raises:
        MismatchError: a marker cannot be understood.
    """
    pair = survey(container)
    need_markers(pair)
    return pair


def survey(container: ops.Container) -> Pair:
    """Read the same, and go on where a marker cannot be understood."""
    return Pair(_look(container, "metadata"), _look(container, "content"))


def need_markers(pair: Pair) -> None:
    """Return where the markers can be understood.

    Raises:
        MismatchError: one cannot.
    """
    for volume in (pair.metadata, pair.content):
        if volume.damaged:
            raise MismatchError(
                f"refresh the charm: {MARKER} on the {volume.name} volume is damaged or of a "
                "newer charm",
                more="or bring the file back from a copy of the volume",
            )


def is_newer(text: str) -> bool:
    """Whether what is no marker that can be understood is one of a newer charm."""
    try:
        return int(json.loads(text)["version"]) > Marker.model_fields["version"].default
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return False


def check(pair: Pair, owner: Owner) -> None:
    """Return where the pair may be served.

    Raises:
        MismatchError: it may not; the text names the volume, the shares and the ways out.
    """
    if pair.fresh:
        if owner.instance:
            raise _both_lost(owner.instance)
        return
    metadata, content = pair.metadata.marker, pair.content.marker
    if metadata is None and content is None:
        name = "metadata" if pair.metadata.data else "content"
        raise MismatchError(
            f"bring the {name} volume back or run start-without volume={name}: it has foreign "
            "files",
            more="start-without puts them aside",
            lost=name,
        )
    if metadata is None or content is None:
        raise _lost(pair.metadata if metadata is None else pair.content, metadata or content)
    if metadata.instance != content.instance:
        raise _foreign(metadata, content, owner)
    if not _same_generation(metadata, content):
        older: VolumeName = "metadata" if metadata.generation < content.generation else "content"
        raise MismatchError(
            f"restore a backup or run start-without volume={older}: that volume is older",
            more=f"the volumes have {_shares(metadata)}",
            lost=older,
        )
    if (metadata.application, metadata.model_uuid) != (owner.application, owner.model_uuid):
        raise MismatchError(
            f"run adopt-volumes confirm={metadata.instance} to serve the volumes of another "
            "application",
            more=f"they belong to the application {metadata.application} of another life or "
            f"model, and have {_shares(metadata)}",
            adopt=metadata.instance,
        )


def commit(
    container: ops.Container, pair: Pair, owner: Owner, life: str, server: str = ""
) -> Pair:
    """Write the next generation on both volumes, and return them as they are now.

    The server may be started afterwards; `server` is its name where it will be.
    """
    present = pair.marker
    if present is None:
        present = Marker(
            instance=uuid.uuid4().hex,
            generation=0,
            committed=False,
            application=owner.application,
            model_uuid=owner.model_uuid,
            life=life,
        )
    following = present.model_copy(
        update={
            "generation": present.generation + 1,
            "committed": True,
            "life": life,
            "application": owner.application,
            "model_uuid": owner.model_uuid,
            **pair.served_by(server),
        }
    )
    _write(container, "content", following.model_copy(update={"committed": False}))
    _write(container, "metadata", following)
    _write(container, "content", following)
    logger.info(
        "volumes: marked generation %d of instance %s", following.generation, following.instance
    )
    return Pair(replace(pair.metadata, marker=following), replace(pair.content, marker=following))


def claim(container: ops.Container, pair: Pair, owner: Owner, life: str, server: str = "") -> Pair:
    """Make two volumes a pair of this application, whatever they were: they were restored.

    The instance stays where one of them was this application's.
    """
    ours = (owner.application, owner.model_uuid)
    markers = [volume.marker for volume in (pair.metadata, pair.content) if volume.marker]
    known = [each for each in markers if (each.application, each.model_uuid) == ours]
    basis = max(known, key=lambda each: each.generation, default=None)
    basis_pair = replace(pair, metadata=replace(pair.metadata, marker=basis))
    return commit(container, basis_pair, owner, life, server)


def record_shares(container: ops.Container, pair: Pair, shares: Mapping[str, str]) -> Pair:
    """Note the shares and their backends on both volumes, where they are not noted yet."""
    return Pair(
        _record_shares(container, pair.metadata, shares),
        _record_shares(container, pair.content, shares),
    )


def write_metadata_marker(container: ops.Container, marker: Marker) -> None:
    """Mark a metadata volume that was recovered."""
    _write(container, "metadata", marker)
    logger.info(
        "volumes: marked the recovered metadata volume as instance %s, generation %d",
        marker.instance,
        marker.generation,
    )


def adopt(container: ops.Container, pair: Pair, owner: Owner) -> None:
    """Make the pair this application's; the life is left out, so that admin is made anew."""
    commit(container, pair, owner, life="")


def set_aside(container: ops.Container, pair: Pair, lost: Lost) -> list[str]:
    """Rename what cannot be served aside on its volume, and forget the pair; return the places.

    Users and settings stay where only the content is lost: they are in the control plane's file,
    which does not depend on it.
    """
    stamp = datetime.now(UTC).strftime(f"{_ASIDE}%Y%m%dT%H%M%SZ")
    places: list[str] = []
    for volume in (pair.metadata, pair.content):
        keep = _CONTROL_PLANE if lost == "content" else frozenset[str]()
        names = sorted({*volume.data} - keep)
        root = PATHS[volume.name]
        if volume.marker is not None:
            names.append(MARKER)
        if not names:
            continue
        place = f"{root}/{stamp}"
        container.make_dir(place, permissions=0o700)
        container.exec(["mv", *(f"{root}/{name}" for name in names), place]).wait()
        places.append(place)
        logger.info("volumes: put %s aside in %s", ", ".join(names), place)
    return places


def check_writable(container: ops.Container) -> None:
    """Write and remove a file on both volumes as the user of the server.

    Raises:
        BlockedError: it did not work; the text says what to look at.
    """
    for name, root in PATHS.items():
        probe = f"{root}/{_PROBE}"
        try:
            container.push(probe, "probe", permissions=0o600)
            container.remove_path(probe)
        except pebble.PathError as error:
            reason = error.message.rpartition(": ")[2]
            raise BlockedError(
                f"check the {name} volume: the server's user 65532 cannot write to it ({reason})",
                more="look at free space, the storage class, and whether that honours the group "
                "of the pod",
            ) from None


def _record_shares(container: ops.Container, volume: Volume, shares: Mapping[str, str]) -> Volume:
    if volume.marker is None or volume.marker.shares == dict(shares):
        return volume
    marker = volume.marker.model_copy(update={"shares": dict(shares)})
    _write(container, volume.name, marker)
    logger.info("volumes: noted the shares on the %s volume: %s", volume.name, ", ".join(shares))
    return replace(volume, marker=marker)


def _look(container: ops.Container, name: VolumeName) -> Volume:
    root = PATHS[name]
    names = {info.name for info in container.list_files(root)}
    data = tuple(sorted(n for n in names - _NOT_DATA if not n.startswith(_NOT_DATA_BEGINNINGS)))
    found = Volume(
        name,
        marker=None,
        data=data,
        recovery=frozenset(names & {RECOVERY, RECOVERING}),
        notes=frozenset(names & {OPERATION, ENDED}),
    )
    text = files.read(container, f"{root}/{MARKER}") if MARKER in names else None
    if text is None:
        return found
    try:
        return replace(found, marker=Marker.model_validate_json(text))
    except ValidationError:
        return replace(found, damaged=True)


def _lost(lost: Volume, other: Marker | None) -> MismatchError:
    shares = _shares(other) if other else ""
    what = "is empty" if lost.empty else "has foreign files"
    left = "content" if lost.name == "metadata" else "metadata"
    return MismatchError(
        f"bring the {lost.name} volume back or run start-without volume={lost.name}: it {what}",
        lost=lost.name,
        more=f"the {left} volume has {shares}; a backup can be restored, too",
    )


def _both_lost(instance: str) -> MismatchError:
    return MismatchError(
        "bring the old volumes back, or run start-without volume=both: both volumes are empty",
        lost="both",
        more=f"this application had the volumes of instance {instance}. Ways out: bring those "
        "back; relate MySQL where it has the metadata; restore a backup; or start-without "
        "volume=both confirm=both for empty shares",
    )


def _foreign(metadata: Marker, content: Marker, owner: Owner) -> MismatchError:
    ours = (owner.application, owner.model_uuid)
    foreign: VolumeName = (
        "metadata" if (metadata.application, metadata.model_uuid) != ours else "content"
    )
    wrong = metadata if foreign == "metadata" else content
    return MismatchError(
        f"bring the {foreign} volume back or run start-without volume={foreign}: it is another's",
        lost=foreign,
        more=f"it belongs to an instance of {wrong.application} and has {_shares(wrong)}; a "
        "backup can be restored, too",
    )


def _same_generation(metadata: Marker, content: Marker) -> bool:
    if metadata.generation == content.generation:
        return True
    # The crash came after the first step: the server has not run on the prepared generation.
    return not content.committed and content.generation == metadata.generation + 1


def _shares(marker: Marker) -> str:
    names = sorted(marker.shares)
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004  # what fits a status
    return f"shares {listed}" if names else "no shares"


def _write(container: ops.Container, name: VolumeName, marker: Marker) -> None:
    text = json.dumps(marker.model_dump(), indent=1, sort_keys=True)
    path = f"{PATHS[name]}/{MARKER}"
    container.push(path, text, permissions=0o644)
