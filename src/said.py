"""What programs say, in typed parts and in lines, and times for people."""

import time
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def dashed(name: str) -> str:
    """A field's name as it stands in the file."""
    return name.replace("_", "-")


class Part(BaseModel):
    """Fields that are not known are passed over: the agent may be newer or older."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=dashed, populate_by_name=True
    )


def line(text: str) -> str:
    """A text in one line, without what cannot be printed."""
    return "".join(each for each in " ".join(text.split()) if each.isprintable())


def lines(text: str) -> list[str]:
    """The lines of a text that have something in them, each as `line` has it."""
    return [each for each in map(line, text.splitlines()) if each]


def moment(at: float) -> str:
    """A time, for people."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def age(at: float) -> str:
    """How long ago a time is, for people."""
    return span(max(time.time() - at, 0))


def span(seconds: float) -> str:
    """A span of time in its largest unit that is full."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds // _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR:.0f} hours"
    return f"{seconds // _DAY:.0f} days"
