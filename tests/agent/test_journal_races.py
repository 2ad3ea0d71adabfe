"""The server does anything between any two system calls of the one that follows it.

Whatever happens: what was followed is a state that the store had, at the version that is said;
what is at rest is equal; and where something was missed, it is noticed.
"""

from random import Random

import pytest

from agent import flushed, journal, tables
from agent.badger import BadgerError
from agent.comparison import live
from agent.journal import GapError, Journal, Position
from tests.agent.badger_model import Badger
from tests.stores import content

SEEDS = range(20)
# All that looks at a store's files; what happens inside of one of these is a case of the next.
CALLS = [
    (journal, ["log_paths", "max_version", "missed", "newest", "open_log", "read_log"]),
    (journal, ["read_manifest"]),
    (flushed, ["open_table", "resolve"]),
    (tables, ["read_manifest", "open_table"]),
]


class Follower:
    """Follows a store as the mirror does, and compares in full where it has to.

    Attributes:
        compared: how often it had to compare in full.
        taken: how often it took what it had missed from a table.
    """

    def __init__(self, badger):
        self.badger = badger
        self.journal = Journal(badger.store)
        self.state = {}
        self.position = None
        self.compared = 0

    def follow(self):
        """Read all there is now; compare where that is wanted."""
        try:
            if self.position is None:
                self.compare()
            else:
                self.read()
        except (GapError, BadgerError, OSError):
            self.position = None

    def restart(self):
        """Go on as another process would."""
        self.journal.close()
        self.journal = Journal(self.badger.store)
        if self.position:
            kept = Position.from_text(self.position.to_text())
            assert kept is not None
            try:
                self.journal.resume(kept)
            except GapError:
                self.position = None

    def compare(self):
        """What `scan` does."""
        self.compared += 1
        self.journal.begin()
        position = self.journal.position
        overlay = {}
        while batch := self.journal.poll():
            overlay.update(batch.changes)
            position = batch.position
        found = {
            key: value for key, _, value in live(self.badger.store, overlay) if key is not None
        }
        newer = {}
        while batch := self.journal.poll():
            newer.update(batch.changes)
            position = batch.position
        self.state = found
        self.apply(newer)
        self.position = position
        # The tables do not have the last versions any more where these deleted and are compacted.
        versions = [each for each in self.badger.states if each >= position.version]
        assert any(self.state in self.badger.states[each] for each in versions), position

    def read(self):
        while batch := self.journal.poll():
            self.apply(batch.changes)
            self.position = batch.position
            self.check()

    def apply(self, changes):
        for key, (_, value) in changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def check(self):
        """What it has is what the store had at this version."""
        assert self.position is not None
        version = self.position.version
        assert self.state in self.badger.states[version], version


def interleaved(monkeypatch, tick):
    """Have `tick` called before each look at the files."""
    for module, names in CALLS:
        for name in names:
            real = getattr(module, name)

            def call(*arguments, real=real):
                tick()
                return real(*arguments)

            monkeypatch.setattr(module, name, call)
    real_stamp = Journal._stamp_now  # noqa: SLF001  # a system call, too

    def stamp(self):
        tick()
        return real_stamp(self)

    monkeypatch.setattr(Journal, "_stamp_now", stamp)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_between_two_calls_is_followed_or_noticed(tmp_path, monkeypatch, seed):
    random = Random(seed)  # noqa: S311  # the same each time
    store = tmp_path / "store"
    store.mkdir()
    badger = Badger(store, random, drops=random.choice([0, 0.05]))
    follower = Follower(badger)
    busy = random.choice([0.05, 0.2, 0.5])

    def tick():
        while random.random() < busy:
            badger.step()

    with monkeypatch.context() as patch:
        interleaved(patch, tick)
        for _ in range(25):
            for _ in range(random.choice([0, 0, 1, 3, 10])):
                badger.step()
            follower.follow()
            if random.random() < 0.2:
                follower.restart()
    badger.stop()
    for _ in range(2):
        # A comparison, and what came meanwhile.
        follower.follow()
        follower.follow()
        assert follower.position is not None
        assert follower.state == content(store) == badger.state
        assert follower.journal.at_rest
        follower.restart()
