"""How long an event may still wait, in all: while it does, the unit hears of nothing else."""

import math
import time

# A hook ends within 10 s, of which Juju's own commands take up to two.
HOOK = 8.0
# `juju run` waits 60 s, and an action is followed by all that a hook does.
ACTION = 40.0
# Whoever comes last may still ask what is answered at once.
_MOMENT = 0.1


class Deadline:
    """The end of all waiting in one event; there is none before `begin`."""

    def __init__(self) -> None:
        self._end = math.inf

    def begin(self, seconds: float) -> None:
        """Let so many seconds be left from now on."""
        self._end = time.monotonic() + seconds

    def left(self, most: float) -> float:
        """The seconds that are left, `most` at most; a moment where nothing is."""
        return max(min(most, self._end - time.monotonic()), _MOMENT)


EVENT = Deadline()
