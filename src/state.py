"""Everything Juju says, as one typed object that does not change during an event."""

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import ops
from pydantic import BaseModel, ConfigDict, SecretStr

import credentials
import options
import proxies
from credentials import PEERS, Credentials
from errors import BlockedError, UnreadError, WaitingError
from relations import mysql
from relations.mysql import MYSQL, Related

if TYPE_CHECKING:
    from relations.s3 import Related as RelatedS3
else:
    # pydantic reads annotations at run time, and most units have no S3.
    RelatedS3 = object

logger = logging.getLogger(__name__)

FILESYSTEM = "filesystem"
S3 = "s3-backup"
VOLUMES = ("metadata", "content")
_PLACES = ".volumes.json"
_SERVED_KEY, _INSTANCE_KEY = "served-share", "instance"


class FilesystemClient(BaseModel):
    """A related application that wants a file system; `foreign`: it is in another model."""

    model_config = ConfigDict(frozen=True)

    relation_id: int
    application: str
    foreign: bool


class State(BaseModel):
    """What Juju says of this unit.

    Attributes:
        idle: whether the event says of no change: each change in Juju has an event of its own. The
            secrets of related applications and of the keys are not read then.
        told: a digest of what databags and the model's proxies say; of secrets it has the ids.
        volumes: the storages that are mounted, with their place in the charm container.
        detached: whether Juju does not even list one of the storages.
        credentials: None as long as the leader has not made them.
        admin_password: what `admin` shall have; None where the option's secret is no use.
        instance: that of the volumes that the application has had; None where none is known.
        served_share: the share that the serving unit offers over NFS, such as `/export`.
        mysql: the provider of a database for the metadata; None where none is related.
        mirror_key: the key of the control plane there; None as long as the leader has not made it.
        s3: the provider of a bucket for backups; None where none is related.
        backup_key: the key of the backups; None as long as the leader has not made it.
        mistakes: one line for each thing that a person has to mend in the configuration.
        faulty: the options that are not usable; `options` has their defaults.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    idle: bool
    told: str
    application: str
    unit_number: int
    model_name: str
    model_uuid: str
    leader: bool
    options: options.Options
    faulty: frozenset[str]
    mistakes: tuple[str, ...]
    volumes: dict[str, Path]
    detached: bool
    credentials: Credentials | None
    admin_password: SecretStr | None
    instance: str | None
    served_share: str | None
    filesystem_clients: tuple[FilesystemClient, ...]
    mysql: Related | None
    mirror_key: SecretStr | None
    s3: RelatedS3 | None
    backup_key: SecretStr | None

    @classmethod
    def from_charm(cls, charm: ops.CharmBase, *, idle: bool = False) -> "State":
        """Ask Juju once and build the state; mistakes are in it, none are raised."""
        loaded = options.load(charm.config)
        mistakes = list(loaded.mistakes)
        made = credentials.ensure(charm.model)
        password = None
        if made:
            try:
                password = credentials.wanted_password(charm.model, charm.config, made)
            except BlockedError as error:
                mistakes.append(error.whole)
        related = mysql.read(charm.model, secrets=not idle)
        s3 = _s3(charm.model, secrets=not idle)
        clients = _filesystem_clients(charm.model)
        volumes, detached = _volumes(charm, idle=idle)
        return cls(
            idle=idle,
            told=_told(charm.model),
            application=charm.app.name,
            unit_number=_number(charm.unit.name),
            model_name=charm.model.name,
            model_uuid=charm.model.uuid,
            leader=charm.unit.is_leader(),
            options=loaded.options,
            faulty=loaded.faulty,
            mistakes=tuple(mistakes),
            volumes=volumes,
            detached=detached,
            credentials=made,
            admin_password=password,
            instance=_instance(charm.model),
            served_share=_of_unit_0(charm.model, _SERVED_KEY) if clients else None,
            filesystem_clients=clients,
            mysql=related,
            mirror_key=(
                credentials.ensure_key(charm.model, credentials.MIRROR_KEY)
                if related and not idle
                else None
            ),
            s3=s3,
            backup_key=(
                None
                if idle
                else credentials.ensure_key(
                    charm.model, credentials.BACKUP_KEY, make=s3 is not None
                )
            ),
        )

    @property
    def serves(self) -> bool:
        """Whether this is the one unit that may run the server."""
        return self.unit_number == 0

    @property
    def home(self) -> str:
        """Where the backups of this application are, below the path of the relation."""
        return f"{self.model_uuid}/{self.application}"

    @property
    def attached(self) -> bool:
        """Whether both volumes are there."""
        return set(self.volumes) == set(VOLUMES)

    def need_volumes(self) -> None:
        """Return where both volumes are attached.

        Raises:
            WaitingError: they are not.
        """
        if not self.attached:
            raise WaitingError("waiting for the storage to be attached")

    def need_credentials(self) -> Credentials:
        """Return the credentials.

        Raises:
            WaitingError: there are none yet.
        """
        if self.credentials is None:
            raise WaitingError("waiting for the leader to make the passwords")
        return self.credentials

    def source(self, *more: str) -> str:
        """A digest of what a service's settings are made from, but of what is in secrets."""
        options = self.options.model_dump_json()
        words = (self.told, options, self.application, self.model_name, self.model_uuid, *more)
        return hashlib.sha256("\n".join(words).encode()).hexdigest()

    def need_mirror_key(self) -> SecretStr:
        """Return the key of the control plane in MySQL.

        Raises:
            WaitingError: there is none yet.
            UnreadError: this event has not read it.
        """
        if self.idle:
            raise UnreadError
        if self.mirror_key is None:
            raise WaitingError("mysql: waiting for the leader to make the key of the mirror")
        return self.mirror_key

    def need_backup_key(self) -> SecretStr:
        """Return the key of the backups.

        Raises:
            WaitingError: there is none yet.
            UnreadError: this event has not read it.
        """
        if self.idle:
            raise UnreadError
        if self.backup_key is None:
            raise WaitingError("s3-backup: waiting for the leader to make the key of the backups")
        return self.backup_key

    def need_s3(self) -> "RelatedS3":
        """Return the provider of a bucket.

        Raises:
            BlockedError: none is related.
        """
        if self.s3 is None:
            raise BlockedError(
                f"no S3 storage is related: juju integrate {self.application}:{S3} <s3-integrator>"
            )
        return self.s3


def offer(model: ops.Model, share: str | None) -> None:
    """Tell the other units which share the serving unit offers over NFS, None for none."""
    peers = model.get_relation(PEERS)
    if peers is None:
        return
    databag = peers.data[model.unit]
    if share is None:
        if databag.pop(_SERVED_KEY, None) is not None:
            logger.info("peers: offer no share over NFS any more")
    elif databag.get(_SERVED_KEY) != share:
        databag[_SERVED_KEY] = share
        logger.info("peers: offer the share %s over NFS", share)


def remember(model: ops.Model, juju: State, instance: str | None) -> None:
    """Let the application know whose volumes are served; by way of the leader where it is another.

    They are marked by then: what is known here has been on both.
    """
    peers = model.get_relation(PEERS)
    if peers is None or instance is None or instance == juju.instance:
        return
    databag = peers.data[model.app if juju.leader else model.unit]
    if databag.get(_INSTANCE_KEY) != instance:
        databag[_INSTANCE_KEY] = instance
        logger.info("peers: the volumes are those of instance %s", instance)


def pass_on(model: ops.Model, juju: State) -> None:
    """Let the application know what unit 0 says, where this unit is the leader instead."""
    if juju.leader:
        remember(model, juju, _of_unit_0(model, _INSTANCE_KEY))


def _told(model: ops.Model) -> str:
    related = [each for name in (PEERS, MYSQL, S3) for each in model.relations[name]]
    databags = [[each.name, dict(each.data[each.app])] for each in related if each.active]
    text = json.dumps([databags, proxies.told()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _s3(model: ops.Model, *, secrets: bool) -> "RelatedS3 | None":
    if not model.relations[S3]:
        return None
    from relations import s3  # noqa: PLC0415  # most units have no S3

    return s3.read(model, secrets=secrets)


def _number(unit: str) -> int:
    return int(unit.rpartition("/")[2])


def _volumes(charm: ops.CharmBase, *, idle: bool) -> tuple[dict[str, Path], bool]:
    """Where the volumes are mounted, by name, and whether Juju says that one is not there.

    A pod keeps its volumes in their places, and so does a file that lives as long as the pod: an
    idle event does not ask Juju again.
    """
    note = charm.charm_dir / _PLACES
    noted = _noted(note)
    if idle and noted:
        return noted, False
    found: dict[str, Path] = {}
    gone = False
    for name in VOLUMES:
        # Juju lists a storage before it is mounted, and does not know its place until then.
        with contextlib.suppress(ops.ModelError):
            listed = charm.model.storages[name]
            gone = gone or not listed
            if listed:
                found[name] = listed[0].location
    if found != noted:
        # Without a note an idle event asks as others do.
        with contextlib.suppress(OSError):
            note.write_text(json.dumps(found, default=str), encoding="utf-8")
    return found, gone


def forget_places(charm: ops.CharmBase) -> None:
    """A volume is going: the next event asks Juju again, whatever it is."""
    with contextlib.suppress(OSError):
        (charm.charm_dir / _PLACES).unlink(missing_ok=True)


def _noted(note: Path) -> dict[str, Path]:
    try:
        places = json.loads(note.read_text(encoding="utf-8"))
        found = {name: Path(places[name]) for name in VOLUMES}
        return found if all(place.is_dir() for place in found.values()) else {}
    except (OSError, ValueError, KeyError, TypeError):
        # None, not of both, or an event died while it wrote; or a volume does not answer.
        return {}


def _instance(model: ops.Model) -> str | None:
    peers = model.get_relation(PEERS)
    return peers.data[model.app].get(_INSTANCE_KEY) if peers else None


def _of_unit_0(model: ops.Model, key: str) -> str | None:
    peers = model.get_relation(PEERS)
    if peers is None:
        return None
    for unit in (*peers.units, model.unit):
        if _number(unit.name) == 0:
            return peers.data[unit].get(key)
    return None


def _filesystem_clients(model: ops.Model) -> tuple[FilesystemClient, ...]:
    return tuple(
        FilesystemClient(
            relation_id=relation.id,
            application=relation.app.name,
            foreign=relation.remote_model.uuid != model.uuid,
        )
        for relation in sorted(model.relations[FILESYSTEM], key=lambda each: each.id)
        if relation.active
    )
