"""Follows a store without a database."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.badger import BadgerError
from agent.comparison import live
from agent.journal import Changes, GapError, Journal, Position

States = Mapping[int, Sequence[Mapping[bytes, bytes]]]


class Follower:
    """Follows a store as the mirror does, and compares in full where it has to.

    Args:
        store: its directory.
        states: what the store held after each version, where that is known.

    Attributes:
        compared: how often it had to compare in full.
    """

    def __init__(self, store: Path, states: States | None = None):
        self.store = store
        self.states = states
        self.journal = Journal(store)
        self.state: dict[bytes, bytes] = {}
        self.position: Position | None = None
        self.compared = 0

    def follow(self) -> None:
        """Read all there is now; compare where that is wanted."""
        try:
            if self.position is None:
                self._compare()
            else:
                self._read()
        except (GapError, BadgerError, OSError):
            self.position = None

    def restart(self) -> None:
        """Go on as another process would."""
        self.journal.close()
        self.journal = Journal(self.store)
        if self.position:
            kept = Position.from_text(self.position.to_text())
            assert kept is not None
            try:
                self.journal.resume(kept)
            except GapError:
                self.position = None

    def _compare(self) -> None:
        """What `scan` does."""
        self.compared += 1
        self.journal.begin()
        position = self.journal.position
        overlay: Changes = {}
        while batch := self.journal.poll():
            overlay.update(batch.changes)
            position = batch.position
        self.state = {key: value for key, _, value in live(self.store, overlay)}
        while batch := self.journal.poll():
            self._apply(batch.changes)
            position = batch.position
        self.position = position
        if self.states is not None:
            # The tables do not have the last versions any more where these are deletions that are
            # compacted away.
            versions = [each for each in self.states if each >= position.version]
            assert any(self.state in self.states[each] for each in versions), position

    def _read(self) -> None:
        while batch := self.journal.poll():
            self._apply(batch.changes)
            self.position = batch.position
            if self.states is not None:
                assert self.state in self.states[self.position.version], self.position

    def _apply(self, changes: Changes) -> None:
        for key, (_, value) in changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
