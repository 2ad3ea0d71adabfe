"""Whether Pebble has a layer already, by value: it writes durations in a way of its own."""

import re
from typing import Any

from ops import pebble

_DURATIONS = ("backoff-delay", "backoff-limit", "kill-delay", "period", "timeout")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def different(plan: pebble.Plan, layer: pebble.Layer) -> tuple[str, ...]:
    """What of the layer the plan has otherwise, in words without values; empty for nothing."""
    found = [
        f"service {name}" if present is None else word
        for name, service in layer.services.items()
        for present in [plan.services.get(name)]
        for word in _different(present.to_dict() if present else {}, service.to_dict())
    ]
    found += [
        f"check {name}"
        for name, check in layer.checks.items()
        for present in [plan.checks.get(name)]
        if present is None or _different(present.to_dict(), check.to_dict())
    ]
    return tuple(dict.fromkeys(found))


def _different(present: Any, wanted: Any) -> list[str]:  # services or checks, as YAML has them
    one, other = _values(present), _values(wanted)
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _values(entry: Any) -> dict[str, object]:  # a service or check, as Pebble's YAML has it
    values: dict[str, object] = dict(entry)
    # Each variable is a word of its own.
    values |= entry.get("environment", {})
    values.pop("environment", None)
    for key in _DURATIONS:
        if key in values:
            values[key] = _duration(values[key])
    return values


def _duration(text: object) -> object:
    """The seconds of a duration in Go's form such as `1m50s`, or what is none as it is."""
    if not isinstance(text, str) or not re.fullmatch(f"(?:{_PART.pattern})+", text):
        return text
    return round(sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)), 9)
