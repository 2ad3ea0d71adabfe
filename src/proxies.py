"""The model's proxy for charms, as Juju tells it in the environment of a hook.

Only what leaves the cloud goes through it: S3. Juju's own variables are looked at and no others,
which an image or a machine may have.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from errors import BlockedError

_PREFIX = "JUJU_CHARM_"
_LOOPBACK = "localhost"


def for_host(scheme: str, host: str, port: int) -> str | None:
    """The proxy's URL for a host, None where it is to be reached without.

    Raises:
        BlockedError: what the model gives is no URL of a proxy.
    """
    found = os.environ.get(f"{_PREFIX}{scheme.upper()}_PROXY", "").strip()
    if not found or _is_local(host) or _is_excluded(host, port, os.environ):
        return None
    url = found if "://" in found else f"http://{found}"
    if not _is_usable(url):
        raise BlockedError(
            f"run juju model-config juju-{scheme}-proxy=<URL>: the model's proxy is no URL",
            more="one is such as http://proxy:3128",
        )
    return url


def told() -> dict[str, str]:
    """All that Juju tells of proxies."""
    names = [each for each in os.environ if each.startswith(_PREFIX) and each.endswith("_PROXY")]
    return {each: os.environ[each] for each in names}


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOOPBACK or host.endswith(f".{_LOOPBACK}")


def _is_excluded(host: str, port: int, environment: Mapping[str, str]) -> bool:
    """Whether the model says that a host is to be reached without: a name, a domain, a network."""
    for entry in re.split(r"[,\s]+", environment.get(f"{_PREFIX}NO_PROXY", "").lower()):
        name, _, its_port = entry.rpartition(":")
        if name and its_port.isdigit() and (":" not in name or name.startswith("[")):
            if int(its_port) != port:
                continue
            entry = name  # noqa: PLW2901  # the port is one that fits
        if entry and _matches(host, entry.strip("[]")):
            return True
    return False


def _matches(host: str, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        domain = entry.removeprefix("*").removeprefix(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
