"""Reads what the command lines of Juju and Kubernetes print; nothing here runs anything."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Claim(NamedTuple):
    """A claim of a unit, and the volume behind it."""

    name: str
    volume: str


def find_secret(text: str, description: str, label: str = "") -> str:
    """The id of the one secret with this label, this description, or one that begins so.

    Args:
        text: of `juju secrets --format json`.
        description: a whole one goes before one that only begins so.
        label: goes before both, where Juju tells labels.

    Raises:
        LookupError: there is none, or more than one.
    """
    rows: Mapping[str, Any] = json.loads(text) or {}
    told = {key: row.get("description") or "" for key, row in rows.items()}
    labelled = [key for key, row in rows.items() if label and row.get("label") == label]
    whole = [key for key, words in told.items() if words == description]
    found = labelled or whole or [key for key in told if told[key].startswith(description)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} secrets begin with {description!r}")
    return f"secret:{found[0].removeprefix('secret:')}"


def owned_secrets(text: str, owner: str) -> list[str]:
    """The ids of the secrets that an application or its units own."""
    rows: Mapping[str, Any] = json.loads(text) or {}
    return [key for key, row in rows.items() if row.get("owner", "").partition("/")[0] == owner]


def revealed(text: str) -> dict[str, str]:
    """The content of a secret, of `juju show-secret --reveal --format json`."""
    (row,) = json.loads(text).values()
    content = row["content"]
    return dict(content.get("Data", content))


def claims_of(
    claims: Iterable[Mapping[str, Any]], pod: str, storages: Iterable[str]
) -> dict[str, Claim]:
    """The claims of a pod by the names of their storages.

    A claim is called after its storage and its pod, such as
    `dittofs-metadata-5b8c3a1f-dittofs-0`; what stands around differs among versions of Juju.

    Args:
        claims: the items of `kubectl get pvc -o json`.
        pod: such as dittofs-0.
        storages: the names of the charm's storages.
    """
    found: dict[str, Claim] = {}
    for each in claims:
        name = each["metadata"]["name"]
        if not name.endswith(f"-{pod}"):
            continue
        words = name.removesuffix(f"-{pod}").split("-")
        for storage in storages:
            if storage in words:
                found[storage] = Claim(name, each["spec"].get("volumeName", ""))
    return found


def as_text(results: Mapping[str, Any]) -> dict[str, str]:
    """The results of an action: what looks like a number or a truth is text as well."""
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in results.items()
    }
