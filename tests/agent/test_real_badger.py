"""The mirror of stores that the real Badger writes, with all that it does to its files."""

import signal
import subprocess
import time
from random import Random

import pytest

from agent.badger import log_paths
from tests.agent.follower import Follower
from tests.agent.rig import wait_until
from tests.badger.conftest import peer, remove_empty_logs  # noqa: F401  # a fixture
from tests.stores import content


@pytest.mark.parametrize("how", ["busy", "drop", "collect"])
def test_a_store_of_the_real_badger_is_mirrored(agent, store, peer, how):  # noqa: F811  # the fixture
    """Flushes, compactions, all data dropped, garbage of the value log collected; then killed."""
    peer.write(store, 1, 300)
    agent.start()
    agent.equal()
    count = {"busy": 1_000_000, "drop": 20_000, "collect": 2}[how]
    process = peer.start(how, store, seed=2, transactions=count)
    try:
        end = time.monotonic() + 2
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    remove_empty_logs(store)
    agent.equal()
    assert agent.mirrored() == content(store)
    # It is opened again: the logs become tables, and their numbers begin anew.
    peer.dump(store)
    agent.equal()
    wait_until(lambda: agent.mirrored() == content(store))
    assert agent.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("seed", range(3))
def test_starts_stops_and_kills_between_any_two_looks_lose_nothing(tmp_path, peer, seed):  # noqa: F811  # the fixture
    """Of the real Badger, under load, with a follower that is paused and started again."""
    random = Random(seed)  # noqa: S311  # the same each time
    store = tmp_path / "store"
    store.mkdir()
    follower = Follower(store)
    for number in range(4):
        process = peer.start("serve", store, seed * 100 + number)
        _follow_for(follower, random, random.uniform(0.05, 0.4))
        how = random.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGKILL])
        process.send_signal(how)
        _follow_until_ended(follower, random, process)
        remove_empty_logs(store)
        if random.random() < 0.3:
            follower.restart()
        if random.random() < 0.5:
            _compare(follower)
    _compare(follower)


def _follow_for(follower, random, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        follower.follow()
        time.sleep(random.choice([0.0, 0.005, 0.02, 0.25]))


def _follow_until_ended(follower, random, process: subprocess.Popen[bytes]):
    """Look now and then, or not at all."""
    looks = random.random() < 0.5
    while process.poll() is None:
        if looks:
            follower.follow()
        time.sleep(0.002)


def _compare(follower):
    # Twice where it compares in full and something was in the way.
    for _ in range(3):
        follower.follow()
        if follower.position is not None:
            break
    assert follower.state == content(follower.store)
    assert follower.journal.at_rest == (not log_paths(follower.store))


def test_most_clean_stops_need_no_comparison(tmp_path, peer):  # noqa: F811  # the fixture
    """Though nothing of what was written is seen in a log."""
    store = tmp_path / "store"
    store.mkdir()
    follower = Follower(store)
    follower.follow()
    for seed in range(6):
        # It closes the store by itself after so many, as it does after SIGTERM. With more of them
        # it would depend on the machine how many logs come and go meanwhile.
        process = peer.start("serve", store, seed, 200)
        process.wait()
        follower.follow()
        follower.follow()
        assert follower.journal.at_rest
        assert follower.state == content(store)
    # The first one, and where a table is compacted with others at once.
    assert follower.compared <= 1 + 1
