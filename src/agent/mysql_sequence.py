"""The stores in MySQL, and what is known of the number of each one's last transaction."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StoreRow:
    """A store in MySQL.

    Attributes:
        name: its key.
        copy: the copy that counts; 0 while the first one is not finished.
        position: how far the copy is, as given to `apply` and `finish_copy`; "" without a copy.
        sequence: counts the transactions.
    """

    name: str
    copy: int
    position: str
    sequence: int


class Sequences:
    """What this agent knows of the number of each store's last transaction.

    A commit without an answer may have happened or not, so that there are several that MySQL may
    have: from the last that was confirmed to the last that was tried.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def reset(self, stores: Mapping[str, StoreRow]) -> None:
        """MySQL has these stores."""
        self._known = {name: (row.sequence, row.sequence) for name, row in stores.items()}

    def seen(self, name: str, number: int) -> None:
        """MySQL has this one."""
        self._known[name] = (number, number)

    def seen_before(self, name: str, number: int) -> None:
        """MySQL had this one when somebody asked."""
        self._known.setdefault(name, (number, number))

    def next(self, name: str) -> tuple[int, int, int]:
        """The first and last that MySQL may have, and the one for a transaction that starts."""
        first, last = self._known[name]
        self._known[name] = (first, last + 1)
        return first, last, last + 1
