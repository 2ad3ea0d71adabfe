"""Whether Pebble has a layer already, by value: it writes durations in a way of its own."""

import re
from typing import Any

from ops import pebble

_DURATIONS = ("backoff-delay", "backoff-limit", "kill-delay", "period", "timeout")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def planned(plan: pebble.Plan, layer: pebble.Layer) -> bool:
    """Whether the plan has the services and checks of the layer, as the layer has them."""
    return all(
        (found := plan.services.get(name)) is not None
        and _values(found.to_dict()) == _values(service.to_dict())
        for name, service in layer.services.items()
    ) and all(
        (found := plan.checks.get(name)) is not None
        and _values(found.to_dict()) == _values(check.to_dict())
        for name, check in layer.checks.items()
    )


def _values(entry: Any) -> dict[str, object]:  # a service or check, as Pebble's YAML has it
    values: dict[str, object] = dict(entry)
    for key in _DURATIONS:
        if key in values:
            values[key] = _duration(values[key])
    return values


def _duration(text: object) -> object:
    """The seconds of a duration in Go's form such as `1m50s`, or what is none as it is."""
    if not isinstance(text, str) or not re.fullmatch(f"(?:{_PART.pattern})+", text):
        return text
    return round(sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)), 9)
