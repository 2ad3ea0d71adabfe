"""What the program says of an operation while it works, and how it learns that it has to end."""

import threading
from collections.abc import Callable
from typing import Protocol

from agent.archive.errors import ArchiveError

# An operation, or a service without one, is heard of at least as often; in seconds.
SILENCE = 1800.0


class Told(Protocol):
    """Who is told."""

    def alive(self, silence: float) -> None: ...  # noqa: D102  # the class docstring says it
    def told(self, message: str, done: int | None, total: int | None) -> None: ...  # noqa: D102  # the class docstring says it


class Progress:
    """Of one operation; for any number of threads. Methods raise `cancelled` after SIGTERM.

    Args:
        listener: is told.
        stop: is set by SIGTERM.
        bound: is called often; what it raises ends the work.
    """

    def __init__(
        self,
        listener: Told | None = None,
        stop: threading.Event | None = None,
        bound: Callable[[], None] | None = None,
    ):
        self._listener = listener
        self._stop = stop or threading.Event()
        self._bound = bound

    def bounded(self, bound: Callable[[], None]) -> "Progress":
        """The same one that `bound` can end, too, by an ArchiveError."""
        return Progress(self._listener, self._stop, bound)

    def say(self, message: str, *, done: int | None = None, total: int | None = None) -> None:
        """Tell how far it is; `done` and `total` in bytes."""
        self.check()
        if self._listener:
            self._listener.told(message, done, total)

    def check(self, silence: float | None = None) -> None:
        """Return where the work may go on.

        Args:
            silence: how many seconds it may take until the work is heard of again.

        Raises:
            ArchiveError: `cancelled`, or what the bound raises.
        """
        if self._stop.is_set():
            raise _cancelled()
        if self._bound:
            self._bound()
        if self._listener:
            self._listener.alive(silence or SILENCE)

    def wait(self, seconds: float) -> None:
        """Sleep, or end early.

        Raises:
            ArchiveError: `cancelled`.
        """
        self._stop.wait(seconds)
        self.check()


def _cancelled() -> ArchiveError:
    return ArchiveError("cancelled", "it was interrupted and goes on later")
