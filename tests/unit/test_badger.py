"""Badger's logs: what is written is read, and damage never gives wrong data."""

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import badger
from agent.badger import BadgerError, Entry, LogWriter

KEYS = st.binary(min_size=0, max_size=8)
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=300), min_size=1, max_size=4)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def write(store, *transactions, **options):
    writer = LogWriter(store, **options)
    for changes in transactions:
        writer.write(changes)
    writer.close()


def after(transactions):
    """The state after some transactions, by the plainest means."""
    state = {}
    for changes in transactions:
        state |= changes
    return {key: value for key, value in state.items() if value is not None}


@given(transactions=st.lists(CHANGES, max_size=6), log_size=st.integers(100, 2000))
@settings(max_examples=60)
def test_what_is_written_is_read_also_over_rotations_and_restarts(
    transactions, log_size, tmp_path_factory
):
    store = tmp_path_factory.mktemp("store")
    for changes in transactions:
        write(store, changes, log_size=log_size)
    assert badger.snapshot(store) == after(transactions)
    versions = [
        entry.version
        for path in badger.log_paths(store)
        for transaction in badger.read_log(path)
        for entry in transaction.entries
    ]
    assert versions == sorted(versions)
    shutil.rmtree(store)


def test_a_log_is_rotated_before_it_is_too_large(store):
    write(store, *({f"k{n}".encode(): b"x" * 400} for n in range(5)), log_size=1000)
    assert [path.name for path in badger.log_paths(store)] == [
        "00001.mem",
        "00002.mem",
        "00003.mem",
    ]
    assert len(badger.snapshot(store)) == 5


def test_a_torn_tail_of_any_length_is_no_transaction(store):
    write(store, {b"a": b"1"}, {b"a": b"2", b"b": b"2", b"c": None})
    (path,) = badger.log_paths(store)
    whole = path.read_bytes()
    first = next(badger.read_log(path)).end
    for length in range(first, len(whole)):
        for tail in (b"", bytes(100)):
            torn = whole[:length] + tail
            found = list(badger.parse_log(torn))
            assert [len(each.entries) for each in found] == [1]


@pytest.mark.parametrize("torn_at", [1, 20, 40])
def test_writing_goes_on_behind_the_last_whole_transaction(store, torn_at):
    write(store, {b"a": b"1"}, {b"b": b"2" * 50})
    (path,) = badger.log_paths(store)
    first = next(badger.read_log(path)).end
    os.truncate(path, first + torn_at)
    write(store, {b"c": b"3"})
    assert badger.snapshot(store) == {b"a": b"1", b"c": b"3"}


def test_no_flipped_bit_gives_data_that_was_never_written(store):
    write(store, {b"key": b"value"}, {b"key": None, b"other": b"x"})
    (path,) = badger.log_paths(store)
    whole = bytearray(path.read_bytes())
    good = list(badger.parse_log(bytes(whole)))
    for position in range(badger.HEADER_SIZE, len(whole)):
        for bit in range(8):
            whole[position] ^= 1 << bit
            found = list(badger.parse_log(bytes(whole)))
            assert found == good[: len(found)]
            assert len(found) < len(good)
            whole[position] ^= 1 << bit


@given(st.binary(max_size=200))
def test_garbage_has_no_transactions_and_ends(data):
    assert list(badger.parse_log(bytes(20) + data)) == []


def test_a_reader_goes_on_where_it_was(store):
    writer = LogWriter(store)
    writer.write({b"a": b"1"})
    (path,) = badger.log_paths(store)
    (first,) = badger.read_log(path)
    assert list(badger.read_log(path, first.end)) == []
    writer.write({b"b": b"2"})
    (second,) = badger.read_log(path, first.end)
    assert second.entries == (Entry(b"b", b"2", 2),)
    writer.close()


def test_a_preallocated_log_is_read_up_to_its_hole(store):
    write(store, {b"a": b"1"})
    (path,) = badger.log_paths(store)
    os.truncate(path, 128 * 1024 * 1024)
    assert badger.snapshot(store) == {b"a": b"1"}


def test_a_log_that_is_gone_or_truncated_has_no_transactions(store):
    write(store, {b"a": b"1"})
    (path,) = badger.log_paths(store)
    os.truncate(path, 0)
    assert list(badger.read_log(path)) == []
    path.unlink()
    assert list(badger.read_log(path)) == []


def test_entries_outside_transactions_count_and_unfinished_ones_do_not():
    plain = badger.encode_entry(Entry(b"a", b"1", 5))
    open_entry = badger.encode_entry(Entry(b"b", b"1", 6), badger.TRANSACTION)
    other = badger.encode_entry(Entry(b"c", b"1", 7), badger.TRANSACTION)
    end = badger.encode_transaction([], 9)
    header = bytes(20)
    assert [each.entries for each in badger.parse_log(header + plain + open_entry)] == [
        (Entry(b"a", b"1", 5),)
    ]
    assert len(list(badger.parse_log(header + open_entry + plain))) == 1
    assert list(badger.parse_log(header + open_entry + other)) == []
    assert list(badger.parse_log(header + open_entry + end)) == []


def test_a_value_in_the_value_log_is_an_error_with_its_place():
    pointer = badger.encode_entry(Entry(b"a", bytes(12), 1), badger.VALUE_POINTER)
    with pytest.raises(BadgerError, match="the value at offset 20 is in the value log"):
        list(badger.parse_log(bytes(20) + pointer, name="a log"))


def test_only_one_writer(store):
    writer = LogWriter(store)
    with pytest.raises(BadgerError, match="another process has the store open"):
        LogWriter(store)
    writer.close()
    LogWriter(store).close()


def test_a_full_disk_leaves_the_log_as_it_was(store, monkeypatch):
    writer = LogWriter(store)
    writer.write({b"a": b"1"})
    monkeypatch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        writer.write({b"b": b"2"})
    monkeypatch.undo()
    assert badger.snapshot(store) == {b"a": b"1"}
    writer.write({b"c": b"3"})
    writer.close()
    assert badger.snapshot(store) == {b"a": b"1", b"c": b"3"}
