"""The secrets: made once by the leader, kept in Juju, read by every unit.

The application owns one secret with the first admin password and the key that signs the server's
tokens; its id is in the peer databag. It owns another with the password that the server has now,
which may have come from the option `admin-password`; a unit that does not lead has one of its own
until it does. Once MySQL or S3 is related, the application owns one more for each, with the key of
what is kept there.
"""

import base64
import contextlib
import logging
import re
import secrets
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import ops
from pydantic import BaseModel, ConfigDict, SecretStr

from errors import BlockedError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

PEERS = "peers"
OPTION = "admin-password"
_PEER_KEY = "server-credentials"
_APPLIED_KEY = "admin-password"
_KEY_SIZE = 32
_MINIMUM, _MAXIMUM = 8, 72  # what the server takes
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class KeptKey(NamedTuple):
    """A key of what is kept outside; `label` of its secret, and in the peer databag."""

    label: str
    description: str


MIRROR_KEY = KeptKey(
    "mirror-key",
    "DittoFS: the key of the users and settings that are kept in MySQL. Keep a copy where you "
    "find it when the model is lost: the action recover-metadata needs it",
)
BACKUP_KEY = KeptKey(
    "backup-key",
    "DittoFS: the key of the backups in S3. Keep a copy where you find it when the model is "
    "lost: without it no backup can be restored anywhere else",
)
# What was read in an event: each has a model of its own.
_contents: "WeakKeyDictionary[ops.Model, dict[str, dict[str, str]]]" = WeakKeyDictionary()
# The password that the server has, once an event has seen it.
_present: "WeakKeyDictionary[ops.Model, SecretStr]" = WeakKeyDictionary()


class Credentials(BaseModel):
    """What the server is started with; `life` changes when the secret was lost and made anew."""

    model_config = ConfigDict(frozen=True)

    life: str
    admin_password: SecretStr
    token_key: SecretStr


def read(model: ops.Model, secret_id: str) -> dict[str, str]:
    """Return the newest content of a secret; Juju is asked once in an event.

    Raises:
        ops.ModelError: Juju does not give it; `ops.SecretNotFoundError` where it is gone.
    """
    kept = _contents.setdefault(model, {})
    if secret_id not in kept:
        kept[secret_id] = _secret(model, secret_id).get_content(refresh=True)
    return kept[secret_id]


def load(model: ops.Model) -> Credentials | None:
    """Return the application's credentials, or None where there are none, or none any more.

    Raises:
        ops.ModelError: Juju does not give them just now.
    """
    peers = model.get_relation(PEERS)
    secret_id = peers.data[model.app].get(_PEER_KEY) if peers else None
    if not secret_id:
        return None
    try:
        return _credentials(secret_id, read(model, secret_id))
    except ops.SecretNotFoundError:
        return None


def ensure(model: ops.Model) -> Credentials | None:
    """Return the application's credentials; the leader makes them where there are none.

    None where nobody has made them yet, or Juju does not give them just now: new ones would take
    the server from its users' passwords, so they are made only where the old ones are gone.
    """
    try:
        found = load(model)
    except ops.ModelError:
        return None
    peers = model.get_relation(PEERS)
    if found or peers is None or not model.unit.is_leader():
        return found
    content = {"admin-password": secrets.token_urlsafe(24), "token-key": secrets.token_urlsafe(48)}
    secret = model.app.add_secret(
        content,
        description="DittoFS: the first password of the user admin, and the key of its tokens",
    )
    peers.data[model.app][_PEER_KEY] = str(secret.id)
    logger.info("secrets: made %s with the server's first password and token key", secret.id)
    return _credentials(str(secret.id), content)


def wanted_password(model: ops.Model, config: ops.ConfigData, made: Credentials) -> SecretStr:
    """Return the password that the user `admin` shall have.

    Raises:
        BlockedError: the option's secret cannot be read or has no fit password.
    """
    secret_id = config.get(OPTION)
    if not secret_id:
        return made.admin_password
    try:
        password = read(model, str(secret_id)).get("password")
    except (ops.SecretNotFoundError, ops.ModelError):
        raise BlockedError(
            f"{OPTION}: run juju grant-secret <secret> {model.app.name}, then set it again: the "
            "secret cannot be read"
        ) from None
    if password is None or not _MINIMUM <= len(password.encode()) <= _MAXIMUM:
        raise BlockedError(
            f"{OPTION}: the secret needs the key password with {_MINIMUM} to {_MAXIMUM} bytes"
        )
    if _CONTROL.search(password):
        # Such as the end of the line of the file that it was read from: nobody can type it.
        raise BlockedError(
            f"{OPTION}: set a password without a line break or another control character"
        )
    return SecretStr(password)


def known_passwords(model: ops.Model, made: Credentials) -> "Iterator[SecretStr]":
    """Yield the passwords that the server may have when it does not have the wanted one."""
    yield from _applied(model)
    yield made.admin_password


def remember_password(model: ops.Model, password: SecretStr, *, compare: bool = True) -> None:
    """Keep the password that the server has now; no write where it is kept.

    Args:
        model: where the secret is.
        password: what the server has.
        compare: whether another one may be kept; else nothing is looked at.
    """
    _present[model] = password
    peers = model.get_relation(PEERS)
    if not compare or peers is None:
        return
    if model.unit.is_leader():
        _keep(model, model.app, password, "DittoFS: the password of the user admin")
        own = peers.data[model.unit].pop(_APPLIED_KEY, None)
        if own:
            with contextlib.suppress(ops.SecretNotFoundError):
                _secret(model, own).remove_all_revisions()
    elif next(_applied(model), None) != password:
        text = "DittoFS: the password of the user admin, until this unit leads"
        _keep(model, model.unit, password, text)


def _keep(
    model: ops.Model, owner: ops.Unit | ops.Application, password: SecretStr, text: str
) -> None:
    """Have a secret of the owner with the password; no write where it has it."""
    kept = _applied_by(model, owner)
    if kept == password:
        return
    databag = model.relations[PEERS][0].data[owner]
    content = {"password": password.get_secret_value()}
    if kept is None:
        databag[_APPLIED_KEY] = str(owner.add_secret(content, description=text).id)
    else:
        secret = _secret(model, databag[_APPLIED_KEY])
        secret.set_content(content)
        # The old revision may not outlive the password: nobody else tracks it.
        secret.get_content(refresh=True)
    _contents.setdefault(model, {})[databag[_APPLIED_KEY]] = content
    logger.info("secrets: the password of admin is in %s now", databag[_APPLIED_KEY])


def present_password(model: ops.Model, made: Credentials) -> SecretStr:
    """The password that the server has, as far as the charm knows."""
    return _present.get(model) or next(known_passwords(model, made))


def ensure_key(model: ops.Model, kept: KeptKey, *, make: bool = True) -> SecretStr | None:
    """Return a key of what is kept outside; the leader makes it where there is none.

    None where nobody has made it yet, or Juju does not give it just now.

    Args:
        model: where the secret is.
        kept: which key.
        make: whether it is to be made at all.
    """
    peers = model.get_relation(PEERS)
    if peers is None:
        return None
    secret_id = peers.data[model.app].get(kept.label)
    if secret_id:
        try:
            return SecretStr(read(model, secret_id)["key"])
        except ops.SecretNotFoundError:
            # Juju lost it: what is kept is made anew with the next key.
            pass
        except ops.ModelError:
            return None
    if not make or not model.unit.is_leader():
        return None
    key = base64.b64encode(secrets.token_bytes(_KEY_SIZE)).decode()
    secret = model.app.add_secret({"key": key}, label=kept.label, description=kept.description)
    peers.data[model.app][kept.label] = str(secret.id)
    logger.info("secrets: made %s, the %s", secret.id, kept.label)
    return SecretStr(key)


def recovery_key(model: ops.Model, secret_id: str, kept: KeptKey) -> SecretStr:
    """Return the key in a secret that a user made of one that was kept.

    Raises:
        BlockedError: the secret cannot be read or has no fit key.
    """
    try:
        key = read(model, secret_id).get("key", "").strip()
    except (ops.SecretNotFoundError, ops.ModelError):
        raise BlockedError(
            f"recovery-key: run juju grant-secret <secret> {model.app.name}, then this again",
            more="the secret cannot be read",
        ) from None
    try:
        size = len(base64.b64decode(key, validate=True))
    except ValueError:
        size = 0
    if size != _KEY_SIZE:
        raise BlockedError(
            f"recovery-key: the secret needs the key `key`, with that of the lost {kept.label}",
            more=f"that is a secret which the lost application had; its label was {kept.label}",
        )
    return SecretStr(key)


def _credentials(secret_id: str, content: dict[str, str]) -> Credentials:
    return Credentials(
        life=secret_id.rpartition(":")[2].rpartition("/")[2],
        admin_password=SecretStr(content["admin-password"]),
        token_key=SecretStr(content["token-key"]),
    )


def _applied(model: ops.Model) -> "Iterator[SecretStr]":
    """Yield what was remembered: where the unit has one it is newer than the application's."""
    for owner in (model.unit, model.app):
        password = _applied_by(model, owner)
        if password is not None:
            yield password


def _applied_by(model: ops.Model, owner: ops.Unit | ops.Application) -> SecretStr | None:
    peers = model.get_relation(PEERS)
    secret_id = peers.data[owner].get(_APPLIED_KEY) if peers else None
    try:
        return SecretStr(read(model, secret_id)["password"]) if secret_id else None
    except ops.SecretNotFoundError:
        return None


def _secret(model: ops.Model, secret_id: str) -> ops.Secret:
    """A secret that is not read yet: `get_secret` reads what is tracked, which may be old."""
    return ops.Secret(model._backend, id=secret_id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # see above
