"""What ends the agent's process: signals, and a thread of it that ends by an error."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

logger = logging.getLogger(__name__)

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
# What the database is in the middle of is rolled back, and done again at the next start.
_STOP_SECONDS = 0.9


class Stop:
    """Whether to end.

    Attributes:
        ending: the pod ends: what is written last is to be worked off.
        now: end at once; the process is gone a moment later in any case.
        ordered: whether it was told to end at once: nothing is lost then.
    """

    def __init__(self) -> None:
        self.ending = threading.Event()
        self.now = threading.Event()
        self.ordered = False


def stopped_by_signals(patience: float = 0.0) -> Stop:
    """Be ended by SIGTERM within `patience` seconds, by SIGINT at once, also after a SIGTERM.

    Call it before other threads exist. The signals are taken by a thread of their own: an event
    that a signal's handler sets while its thread waits for that event can block both for good.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    stop = Stop()

    def wait() -> None:
        if signal.sigwait(_SIGNALS) == signal.SIGTERM and patience:
            stop.ending.set()
            signal.sigtimedwait({signal.SIGINT}, patience)
        else:
            stop.ordered = True
        stop.now.set()
        stop.ending.set()
        time.sleep(_STOP_SECONDS)
        os._exit(0)

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop


def end_with_any_thread(say: Callable[[str], None]) -> None:
    """End the process with code 1 when an error ends any of its threads; whoever runs it helps.

    A service that has lost a thread would go on in part, and look well.

    Args:
        say: is told what happened, in a few words.
    """

    def end(
        kind: type[BaseException], error: BaseException | None, where: TracebackType | None
    ) -> None:
        name = threading.current_thread().name
        logger.critical("the thread %s ended", name, exc_info=(kind, error or kind(), where))
        try:
            say(f"{kind.__name__} in the thread {name}")
        finally:
            os._exit(1)

    sys.excepthook = end
    threading.excepthook = lambda ended: end(ended.exc_type, ended.exc_value, ended.exc_traceback)
