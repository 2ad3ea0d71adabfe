"""Following a store from outside: nothing twice, nothing missed, and a gap is always noticed."""

import contextlib
from dataclasses import replace
from random import Random

import pytest

from agent.badger import log_paths
from agent.journal import BATCH_BYTES, GapError, Journal, Position
from agent.log_writer import LogWriter, encode_transaction
from agent.rebuild import StoreWriter
from tests.stores import begin_log, content, flush, log, write


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path


def follow(journal, state=None):
    """Apply all that is new to a state."""
    state = {} if state is None else state
    while batch := journal.poll():
        for key, (_, value) in batch.changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    return state


def taken(journal, limit=BATCH_BYTES):
    """The next batch; there has to be one."""
    batch = journal.poll(limit)
    assert batch is not None
    return batch


def resumed(store, position):
    journal = Journal(store)
    kept = Position.from_text(position.to_text())
    assert kept is not None
    assert kept.to_text() == position.to_text()
    journal.resume(kept)
    return journal


def some_transactions(seed, count):
    random = Random(seed)  # noqa: S311  # the same each time
    keys = [b"key%d" % number for number in range(50)]
    return [
        {random.choice(keys): random.choice([None, random.randbytes(200)]) for _ in range(3)}
        for _ in range(count)
    ]


def test_a_store_is_followed_over_many_logs_while_it_is_written(store):
    journal, state = Journal(store), {}
    journal.begin()
    with contextlib.closing(LogWriter(store, 20_000)) as writer:
        for changes in some_transactions(1, 500):
            writer.write(changes, sync=False)
            follow(journal, state)
    assert len(log_paths(store)) > 5
    assert state == content(store)


def test_a_batch_ends_with_a_whole_transaction_and_has_the_newest_values(store):
    write(store, {b"a": b"1", b"b": b"1"}, {b"a": b"2"}, {b"b": None})
    journal = Journal(store)
    journal.begin()
    batch = taken(journal)
    assert batch.changes == {b"a": (2, b"2"), b"b": (3, None)}
    assert batch.transactions == 3
    assert journal.poll() is None
    journal.begin()
    first = taken(journal, limit=1)
    assert first.changes == {b"a": (1, b"1"), b"b": (1, b"1")}
    assert first.position.version == 1


def test_following_goes_on_behind_a_position(store):
    write(store, *some_transactions(2, 100), log_size=20_000)
    journal = Journal(store)
    journal.begin()
    state = {}
    for _ in range(3):
        for key, (_, value) in taken(journal, limit=1).changes.items():
            state[key] = value
    position = journal.position
    write(store, {b"new": b"1"}, log_size=20_000)
    later = resumed(store, position)
    first = taken(later, limit=1)
    assert first.position.version == 4
    assert position.version == 3


def test_a_log_that_took_the_name_of_another_is_not_taken_for_it(store):
    """A clean stop and a start between two polls."""
    log(store, 1, {b"a": b"1"}, 1)
    journal = Journal(store)
    journal.begin()
    follow(journal)
    position = journal.position
    flush(store)
    log(store, 1, {b"b": b"2"}, 2)
    assert follow(journal) == {b"b": b"2"}
    assert follow(resumed(store, position)) == {b"b": b"2"}


def test_a_transaction_that_was_flushed_unseen_is_noticed(store):
    log(store, 1, {b"a": b"1"}, 1)
    journal = Journal(store)
    journal.begin()
    follow(journal)
    position = journal.position
    flush(store)
    log(store, 1, {b"b": b"2"}, 3)
    for each in (journal, None):
        with pytest.raises(GapError, match="version 3 comes after 1"):
            follow(each or resumed(store, position))


def test_a_log_that_lost_its_tail_in_a_crash_of_the_node_is_noticed(store):
    first = log(store, 1, {b"a": b"1"}, 1)
    whole = first.read_bytes()
    first.write_bytes(whole + encode_transaction({b"a": b"2"}, 2))
    journal = Journal(store)
    journal.begin()
    follow(journal)
    position = journal.position
    # The same offset and the same version, with other content.
    first.write_bytes(whole + encode_transaction({b"a": b"3"}, 2))
    with pytest.raises(GapError):
        follow(resumed(store, position))
    # The server made a table of it, with as many transactions as before.
    flush(store)
    with pytest.raises(GapError, match="another run of the node"):
        resumed(store, replace(position, boot="the run before"))


def test_dropping_all_data_is_noticed(store):
    write(store, *[{b"k%d" % n: b"1"} for n in range(10)])
    journal = Journal(store)
    journal.begin()
    follow(journal)
    position = journal.position
    (store / "00001.mem").unlink()
    log(store, 2, {b"new": b"1"}, 11)
    with pytest.raises(GapError):
        follow(journal)
    with pytest.raises(GapError):
        follow(resumed(store, position))


def test_an_empty_store_has_a_position_that_can_be_resumed(store):
    begin_log(store)
    journal = Journal(store)
    journal.begin()
    assert journal.poll() is None
    position = journal.position
    assert position.version == 0
    write(store, {b"a": b"1"})
    assert follow(resumed(store, position)) == {b"a": b"1"}


def test_a_store_of_tables_alone_has_their_version(store):
    write(store, {b"a": b"1"}, {b"b": b"2"})
    flush(store)
    journal = Journal(store)
    journal.begin()
    assert journal.poll() is None
    position = journal.position
    assert position.version == 2
    log(store, 1, {b"c": b"3"}, 3)
    assert follow(resumed(store, position)) == {b"c": b"3"}


@pytest.mark.parametrize("text", ["", "[]", "[2, 1, 1, 1, 1]", '[1, "a", 1, 1, 1]', "{", "1"])
def test_a_position_of_another_kind_is_none(text):
    assert Position.from_text(text) is None


def rebuilt(store, *versions):
    """A store with a table that has rows of these versions, as a restored one has."""
    with StoreWriter(store) as writer:
        for version in versions:
            writer.add(b"key%d" % version, b"restored", version)


@pytest.mark.parametrize("versions", [(1, 4), (1, 9), (12,)], ids=["less", "as far", "more"])
def test_another_store_in_the_place_of_the_one_that_was_followed_is_a_gap(
    tmp_path, store, versions
):
    (store / "KEYREGISTRY").write_bytes(b"the first one")
    write(store, *({b"a": b"%d" % number} for number in range(9)))
    journal = Journal(store)
    journal.begin()
    follow(journal)
    position = journal.position
    assert position.version == 9
    other = tmp_path / "other"
    rebuilt(other, *versions)
    (other / "KEYREGISTRY").write_bytes(b"another one")
    with pytest.raises(GapError, match="another store took its place"):
        resumed(other, position)
    # Also where it is replaced while it is followed.
    store.rename(tmp_path / "aside")
    other.rename(store)
    with pytest.raises(GapError):
        follow(journal)
