"""`make points`: kill everything at all steps of backups and restores, then look what is served.

    python -m tests.soak.backups [--points N] [--seed N] [--only OPERATION/STEP/VICTIM]

A point is an operation, one of its steps and a victim, see `moments.STEPS` and `victims.VICTIMS`.
After each one everything is healed and Juju's events are delivered until the unit is active. Then
either the state before or the one after has to be there, complete, and every backup that is listed
has to be whole; now and then each is restored. Exits non-zero at the first point where it is not.
"""

import argparse
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

from ops import testing

from tests import bed, folders, servers
from tests.functional.files import ClientError
from tests.s3 import S3Server
from tests.soak.deployment import Site, ViolationError
from tests.soak.moments import STEPS
from tests.soak.points import ANY_TIME, Done, Point, strike
from tests.soak.victims import FULL, PROCESSES, S3, VICTIMS

_LIFE, _RESTORES = 20, 10
_TRIES = 3
# So many points strike at every step.
_ALL = 200
_LONGEST_DELAY = 0.4
# About as long as an operation takes, in seconds.
_TAKES = {"create": 1.0, "delete": 1.0}
_TAKES_ELSE = 6.0
# The server is down, or S3 is not asked any more.
_DOWN = frozenset({"swap", "swapping", "putting back"})
_WITHOUT_S3 = frozenset(STEPS["restore"]) - {
    "looked for",
    "begun",
    "manifest",
    "table",
    "control plane",
    "piece",
} | set(STEPS["restore in vain"])


def victims(operation: str, step: str) -> list[str]:
    """Who can be struck at a step."""
    found = [name for name in PROCESSES if name != "server" or step not in _DOWN]
    if not (operation.startswith("restore") and step in _WITHOUT_S3):
        found += S3
    elif operation != "restore in vain":
        found += ["S3 away", "S3 refuses"]
    return found + (list(FULL) if operation.startswith("restore") else [])


def plan(random: Random) -> Iterator[Point]:
    """Points without an end: all steps in turn, each with the next of its victims.

    In the first turn it is struck just when the step begins, so that each is hit.
    """
    cells = {
        (operation, step): deque(_shuffled(random, victims(operation, step)))
        for operation, steps in STEPS.items()
        for step in steps
    }
    for turn in count():
        for operation, step in _shuffled(random, list(cells)):
            victim = cells[operation, step][0]
            cells[operation, step].rotate()
            delay = random.choice((0.0, random.uniform(0, _LONGEST_DELAY))) if turn else 0.0
            yield Point(operation, step, victim, delay)
            if random.random() < 0.2:
                anyone = random.choice(victims(operation, ""))
                takes = _TAKES.get(operation, _TAKES_ELSE)
                yield Point(operation, ANY_TIME, anyone, random.uniform(0, takes))


def only(text: str, random: Random) -> Iterator[Point]:
    """The same point, with other delays."""
    operation, step, victim = text.split("/")
    while True:
        delay = random.choice((0.0, random.uniform(0, _LONGEST_DELAY)))
        yield Point(operation, step, victim, delay)


class Run:
    """So many points, on a new deployment now and then."""

    def __init__(self, root: Path, s3: S3Server, seed: int, points: Iterator[Point]):
        self._root = root
        self._s3 = s3
        self._seed = seed
        self._points = points
        self._site: Site | None = None
        self.hits: Counter[tuple[str, str, str]] = Counter()
        self.missed = 0

    def run(self, wanted: int) -> None:
        """Do them; those that missed their victim do not count.

        Raises:
            ViolationError: something is not as it has to be.
        """
        while self.hits.total() < wanted:
            point = next(self._points)
            for _ in range(_TRIES):
                done = self._one(point)
                if done.step:
                    self.hits[point.operation, done.step, point.victim] += 1
                    break
                self.missed += 1
            if self.hits.total() % _RESTORES == 0 and self._site:
                say(f"points: {len(self._site.backups)} backups are restored")
                self._site.check_restores()
            if self.hits.total() % _LIFE == 0:
                self.close()

    def report(self) -> str:
        """What is there now."""
        return self._site.report() if self._site else ""

    def close(self) -> None:
        """End what is there."""
        if self._site:
            self._site.close()
            self._site = None

    def _one(self, point: Point) -> Done:
        number = self.hits.total() + self.missed + 1
        random = Random(f"{self._seed}/{number}")  # noqa: S311  # the same each time
        if self._site is None:
            self._site = Site(self._root / f"site-{number}", self._s3, f"points-{number}", random)
        self._site.use(random)
        began = time.monotonic()
        try:
            done = strike(self._site, point)
        except BaseException:
            say(f"{number}: {point}: VIOLATED")
            raise
        word = f" ({done.word})" if done.word else ""
        where = f"at {done.step}{word}" if done.step else f"MISSED{word}"
        say(f"{number}: {point}: {where}: {done.outcome} [{time.monotonic() - began:.1f} s]")
        return done

    def table(self) -> str:
        """How often each victim was struck at each step."""
        names = list(VICTIMS)
        lines = [f"{'':34}" + " ".join(f"{name[:9]:>9}" for name in names)]
        for operation, steps in STEPS.items():
            for step in (*steps, "before"):
                counts = [self.hits[operation, step, name] for name in names]
                if any(counts) or step != "before":
                    row = " ".join(f"{count or '.':>9}" for count in counts)
                    lines.append(f"{f'{operation}: {step}':34}{row}")
        return "\n".join(lines)

    def never(self) -> list[str]:
        """The steps at which nothing was struck."""
        hit = {(operation, step) for operation, step, _ in self.hits}
        return [
            f"{operation}: {step}"
            for operation, steps in STEPS.items()
            for step in steps
            if (operation, step) not in hit
        ]


def main() -> int:
    """Run the points; 0 where nothing is violated."""
    parser = argparse.ArgumentParser(prog="points")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", help="operation/step/victim")
    asked = parser.parse_args()
    say(
        f"points: {asked.points} of seed {asked.seed}, {servers.server()}, {servers.pebble()}",
    )
    # A hook that has ended a moment ago cannot be killed any more.
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    bed.enter_or_exit()
    random = Random(asked.seed)  # noqa: S311  # the same each time
    points = only(asked.only, random) if asked.only else plan(random)
    began = time.monotonic()
    with folders.temporary() as directory, S3Server(directory / "s3") as s3:
        run = Run(directory, s3, asked.seed, points)
        problem = ""
        try:
            run.run(asked.points)
        except (ViolationError, AssertionError, ClientError, testing.ActionFailed) as error:
            traceback.print_exc()
            problem = f"seed {asked.seed}: {error}"
            say(run.report())
        finally:
            run.close()
    say(run.table())
    never = [] if asked.only else run.never()
    say(f"points: never struck: {', '.join(never) or 'none'}")
    minutes = (time.monotonic() - began) / 60
    say(f"points: {run.hits.total()} points, {run.missed} missed, {minutes:.0f} min")
    if problem:
        say(f"points: VIOLATED: {problem}")
    return 1 if problem or (never and asked.points >= _ALL) else 0


def _shuffled(random: Random, items: list) -> list:
    return random.sample(items, len(items))


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
