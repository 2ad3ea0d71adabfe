"""What S3 and the way to it say when something fails, as a kind, words, and what to do.

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
_ROOM = "make room there, or let it be made larger"
_REMEDIES = {
    http.client.INSUFFICIENT_STORAGE: _ROOM,
    http.client.NOT_IMPLEMENTED: "this S3 cannot do it",
}
# What stays as it is until a person acts: the kind of error, and the remedy.
_STANDING = {
    "AccountProblem": ("credentials", "ask who runs this S3"),
    "AllAccessDisabled": ("credentials", "ask who runs this S3"),
    "AuthFailure": ("credentials", _KEYS),
    "ExpiredToken": ("credentials", _KEYS),
    "ExpiredTokenException": ("credentials", _KEYS),
    "InvalidAccessKeyId": ("credentials", _KEYS),
    "InvalidClientTokenId": ("credentials", _KEYS),
    "InvalidSecurity": ("credentials", _KEYS),
    "InvalidToken": ("credentials", _KEYS),
    "NotSignedUp": ("credentials", "ask who runs this S3"),
    "SignatureDoesNotMatch": ("credentials", _KEYS),
    "TokenRefreshRequired": ("credentials", _KEYS),
    "UserSuspended": ("credentials", "ask who runs this S3"),
    "RequestTimeTooSkewed": ("credentials", "its clock and that of this node differ: set it"),
    "AuthorizationHeaderMalformed": ("bucket", _REGIONS),
    "IllegalLocationConstraintException": ("bucket", _REGIONS),
    "InvalidBucketName": ("bucket", "name another bucket at the provider"),
    "InvalidRegion": ("bucket", _REGIONS),
    "NoSuchBucket": ("bucket", "make it, or name another one at the provider"),
    "PermanentRedirect": ("bucket", _REGIONS),
    "TemporaryRedirect": ("bucket", _REGIONS),
    "NotImplemented": ("bucket", "this S3 cannot do it"),
    "MethodNotAllowed": ("bucket", "this S3 does not allow it"),
    "KMS.DisabledException": ("bucket", "enable the key that encrypts the bucket"),
    "KMS.NotFoundException": ("bucket", "name a key that is there for the bucket"),
    "QuotaExceeded": ("bucket", _ROOM),
    "XMinioAdminBucketQuotaExceeded": ("bucket", _ROOM),
    "XMinioStorageFull": ("bucket", _ROOM),
}
# Each refused request, in words, and the right that it needs.
_RIGHTS = {
    "GET": ("read objects", "s3:GetObject"),
    "PUT": ("write objects", "s3:PutObject"),
    "DELETE": ("delete objects", "s3:DeleteObject"),
    "LIST": ("list the bucket", "s3:ListBucket"),
}
_NO_S3 = "what answers there is no S3: set endpoint at the provider to the URL of the S3"


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
        return _stays("missing", f"{place.key} is not in the bucket {place.bucket}")
    if code in _PASSING or status in _PASSING_STATUSES:
        return Fault(_away(said), True)
    if code in _STANDING:
        return _standing(place, code, headers, body)
    return _of_status(place, status, said) or (
        _unusable(place, said, f"S3 does not {_RIGHTS[place.work][0]} as it is asked to")
        if code
        else _unusable(place, said, _NO_S3)
    )


def _of_status(place: Place, status: int, said: str) -> Fault | None:
    if said == "InvalidObjectState":
        text = f"{place.key} is in a class that S3 does not read at once: bring it back there"
        return _stays("refused", f"{text} ({said})")
    if status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
        word, right = _RIGHTS[place.work]
        return _stays(
            "credentials",
            f"S3 does not let these keys {word} in the bucket {place.bucket}: {said}; give them "
            f"the right {right}, or other keys",
        )
    if status == http.client.PROXY_AUTHENTICATION_REQUIRED:
        return _stays("settings", _proxy(status))
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
            f"{place.host} does not speak TLS: set endpoint at the provider to an http:// URL, or "
            "to the port that speaks TLS",
        )
    refused = _TUNNEL.search(str(error))
    if refused:
        status = int(refused[1])
        passes = status >= http.client.INTERNAL_SERVER_ERROR
        return Fault(ArchiveError("away" if passes else "settings", _proxy(status)), passes)
    if isinstance(error, socket.gaierror):
        return _unknown_name(place, error)
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        text = f"{place.host} cannot be asked: endpoint or access-key have a character too much"
        return _stays("settings", text)
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
    text = f"there is no host {place.host}: set endpoint, region or s3-uri-style at the provider"
    return Fault(ArchiveError("settings", text), True)


def _standing(place: Place, code: str, headers: http.client.HTTPMessage, body: bytes) -> Fault:
    kind, remedy = _STANDING[code]
    if kind == "credentials":
        return _stays(kind, f"S3 refuses the credentials: {code}; {remedy}")
    region = headers.get("x-amz-bucket-region") or b"".join(_REGION.findall(body)[:1]).decode()
    if remedy == _REGIONS and re.fullmatch(r"[A-Za-z0-9-]{1,40}", region):
        remedy = f"it is in the region {region}: set region at the provider"
    return _unusable(place, code, remedy)


def _unusable(place: Place, said: str, remedy: str) -> Fault:
    return _stays("bucket", f"the bucket {place.bucket} cannot be used: {said}; {remedy}")


def _certificate(place: Place, error: ssl.SSLCertVerificationError) -> str:
    reason = error.verify_message.partition(", certificate is not valid")[0].rstrip(".")
    if "mismatch" in reason:
        remedy = "set s3-uri-style=path, or endpoint to a name that the certificate has"
        return f"the certificate of {place.host} is for another name: {remedy}, at the provider"
    remedy = "set tls-ca-chain at the provider to the certificates of its authority"
    return f"the certificate of {place.host} is not trusted: {reason}; {remedy}"


def _proxy(status: int) -> str:
    return (
        f"the model's proxy does not let the agent through to S3: status {status}; see juju "
        "model-config juju-http-proxy, juju-https-proxy and juju-no-proxy"
    )


def _away(said: str) -> ArchiveError:
    return ArchiveError("away", f"S3 cannot be reached or does not answer: {said}")


def _stays(kind: str, text: str) -> Fault:
    return Fault(ArchiveError(kind, text), False)
