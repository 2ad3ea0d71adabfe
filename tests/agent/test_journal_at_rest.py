"""A store whose server starts and stops between two looks at it: nothing goes unnoticed."""

import os

import pytest

from agent import flushed, journal
from agent.badger import Entry
from agent.journal import GapError, Journal, Position
from agent.log_writer import encode_entry
from agent.manifest import MANIFEST
from tests.stores import (
    begin_log,
    compact,
    content,
    drop,
    flush,
    log,
    make_table,
    stopping,
    write,
)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path


class Follower:
    """A journal, and the state that what it gives leads to."""

    def __init__(self, store):
        self.journal = Journal(store)
        self.state = {}
        self.journal.begin()
        self.read()

    def read(self):
        """Read all that is new."""
        while batch := self.journal.poll():
            for key, (_, value) in batch.changes.items():
                if value is None:
                    self.state.pop(key, None)
                else:
                    self.state[key] = value
        return self.state

    def resume(self):
        """Go on as another process would."""
        position = Position.from_text(self.journal.position.to_text())
        assert position is not None
        self.journal = Journal(self.journal.directory)
        self.journal.resume(position)


def run(store, *transactions):
    """A whole run of the server."""
    write(store, *transactions)
    flush(store)


@pytest.fixture(params=["goes on", "resumes"])
def paused(request):
    """What a follower does where it was paused, or ended and started again."""
    return (lambda _: None) if request.param == "goes on" else Follower.resume


def test_a_whole_run_between_two_polls_is_taken_from_its_table(store, paused):
    run(store, {b"a": b"1", b"gone": b"1"})
    follower = Follower(store)
    follower.state = content(store)
    assert follower.journal.at_rest
    run(store, {b"b": b"1"}, {b"gone": None, b"a": b"2"})
    paused(follower)
    assert follower.read() == content(store) == {b"a": b"2", b"b": b"1"}
    assert follower.journal.at_rest


def test_the_first_run_of_a_store_between_two_polls_is_taken_from_its_table(store, paused):
    follower = Follower(store)
    assert follower.journal.at_rest
    run(store, {b"a": b"1"}, {b"a": None, b"b": b"1"})
    paused(follower)
    assert follower.read() == content(store) == {b"b": b"1"}


def test_two_clean_stops_between_two_polls_are_taken_from_their_tables(store, paused):
    run(store, {b"a": b"1"})
    follower = Follower(store)
    follower.state = content(store)
    run(store, {b"a": b"2"}, {b"b": b"1"})
    run(store, {b"b": None}, {b"c": b"1"})
    paused(follower)
    assert follower.read() == content(store) == {b"a": b"2", b"c": b"1"}


def test_a_clean_stop_right_after_writes_is_taken_from_the_table(store, paused):
    """Where the last transactions were never seen in the log."""
    write(store, {b"a": b"1", b"gone": b"1"})
    follower = Follower(store)
    write(store, {b"a": b"2"}, {b"gone": None}, {b"large": bytes(50_000)})
    flush(store)
    paused(follower)
    assert follower.read() == content(store)
    assert follower.journal.at_rest
    assert follower.journal.position.version == 4


@pytest.mark.parametrize("unseen", [0, 3])
def test_a_clean_stop_is_followed_whatever_step_is_seen(store, unseen):
    for transactions in range(3):
        write(store, *[{b"k%d" % number: b"1"} for number in range(transactions)])
        follower = Follower(store)
        follower.state = content(store)
        write(store, *[{b"new": b"%d" % number} for number in range(unseen)])
        for _ in stopping(store):
            follower.read()
        assert follower.read() == content(store)
        assert follower.journal.at_rest


def test_a_log_that_was_truncated_and_not_removed_is_no_log(store):
    """A server that is killed in the middle of its end leaves one."""
    write(store, {b"a": b"1"})
    follower = Follower(store)
    steps = stopping(store)
    assert [next(steps), next(steps)] == ["table", "truncated"]
    assert follower.read() == content(store)
    assert follower.journal.at_rest
    follower.resume()
    assert follower.read() == content(store)
    # Somebody removed it, and the server runs again.
    assert list(steps) == ["removed"]
    log(store, 1, {b"b": b"1"}, 2)
    assert follower.read() == {b"a": b"1", b"b": b"1"}
    assert not follower.journal.at_rest


def test_what_was_compacted_away_is_noticed(store, paused):
    run(store, {b"a": b"1"}, {b"gone": b"1"})
    follower = Follower(store)
    run(store, {b"gone": None}, {b"b": b"1"})
    # The table that had the deletion is gone, and with it the deletion.
    compact(store)
    paused(follower)
    with pytest.raises(GapError, match="compacted already"):
        follower.read()


@pytest.mark.parametrize("log_stays", [False, True])
def test_deletions_of_which_nothing_is_left_are_noticed(store, paused, log_stays):
    """The last transactions, unseen: the tables have the version that was followed."""
    write(store, {b"a": b"1", b"gone": b"1"})
    follower = Follower(store)
    write(store, {b"gone": None})
    steps = stopping(store)
    assert next(steps) == "table"
    compact(store)
    if log_stays:
        # Somebody reads in the memtable: its log stays for a while.
        held = follower.journal._log  # noqa: SLF001  # the moment matters
        assert held is not None
        follower.journal._look(held)  # noqa: SLF001  # the same
    for _ in steps:
        pass
    paused(follower)
    with pytest.raises(GapError, match="compacted already"):
        follower.read()


def test_tables_that_are_compacted_at_rest_are_no_gap(store, paused):
    run(store, {b"a": b"1"})
    run(store, {b"b": b"1"})
    follower = Follower(store)
    compact(store)
    paused(follower)
    follower.read()
    assert follower.journal.at_rest


@pytest.mark.parametrize("flushed", [False, True])
def test_a_version_that_is_used_again_is_noticed(store, paused, flushed):
    """The last transaction was a deletion, which compacting took away with its number."""
    run(store, {b"a": b"1"}, {b"gone": b"1"})
    run(store, {b"gone": None})
    follower = Follower(store)
    assert follower.journal.position.version == 3
    compact(store)
    log(store, 1, {b"again": b"1"}, 3)
    if flushed:
        flush(store)
    paused(follower)
    with pytest.raises(GapError):
        follower.read()


def test_a_version_that_is_used_again_in_a_log_is_noticed(store):
    run(store, {b"a": b"1"}, {b"gone": b"1"})
    run(store, {b"gone": None})
    path = begin_log(store)
    follower = Follower(store)
    path.unlink()
    compact(store)
    log(store, 1, {b"again": b"1"}, 3)
    log(store, 2, {b"more": b"1"}, 4)
    with pytest.raises(GapError):
        follower.read()


def test_a_value_that_badger_moves_is_nothing_new(store):
    run(store, {b"a": b"1"}, {b"b": b"1"})
    path = begin_log(store)
    follower = Follower(store)
    moved = encode_entry(Entry(b"a", b"1", 1))
    path.write_bytes(path.read_bytes() + moved)
    assert follower.read() == {}
    write(store, {b"c": b"1"})
    assert follower.read() == {b"c": b"1"}
    flush(store)
    follower.read()
    assert follower.journal.at_rest


@pytest.mark.parametrize("seen", ["logs", "log", "manifest", "tables"])
@pytest.mark.parametrize("tables", [False, True])
def test_dropping_all_data_is_noticed_whatever_step_is_seen(store, paused, seen, tables):
    write(store, {b"a": b"1"}, {b"b": b"1"})
    if tables:
        flush(store)
        begin_log(store)
    follower = Follower(store)
    with pytest.raises(GapError):  # noqa: PT012  # at one of the steps
        for step in drop(store):
            if step == seen:
                follower.read()
                paused(follower)
        (path,) = store.glob("*.mem")
        path.unlink()
        log(store, int(path.stem), {b"new": b"1"}, 3)
        follower.read()
        raise AssertionError(follower.state)


def test_dropping_all_data_and_a_clean_stop_between_two_polls_is_noticed(store, paused):
    """The numbers of the tables begin at 1 again, those of the transactions go on."""
    write(store, {b"a": b"1"}, {b"b": b"1"})
    follower = Follower(store)
    for _ in drop(store):
        pass
    (path,) = store.glob("*.mem")
    path.unlink()
    log(store, 2, {b"new": b"1"}, 3)
    flush(store)
    paused(follower)
    with pytest.raises(GapError, match="not have all"):
        follower.read()


def test_a_manifest_that_was_written_anew_is_noticed(store, paused):
    """It says what is live and no more what was."""
    run(store, {b"a": b"1"})
    run(store, {b"a": b"2"})
    follower = Follower(store)
    sets = (store / MANIFEST).read_bytes()[8:]
    half = len(sets) // 2
    new = store / "MANIFEST-REWRITE"
    new.write_bytes((store / MANIFEST).read_bytes()[:8] + sets[half:] + sets[:half])
    new.rename(store / MANIFEST)
    paused(follower)
    with pytest.raises(GapError, match="MANIFEST is another one"):
        follower.read()


def test_the_torn_end_of_a_manifest_is_no_gap(store, paused):
    run(store, {b"a": b"1"})
    follower = Follower(store)
    manifest = store / MANIFEST
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + whole[8:20])
    paused(follower)
    follower.read()
    assert follower.journal.at_rest
    # The server cuts it off when it starts.
    os.truncate(manifest, len(whole))
    run(store, {b"b": b"1"})
    paused(follower)
    assert follower.read() == {b"b": b"1"}


def test_a_store_that_took_the_place_of_another_is_noticed(store, tmp_path):
    run(store, {b"a": b"1"})
    follower = Follower(store)
    store.rename(tmp_path / "away")
    store.mkdir()
    run(store, {b"b": b"1"})
    assert follower.journal.position.version == 1
    with pytest.raises(GapError, match="MANIFEST is another one"):
        follower.read()


def test_a_store_that_vanishes_is_no_store_at_rest(store, tmp_path):
    run(store, {b"a": b"1"})
    follower = Follower(store)
    store.rename(tmp_path / "away")
    with pytest.raises((GapError, OSError)):
        follower.read()


def test_nothing_is_read_at_rest_while_nothing_changes(store, monkeypatch):
    run(store, {b"a": b"1"})
    follower = Follower(store)
    read = []
    monkeypatch.setattr(journal, "read_manifest", lambda *_: read.append(1))
    for _ in range(10):
        assert follower.journal.poll() is None
    assert not read


def test_more_than_a_table_can_tell_is_compared(store, monkeypatch):
    monkeypatch.setattr(flushed, "_LARGEST_CHANGES", 1000)
    follower = Follower(store)
    run(store, {b"a": bytes(2000)})
    with pytest.raises(GapError, match="too much"):
        follower.read()


def test_a_flush_while_it_is_behind_is_wanted_later(store):
    """A log that is flushed before it was read to its end, and goes before that, too."""
    write(store, {b"a": b"1"})
    follower = Follower(store)
    begin = follower.journal.position
    write(store, {b"b": b"1"}, {b"c": b"1"})
    batch = follower.journal.poll(limit=1)
    assert batch is not None
    assert begin.version + 1 == batch.position.version
    (path,) = store.glob("*.mem")
    make_table(store, path)
    batch = follower.journal.poll(limit=1)
    path.unlink()
    assert follower.read() == {b"a": b"1"}
    assert follower.journal.at_rest
