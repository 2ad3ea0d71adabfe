"""Compare the metadata in MySQL with that on the volume: what the agent found, for people."""

from typing import Any, NoReturn

import ops
from pydantic import ValidationError

import report
from errors import DifferenceError, UncertainError
from said import Part
from sidecar import Agent, agent_errors

_TIMEOUT = 1200.0
_SHOWN = 10
_EQUAL = {"equal": "true", "different": "false"}


class _Store(Part):
    """What was compared of a store, with the names the agent gives it."""

    name: str
    result: str
    uncertain: str = ""
    rows: int = 0
    bytes: int = 0
    checksum: str = ""
    store_rows: int = 0
    not_compared: int = 0
    differences: int = 0
    first_differences: tuple[dict[str, str], ...] = ()


class _Comparison(Part):
    result: str = "uncertain"
    stores: tuple[_Store, ...] = ()
    error: dict[str, str] | None = None


def verify(container: ops.Container, settings: bytes) -> dict[str, str]:
    """Run the comparison; return its results where both sides are equal.

    Raises:
        DifferenceError: they differ.
        UncertainError: it could not be told.
    """
    with agent_errors():
        answer = Agent(container).execute(settings, ["verify"], _TIMEOUT)
    try:
        found = _Comparison.model_validate_json(answer.text)
    except ValidationError:
        text = f"the comparison ended with {answer.code} and without a word"
        raise UncertainError(text, {"equal": "unknown"}) from None
    rows = [_row(store) for store in found.stores]
    results = {
        "equal": _EQUAL.get(found.result, "unknown"),
        "stores": "\n".join(report.table(rows)) or "none",
    }
    reasons = [f"{store.name}: {store.uncertain}" for store in found.stores if store.uncertain]
    if reasons:
        results["uncertain"] = "\n".join(reasons)
    if found.error is None and found.result == "equal":
        return results
    if found.error is None and found.result == "different":
        _tell_differences(found.stores, results)
    reason = found.error.get("text") if found.error else "; ".join(reasons)
    raise UncertainError(f"it cannot be told: {reason or 'unknown reason'}", results)


def _tell_differences(stores: tuple[_Store, ...], results: dict[str, str]) -> NoReturn:
    lines = [
        f"{store.name}: " + ", ".join(f"{key}={value}" for key, value in difference.items())
        for store in stores
        for difference in store.first_differences
    ]
    results["differences"] = "\n".join(lines[:_SHOWN]) or "none that the volume has"
    names = ", ".join(store.name for store in stores if store.result == "different")
    raise DifferenceError(f"MySQL differs from the metadata volume in: {names}", results)


def _row(store: _Store) -> dict[str, Any]:
    return {
        "name": store.name,
        "equal": {"true": True, "false": False}.get(_EQUAL.get(store.result, ""), "unknown"),
        "rows": store.store_rows,
        "rows-in-mysql": store.rows,
        "size-bytes": store.bytes,
        "checksum": store.checksum,
        "differences": store.differences,
        "not-compared": store.not_compared,
    }
