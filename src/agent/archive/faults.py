"""What S3 and the way to it say when something fails: a kind, what to do, and words.

Of what S3 answers only its code and the name of a region are told: the rest may quote credentials.
"""

import http.client
import re
import socket
import ssl
from typing import NamedTuple

from agent.archive.errors import ArchiveError

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,60})\s*</Code>")
_REGION = re.compile(rb"<Region>\s*([A-Za-z0-9-]{1,40})\s*</Region>")
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
_PASSING = frozenset(
    {
        # S3 is busy, or starts.
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XMinioServerNotInitialized",
        # The request was damaged on its way.
        "BadDigest",
        "IncompleteBody",
        "XAmzContentSHA256Mismatch",
    }
)
_PASSING_STATUSES = frozenset({http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS})
_KEYS = "set access-key and secret-key anew at the provider"
_REGIONS = "set region and endpoint at the provider to where the bucket is"
_ROOM = "make room in the bucket or let it be made larger"
_ASK = "ask who runs this S3"
_CANNOT = "take another S3: this one cannot do what is asked"
_REMEDIES = {
    http.client.INSUFFICIENT_STORAGE: _ROOM,
    http.client.NOT_IMPLEMENTED: _CANNOT,
}
# What stays as it is until a person acts: the kind of error, and the remedy.
_STANDING = {
    "AccountProblem": ("credentials", _ASK),
    "AllAccessDisabled": ("credentials", _ASK),
    "AuthFailure": ("credentials", _KEYS),
    "ExpiredToken": ("credentials", _KEYS),
    "ExpiredTokenException": ("credentials", _KEYS),
    "InvalidAccessKeyId": ("credentials", _KEYS),
    "InvalidClientTokenId": ("credentials", _KEYS),
    "InvalidSecurity": ("credentials", _KEYS),
    "InvalidToken": ("credentials", _KEYS),
    "NotSignedUp": ("credentials", _ASK),
    "SignatureDoesNotMatch": ("credentials", _KEYS),
    "TokenRefreshRequired": ("credentials", _KEYS),
    "UserSuspended": ("credentials", _ASK),
    "RequestTimeTooSkewed": ("credentials", "set the clock of S3 or of this node: they differ"),
    "AuthorizationHeaderMalformed": ("bucket", _REGIONS),
    "IllegalLocationConstraintException": ("bucket", _REGIONS),
    "InvalidBucketName": ("bucket", "name another bucket at the provider"),
    "InvalidRegion": ("bucket", _REGIONS),
    "NoSuchBucket": ("bucket", "make the bucket or name another at the provider"),
    "PermanentRedirect": ("bucket", _REGIONS),
    "TemporaryRedirect": ("bucket", _REGIONS),
    "NotImplemented": ("bucket", _CANNOT),
    "MethodNotAllowed": ("bucket", "take another S3: this one does not allow what is asked"),
    "KMS.DisabledException": ("bucket", "enable the key that encrypts the bucket"),
    "KMS.NotFoundException": ("bucket", "let the bucket be encrypted with a key that is there"),
    "QuotaExceeded": ("bucket", _ROOM),
    "XMinioAdminBucketQuotaExceeded": ("bucket", _ROOM),
    "XMinioStorageFull": ("bucket", _ROOM),
}
# Each refused request, in words before the bucket, and the right that it needs.
_RIGHTS = {
    "GET": ("read objects in", "s3:GetObject"),
    "PUT": ("write objects in", "s3:PutObject"),
    "DELETE": ("delete objects in", "s3:DeleteObject"),
    "LIST": ("list", "s3:ListBucket"),
}
_PROXIES = "see juju-http-proxy, juju-https-proxy and juju-no-proxy in juju model-config"
_NO_S3 = "set endpoint at the provider to the URL of the S3: what answers there is no S3"


class Place(NamedTuple):
    """What was asked: `work` is GET, PUT, DELETE or LIST; where; and the key below the prefix."""

    work: str
    bucket: str
    host: str
    key: str


class Fault(NamedTuple):
    """An error, and whether it may be gone when the request is made again."""

    error: ArchiveError
    passes: bool


def answered(place: Place, status: int, headers: http.client.HTTPMessage, body: bytes) -> Fault:
    """What an answer means that is no success."""
    found = _CODE.search(body[:65536])
    code = found[1].decode() if found else ""
    said = code or f"status {status}"
    if code == "NoSuchKey" or (status == http.client.NOT_FOUND and not code and not body):
        text = f"{place.key} is not in the bucket {place.bucket}"
        return _stays("missing", f"check bucket and endpoint at the provider: {text}")
    if code in _PASSING or status in _PASSING_STATUSES:
        return Fault(_away(said), True)
    if code in _STANDING:
        return _standing(place, code, headers, body)
    odd = f"{_ASK}: it does not {_RIGHTS[place.work][0]} the bucket as it is asked to"
    return _of_status(place, status, said) or _unusable(place, said, odd if code else _NO_S3)


def _of_status(place: Place, status: int, said: str) -> Fault | None:
    if said == "InvalidObjectState":
        text = f"S3 does not read {place.key} at once: {said}"
        return _stays("refused", f"bring back in S3 what is in a cold class: {text}")
    if status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
        word, right = _RIGHTS[place.work]
        return _stays(
            "credentials",
            f"give these keys the right {right} or take others: S3 does not let them {word} the "
            f"bucket {place.bucket}: {said}",
        )
    if status == http.client.PROXY_AUTHENTICATION_REQUIRED:
        return _proxy(status)
    if status in _REMEDIES:
        return _unusable(place, said, _REMEDIES[status])
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return Fault(_away(said), True)
    return None


def nonsense(place: Place) -> ArchiveError:
    """An answer that says that all is well, and makes no sense."""
    return _unusable(place, "no list comes back", _NO_S3).error


def broken(place: Place, error: Exception) -> Fault:
    """What it means that there was no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _stays("settings", _certificate(place, error))
    if isinstance(error, ssl.SSLError) and error.reason in {
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
    }:
        return _stays(
            "settings",
            "set endpoint at the provider to an http:// URL or to the port that speaks TLS: "
            f"{place.host} does not speak TLS",
        )
    refused = _TUNNEL.search(str(error))
    if refused:
        return _proxy(int(refused[1]))
    if isinstance(error, socket.gaierror):
        return _unknown_name(place, error)
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        text = f"{place.host} cannot be asked: they have a character too much"
        return _stays("settings", f"set endpoint and access-key anew at the provider: {text}")
    words = {
        ConnectionRefusedError: f"{place.host} takes no connections",
        TimeoutError: f"{place.host} does not answer in time",
    }
    reason = next((text for kind, text in words.items() if isinstance(error, kind)), "")
    return Fault(_away(reason or f"the connection to {place.host} was cut"), True)


def _unknown_name(place: Place, error: socket.gaierror) -> Fault:
    """A name server that does not answer passes; one that knows no such name may learn it."""
    if error.errno not in {socket.EAI_NONAME, socket.EAI_NODATA}:
        return Fault(_away(f"the name {place.host} cannot be looked up"), True)
    text = f"set endpoint, region or s3-uri-style at the provider: there is no host {place.host}"
    return Fault(ArchiveError("settings", text), True)


def _standing(place: Place, code: str, headers: http.client.HTTPMessage, body: bytes) -> Fault:
    kind, remedy = _STANDING[code]
    if kind == "credentials":
        return _stays(kind, f"{remedy}: S3 refuses the credentials: {code}")
    region = headers.get("x-amz-bucket-region") or b"".join(_REGION.findall(body)[:1]).decode()
    if remedy == _REGIONS and re.fullmatch(r"[A-Za-z0-9-]{1,40}", region):
        remedy = f"set region to {region}, the bucket's, at the provider"
    return _unusable(place, code, remedy)


def _unusable(place: Place, said: str, remedy: str) -> Fault:
    return _stays("bucket", f"{remedy}: the bucket {place.bucket} cannot be used: {said}")


def _certificate(place: Place, error: ssl.SSLCertVerificationError) -> str:
    reason = error.verify_message.partition(", certificate is not valid")[0].rstrip(".")
    if "mismatch" in reason:
        remedy = "set s3-uri-style=path, or endpoint to a name that the certificate has"
        return f"{remedy}, at the provider: the certificate of {place.host} is for another name"
    remedy = "set tls-ca-chain at the provider to the certificates of the authority of S3"
    return f"{remedy}: the certificate of {place.host} is not trusted: {reason}"


def _proxy(status: int) -> Fault:
    said = f"the model's proxy does not let the agent through to S3: status {status}"
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return Fault(_away(f"{said}; {_PROXIES}"), True)
    return _stays("settings", f"{_PROXIES}: {said}")


def _away(said: str) -> ArchiveError:
    return ArchiveError("away", f"S3 cannot be reached or does not answer: {said}")


def _stays(kind: str, text: str) -> Fault:
    return Fault(ArchiveError(kind, text), False)
