"""Signatures of requests to S3, version 4, as all that speak S3 know them."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-_.~"


class Keys(NamedTuple):
    """Who signs, and for which region."""

    access: str
    secret: str
    region: str


def path_of(text: str) -> str:
    """A path as it is sent and signed."""
    return quote(text, safe=f"{_UNRESERVED}/")


def query_of(query: Mapping[str, str]) -> str:
    """A query as it is sent and signed."""
    return "&".join(
        f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED)}"
        for name, value in sorted(query.items())
    )


def signed(
    keys: Keys, method: str, host: str, target: tuple[str, str], body: bytes, **more: str
) -> dict[str, str]:
    """The headers of a request, with its signature.

    Args:
        keys: who signs.
        method: of the request.
        host: as it stands in the header, with the port where that is not the scheme's own.
        target: path and query as they are sent.
        body: of the request.
        more: headers that are sent and signed, too; `_` in a name stands for `-`.
    """
    now = datetime.now(UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    headers |= {"host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join((method, *target, lines, names, digest))
    scope = f"{day}/{keys.region}/s3/aws4_request"
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{keys.secret}".encode()
    for part in scope.split("/"):
        key = _mac(key, part)
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={names}, "
        f"Signature={_mac(key, text).hex()}"
    )
    return headers


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
