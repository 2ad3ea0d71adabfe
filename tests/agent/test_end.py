"""The end of a pod: server and agent are told to end at the same moment.

What holds the store open here is the test; what does so in a pod is in tests/functional.
"""

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from agent.log_writer import LogWriter
from tests.agent.rig import Agent, wait_until
from tests.stores import content, flush, write

# Seconds: how long the agent waits for the server, what "at once" is on a machine that other tests
# keep busy, and what it may take in all.
PATIENCE, AT_ONCE, IN_ALL = 5, 3.5, 15


@pytest.fixture
def patient(agent, store):
    """An agent that follows a store; it waits for `PATIENCE` for the server's end."""
    write(store, {b"a": b"1"})
    agent.arguments = ("--patience", str(PATIENCE))
    agent.start()
    agent.equal()
    return agent


def opened(store: Path) -> closing[LogWriter]:
    """A store that is open and locked, as a server has it."""
    return closing(LogWriter(store, 2**24))


def end(agent: Agent) -> float:
    """The pod ends; when that was."""
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    return time.monotonic()


def ended(agent: Agent, seconds: float = 30.0) -> int:
    assert agent.process is not None
    code = agent.process.wait(seconds)
    agent.process = None
    return code


@pytest.mark.parametrize("clean", [True, False], ids=["clean end", "killed server"])
def test_what_the_server_writes_to_the_last_is_in_mysql(patient, store, clean):
    with opened(store) as server:
        end(patient)
        for number in range(40):
            server.write({b"%d" % number: b"x" * 500}, sync=False)
            time.sleep(0.02)
        # Once more is not at once.
        end(patient)
        assert patient.process.poll() is None
        server.write({b"last": b"1"}, sync=False)
        if clean:
            flush(store)
    began = time.monotonic()
    assert ended(patient) == 0
    assert time.monotonic() - began < AT_ONCE
    assert patient.mirrored() == content(store)
    assert "all that it wrote is in MySQL" in patient.log


def test_a_store_that_was_made_last_is_in_mysql(patient, store):
    other = store.with_name("other")
    with opened(store):
        end(patient)
        time.sleep(0.2)
        with opened(other) as server:
            server.write({b"b": b"1"}, sync=False)
    assert ended(patient) == 0
    assert patient.mirrored("other") == {b"b": b"1"}


def test_the_control_plane_is_copied_as_it_was_last(patient):
    path = patient.metadata / "controlplane.db"
    with closing(sqlite3.connect(path)) as server:
        server.execute("PRAGMA journal_mode = WAL")
        server.execute("CREATE TABLE users (name TEXT)")
        server.commit()
        wait_until(lambda: patient.status["control-plane"]["copied"])
        end(patient)
        time.sleep(0.5)
        # The stores are closed, the API answers to the last.
        assert patient.process.poll() is None
        server.execute("INSERT INTO users VALUES ('last')")
        server.commit()
    assert ended(patient) == 0
    patient.metadata.joinpath("stores").rename(patient.root / "kept")
    path.unlink()
    code, answer = patient.call("recover")
    assert code == 0, answer
    with closing(sqlite3.connect(path)) as copy:
        assert copy.execute("SELECT name FROM users").fetchall() == [("last",)]


def test_an_order_to_end_does_not_wait_for_the_server(patient, store):
    with opened(store):
        began = time.monotonic()
        assert patient.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < AT_ONCE
    assert patient.status["state"] == "stopped"


def test_an_order_ends_the_waiting_for_the_server(patient, store):
    with opened(store):
        end(patient)
        time.sleep(0.5)
        assert patient.process.poll() is None
        began = time.monotonic()
        assert patient.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < AT_ONCE


def test_a_server_that_does_not_end_is_not_waited_for_for_ever(patient, store):
    with opened(store):
        began = end(patient)
        assert ended(patient) == 0
        assert PATIENCE - 1 < time.monotonic() - began < IN_ALL
    assert "ended before it was seen that all is in MySQL" in patient.log
    assert patient.mirrored() == {b"a": b"1"}


def test_mysql_that_is_away_is_waited_for_and_no_longer_than_that(patient, store, database):
    with opened(store) as server:
        database.stop()
        try:
            server.write({b"b": b"1"}, sync=False)
            began = end(patient)
            assert ended(patient) == 0
            assert PATIENCE - 1 < time.monotonic() - began < IN_ALL
        finally:
            database.start()
    assert "1 transactions wait" in patient.log
    patient.start()
    patient.equal()


def test_mysql_that_comes_back_in_time_gets_all(patient, store, database):
    with opened(store) as server:
        database.stop()
        try:
            server.write({b"b": b"1"}, sync=False)
            end(patient)
            time.sleep(1)
        finally:
            database.start()
    assert ended(patient) == 0
    assert patient.mirrored() == {b"a": b"1", b"b": b"1"}


def test_a_comparison_under_way_is_brought_to_its_end(agent, store):
    rows = {b"%06d" % number: b"x" * 200 for number in range(30_000)}
    write(store, rows)
    agent.start()
    wait_until(lambda: agent.status["state"] == "scanning")
    with opened(store) as server:
        end(agent)
        server.write({b"last": b"1"}, sync=False)
    assert ended(agent, 25) == 0
    assert agent.mirrored() == {**rows, b"last": b"1"}
