"""The mirror of stores that the real Badger writes, with all that it does to its files."""

import signal
import time

import pytest

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
