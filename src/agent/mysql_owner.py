"""Whose mirror it is: the mirror's own row, and the tables around it."""

from dataclasses import dataclass

from agent import mysql_statements as sql
from agent.mysql_errors import RefusedError, SupersededError
from agent.mysql_reading import unless_missing
from agent.mysql_session import Session

NOW = "UNIX_TIMESTAMP(NOW(6))"


@dataclass(frozen=True)
class Identity:
    """Whose mirror it is; `marker` is text of the charm that is kept with it."""

    instance: str
    generation: int
    application: str
    model: str
    model_uuid: str
    marker: str


@dataclass(frozen=True)
class MirrorRow(Identity):
    """The mirror as it stands in MySQL; `updated` is in seconds since 1970, by MySQL's clock."""

    epoch: int
    updated: float


class ForeignError(RefusedError):
    """Kind "foreign": the database has the mirror of another instance, `mirror`."""

    def __init__(self, mirror: MirrorRow):
        super().__init__(
            "foreign",
            f"the database has the metadata of another instance, {mirror.instance}"
            f" ({mirror.application} in model {mirror.model})",
        )
        self.mirror = mirror


def check(found: MirrorRow, identity: Identity) -> None:
    """Return where the mirror may become this identity's.

    Raises:
        ForeignError: it is another instance's.
        SupersededError: it is a newer generation's.
    """
    if found.instance != identity.instance:
        raise ForeignError(found)
    if found.generation > identity.generation:
        raise SupersededError(
            "superseded",
            f"generation {found.generation} has the mirror, this is {identity.generation}",
        )


def schema_exists(session: Session) -> bool:
    """Whether the tables are there.

    Raises:
        RefusedError: kind "schema", they are those of a newer version.
    """
    found = unless_missing(session, "SELECT version FROM dittofs_schema WHERE id = 1")
    if found and found[0][0] > sql.SCHEMA_VERSION:
        raise RefusedError(
            "schema",
            f"the tables are of version {found[0][0]}, made by a newer charm; this one knows"
            f" {sql.SCHEMA_VERSION}. They were not touched: refresh the charm",
        )
    return bool(found)


def create_schema(session: Session) -> None:
    """Make the tables that are missing; done again where somebody else does it too."""
    for table in sql.TABLES:
        session.execute(table + sql.TABLE_OPTIONS)
    session.execute(
        f"INSERT INTO dittofs_schema (id, version) VALUES (1, {sql.SCHEMA_VERSION})"
        " ON DUPLICATE KEY UPDATE version = version"
    )


def read(session: Session, *, lock: bool = False) -> MirrorRow | None:
    """The mirror's row, if there is one."""
    found = unless_missing(
        session,
        "SELECT instance, generation, application, model, model_uuid, marker, epoch, updated"
        f" FROM dittofs_mirror WHERE id = 1{' FOR UPDATE' if lock else ''}",
    )
    if not found:
        return None
    instance, generation, application, model, model_uuid, marker, epoch, updated = found[0]
    return MirrorRow(
        instance, generation, application, model, model_uuid, marker, epoch, float(updated)
    )


def write(session: Session, identity: Identity, former: MirrorRow | None) -> None:
    """Make the mirror the one of `identity`, in a new epoch; `former` is what `read` gave."""
    values = {
        "instance": sql.text(identity.instance),
        "generation": str(int(identity.generation)),
        "application": sql.text(identity.application),
        "model": sql.text(identity.model),
        "model_uuid": sql.text(identity.model_uuid),
        "marker": sql.text(identity.marker),
        "epoch": str(former.epoch + 1 if former else 1),
        "updated": NOW,
    }
    if former:
        changes = ", ".join(f"{name} = {value}" for name, value in values.items())
        session.execute(f"UPDATE dittofs_mirror SET {changes}, writes = writes + 1 WHERE id = 1")
        return
    values |= {"id": "1", "writes": "1", "copies": "0"}
    values |= {"control_plane": "0", "control_plane_size": "0", "control_plane_digest": "''"}
    names, given = ", ".join(values), ", ".join(values.values())
    session.execute(f"INSERT INTO dittofs_mirror ({names}) VALUES ({given})")
