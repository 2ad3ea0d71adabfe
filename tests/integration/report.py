"""How long things took: gathered by the tests, told at the end, and kept as JSON."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One time: of what, in which chapter."""

    chapter: str
    name: str
    seconds: float


class Report:
    """All times of a run, in the order in which they were taken, and what it ran on."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.versions: dict[str, str] = {}

    def chapter(self, module: str) -> "Chapter":
        """The part of the report that the tests of a module write; `module` is its name."""
        return Chapter(self, module.rpartition(".")[2].removeprefix("test_"))

    def lines(self) -> list[str]:
        """For reading: a line for each time."""
        ran = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        width = max((len(f"{step.chapter}: {step.name}") for step in self.steps), default=0)
        rows = [
            f"{f'{step.chapter}: {step.name}':{width}}  {step.seconds:8.1f} s"
            for step in self.steps
        ]
        return [f"on {ran}", *rows] if ran else rows

    def as_json(self) -> str:
        """For programs."""
        steps: list[dict[str, Any]] = [step._asdict() for step in self.steps]
        return json.dumps({"versions": self.versions, "steps": steps}, indent=2) + "\n"

    def write(self, path: Path) -> None:
        """Keep it as a file, also after a run that was broken off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.as_json(), encoding="utf-8")


class Chapter:
    """What the tests of one chapter report."""

    def __init__(self, report: Report, name: str):
        self._report = report
        self._name = name

    def note(self, name: str, seconds: float) -> None:
        """Report a time."""
        self._report.steps.append(Step(self._name, name, round(seconds, 2)))

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Report how long the block took, where it comes to its end."""
        began = time.monotonic()
        yield
        self.note(name, time.monotonic() - began)
