"""Compare the metadata in MySQL with that on the volume: what the agent found, for people."""

from typing import Any

import ops
from pydantic import ValidationError

import report
from errors import DifferenceError, WaitingError
from said import Part
from sidecar import Agent, agent_errors

_TIMEOUT = 1200.0
_SHOWN = 10


class _Store(Part):
    """What was compared of a store, with the names the agent gives it."""

    name: str
    equal: bool
    rows: int = 0
    bytes: int = 0
    checksum: str = ""
    store_rows: int = 0
    differences: int = 0
    first_differences: tuple[dict[str, str], ...] = ()


class _Comparison(Part):
    equal: bool = False
    stores: tuple[_Store, ...] = ()
    error: dict[str, str] | None = None


def verify(container: ops.Container, settings: bytes) -> dict[str, str]:
    """Run the comparison; return its results.

    Raises:
        DifferenceError: both sides differ.
        WaitingError: it could not be told.
    """
    with agent_errors():
        answer = Agent(container).execute(settings, ["verify"], _TIMEOUT)
    try:
        found = _Comparison.model_validate_json(answer.text)
    except ValidationError:
        raise WaitingError(f"the comparison ended with {answer.code} and without a word") from None
    if found.error:
        raise WaitingError(f"it cannot be told: {found.error.get('text', 'unknown reason')}")
    results = {
        "equal": str(found.equal).lower(),
        "stores": "\n".join(report.table([_row(store) for store in found.stores])) or "none",
    }
    if found.equal:
        return results
    lines = [
        f"{store.name}: " + ", ".join(f"{key}={value}" for key, value in difference.items())
        for store in found.stores
        for difference in store.first_differences
    ]
    results["differences"] = "\n".join(lines[:_SHOWN])
    names = ", ".join(store.name for store in found.stores if not store.equal)
    raise DifferenceError(f"MySQL differs from the metadata volume in: {names}", results)


def _row(store: _Store) -> dict[str, Any]:
    return {
        "name": store.name,
        "equal": store.equal,
        "rows": store.store_rows,
        "rows-in-mysql": store.rows,
        "size-bytes": store.bytes,
        "checksum": store.checksum,
        "differences": store.differences,
    }
