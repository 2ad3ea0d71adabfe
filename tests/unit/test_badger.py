"""Badger's logs: what is written is read, and damage never gives wrong data."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import badger
from agent.badger import BadgerError, Entry, GoneError
from agent.log_writer import LogWriter, encode_entry, encode_transaction
from agent.rebuild import StoreWriter
from agent.tables import snapshot

HEADER = bytes(badger.HEADER_SIZE)
KEYS = st.binary(min_size=1, max_size=7)  # too short to be one of Badger's own
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=300), min_size=1, max_size=4)
KEEP_LOCK = """
import sys
from pathlib import Path
from agent.log_writer import LogWriter
LogWriter(Path(sys.argv[1])).write({b"theirs": b"1"})
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def writer(store):
    with contextlib.closing(LogWriter(store)) as writer:
        yield writer


def write(store, *transactions, **options):
    with contextlib.closing(LogWriter(store, **options)) as writer:
        for changes in transactions:
            writer.write(changes)


def only_log(store):
    (path,) = badger.log_paths(store)
    return path


def names(store):
    return sorted(path.name for path in store.iterdir())


def states(transactions):
    """The state before and after each transaction, by the plainest means."""
    found = [{}]
    for changes in transactions:
        state = found[-1] | changes
        found.append({key: value for key, value in state.items() if value is not None})
    return found


@given(runs=st.lists(st.lists(CHANGES, max_size=4), max_size=4), log_size=st.integers(100, 2000))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_also_over_rotations_and_restarts(
    runs, log_size, tmp_path_factory
):
    store = tmp_path_factory.mktemp("store")
    for transactions in runs:
        write(store, *transactions, log_size=log_size)
    written = [changes for transactions in runs for changes in transactions]
    if runs:
        assert snapshot(store) == states(written)[-1]
        read = [transaction.entries for _, transaction in badger.read_logs(store)]
        assert read == [
            tuple(Entry(key, value or b"", number, value is None) for key, value in each.items())
            for number, each in enumerate(written, 1)
        ]
    shutil.rmtree(store)


@given(
    transactions=st.lists(CHANGES, min_size=1, max_size=4),
    damage=st.binary(min_size=1, max_size=200),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_overwrites_a_log_what_is_read_is_what_was_written_first(
    transactions, damage, data
):
    log = HEADER + b"".join(
        encode_transaction(each, number) for number, each in enumerate(transactions, 1)
    )
    good = list(badger.parse_log(log))
    assert len(good) == len(transactions)
    at = data.draw(st.integers(badger.HEADER_SIZE, len(log)))
    found = list(badger.parse_log(log[:at] + damage + log[at + len(damage) :]))
    assert found[: len(good)] == good[: len(found)]
    assert len(found) <= len(good)


def test_a_log_is_rotated_before_it_is_too_large(store):
    write(store, *({f"k{n}".encode(): b"x" * 400} for n in range(5)), log_size=1000)
    assert names(store) == ["00001.mem", "00002.mem", "00003.mem"]
    assert all(path.stat().st_size <= 1000 for path in store.iterdir())
    assert len(snapshot(store)) == 5


@pytest.mark.parametrize("tail", [b"", bytes(100), b"\xff" * 100], ids=["cut", "zeros", "ones"])
def test_a_torn_tail_of_any_length_is_no_transaction(store, tail):
    write(store, {b"a": b"1"}, {b"a": b"2", b"b": b"2", b"c": None})
    log = only_log(store).read_bytes()
    first, last = badger.parse_log(log)
    assert last.end == len(log)
    for length in range(first.end, last.end):
        assert list(badger.parse_log(log[:length] + tail)) == [first]


def test_writing_goes_on_behind_the_last_whole_transaction(tmp_path):
    write(tmp_path / "whole", {b"a": b"1"}, {b"b": b"2" * 50, b"c": b"2"})
    log = only_log(tmp_path / "whole").read_bytes()
    first, last = badger.parse_log(log)
    store = tmp_path / "torn"
    store.mkdir()
    for length in range(first.end, last.end):
        (store / "00001.mem").write_bytes(log[:length] + bytes(length % 2 * 100))
        write(store, {b"d": b"3"})
        (second,) = badger.read_log(store / "00001.mem", first.end)
        assert second.entries == (Entry(b"d", b"3", 2),)
        assert (store / "00001.mem").stat().st_size == second.end
        assert snapshot(store) == {b"a": b"1", b"d": b"3"}


@pytest.mark.parametrize("size", range(badger.HEADER_SIZE))
def test_writing_goes_on_where_not_even_the_header_is_whole(store, size):
    write(store, {b"a": b"1"}, {b"b": b"2"}, log_size=40)
    os.truncate(store / "00002.mem", size)
    write(store, {b"c": b"3"})
    assert snapshot(store) == {b"a": b"1", b"c": b"3"}


def test_no_flipped_bit_gives_data_that_was_never_written(store):
    write(store, {b"key": b"value"}, {b"key": None, b"other": b"x"})
    log = bytearray(only_log(store).read_bytes())
    good = list(badger.parse_log(bytes(log)))
    for position in range(badger.HEADER_SIZE, len(log)):
        for bit in range(8):
            log[position] ^= 1 << bit
            found = list(badger.parse_log(bytes(log)))
            assert found == good[: len(found)]
            assert len(found) < len(good)
            log[position] ^= 1 << bit


def test_zeros_in_place_of_any_byte_give_no_data_that_was_never_written(store):
    write(store, {b"key": b"value"}, {b"key": None, b"other": b"x"})
    log = only_log(store).read_bytes()
    good = list(badger.parse_log(log))
    for start in range(badger.HEADER_SIZE, len(log)):
        for size in (1, 16, len(log)):
            found = list(badger.parse_log(log[:start] + bytes(size) + log[start + size :]))
            assert found == good[: len(found)]


def test_a_log_that_another_follows_must_be_whole(store):
    transactions = [{b"a": b"1"}, {b"a": b"2"}, {b"b": b"3"}]
    write(store, *transactions[:2])
    (first, second) = badger.read_log(only_log(store))
    write(store, transactions[2], log_size=50)
    with (store / "00001.mem").open("r+b") as file:
        file.seek(second.end - 1)
        file.write(b"\xff")
    # Without its second transaction but with the third: a state that never was.
    for read in (snapshot, LogWriter):
        with pytest.raises(BadgerError, match=rf"00001\.mem: damaged at offset {first.end}$"):
            read(store)
    os.truncate(store / "00001.mem", second.end - 1)
    with pytest.raises(BadgerError, match=r"00001\.mem: damaged"):
        snapshot(store)


@given(st.binary(max_size=200))
def test_garbage_has_no_transactions_and_ends(data):
    assert list(badger.parse_log(HEADER + data)) == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x40\x00" + b"\xff" * 100_000,
        b"\x40\x00\x09" + b"\xff" * 9 + b"\x01" + b"\x00" * 100_000,
        b"\x40\x00\x80\x80\x04\x00\x00" + b"x" * 100_000,
        b"\x40\x00\xff\xff\x04\x00\x00" + b"x" * 100_000,
    ],
    ids=["endless lengths", "huge value", "largest key", "key too large"],
)
def test_torn_lengths_end_a_log(tmp_path, garbage):
    whole = HEADER + encode_transaction({b"a": b"1"}, 1)
    path = tmp_path / "00001.mem"
    path.write_bytes(whole + garbage)
    assert [each.end for each in badger.read_log(path)] == [len(whole)]


def test_a_reader_goes_on_where_it_was(store, writer):
    writer.write({b"a": b"1"})
    path = only_log(store)
    (first,) = badger.read_log(path)
    assert list(badger.read_log(path, first.end)) == []
    writer.write({b"b": b"2"})
    (second,) = badger.read_log(path, first.end)
    assert second.entries == (Entry(b"b", b"2", 2),)


def test_a_reader_sees_what_is_written_while_it_reads(store, writer):
    writer.write({b"a": b"1"})
    reader = badger.read_log(only_log(store))
    assert next(reader).entries == (Entry(b"a", b"1", 1),)
    writer.write({b"b": b"x" * 200_000})
    assert next(reader).entries == (Entry(b"b", b"x" * 200_000, 2),)
    assert list(reader) == []


def test_a_preallocated_log_is_read_up_to_its_end(store):
    transactions = [{f"k{n}".encode(): bytes([n]) * 3000} for n in range(100)]
    write(store, *transactions)
    os.truncate(only_log(store), 128 * 2**20)
    assert snapshot(store) == states(transactions)[-1]
    write(store, {b"a": b"1"})
    assert snapshot(store) == states([*transactions, {b"a": b"1"}])[-1]


def test_a_log_that_is_gone_or_truncated_has_no_transactions(store):
    write(store, {b"a": b"1"})
    path = only_log(store)
    os.truncate(path, 0)
    assert list(badger.read_log(path)) == []
    assert list(badger.read_log(path, 100)) == []
    path.unlink()
    assert list(badger.read_log(path)) == []


def test_a_log_may_go_while_it_is_read(store):
    write(store, *({b"k": b"x" * 30_000} for _ in range(20)))
    path = only_log(store)
    whole = list(badger.read_log(path))
    reader = badger.read_log(path)
    assert next(reader) == whole[0]
    os.truncate(path, 0)
    path.unlink()
    rest = list(reader)
    assert rest == whole[1 : 1 + len(rest)]
    assert len(rest) < 19


def test_a_log_ends_where_badger_would_cut_it():
    plain = encode_entry(Entry(b"a", b"1", 5))
    open_entry = encode_entry(Entry(b"b", b"1", 6), badger.TRANSACTION)
    other = encode_entry(Entry(b"c", b"1", 7), badger.TRANSACTION)
    end = encode_entry(Entry(b"!badger!txn", b"9", 9), badger.TRANSACTION_END)
    whole = encode_transaction({b"d": b"1"}, 8)
    entry_alone = (Entry(b"a", b"1", 5),)
    assert [each.entries for each in badger.parse_log(HEADER + plain + open_entry)] == [
        entry_alone
    ]
    for cut in (open_entry + plain, open_entry + other, open_entry + end, end, open_entry):
        assert [each.entries for each in badger.parse_log(HEADER + plain + cut + whole)] == [
            entry_alone
        ]


def with_byte(log, position, byte):
    """An entry with another byte in its head, and the checksum of that."""
    body = bytearray(log[:-4])
    body[position] = byte
    return bytes(body) + badger.crc32c(bytes(body)).to_bytes(4, "big")


PLAIN = encode_entry(Entry(b"a", bytes(12), 1))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (with_byte(PLAIN, 0, 0x08), "the entry at offset 20 expires, or is of unknown kind"),
        (with_byte(PLAIN, 1, 1), "the entry at offset 20 expires, or is of unknown kind"),
        (with_byte(PLAIN, 4, 1), "the entry at offset 20 expires, or is of unknown kind"),
        (encode_entry(Entry(b"", b"1", 1)), "the entry at offset 20 has no key"),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_place(store, entry, problem):
    store.mkdir()
    path = store / "00001.mem"
    path.write_bytes(HEADER + entry)
    with pytest.raises(BadgerError, match=f"00001.mem: {problem}"):
        list(badger.read_log(path))


def test_what_is_not_understood_does_not_matter_where_it_was_not_committed():
    pointer = encode_entry(Entry(b"a", bytes(12), 1), badger.VALUE_POINTER | 0x40)
    assert list(badger.parse_log(HEADER + pointer)) == []
    end = encode_entry(Entry(b"!badger!txn", b"1", 1), badger.TRANSACTION_END)
    with pytest.raises(BadgerError, match="log: the value at offset 20 is in the value log"):
        list(badger.parse_log(HEADER + pointer + end))


def put_value(store, entry, number=1, meta=0):
    """Put an entry into a file of the value log; the entry of the log that points there."""
    path = store / f"{number:06}.vlog"
    if not path.exists():
        path.write_bytes(HEADER)
    data = encode_entry(entry)
    offset = path.stat().st_size
    with path.open("ab") as file:
        file.write(data)
    pointer = b"".join(each.to_bytes(4, "little") for each in (number, len(data), offset))
    return encode_entry(entry._replace(value=pointer), badger.VALUE_POINTER | meta)


LARGE = Entry(b"large", b"x" * 2**20, 1)


def test_a_large_value_comes_from_the_value_log(store):
    store.mkdir()
    put_value(store, Entry(b"other", b"y", 1))
    pointer = put_value(store, LARGE, meta=badger.TRANSACTION)
    end = encode_entry(Entry(b"!badger!txn", b"1", 1), badger.TRANSACTION_END)
    (store / "00001.mem").write_bytes(HEADER + pointer + end)
    (found,) = badger.read_log(store / "00001.mem")
    assert found.entries == (LARGE,)
    assert snapshot(store) == {LARGE.key: LARGE.value}


def test_a_large_value_that_was_moved_is_found_where_it_is(store):
    store.mkdir()
    gone, moved = put_value(store, LARGE, 1), put_value(store, LARGE, 2)
    (store / "000001.vlog").unlink()
    (store / "00001.mem").write_bytes(HEADER + gone)
    (store / "00002.mem").write_bytes(HEADER + encode_entry(Entry(b"b", b"2", 2)) + moved)
    assert [each.entries for _, each in badger.read_logs(store)] == [
        (LARGE,),
        (Entry(b"b", b"2", 2),),
        (LARGE,),
    ]


@pytest.mark.parametrize(
    "newer", [Entry(b"large", b"2", 2), Entry(b"large", b"", 2, deleted=True)]
)
def test_a_large_value_that_is_gone_has_been_overwritten(store, newer):
    store.mkdir()
    gone = put_value(store, LARGE, 1)
    os.truncate(store / "000001.vlog", 0)
    (store / "00001.mem").write_bytes(HEADER + gone + encode_entry(newer))
    assert [each.entries for each in badger.read_log(store / "00001.mem")] == [(newer,), (newer,)]


def test_a_large_value_that_is_gone_with_its_log(store):
    store.mkdir()
    path = store / "00001.mem"
    path.write_bytes(HEADER + encode_entry(Entry(b"a", b"1", 1)) + put_value(store, LARGE))
    reader = badger.read_log(path)
    next(reader)
    (store / "000001.vlog").unlink()
    path.unlink()
    with pytest.raises(GoneError, match=r"00001\.mem: is gone"):
        next(reader)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: os.truncate(path, 2**20), "ends before the value at offset 20 does"),
        (lambda path: flip(path, 0), "encrypted, by the key id at offset 0"),
        (lambda path: flip(path, 20), "the value at offset 20 is damaged"),
        (lambda path: flip(path, 27), "the value at offset 20 is damaged"),
        (lambda path: flip(path, -1), "the value at offset 20 is damaged"),
        (
            lambda path: path.write_bytes(HEADER + encode_entry(LARGE._replace(version=2))),
            "the value at offset 20 is damaged",
        ),
    ],
)
def test_a_large_value_that_is_damaged_is_an_error_with_its_place(store, spoil, problem):
    store.mkdir()
    (store / "00001.mem").write_bytes(HEADER + put_value(store, LARGE))
    spoil(store / "000001.vlog")
    with pytest.raises(
        BadgerError, match=rf"00001\.mem: at offset 20: .*000001\.vlog: {problem}$"
    ):
        list(badger.read_log(store / "00001.mem"))


def test_a_value_log_that_cannot_be_read_is_an_error_with_its_place(store):
    store.mkdir()
    (store / "00001.mem").write_bytes(HEADER + put_value(store, LARGE))
    (store / "000001.vlog").unlink()
    (store / "000001.vlog").mkdir()
    with pytest.raises(BadgerError, match=r"000001\.vlog: Is a directory"):
        list(badger.read_log(store / "00001.mem"))


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_deletion_that_discards_older_versions_is_one():
    entry = encode_entry(Entry(b"a", b"", 2, deleted=True), badger.DISCARD_EARLIER)
    (found,) = badger.parse_log(HEADER + entry)
    assert found.entries == (Entry(b"a", b"", 2, deleted=True),)


def test_an_encrypted_log_is_an_error():
    with pytest.raises(BadgerError, match="a log: encrypted, by the key id at offset 0"):
        list(badger.parse_log(b"\0\0\0\0\0\0\0\1" + bytes(12) + PLAIN, name="a log"))


def test_a_log_that_cannot_be_read_is_an_error_with_its_name(tmp_path):
    (tmp_path / "00001.mem").mkdir()
    with pytest.raises(BadgerError, match=r"00001\.mem: Is a directory"):
        snapshot(tmp_path)


def test_a_disk_that_fails_is_an_error_with_its_place(store, monkeypatch):
    write(store, {b"a": b"1"})
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(BadgerError, match=r"00001\.mem: at offset 0: full"):
        snapshot(store)


def test_the_newest_version_counts_wherever_it_stands(store):
    store.mkdir()
    newer, older = (encode_entry(Entry(b"a", b"%d" % n, n)) for n in (7, 6))
    (store / "00001.mem").write_bytes(HEADER + newer + bytes(200_000))
    (store / "00002.mem").write_bytes(HEADER + older)
    assert snapshot(store) == {b"a": b"7"}


def test_writing_goes_on_behind_the_tables(store):
    with StoreWriter(store) as rebuilt:
        rebuilt.add(b"a", b"old", 6)
        rebuilt.add(b"b", b"kept", 5)
        rebuilt.add(b"c", b"dropped", 4)
    with contextlib.closing(LogWriter(store)) as writer:
        assert writer.write({b"a": b"new", b"c": None}) == 7
    assert snapshot(store) == {b"a": b"new", b"b": b"kept"}


@pytest.mark.parametrize(
    ("header", "good"),
    [
        (b"Bdgr\0\0\0\x08", True),
        (b"Bdgr\0\0\0\x09", False),
        (b"Bdgr\0\0", False),
        (b"Bdga\0\0\0\x08", False),
    ],
)
def test_another_version_of_badger_is_an_error(store, header, good):
    write(store, {b"a": b"1"})
    (store / "MANIFEST").write_bytes(header)
    if good:
        assert snapshot(store) == {b"a": b"1"}
        return
    for read in (snapshot, LogWriter):
        with pytest.raises(BadgerError, match="MANIFEST: at offset 0 is no version 8 of Badger's"):
            read(store)
    # The writer that failed does not keep the lock.
    (store / "MANIFEST").unlink()
    LogWriter(store).close()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "a transaction needs a change"),
        ({b"": b"1"}, "cannot be a key"),
        ({b"!badger!txn": b"1"}, "cannot be a key"),
        ({b"k" * 65_001: b"1"}, r"\(65001 bytes\) cannot be a key"),
        ({b"k": bytes(2**20)}, "a value of 1048576 bytes is too large for a log"),
        (
            {f"{n}".encode(): bytes(2**20 - 1) for n in range(16)},
            "does not fit into a log",
        ),
    ],
)
def test_what_badger_would_not_take_is_not_written(store, writer, changes, problem):
    with pytest.raises(BadgerError, match=problem):
        writer.write({b"a": b"1"} | changes if changes else changes)
    writer.write({b"k" * 65_000: bytes(2**20 - 1)})
    assert snapshot(store) == {b"k" * 65_000: bytes(2**20 - 1)}


def test_only_one_writer(store, writer):
    with pytest.raises(BadgerError, match="another process has the store open"):
        LogWriter(store)
    writer.close()
    writer.close()
    LogWriter(store).close()


def test_only_one_process_writes(store):
    source = str(Path(badger.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", KEEP_LOCK, store],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": source},
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(BadgerError, match="another process has the store open"):
            LogWriter(store)
        assert snapshot(store) == {b"theirs": b"1"}
        other.kill()
    write(store, {b"ours": b"2"})
    assert snapshot(store) == {b"theirs": b"1", b"ours": b"2"}


def test_nothing_is_written_after_close(store, writer):
    writer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.write({b"a": b"1"})
    assert snapshot(store) == {}


def fail(*_):
    raise OSError(28, "full")


@pytest.mark.parametrize("cutting_fails", [False, True])
@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
def test_a_full_disk_leaves_the_log_as_it_was(store, writer, monkeypatch, call, cutting_fails):
    # The transaction after it ends where the last entry of the failed one begins: when that stays
    # there, it is found again.
    failed = {b"b": b"2", b"x": b"2" * 11, b"c": b"2"}
    writer.write({b"a": b"1"})
    monkeypatch.setattr(os, call, fail)
    if cutting_fails:
        monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="full"):
        writer.write(failed)
    if cutting_fails:
        with pytest.raises(OSError, match="full"):
            writer.write({b"b": b"3"})
    monkeypatch.undo()
    writer.write({b"d": b"4"})
    assert snapshot(store) == {b"a": b"1", b"d": b"4"}


@pytest.mark.parametrize("call", ["fdatasync", "pwrite", "open", "fsync"])
def test_a_disk_that_is_full_at_a_rotation_leaves_the_store_as_it_was(store, monkeypatch, call):
    with contextlib.closing(LogWriter(store, log_size=100)) as writer:
        writer.write({b"a": b"1" * 60})
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(OSError, match="full"):
            writer.write({b"b": b"2"})
        monkeypatch.undo()
        assert snapshot(store) == {b"a": b"1" * 60}
        writer.write({b"c": b"3"})
    assert names(store) == ["00001.mem", "00002.mem"]
    assert snapshot(store) == {b"a": b"1" * 60, b"c": b"3"}


def test_a_log_that_was_being_made_in_a_crash_is_made_again(store):
    write(store, {b"a": b"1"})
    (store / "00002.mem.new").write_bytes(bytes(5))
    write(store, {b"b": b"2"}, log_size=50)
    assert names(store) == ["00001.mem", "00002.mem"]
    assert snapshot(store) == {b"a": b"1", b"b": b"2"}


def test_without_sync_nothing_waits_for_the_disk(store, writer, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    writer.write({b"a": b"1"}, sync=False)
    assert (snapshot(store), synced) == ({b"a": b"1"}, [])
    writer.sync()
    assert len(synced) == 1


def test_the_module_needs_neither_ops_nor_the_charm():
    code = (
        "import sys; import agent.rebuild; print({'ops', 'charm', 'pydantic'} & set(sys.modules))"
    )
    source = str(Path(badger.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
