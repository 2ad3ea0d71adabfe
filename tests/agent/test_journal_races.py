"""The server does anything between any two system calls of the one that follows it.

Whatever happens: what was followed is a state that the store had, at the version that is said;
what is at rest is equal; and where something was missed, it is noticed.
"""

from random import Random

import pytest

from agent import flushed, journal, tables
from agent.journal import Journal
from tests.agent.badger_model import Badger
from tests.agent.follower import Follower
from tests.stores import content

SEEDS = [*range(12), 174]
# All that looks at a store's files; what happens inside of one of these is a case of the next.
CALLS = [
    (journal, ["log_paths", "max_version", "missed", "newest", "open_log", "read_log"]),
    (journal, ["read_manifest"]),
    (flushed, ["open_table", "resolve"]),
    (tables, ["read_manifest", "open_table"]),
]


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
    follower = Follower(store, badger.states)
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
