"""The endpoint `s3-backup`: a bucket of any charm that offers the interface `s3`.

Two forms of the protocol are spoken. Providers of v0 wait for the name of a bucket, and give the
keys in plain fields; those of v1 give them in a secret, where they are asked to. Both may give
another bucket than the one that was asked for. Values are text: a key may look like a number.

Own code, because the library for it copies the keys of a v0 provider into this unit's databag.
"""

import base64
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import ops
from pydantic import BaseModel, ConfigDict, SecretStr

import credentials
import proxies
from errors import BlockedError, CharmError, UnreadError, WaitingError
from relations import s3_address
from state import S3

logger = logging.getLogger(__name__)

_SECRET = "secret-extra"  # noqa: S105  # the name of a field
_SECRETS = ["access-key", "secret-key"]
# What a provider of v1 writes first, and one of v0 never does.
_V1 = frozenset({"version", "lib-version", _SECRET})
_KEY = re.compile(r"[\x21-\x7e]+")
_BEGIN = "-----BEGIN CERTIFICATE-----"
_LINE = 64


class Bucket(BaseModel):
    """Where backups go.

    Attributes:
        endpoint: a URL; None for AWS.
        prefix: in front of every object's name, without slashes at its ends; may be empty.
        path_style: the bucket's name is in the path of the URL, not in its host.
        ca: certificates that the endpoint's is signed by, PEM; None where any common one is.
        proxy: the model's, a URL that may have a password; None: the endpoint is reached without.
    """

    model_config = ConfigDict(frozen=True)

    endpoint: str | None
    region: str | None
    name: str
    prefix: str
    path_style: bool
    access_key: SecretStr
    secret_key: SecretStr
    ca: str | None
    proxy: SecretStr | None


class Related(BaseModel):
    """The related provider: its bucket, or what of that is missing.

    `mendable`: by a person. `unread`: it was not asked.
    """

    model_config = ConfigDict(frozen=True)

    application: str
    bucket: Bucket | None
    missing: str = ""
    mendable: bool = False
    unread: bool = False

    def need_bucket(self) -> Bucket:
        """Return the bucket.

        Raises:
            BlockedError: what the provider gives is no use; the text has the remedy.
            WaitingError: it has not given all of it yet; the text says what is missing.
            UnreadError: this event has not read it.
        """
        if self.unread:
            raise UnreadError
        if self.bucket is not None:
            return self.bucket
        if self.mendable:
            raise BlockedError(f"s3-backup: {self.application}: {self.missing}")
        raise WaitingError(f"s3-backup: waiting for {self.application}: {self.missing}")


def request(model: ops.Model, leader: bool) -> None:
    """Ask for the keys in a secret, and for a bucket where the provider waits for its name.

    Nothing is written that is there already.
    """
    relation = _relation(model)
    if relation is None or not leader:
        return
    wanted = {"version": "1", "requested-secrets": json.dumps(_SECRETS)}
    given = relation.data[relation.app]
    if given and not _V1 & given.keys():
        # The name that such a provider knows as no choice of ours.
        wanted["bucket"] = f"relation-{relation.id}"
    databag = relation.data[model.app]
    for key, value in wanted.items():
        if databag.get(key) != value:
            databag[key] = value
            logger.info("s3-backup: asked for %s=%s", key, value)


def read(model: ops.Model, *, secrets: bool = True) -> Related | None:
    """Return what the provider gives, None where there is no relation, or it is going."""
    relation = _relation(model)
    if relation is None:
        return None
    application = relation.app.name
    if not secrets:
        return Related(application=application, bucket=None, unread=True)
    try:
        bucket = _bucket(_fields(model, relation.data[relation.app]), application)
    except CharmError as error:
        mendable = isinstance(error, BlockedError)
        return Related(
            application=application, bucket=None, missing=error.whole, mendable=mendable
        )
    return Related(application=application, bucket=bucket)


def _relation(model: ops.Model) -> ops.Relation | None:
    active = [each for each in model.relations[S3] if each.active]
    return min(active, key=lambda each: each.id, default=None)


def _fields(model: ops.Model, databag: Mapping[str, str]) -> dict[str, str]:
    """All that was given, whether in plain fields or in a secret; without spaces at the ends."""
    fields = dict(databag)
    secret_id = databag.get(_SECRET)
    if secret_id:
        try:
            fields |= credentials.read(model, secret_id)
        except (ops.SecretNotFoundError, ops.ModelError):
            raise WaitingError(
                f"the secret it names in {_SECRET} cannot be read yet: it is not granted, or gone"
            ) from None
    return {key: value.strip() for key, value in fields.items()}


def _bucket(fields: Mapping[str, str], application: str) -> Bucket:
    missing = [key for key in (*_SECRETS, "bucket") if not fields.get(key)]
    if missing == ["bucket"]:
        raise BlockedError(f"it has no bucket; run: juju config {application} bucket=<name>")
    if missing:
        raise WaitingError(f"it has not given {', '.join(missing)} yet")
    address = s3_address.read(fields, application)
    if not _KEY.fullmatch(fields["access-key"]):
        raise BlockedError("its access-key has a character that no key has: set it anew there")
    return Bucket(
        endpoint=address.endpoint,
        region=address.region,
        name=address.bucket,
        prefix=address.prefix,
        path_style=address.path_style,
        access_key=SecretStr(fields["access-key"]),
        secret_key=SecretStr(fields["secret-key"]),
        ca=_certificates(fields.get("tls-ca-chain", "")),
        proxy=_proxy(address),
    )


def _proxy(address: s3_address.Address) -> SecretStr | None:
    parts = urlsplit(address.endpoint or "https://")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    found = proxies.for_host(parts.scheme, address.host, port)
    return SecretStr(found) if found else None


def _certificates(text: str) -> str | None:
    """The certificates as PEM. They come as a JSON list or as one text, PEM or base64 of it."""
    found = "\n".join(_certificate(each) for each in _texts(text) if each.strip())
    return f"{found}\n" if found else None


def _texts(text: str) -> Iterator[str]:
    """Undo the JSON around texts; some providers write JSON of JSON."""
    try:
        inside: Any = json.loads(text)
    except (ValueError, RecursionError):
        yield text
        return
    for each in inside if isinstance(inside, list) else [inside]:  # pyright: ignore[reportUnknownVariableType]  # any JSON
        if isinstance(each, str):
            yield from _texts(each)


def _certificate(text: str) -> str:
    if _BEGIN in text:
        return text.strip()
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        data = b""
    if _BEGIN.encode() in data:
        return data.decode(errors="replace").strip()
    # A certificate as it is signed is a sequence in ASN.1.
    if not data.startswith(b"\x30"):
        raise BlockedError("what it gives as tls-ca-chain is no certificate: set it anew there")
    body = base64.b64encode(data).decode()
    lines = [body[start : start + _LINE] for start in range(0, len(body), _LINE)]
    return "\n".join([_BEGIN, *lines, _BEGIN.replace("BEGIN", "END")])
