"""Where a bucket is, out of what a person may write: bucket, endpoint, region, style and path.

What has one meaning is brought into one form, everything else is refused with what to set instead:
what two programs read differently would put backups where nobody looks for them.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from errors import BlockedError

_DEFAULT_REGION = "us-east-1"
# Google takes any region in a signature, and recommends this one.
_GOOGLE, _GOOGLE_REGION = "storage.googleapis.com", "auto"
_STYLES = {
    "": None,
    "auto": None,
    "path": True,
    "host": False,
    "virtual": False,
    "virtual-host": False,
    "virtual-hosted": False,
}
_AWS = re.compile(
    r"(?:(?P<bucket>[a-z0-9.-]+)\.)?s3(?P<variant>(?:-fips)?(?:\.dualstack)?)"
    r"(?:[.-](?P<region>[a-z]{2}-[a-z-]+-\d+))?\.(?P<domain>amazonaws\.com(?:\.cn)?)"
)
_AWS_REGION = re.compile(r"[a-z]{2}-[a-z-]+-\d+")
_AWS_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# Other S3 know names that were allowed once; Ceph's may be those of another tenant.
_NAME = re.compile(r"(?:[A-Za-z0-9_-]+:)?[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_IN_A_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_UNSPEAKABLE = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
# Of a key's 1024 bytes, so that model, application and piece have room behind it.
_LONGEST_PATH = 600


class Address(NamedTuple):
    """Where a bucket is.

    Attributes:
        endpoint: a URL without a slash at its end; None for AWS in the region.
        prefix: in front of every key, without slashes at its ends; may be empty.
        path_style: the bucket's name is in the path of a URL, not in its host.
    """

    endpoint: str | None
    region: str | None
    bucket: str
    prefix: str
    path_style: bool

    @property
    def host(self) -> str:
        """The host that is asked."""
        region = self.region or _DEFAULT_REGION
        found = urlsplit(self.endpoint or f"https://s3.{region}.{_domain(region)}").hostname or ""
        return found if self.path_style else f"{self.bucket}.{found}"


def read(fields: Mapping[str, str], application: str) -> Address:
    """Read what a provider gives.

    Raises:
        BlockedError: a part of it is no use; the text says how to set it at the application.
    """
    wish = _Wish(application)
    bucket = _bucket(fields["bucket"], wish)
    prefix = _prefix(fields.get("path", ""), wish)
    region = _region(fields.get("region", ""), wish)
    style = _style(fields.get("s3-uri-style", ""), wish)
    parts = _endpoint(fields.get("endpoint") or "https://s3.amazonaws.com", wish)
    host = parts.hostname or ""
    aws = _AWS.fullmatch(host)
    if aws:
        return _at_aws(aws, parts, Address(None, region, bucket, prefix, bool(style)), wish)
    path = _prefix(parts.path, wish, "endpoint", "<URL>")
    if path.rpartition("/")[2] == bucket:
        raise wish.error("endpoint", "<URL>", "has the bucket in it; it is the URL in front of it")
    endpoint = f"{parts.scheme}://{parts.netloc}" + (f"/{path}" if path else "")
    if region is None and host == _GOOGLE:
        region = _GOOGLE_REGION
    # A number has no hosts below it, and some names are none of a host.
    speakable = not _is_number(host) and _IN_A_HOST.fullmatch(bucket) is not None
    return Address(endpoint, region, bucket, prefix, style is not False or not speakable)


class _Wish(NamedTuple):
    """Who is to set something."""

    application: str

    def error(self, option: str, value: str, what: str) -> BlockedError:
        return BlockedError(
            f"its {option} {what}; run: juju config {self.application} {option}={value}"
        )


def _at_aws(found: re.Match[str], parts: SplitResult, address: Address, wish: _Wish) -> Address:
    """AWS: each region has a host of its own, and its certificates know no dots in a bucket."""
    bucket = address.bucket
    if not _AWS_NAME.fullmatch(bucket):
        raise wish.error("bucket", "<name>", f"{bucket!r} is no name of a bucket at AWS")
    if found["bucket"] not in {None, bucket}:
        raise wish.error("endpoint", "<URL>", f"is that of the bucket {found['bucket']}")
    if parts.path.strip("/"):
        raise wish.error("endpoint", "<URL>", "has a path, which AWS has not")
    region = address.region.lower() if address.region else found["region"]
    if found["region"] not in {None, region}:
        raise wish.error("region", found["region"], f"{region} is not the one of its endpoint")
    region = region or _DEFAULT_REGION
    if not _AWS_REGION.fullmatch(region):
        raise wish.error("region", "<region>", f"{region} is no name of a region at AWS")
    path_style = address.path_style or "." in bucket
    endpoint = None
    if (parts.scheme, found["variant"], parts.port) != ("https", "", None):
        port = f":{parts.port}" if parts.port else ""
        endpoint = f"{parts.scheme}://s3{found['variant']}.{region}.{_domain(region)}{port}"
    return address._replace(endpoint=endpoint, region=region, path_style=path_style)


def _domain(region: str) -> str:
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def _bucket(text: str, wish: _Wish) -> str:
    dots = ".." in text or ".-" in text or "-." in text
    if dots or _is_number(text) or not _NAME.fullmatch(text):
        raise wish.error("bucket", "<name>", f"{text[:80]!r} is no name of a bucket")
    return text


def _prefix(text: str, wish: _Wish, option: str = "path", value: str = "<a/b>") -> str:
    """A path without empty parts: a slash too much makes a key that many programs cannot read."""
    parts = [
        part for part in unicodedata.normalize("NFC", text).split("/") if part not in {"", "."}
    ]
    if ".." in parts:
        raise wish.error(option, value, "has a part .., which S3 takes for a name")
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in text):
        raise wish.error(option, value, "has a character that cannot be seen")
    found = "/".join(parts)
    if len(found.encode()) > _LONGEST_PATH:
        raise wish.error(option, value, f"is longer than {_LONGEST_PATH} bytes")
    return found


def _region(text: str, wish: _Wish) -> str | None:
    if text and not _REGION.fullmatch(text):
        raise wish.error("region", "<region>", f"{text[:80]!r} is no name of a region")
    return text or None


def _style(text: str, wish: _Wish) -> bool | None:
    if text.lower() not in _STYLES:
        raise wish.error("s3-uri-style", "path", f"{text[:80]!r} is neither path nor host")
    return _STYLES[text.lower()]


def _endpoint(text: str, wish: _Wish) -> SplitResult:
    """The parts of a URL, scheme and host in small letters, no port that is the scheme's own."""
    wrong = wish.error("endpoint", "<URL>", "is no URL such as https://s3.example.com")
    # What stands for nothing is left out by the parser, and by nobody else.
    if _UNSPEAKABLE.search(text):
        raise wrong
    try:
        parts = urlsplit(text)
        host, port = _host(parts.hostname or ""), parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in {"http", "https"} or not host or port == 0 or text.endswith(("?", "#")):
        raise wrong
    plain = _PATH.fullmatch(parts.path) is not None
    if parts.query or parts.fragment or "@" in parts.netloc or not plain:
        raise wish.error("endpoint", "<URL>", "has more in it than scheme, host, port and path")
    shown = f"[{host}]" if ":" in host else host
    own = {"http": 80, "https": 443}[parts.scheme]
    return parts._replace(netloc=shown if port in {None, own} else f"{shown}:{port}")


def _host(text: str) -> str:
    """A host as it is written in a request.

    Raises:
        ValueError: it is none.
    """
    if _is_number(text):
        return str(ipaddress.ip_address(text))
    host = text.removesuffix(".").encode("idna").decode().lower()
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError("no host")
    return host


def _is_number(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
