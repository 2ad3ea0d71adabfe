"""The rounds of `make limits`: filled, emptied, overwritten, killed, and compared all the time."""

import sys
import threading
import time
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from budget import OVERWRITTEN, Budget
from tests.limits import volume
from tests.limits.site import Site
from tests.limits.writers import Refusal, Writers

_GIB, _MIB, _MB = 2**30, 2**20, 10**6
_ROOM_AGAIN = 60.0
# What has to be free again of the room before it is said that there is some.
_ROOM = 0.97
# Seconds of overwriting between two comparisons.
_ROUND = 45.0
# The last round, in which more is written than the volume is divided for.
_RUSH = 60.0
# How often, at each look.
_EVENT = 0.05
_LOOK_EVERY, _EVENT_EVERY = 0.5, 10.0


class Faults(NamedTuple):
    """What happens: how often the pod is lost and a backup made, at each look; and kills.

    `between` two of these are so many seconds.
    """

    pod: float
    back_up: float
    between: tuple[float, float]


# The server has to come to clean, which it does 30 s after its start; in the rush it may not.
_BEARABLE, _RUSHED = Faults(0.005, 0.05, (35, 80)), Faults(0.02, 0.05, (5, 30))
_NONE = Faults(0, 0, (0, 0))


class Run:
    """All rounds on one site.

    Args:
        site: serves.
        writers: the clients.
        budget: what the volume is said to have room for.
        random: decides what happens when.
        rate: of overwriting, in bytes a second.
        plain: there is neither mirror nor backups, and nothing is killed.
    """

    def __init__(
        self,
        site: Site,
        writers: Writers,
        budget: Budget,
        random: Random,
        *,
        rate: float = OVERWRITTEN,
        plain: bool = False,
    ):
        self.site = site
        self.writers = writers
        self.budget = budget
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._random = random
        self._rate = rate
        self._plain = plain
        self._faults = _NONE if plain else _BEARABLE
        self._peak = 0

    def run(self, end: float, wanted: float) -> None:
        """Do everything; the rounds of overwriting last until `end` or `wanted` bytes."""
        say(f"limits: the budget lets {self.budget.room / _MIB:.0f} MiB in")
        try:
            self.fill()
            self.make_room()
            self.overwrite(end - _RUSH, wanted)
            if not self._plain:
                self.rush()
            self.refill()
            self.finish()
        except AssertionError as error:
            self.problems.append(str(error))

    def fill(self) -> None:
        """Write new files until the server says that there is no space."""
        refused = len(self.writers.counts.refusals)
        self._let(lambda: self.writers.fill(self.budget.usable))
        refusals = self.writers.counts.refusals[refused:]
        say(
            f"limits: filled with {self.writers.live / _MIB:.0f} MiB, then: "
            f"{refusals[0].status if refusals else 'nothing refused'}; {self._disk()}"
        )
        self._compare("after filling")

    def make_room(self) -> None:
        """Remove files until there are half of what the budget lets in; writing works again."""
        files = list(self.writers.files.values())
        size = self._file_size
        kept = int(self.budget.room / 2 / size)
        self._random.shuffle(files)
        self._let(lambda: self.writers.remove(files[kept:]))
        began, first = time.monotonic(), len(self.writers.counts.refusals)
        while not self._one_more():
            if time.monotonic() - began > _ROOM_AGAIN:
                self.problems.append(f"no write works {_ROOM_AGAIN:.0f} s after removing")
                break
            time.sleep(1)
        for refusal in self.writers.counts.refusals[first:]:
            refusal.excused = True
        self.notes.append(f"writing worked {time.monotonic() - began:.1f} s after removing")
        say(f"limits: {self.notes[-1]}; {self._disk()}")

    def overwrite(self, end: float, wanted: float) -> None:
        """Write the files again and again, under kills and backups, and compare each round."""
        number = 0
        self.writers.pace(self._rate)
        while time.monotonic() < end and self.writers.counts.written < wanted:
            number += 1
            stop = min(time.monotonic() + _ROUND, end)
            over = threading.Event()

            def done(over: threading.Event = over) -> bool:
                return over.is_set() or self.writers.counts.written >= wanted

            self._let(lambda done=done: self.writers.overwrite(done), over, stop)
            self._compare(f"round {number}")
            if self.problems:
                break
        self.writers.pace(0)

    def rush(self) -> None:
        """Overwrite faster than the volume is divided for, and kill more often.

        Clients may be refused then, but nothing may be wrong, and it ends within a minute.
        """
        over = threading.Event()
        written, first = self.writers.counts.written, len(self.writers.counts.refusals)
        self._faults = _RUSHED
        began = time.monotonic()
        self._let(lambda: self.writers.overwrite(over.is_set), over, began + _RUSH)
        rate = (self.writers.counts.written - written) / (time.monotonic() - began)
        self._faults = _BEARABLE
        began = time.monotonic()
        while not self._one_more():
            if time.monotonic() - began > _ROOM_AGAIN:
                self.problems.append(f"no write works {_ROOM_AGAIN:.0f} s after the rush")
                break
            time.sleep(1)
        refused = self.writers.counts.refusals[first:]
        for refusal in refused:
            refusal.excused = True
        self.notes.append(
            f"{rate / _MB:.0f} MB/s in the rush, {len(refused)} refused, writing worked "
            f"{time.monotonic() - began:.1f} s after it"
        )
        self._compare("after the rush")

    def refill(self) -> None:
        """Remove all files, and write what the budget lets in; it has 60 s to be let in."""
        self._let(lambda: self.writers.remove(list(self.writers.files.values())))
        began, first = time.monotonic(), len(self.writers.counts.refusals)
        wanted = int(self.budget.room * _ROOM) - self._file_size * self.writers.threads
        while self.writers.live < wanted:
            in_time = time.monotonic() < began + _ROOM_AGAIN
            self._let(lambda: self.writers.fill(wanted))
            for refusal in self.writers.counts.refusals[first:] if in_time else ():
                refusal.excused = True
            if not in_time:
                break
            time.sleep(1)
        self.notes.append(f"refilled {time.monotonic() - began:.1f} s after removing")
        refused = len(self.writers.counts.refusals) - first
        say(f"limits: refilled with {self.writers.live / _MIB:.0f} MiB, {refused} refused")
        self._compare("after refilling")

    def finish(self) -> None:
        """Restart the server, and look at everything once more."""
        self.site.restart()
        self._compare("after a restart")
        self.site.settle()
        if self._plain:
            return
        self.site.back_up()
        self.problems += self.site.check_backups()
        if different := self.site.same_as_mysql():
            self.problems.append(f"the mirror: {different}")

    @property
    def refused_in_vain(self) -> int:
        """Writes that were refused although the budget says that there was room."""
        return sum(self.was_room(each) for each in self.writers.counts.refusals)

    def was_room(self, refusal: Refusal) -> bool:
        """Whether there was room; it is said again when some more than a byte was made."""
        return refusal.live <= self.budget.room * _ROOM and not refusal.excused

    @property
    def peak(self) -> int:
        """The most that the content volume held, in bytes."""
        return self._peak

    @property
    def _file_size(self) -> int:
        return self.writers.blocks * self.writers.pattern.block_size

    def _one_more(self) -> bool:
        before = self.writers.counts.acknowledged
        self.writers.fill(self.writers.live + self._file_size)
        return self.writers.counts.acknowledged > before

    def _compare(self, when: str) -> None:
        before = len(self.writers.counts.wrong)
        size = self.writers.check()
        wrong = self.writers.counts.wrong[before:]
        say(
            f"limits: {when}: {size / _MIB:.0f} MiB compared, {len(wrong)} wrong; "
            f"{self.writers.counts.written / _GIB:.1f} GiB written; {self._disk()}"
        )
        self.problems += [f"{when}: {each}" for each in wrong[:5]]

    def _disk(self) -> str:
        left = volume.free(self.site.content)
        return f"disk {(self.budget.usable - left) / _MIB:.0f} MiB used, {left / _MIB:.0f} free"

    def _let(
        self, clients: Callable[[], None], over: threading.Event | None = None, stop: float = 0.0
    ) -> None:
        """Let the clients work in threads while the charm's events happen in this one.

        Args:
            clients: lets them work.
            over: set at `stop`; until then things are killed, and backups made.
            stop: when that is, as `time.monotonic` tells it.
        """
        failed: list[BaseException] = []

        def work() -> None:
            try:
                clients()
            except AssertionError as error:
                failed.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        killer = threading.Thread(target=self._kill, args=(over,), daemon=True)
        if over and not self._plain:
            killer.start()
        begun = time.monotonic()
        while thread.is_alive():
            if over and time.monotonic() > stop:
                over.set()
            if over and not over.is_set():
                self._trouble()
            elif time.monotonic() > begun + _EVENT_EVERY:
                begun = time.monotonic()
                self.site.event()
            thread.join(_LOOK_EVERY)
            self._look()
        if over:
            over.set()
        if killer.ident:
            killer.join()
        self.problems += [str(error) for error in failed]
        self.site.settle()

    def _trouble(self) -> None:
        """Lose the pod, make a backup, or deliver an event."""
        chance, faults = self._random.random(), self._faults
        if chance < faults.pod:
            self.site.kill("pod")
        elif chance < faults.pod + faults.back_up:
            self.site.back_up()
        elif chance < faults.pod + faults.back_up + _EVENT:
            self.site.event()

    def _kill(self, over: threading.Event | None) -> None:
        """Kill the server or the agent at random moments, also while a backup is made."""
        random = Random(self._random.random())  # noqa: S311  # the same each time
        while over and not over.wait(random.uniform(*self._faults.between)):
            self.site.kill(random.choice(("server", "server", "agent")))
            # It reads the whole journal at its start: a kill is to hit one that serves.
            while not self.site.serves() and not over.is_set():
                time.sleep(_LOOK_EVERY)

    def _look(self) -> None:
        self._peak = max(self._peak, self.budget.usable - volume.free(self.site.content))


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
