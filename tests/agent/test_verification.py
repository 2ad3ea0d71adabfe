"""`verify`: equal, different or uncertain; what MySQL lacks is never taken for on its way."""

import contextlib
import shutil
import threading

import pytest

from agent import verification
from agent.verification import last_verified, note_verified, overall, verify_all
from tests.agent.steps import Steps
from tests.stores import begin_log, content, flush, log, write

DELETE = "DELETE FROM dittofs_entries WHERE {}"
INSERT = (
    "INSERT INTO dittofs_entries (copy, name, version, size, value)"
    " SELECT copy, 'b', 2, 1, '1' FROM dittofs_stores"
)


@pytest.fixture
def steps(agent, store):
    with contextlib.ExitStack() as stack:
        made = Steps(agent, store, stack)
        write(store, {b"a": b"1"}, {b"b": b"1"})
        made.start()
        made.catch_up()
        yield made


def files(count, value=b"1"):
    return [{b"file%d" % number: value} for number in range(count)]


@pytest.mark.parametrize("stopped", [True, False])
def test_what_mysql_lacks_is_uncertain_while_the_mirror_does_not_get_on(steps, store, stopped):
    write(store, *files(500))
    if stopped:
        flush(store)
    for _ in range(2):
        report = steps.verify()
        assert report.result == "uncertain"
        assert "MySQL does not get on: the store is at version 502, MySQL at 2" in report.uncertain
    steps.catch_up()
    steps.assert_equal()


def test_it_waits_until_mysql_has_what_the_store_had(steps, store):
    write(store, *files(20))
    later = threading.Timer(0.5, steps.catch_up)
    later.start()
    report = steps.verify(10)
    later.join()
    assert (report.result, report.rows, report.store_rows) == ("equal", 22, 22)


def test_what_mysql_does_not_have_at_its_position_is_different(steps, store, agent):
    write(store, *files(20))
    steps.catch_up()
    agent.database.execute("DELETE FROM dittofs_entries LIMIT 3", database=agent.name)
    agent.database.execute("UPDATE dittofs_entries SET value = 'x' LIMIT 1", database=agent.name)
    report = steps.verify()
    assert (report.result, report.differences) == ("different", 4)
    assert len(report.first) == 4
    assert {each["mysql"] for each in report.first[:3]} == {"missing"}


def during(monkeypatch, what):
    """Do something once, after the database's side was taken and before the store's is."""
    real, reads = verification._Followed.read, []  # noqa: SLF001  # the moment matters

    def read(self):
        reads.append(1)
        if len(reads) == 2:
            what()
        real(self)

    monkeypatch.setattr(verification._Followed, "read", read)  # noqa: SLF001  # the same


def test_what_came_since_is_looked_at_when_mysql_has_it(steps, store, monkeypatch):
    def change():
        write(store, {b"a": b"2"}, {b"b": None}, *files(20))
        flush(store)
        steps.catch_up()

    during(monkeypatch, change)
    report = steps.verify()
    assert (report.result, report.moving) == ("equal", 0)


@pytest.mark.parametrize("lost", [b"new", b"a"])
def test_what_came_since_and_is_lost_is_different(steps, store, agent, monkeypatch, lost):
    def change():
        write(store, {b"new": b"1", b"a": b"2"}, {b"b": None})
        steps.catch_up()
        where = f"name = X'{lost.hex()}'"
        agent.database.execute(DELETE.format(where), database=agent.name)

    during(monkeypatch, change)
    report = steps.verify()
    assert (report.result, report.differences) == ("different", 1)
    assert report.first[0]["key"] == lost.hex()
    assert report.first[0]["mysql"] == "missing"


def test_what_left_the_store_and_stays_in_mysql_is_different(steps, store, agent, monkeypatch):
    def change():
        write(store, {b"b": None})
        steps.catch_up()
        agent.database.execute(INSERT, database=agent.name)

    during(monkeypatch, change)
    report = steps.verify()
    assert report.result == "different"
    assert report.first == [
        {"key": b"b".hex(), "store": "missing", "mysql": "version 2, 1 bytes, crc32 83dcefb7"}
    ]


def test_what_came_since_and_does_not_reach_mysql_is_uncertain(steps, store, monkeypatch):
    during(monkeypatch, lambda: write(store, *files(20)))
    report = steps.verify()
    assert report.result == "uncertain"
    assert "MySQL does not get on" in report.uncertain


def test_what_changes_each_time_it_is_looked_at_is_counted(steps, store, monkeypatch):
    real, versions = verification._Followed.read, []  # noqa: SLF001  # the moment matters

    def read(self):
        # Read by read: that for the wait, and that after the database's side was taken.
        write(store, {b"hot": b"%d" % len(versions)})
        versions.append(1)
        if len(versions) % 2:
            steps.catch_up()
        real(self)

    write(store, {b"hot": b""})
    steps.catch_up()
    monkeypatch.setattr(verification._Followed, "read", read)  # noqa: SLF001  # the same
    report = steps.verify(2)
    monkeypatch.undo()
    assert (report.result, report.moving) == ("equal", 1)


def test_a_store_that_only_mysql_has_is_different(steps, store, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "_FORGET_SECONDS", 0)
    shutil.move(store, tmp_path / "away")
    reports = verify_all({}, steps.reader, 0.5)
    assert [(each.name, each.result, each.differences) for each in reports] == [
        ("export", "different", 2)
    ]


def test_a_store_that_was_dropped_and_begins_anew_is_different(steps, store):
    flush(store)
    for path in store.iterdir():
        path.unlink()
    log(store, 1, {b"other": b"1"}, 1)
    report = steps.verify()
    assert (report.result, report.differences) == ("different", 3)


def test_a_store_that_is_not_in_mysql_yet_is_uncertain_and_others_are_told(steps, agent):
    other = agent.stores / "other"
    other.mkdir()
    begin_log(other)
    reports = verify_all({"export": steps.store, "other": other}, steps.reader, 0.5)
    assert [each.result for each in reports] == ["equal", "uncertain"]
    assert overall(reports) == "uncertain"
    note_verified(agent.run, reports)
    assert last_verified(agent.run) is None
    reports[0].differences = 1
    assert overall(reports) == "different"
    note_verified(agent.run, reports)
    note = last_verified(agent.run)
    assert note is not None
    assert (note["equal"], note["different"]) == (False, ["export"])


@pytest.mark.usefixtures("steps")
def test_the_exit_code_tells_all_three_apart(agent, store):
    assert agent.call("verify")[0] == 0
    agent.database.execute("DELETE FROM dittofs_entries LIMIT 1", database=agent.name)
    code, answer = agent.call("verify")
    assert (code, answer["result"]) == (1, "different")
    agent.database.execute("UPDATE dittofs_stores SET position = ''", database=agent.name)
    code, answer = agent.call("verify")
    assert (code, answer["result"]) == (2, "uncertain")
    assert "first scan" in answer["stores"][0]["uncertain"]
    assert content(store)
