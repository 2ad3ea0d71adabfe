"""What the program says of an operation while it works, and how it learns that it has to end."""

import threading
from typing import Protocol

from agent.archive.errors import ArchiveError


class Told(Protocol):
    """Who is told."""

    def told(self, message: str, done: int | None, total: int | None) -> None: ...  # noqa: D102  # the class docstring says it


class Progress:
    """Of one operation; for any number of threads. Methods raise `cancelled` after SIGTERM."""

    def __init__(self, listener: Told | None = None, stop: threading.Event | None = None):
        self._listener = listener
        self._stop = stop or threading.Event()

    def say(self, message: str, *, done: int | None = None, total: int | None = None) -> None:
        """Tell how far it is; `done` and `total` in bytes."""
        self.check()
        if self._listener:
            self._listener.told(message, done, total)

    def check(self) -> None:
        """Return where the work may go on.

        Raises:
            ArchiveError: `cancelled`.
        """
        if self._stop.is_set():
            raise _cancelled()

    def wait(self, seconds: float) -> None:
        """Sleep, or end early.

        Raises:
            ArchiveError: `cancelled`.
        """
        if self._stop.wait(seconds):
            raise _cancelled()


def _cancelled() -> ArchiveError:
    return ArchiveError("cancelled", "it was interrupted and goes on later")
