"""The bucket: objects by key below a prefix, and what is wrong with S3 in a word and a text.

Of what S3 answers only the code is told: the rest may quote credentials.
"""

import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import certifi
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from agent.archive.errors import ArchiveError
from agent.archive.settings import S3, ArchiveSettings

if TYPE_CHECKING:
    from obstore.store import ClientConfig

_CONNECT_SECONDS = 5
_READ_SECONDS = 30
# Where the systems that an image may be made of have them.
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_DELETE_AT_ONCE = _PAGE = 1000
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_STATUS = re.compile(r"\b([345]\d\d) [A-Z][a-z]+")
_CREDENTIALS = frozenset(
    {
        "AccessDenied",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
    }
)
_BUCKET = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "InvalidBucketName",
        "NoSuchBucket",
        "PermanentRedirect",
    }
)
_DENIED = frozenset({"401", "403"})
_ELSEWHERE = frozenset({"301", "307"})

Result = TypeVar("Result")


class Object(NamedTuple):
    """An object of the bucket; `size` in bytes."""

    key: str
    size: int
    modified: datetime


class Bucket:
    """Objects below a prefix. For any number of threads; every method raises `ArchiveError`.

    Args:
        s3: where it is.
        patience: seconds for which a request that fails is tried again.
    """

    def __init__(self, s3: S3, patience: float):
        self._name = s3.bucket
        self._prefix = f"{s3.prefix}/" if s3.prefix else ""
        self._store = _store(s3, patience)

    def get(self, key: str) -> bytes:
        """The content of an object; `missing` where there is none."""
        return bytes(self.view(key))

    def view(self, key: str) -> memoryview:
        """The same without a copy of it."""
        return self._call(
            key, lambda: memoryview(obstore.get(self._store, self._prefix + key).bytes())
        )

    def put(self, key: str, data: bytes) -> None:
        """Write an object, or write it anew."""
        self._call(
            key,
            lambda: obstore.put(self._store, self._prefix + key, data, use_multipart=False),
        )

    def size(self, key: str) -> int | None:
        """The size of an object, None where there is none."""
        try:
            return int(
                self._call(key, lambda: obstore.head(self._store, self._prefix + key)["size"])
            )
        except ArchiveError as error:
            if error.kind == "missing":
                return None
            raise

    def objects(self, prefix: str) -> Iterator[Object]:
        """The objects whose keys begin with a folder such as `a/b/`."""
        pages = self._store.list(self._prefix + prefix.rstrip("/"), chunk_size=_PAGE)  # pyright: ignore[reportUnknownMemberType]  # of an overload that is not used
        strip = len(self._prefix)
        while (page := self._call(prefix, lambda: next(pages, None))) is not None:
            for found in page:
                yield Object(found["path"][strip:], found["size"], found["last_modified"])

    def folders(self, prefix: str = "") -> list[str]:
        """The names of the folders in a folder such as `a/b/`."""
        place = self._prefix + prefix
        found = self._call(
            prefix,
            lambda: self._store.list_with_delimiter(place.rstrip("/") or None),  # pyright: ignore[reportUnknownMemberType]  # of an overload that is not used
        )
        return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    def delete(self, keys: list[str]) -> None:
        """Remove objects; those that are not there any more are of no interest."""
        for begin in range(0, len(keys), _DELETE_AT_ONCE):
            some = [self._prefix + key for key in keys[begin : begin + _DELETE_AT_ONCE]]
            try:
                self._call(some[0], lambda some=some: obstore.delete(self._store, some))
            except ArchiveError as error:
                if error.kind != "missing":
                    raise

    def _call(self, key: str, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except (BaseError, OSError) as error:
            raise self._translated(key, error) from None

    def _translated(self, key: str, error: Exception) -> ArchiveError:
        text = str(error)
        code = next(iter(_CODE.findall(text)), "")
        status = next(iter(_STATUS.findall(text)), "")
        said = code or (f"status {status}" if status else type(error).__name__)
        if code in _BUCKET or (not code and status in _ELSEWHERE):
            return ArchiveError("bucket", f"the bucket {self._name} cannot be used: {said}")
        if code in _CREDENTIALS or (not code and status in _DENIED):
            return ArchiveError("credentials", f"S3 refuses the credentials: {said}")
        if isinstance(error, FileNotFoundError):
            return ArchiveError("missing", f"{key} is not in the bucket {self._name}")
        return ArchiveError("away", f"S3 cannot be reached or does not answer: {said}")


def open_bucket(settings: ArchiveSettings, patience: float = 180.0) -> Bucket:
    """The bucket of the settings; nothing is asked yet.

    Raises:
        ArchiveError: `settings`: no bucket is related, or it cannot be used as it is described.
    """
    if settings.s3 is None:
        raise ArchiveError("settings", "no S3 bucket is related")
    return Bucket(settings.s3, patience)


def _ensure_authorities() -> None:
    """Let an image that has no certificates of authorities use those of the program."""
    if not any(Path(place).exists() for place in _AUTHORITIES):
        os.environ.setdefault("SSL_CERT_FILE", certifi.where())


def _store(s3: S3, patience: float) -> S3Store:
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=_READ_SECONDS),
        "allow_http": bool(s3.endpoint and s3.endpoint.startswith("http://")),
    }
    _ensure_authorities()
    if s3.ca:
        options["root_certificate"] = s3.ca.encode()
    config: dict[str, Any] = {
        "access_key_id": s3.access_key,
        "secret_access_key": s3.secret_key,
        "region": s3.region or "us-east-1",
        "virtual_hosted_style_request": not s3.path_style,
    }
    if s3.endpoint:
        config["endpoint"] = s3.endpoint
    try:
        return S3Store(
            s3.bucket,
            client_options=options,
            retry_config={
                "max_retries": 30,
                "retry_timeout": timedelta(seconds=patience),
                "backoff": {"max_backoff": timedelta(seconds=5)},
            },
            **config,
        )
    except (BaseError, ValueError):
        raise ArchiveError(
            "settings", "S3: endpoint, region or certificate make no sense"
        ) from None
