"""The endpoint `mysql`: a database of any charm that offers the interface `mysql_client`.

This is the protocol that its providers speak today, called v0: the requirer asks in its
application's databag, the provider answers in its own, with secrets or (older ones) in plain
fields. Providers of v1 answer a requirer of v0 in this form. What they leave out, add or write in
another way must never fail a hook.
"""

import hashlib
import json
import logging
from collections.abc import Mapping

import ops
from pydantic import BaseModel, ConfigDict, SecretStr

import credentials
from errors import UnreadError, WaitingError

logger = logging.getLogger(__name__)

MYSQL = "mysql"
_PORT = 3306
_LONGEST_PORT = 65535
_LONGEST_NAME = 64  # MySQL's limit
_TRUE = frozenset({"true", "yes", "on", "1", "enabled"})
_SECRETS = ["password", "tls", "tls-ca", "uris", "username"]


class Database(BaseModel):
    """What the provider gives; `tls`: it speaks TLS, with a certificate that `ca` (PEM) signed."""

    model_config = ConfigDict(frozen=True)

    endpoints: tuple[tuple[str, int], ...]
    user: SecretStr
    password: SecretStr
    name: str
    tls: bool
    ca: str | None


class Related(BaseModel):
    """The related provider: its database, or what of that is missing; `unread`: not asked."""

    model_config = ConfigDict(frozen=True)

    application: str
    database: Database | None
    missing: str = ""
    unread: bool = False

    def need_database(self) -> Database:
        """Return the database.

        Raises:
            WaitingError: the provider has not given all of it yet; the text says what is missing.
            UnreadError: this event has not read it.
        """
        if self.unread:
            raise UnreadError
        if self.database is None:
            raise WaitingError(f"mysql: waiting for {self.application}: {self.missing}")
        return self.database


def request(model: ops.Model, leader: bool) -> None:
    """Ask for a database, in a form that does not change; nothing where it is asked for already.

    No `extra-user-roles`: the mirror needs no rights but those on its own database.
    """
    relation = _relation(model)
    if relation is None or not leader:
        return
    databag = relation.data[model.app]
    wanted = {
        "database": database_name(model.app.name),
        "requested-secrets": json.dumps(_SECRETS),
    }
    for key, value in wanted.items():
        if databag.get(key) != value:
            databag[key] = value
            logger.info("mysql: asked for %s=%s", key, value)


def database_name(application: str) -> str:
    """The name to ask for: the provider makes one database for each name.

    It is the application's, so that two applications on one provider do not share a database, and
    no more than that: an application of the same name in another model, made after a disaster,
    has to find the metadata of the lost one.
    """
    name = "dittofs" if application == "dittofs" else f"dittofs_{application.replace('-', '_')}"
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST_NAME - len(digest) - 1]}_{digest}"
    return name


def read(model: ops.Model, *, secrets: bool = True) -> Related | None:
    """Return what the provider gives, None where there is no relation, or it is going."""
    relation = _relation(model)
    if relation is None:
        return None
    application = relation.app.name
    if not secrets:
        return Related(application=application, database=None, unread=True)
    try:
        fields = _fields(model, relation.data[relation.app])
        database = _database(fields, database_name(model.app.name))
    except WaitingError as error:
        return Related(application=application, database=None, missing=error.whole)
    return Related(application=application, database=database)


def _relation(model: ops.Model) -> ops.Relation | None:
    active = [each for each in model.relations[MYSQL] if each.active]
    return min(active, key=lambda each: each.id, default=None)


def _fields(model: ops.Model, databag: Mapping[str, str]) -> dict[str, str]:
    """All that was given, whether in plain fields or in secrets."""
    fields = dict(databag)
    for key in ("secret-user", "secret-tls"):
        secret_id = databag.get(key)
        if not secret_id:
            continue
        try:
            fields |= credentials.read(model, secret_id)
        except (ops.SecretNotFoundError, ops.ModelError):
            raise WaitingError(f"the secret it names in {key} cannot be read yet") from None
    return fields


def _database(fields: Mapping[str, str], asked: str) -> Database:
    missing = [key for key in ("endpoints", "username", "password") if not fields.get(key)]
    if missing:
        raise WaitingError(f"it has not given {', '.join(missing)} yet")
    endpoints = _endpoints(fields["endpoints"])
    if not endpoints:
        raise WaitingError("what it gives as endpoints are no addresses of a network")
    # "True" and "False", as Python writes them; some say nothing.
    tls = fields.get("tls", "").strip().lower() in _TRUE
    ca = fields.get("tls-ca", "").strip() if tls else ""
    if ca and "-----BEGIN CERTIFICATE-----" not in ca:
        raise WaitingError("what it gives as tls-ca is no certificate")
    return Database(
        endpoints=endpoints,
        user=SecretStr(fields["username"]),
        password=SecretStr(fields["password"]),
        name=fields.get("database") or asked,
        tls=tls,
        ca=ca or None,
    )


def _endpoints(text: str) -> tuple[tuple[str, int], ...]:
    """Hosts and ports; what is none, such as the path of a socket, is left out."""
    found: list[tuple[str, int]] = []
    for part in (each.strip() for each in text.split(",")):
        host, colon, port = part.rpartition(":")
        if not colon or (":" in host and not host.endswith("]")):
            host, port = part, str(_PORT)
        # Another spelling of a host is no other host.
        host = host.removeprefix("[").removesuffix("]").lower()
        if host and "/" not in host and port.isdecimal() and 0 < int(port) <= _LONGEST_PORT:
            found.append((host, int(port)))
    return tuple(dict.fromkeys(found))
