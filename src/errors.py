"""What can stand in the way, as one family of exceptions: each becomes one status."""

import ops


class CharmError(Exception):
    """Something keeps the unit from doing its work; the text is what the status says.

    Subclasses say who has to act. Raised at the borders (Pebble, REST, Juju, the volumes) and
    turned into a status in one place.

    Args:
        text: what to do first, then why: `juju status` cuts it at 120 characters.
        more: what `status-detail` and a failed action say besides.

    Attributes:
        whole: both, for where nothing is cut.
    """

    status: type[ops.StatusBase] = ops.BlockedStatus

    def __init__(self, text: str, *, more: str = ""):
        super().__init__(text)
        self.more = more
        self.whole = f"{text}; {more}" if more else text


class UnreadError(Exception):
    """A secret is needed that an idle event has not read: the event begins again and reads all."""


class BlockedError(CharmError):
    """A person has to act; the text names the remedy."""


class DifferenceError(BlockedError):
    """Something is not as it should be; `results` says what, for the action."""

    def __init__(self, text: str, results: dict[str, str]):
        super().__init__(text)
        self.results = results


class WaitingError(CharmError):
    """It mends itself, or is tried again at the next event; the text says what is waited for."""

    status = ops.WaitingStatus


class UncertainError(WaitingError):
    """Whether two things are equal cannot be told; `results` says why, for the action."""

    def __init__(self, text: str, results: dict[str, str]):
        super().__init__(text)
        self.results = results


class WorkingError(CharmError):
    """The unit is at something long that clients notice; the text says what, and how far it is."""

    status = ops.MaintenanceStatus
