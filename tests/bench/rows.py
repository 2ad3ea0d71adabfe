"""A row of the README's tables."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What was measured.

    Attributes:
        good: whether the bound holds; None where there is none, or nothing could be measured.
    """

    what: str
    measured: str
    bound: str
    good: bool | None = None

    def __str__(self) -> str:
        missed = " **(missed)**" if self.good is False else ""
        return f"| {self.what} | {self.measured}{missed} | {self.bound} |"


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
