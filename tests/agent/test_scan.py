"""A comparison in full while the server stops, starts and writes: nothing is adopted unseen."""

import contextlib

import pytest

from agent import scan
from agent.backlog import Backlog
from agent.journal import GapError
from tests.agent.steps import Steps
from tests.stores import begin_log, compact, content, drop, flush, log, write


@pytest.fixture
def steps(agent, store):
    with contextlib.ExitStack() as stack:
        yield Steps(agent, store, stack)


def first_copy(steps, store, count=5):
    write(store, *[{b"k%d" % number: b"1"} for number in range(count)])
    steps.start()
    steps.catch_up()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("moment", ["before", "after", "end"])
def test_a_run_of_the_server_during_a_scan_is_not_lost(steps, store, monkeypatch, moment, known):
    """The tables had it when the scan ended, and nobody had compared it."""
    if known:
        first_copy(steps, store)
        flush(store)
        steps.mirror.doubt("for this test")
    else:
        write(store, {b"a": b"1"})
        flush(store)
        steps.start()
    due = [moment]

    def pass_by(what):
        if what in due:
            due.remove(what)
            run(store)

    tables, name = (scan.live, "live") if known else (scan.merge, "merge")
    end, last = (
        (steps.database.apply, "apply") if known else (steps.database.finish_copy, "finish_copy")
    )

    def read(*arguments):
        pass_by("before")
        yield from tables(*arguments)
        pass_by("after")

    def finish(*arguments):
        pass_by("end")
        return end(*arguments)

    monkeypatch.setattr(scan, name, read)
    monkeypatch.setattr(steps.database, last, finish)
    for _ in steps.scanning():
        pass
    assert not due
    steps.read()
    steps.write()
    assert steps.mirror.gap == ""
    assert steps.mirror.at_rest
    steps.assert_equal()


def run(store):
    """A run of the server between two looks."""
    write(store, {b"during": b"1"}, {b"k1": b"2"})
    flush(store)


def test_a_scan_that_stalls_while_the_server_stops_and_compacts_begins_again(steps, store):
    first_copy(steps, store)
    steps.mirror.doubt("for this test")
    scanning = steps.scanning()
    steps.mirror.begin()
    next(scanning, None)
    write(store, {b"during": b"1"}, {b"k1": None})
    flush(store)
    compact(store)
    with contextlib.suppress(GapError):
        for _ in scanning:
            pass
    steps.catch_up()
    steps.assert_equal()


def test_a_backlog_that_overflows_while_the_server_stops_is_compared(steps, store, agent):
    first_copy(steps, store)
    steps.mirror.backlog = Backlog(agent.run / "small", memory=100, disk=3000)
    write(store, *[{b"more%d" % number: bytes(200)} for number in range(30)])
    steps.read()
    flush(store)
    steps.read()
    assert "wait already" in steps.mirror.gap
    assert not steps.mirror.at_rest
    assert steps.verify().result == "uncertain"
    steps.catch_up()
    steps.read()
    assert steps.mirror.at_rest
    steps.assert_equal()


@pytest.mark.parametrize("when", ["before", "during"])
def test_where_much_waits_the_store_is_copied_and_memory_stays_small(
    steps, store, monkeypatch, when
):
    monkeypatch.setattr(scan, "_MEND_BYTES", 20_000)
    first_copy(steps, store)
    copy = steps.mirror.row.copy

    def write_much():
        for number in range(50):
            write(store, {b"k1": bytes(1000 + number)})

    def read(*arguments):
        write_much()
        yield from live(*arguments)

    live = scan.live
    steps.mirror.doubt("for this test")
    if when == "before":
        write_much()
    else:
        monkeypatch.setattr(scan, "live", read)
    for _ in steps.scanning():
        pass
    steps.read()
    steps.write()
    assert steps.mirror.row.copy != copy
    steps.assert_equal()


def test_a_mirror_at_rest_says_so_and_a_server_that_starts_ends_it(steps, store):
    first_copy(steps, store)
    assert not steps.mirror.at_rest
    flush(store)
    steps.read()
    assert steps.mirror.at_rest
    begin_log(store)
    steps.read()
    assert not steps.mirror.at_rest


@pytest.mark.parametrize("running", [True, False])
def test_a_position_is_resumed_with_the_server_up_and_down(steps, store, running):
    first_copy(steps, store)
    write(store, {b"a": b"1"})
    if not running:
        flush(store)
    steps.start()
    assert steps.mirror.gap == ""
    steps.read()
    steps.write()
    assert steps.mirror.gap == ""
    steps.assert_equal()


def test_a_stop_on_one_node_and_a_start_on_another_go_on(steps, store, monkeypatch):
    """What is in tables is on the disk, whatever became of the memory of the node."""
    first_copy(steps, store)
    flush(store)
    steps.read()
    # The next thing that is written has the position at rest.
    log(store, 1, {b"a": b"1"}, 6)
    steps.read()
    flush(store)
    steps.read()
    steps.write()
    log(store, 1, {b"b": b"1"}, 7)
    monkeypatch.setattr("agent.journal.boot_id", lambda: "another")
    steps.start()
    steps.catch_up()
    steps.assert_equal()


def test_all_data_that_is_dropped_is_dropped_in_mysql(steps, store):
    first_copy(steps, store)
    flush(store)
    begin_log(store)
    steps.read()
    for _ in drop(store):
        steps.read()
    assert steps.mirror.gap
    assert steps.verify().result == "different"
    steps.catch_up()
    assert steps.mirrored() == content(store) == {}
    steps.assert_equal()
