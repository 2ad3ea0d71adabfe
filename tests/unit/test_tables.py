"""Badger's tables and MANIFEST: all keys, the newest version, whatever happens meanwhile."""

import contextlib
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import badger, table
from agent.badger import BadgerError, Entry, GoneError, uvarint
from agent.log_writer import LogWriter, encode_entry
from agent.manifest import MANIFEST_HEADER, Manifest, Mark, read_manifest, table_path
from agent.rebuild import StoreWriter
from agent.tables import max_version, merge, read_store
from tests.tables import (
    block_of,
    change,
    change_set,
    index_of,
    put,
    row,
    table_of,
    with_checksum,
    with_footer,
)

KEYS = st.binary(min_size=1, max_size=3)
# A key, a version, and a value or none where it was deleted.
ROW = st.tuples(KEYS, st.integers(1, 9), st.none() | st.binary(max_size=9))


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path


def newest(rows):
    """The newest version of each key, by the plainest means."""
    found = {}
    for key, meta, value, version in sorted(rows, key=lambda each: each[3]):
        found[key] = Entry(key, value, version, bool(meta & badger.DELETE))
    return [found[key] for key in sorted(found)]


@given(
    tables=st.lists(
        st.tuples(st.sampled_from([0, 0, 3, 4, 5, 6]), st.lists(ROW, min_size=1, max_size=12)),
        max_size=5,
    ),
    after=st.just(b"") | KEYS,
    chunk=st.sampled_from([1, 2**18]),
)
@settings(max_examples=200, deadline=None)
def test_the_newest_version_of_every_key_comes_in_order(tables, after, chunk, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    seen, levels, put_there = set(), set(), []
    for level, rows in tables:
        if level and level in levels:
            continue
        levels.add(level)
        # A key has a version once in a store.
        fresh = {each[:2]: row(each[0], each[2], each[1]) for each in rows if each[:2] not in seen}
        seen |= set(fresh)
        if fresh:
            put_there.append((level, list(fresh.values())))
    put(store, *put_there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "_CHUNK", chunk)
        expected = newest([each for _, rows in put_there for each in rows])
        assert list(merge(store, after)) == [each for each in expected if each.key > after]
        assert read_store(store) == {
            each.key: (each.version, each.value) for each in expected if not each.deleted
        }
    highest = max((each[3] for _, rows in put_there for each in rows), default=0)
    assert max_version(store, read_manifest(store)) == highest


@pytest.mark.parametrize("chunk", [1, 5000, 2**18])
def test_reading_goes_on_behind_any_key(store, chunk, monkeypatch):
    monkeypatch.setattr(table, "_CHUNK", chunk)
    rows = {b"key/%04d" % (3 * n): (n + 1, bytes(n % 50)) for n in range(1000)}
    monkeypatch.setattr("agent.rebuild._TABLE_SIZE", 8000)
    store.rmdir()
    with StoreWriter(store) as writer:
        for key, (version, value) in rows.items():
            writer.add(key, value, version)
    assert len(read_manifest(store).live) > 4
    for number in range(0, 3010, 7):
        after = b"key/%04d" % number
        found = [each.key for each in merge(store, after)]
        assert found == [key for key in rows if key > after]


def test_keys_that_begin_like_each_other_stay_apart(store):
    keys = [b"a", b"a\0", b"a\0\0", b"a" * 8, b"a" * 9, b"a" * 300, b"ab", b"b", b"\xff" * 16]
    put(store, (6, [row(key, key, number + 1) for number, key in enumerate(keys)]))
    assert [each.key for each in merge(store)] == sorted(keys)


def test_badgers_own_keys_are_left_out(store):
    keys = [b"!", b"!badger", b"!badger!head", b"!badger!txn", b"!badgers", b"\0", b"a"]
    put(store, (0, [row(key, b"1", 1) for key in keys]))
    expected = [b"\0", b"!", b"!badger", b"!badgers", b"a"]
    assert [each.key for each in merge(store)] == expected
    assert sorted(read_store(store)) == expected


def test_logs_count_where_they_are_newer(store):
    put(store, (0, [row(b"a", b"old", 1), row(b"b", b"old", 2), row(b"c", b"new", 9)]))
    log = bytes(20) + b"".join(
        encode_entry(Entry(*each)) for each in [(b"a", b"new", 5), (b"c", b"old", 3)]
    )
    log += encode_entry(Entry(b"b", b"", 6, deleted=True))
    (store / "00001.mem").write_bytes(log)
    assert read_store(store) == {b"a": (5, b"new"), b"c": (9, b"new")}


def test_a_store_without_a_manifest_has_no_tables(store):
    (store / "000001.sst").write_bytes(table_of([row(b"a", b"1", 1)]))
    assert read_manifest(store) == Manifest({}, Mark(), True, (), False)
    assert list(merge(store)) == []


# What happens meanwhile.


def compact(store, old, rows, number):
    """What Badger does in a compaction: a new table, the MANIFEST, and the old ones go."""
    table_path(store, number).write_bytes(table_of(rows))
    changes = [change(number, level=6), *(change(each, 1) for each in old)]
    with (store / "MANIFEST").open("ab") as file:
        file.write(change_set(*changes))
    for each in old:
        os.truncate(table_path(store, each), 0)
        table_path(store, each).unlink()


@pytest.mark.parametrize("taken", [1, 2, 3, 5, 8])
def test_tables_may_be_compacted_away_while_they_are_read(store, taken, monkeypatch):
    monkeypatch.setattr(table, "_CHUNK", 1)
    rows = [row(b"%d" % n, b"old", n + 1) for n in range(10)]
    put(store, (0, rows[:6]), (6, rows[2:]))
    reader = merge(store)
    found = [next(reader) for _ in range(taken)]
    # What was overwritten behind the reader may come old, what was so before it comes new.
    newer = [row(b"%d" % n, b"new", n + 21) for n in range(10)]
    compact(store, [1, 2], rows + newer, 3)
    found += reader
    assert [each.key for each in found] == [b"%d" % n for n in range(10)]
    assert {each.value for each in found[taken + 2 :]} <= {b"new"}


def test_a_manifest_that_was_written_anew_is_followed(store, monkeypatch):
    monkeypatch.setattr(table, "_CHUNK", 1)
    rows = [row(b"%d" % n, b"1", n + 1) for n in range(8)]
    put(store, (6, rows))
    reader = merge(store)
    found = [next(reader)]
    compact(store, [1], rows, 2)
    (store / "MANIFEST-REWRITE").write_bytes(MANIFEST_HEADER + change_set(change(2, level=6)))
    (store / "MANIFEST-REWRITE").rename(store / "MANIFEST")
    assert [*found, *reader] == newest(rows)


def test_a_store_that_was_dropped_while_it_is_read_ends(store, monkeypatch):
    monkeypatch.setattr(table, "_CHUNK", 1)
    put(store, (0, [row(b"%d" % n, b"1", n + 1) for n in range(8)]))
    reader = merge(store)
    next(reader)
    with (store / "MANIFEST").open("ab") as file:
        file.write(change_set(change(1, 1)))
    # The next table has the same number, and is not whole yet.
    table_path(store, 1).write_bytes(bytes(5000))
    assert len(list(reader)) < 8
    assert read_manifest(store).dropped


def test_a_table_that_is_gone_though_it_is_live_is_an_error(store):
    put(store, (6, [row(b"a", b"1", 1)]))
    manifest = read_manifest(store)
    os.truncate(store / "000001.sst", 0)
    with pytest.raises(GoneError, match=r"000001\.sst: was cut short"):
        max_version(store, manifest)
    with pytest.raises(BadgerError, match=r"000001\.sst: was cut short") as cut:
        list(merge(store))
    (store / "000001.sst").unlink()
    with pytest.raises(GoneError, match=r"000001\.sst: is gone"):
        max_version(store, manifest)
    with pytest.raises(BadgerError, match=r"000001\.sst: is gone") as gone:
        read_store(store)
    # Nothing will be different when it is read again.
    assert GoneError not in {type(cut.value), type(gone.value)}


def test_a_disk_that_fails_is_an_error_with_its_place(store, monkeypatch):
    put(store, (6, [row(b"a", b"1", 1)]))

    def fail(*_):
        raise OSError(5, "broken")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(BadgerError, match=r"000001\.sst: at offset \d+: broken"):
        list(merge(store))
    monkeypatch.undo()
    (store / "000001.sst").unlink()
    (store / "000001.sst").mkdir()
    with pytest.raises(BadgerError, match=r"000001\.sst: .*Is a directory"):
        list(merge(store))


# Values in the value log.


LARGE = b"x" * 2**20


def pointer_to(store, number, key, version):
    """Put a large value into a file of the value log; the table's row that points there."""
    data = encode_entry(Entry(key, LARGE, version))
    (store / f"{number:06}.vlog").write_bytes(bytes(20) + data)
    return key, badger.VALUE_POINTER | 0x40, struct.pack("<III", number, len(data), 20), version


def test_large_values_come_from_the_value_log(store):
    rows = [pointer_to(store, 1, b"large", 3), row(b"a", b"1", 1)]
    put(store, (0, rows))
    assert read_store(store) == {b"a": (1, b"1"), b"large": (3, LARGE)}


@pytest.mark.parametrize("newest_first", [True, False])
def test_of_a_value_that_was_moved_the_last_place_counts(store, newest_first):
    old, new = pointer_to(store, 1, b"large", 3), pointer_to(store, 2, b"large", 3)
    (store / "000001.vlog").unlink()
    tables = [(0, [old]), (0, [new])]
    put(store, *(tables[::-1] if newest_first else tables))
    assert read_store(store) == {b"large": (3, LARGE)}


def test_a_value_that_was_just_moved_is_in_the_log(store):
    put(store, (0, [pointer_to(store, 1, b"large", 3)]))
    (store / "000001.vlog").unlink()
    _, meta, place, version = pointer_to(store, 2, b"large", 3)
    log = encode_entry(Entry(b"large", place, version), meta & badger.VALUE_POINTER)
    (store / "00001.mem").write_bytes(bytes(20) + log)
    assert list(merge(store)) == [Entry(b"large", LARGE, 3)]


def test_a_large_value_that_is_gone_is_an_error(store):
    put(store, (0, [pointer_to(store, 1, b"large", 3)]))
    (store / "000001.vlog").unlink()
    with pytest.raises(BadgerError, match=r"000001\.vlog: is gone"):
        list(merge(store))


# The MANIFEST.


def test_the_manifest_is_replayed(store):
    sets = [
        change_set(change(1), change(2)),
        change_set(change(3, level=6), change(1, 1), change(2, 1)),
        change_set(change(3, 1)),
        change_set(),
        change_set(change(1), change(7)),
        change_set(change(7, 1)),
    ]
    states = [
        ({1: 0, 2: 0}, (1, 2), False),
        ({3: 6}, (1, 2), False),
        ({}, (1, 2), True),
        ({}, (1, 2), True),
        ({1: 0, 7: 0}, (1, 2, 1, 7), True),
        ({1: 0}, (1, 2, 1, 7), True),
    ]
    data = MANIFEST_HEADER + b"".join(sets)
    ends = [len(MANIFEST_HEADER) + sum(map(len, sets[: n + 1])) for n in range(len(sets))]
    for length in range(ends[0], len(data) + 1):
        (store / "MANIFEST").write_bytes(data[:length])
        found = read_manifest(store)
        whole = sum(end <= length for end in ends)
        assert (found.live, found.flushed, found.dropped) == states[whole - 1]
        assert found.mark.size == ends[whole - 1]
        assert found.mark.inode == (store / "MANIFEST").stat().st_ino


def test_a_table_may_be_removed_twice(store):
    (store / "MANIFEST").write_bytes(MANIFEST_HEADER + change_set(change(1), change(9, 1)))
    assert read_manifest(store).live == {1: 0}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "at offset 0 is no version 8 of Badger's"),
        (b"Bdgr\0\0\0\x09", "at offset 0 is no version 8 of Badger's"),
        (b"Bdgr\0\1\0\x08", "at offset 0 is no version 8 of Badger's"),
        (MANIFEST_HEADER + b"\xff" * 8, "the length at offset 8 is too large"),
        (MANIFEST_HEADER + change_set(change(1))[:-1] + b"x", "the checksum at offset 8 does not"),
        (MANIFEST_HEADER + change_set(b"\x0a\x05\x08"), "the changes at offset 8 are damaged"),
        (MANIFEST_HEADER + change_set(b"\x0b"), "the changes at offset 8 are damaged"),
        (MANIFEST_HEADER + change_set(b"\x0d\0"), "the changes at offset 8 are damaged"),
        (MANIFEST_HEADER + change_set(b"\x80"), "the changes at offset 8 are damaged"),
        (MANIFEST_HEADER + change_set(change(1), change(1)), "the changes at offset 8 do not fit"),
        (MANIFEST_HEADER + change_set(change(1, 2)), "the changes at offset 8 do not fit"),
    ],
)
def test_a_manifest_that_is_not_understood_is_an_error_with_its_place(store, data, problem):
    (store / "MANIFEST").write_bytes(data)
    for read in (read_manifest, read_store, lambda path: list(merge(path))):
        with pytest.raises(BadgerError, match=f"MANIFEST: {problem}"):
            read(store)


def test_a_manifest_that_cannot_be_read_is_an_error(store):
    (store / "MANIFEST").mkdir()
    with pytest.raises(BadgerError, match="MANIFEST: Is a directory"):
        read_manifest(store)


@pytest.mark.parametrize(
    ("more", "problem"),
    [({"key": 1}, "encrypted, .*MANIFEST says"), ({"packed": 2}, "compressed, .*MANIFEST says")],
)
def test_tables_that_are_encrypted_or_compressed_are_an_error(store, more, problem):
    data = MANIFEST_HEADER + change_set(change(5, level=6, **more), change(6))
    (store / "MANIFEST").write_bytes(data)
    with pytest.raises(BadgerError, match=rf"000005\.sst: {problem}"):
        read_manifest(store)
    # It does not matter any more when none is left.
    (store / "MANIFEST").write_bytes(data + change_set(change(5, 1)))
    assert read_manifest(store).live == {6: 0}


def test_fields_that_are_not_known_are_passed_over(store):
    later = b"\x38\x01" + b"\x41" + bytes(8) + b"\x4a\x02ab" + b"\x55" + bytes(4)
    body = change(3, level=6)[2:] + later
    data = b"\x0a" + uvarint(len(body)) + body
    (store / "MANIFEST").write_bytes(MANIFEST_HEADER + change_set(data, b"\x10\x01"))
    assert read_manifest(store).live == {3: 6}


# Damage.


def outcome(store):
    """What is read; None where it is an error."""
    with contextlib.suppress(BadgerError):
        return list(merge(store))
    return None


SMALL = [row(b"key/%d" % n, None if n == 4 else bytes([n]) * n, n + 1) for n in range(9)]


@pytest.mark.parametrize("rebuilt", [True, False])
def test_no_damage_of_a_table_gives_wrong_data(store, rebuilt):
    if rebuilt:
        store.rmdir()
        with StoreWriter(store) as writer:
            for key, _, value, version in SMALL:
                writer.add(key, value, version)
    else:
        put(store, (6, SMALL))
    path = store / "000001.sst"
    good, data = outcome(store), path.read_bytes()
    assert good is not None
    assert [each.key for each in good] == [each[0] for each in SMALL]
    dice = random.Random(1)  # noqa: S311  # the same each time
    for position in range(len(data)):
        flipped = bytes([data[position] ^ 1 << dice.randrange(8)])
        zeros = bytes(min(dice.choice([1, 4, 50]), len(data) - position))
        for damage in (flipped, zeros):
            path.write_bytes(data[:position] + damage + data[position + len(damage) :])
            assert outcome(store) == (good if path.read_bytes() == data else None)
        path.write_bytes(data[:position])
        assert outcome(store) is None
    path.write_bytes(data + b"\0")
    assert outcome(store) is None


def test_no_damage_of_a_manifest_gives_tables_that_never_were_live(store):
    sets = [change_set(change(1)), change_set(change(2, level=6), change(1, 1))]
    data = MANIFEST_HEADER + b"".join(sets)
    path = store / "MANIFEST"
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytes([data[position] ^ 1 << bit])
            path.write_bytes(data[:position] + damaged + data[position + 1 :])
            with contextlib.suppress(BadgerError):
                # A length that is too large may as well be that of a set that is not whole yet.
                assert read_manifest(store).live in ({}, {1: 0})


def test_no_damage_of_the_value_log_gives_wrong_data(store):
    put(store, (0, [pointer_to(store, 1, b"large", 3)]))
    path = store / "000001.vlog"
    good, data = outcome(store), path.read_bytes()
    assert good == [Entry(b"large", LARGE, 3)]
    dice = random.Random(2)  # noqa: S311  # the same each time
    for position in [*range(60), *(dice.randrange(60, len(data)) for _ in range(30))]:
        flipped = bytes([data[position] ^ 1 << dice.randrange(8)])
        path.write_bytes(data[:position] + flipped + data[position + 1 :])
        # The eight bytes of the key's number, then the IV, which is not used.
        assert outcome(store) == (good if 8 <= position < 20 else None)
        path.write_bytes(data[:position])
        assert outcome(store) is None


@given(data=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_garbage_is_an_error_and_ends(data, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    put(store, (6, SMALL))
    (store / "000001.sst").write_bytes(data)
    assert outcome(store) is None
    # Also where the checksums fit.
    (store / "000001.sst").write_bytes(with_footer(data))
    assert outcome(store) is None


@given(data=st.binary(min_size=12, max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_block_of_garbage_is_an_error_and_ends(data, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    put(store, (6, [SMALL[0]]))
    block = with_checksum(data + struct.pack("<I", 0) + (1).to_bytes(4, "big"))
    index = index_of([block], [b"key/0" + bytes(8)], 1)
    (store / "000001.sst").write_bytes(block + with_footer(index))
    found = outcome(store)
    assert found is None or len(found) == 1


def spoiled(**fields):
    """A table whose only entry is not what this module understands."""
    key, meta, value, version = row(b"key", b"1", 1)
    return table_of([(fields.get("key", key), fields.get("meta", meta), value, version)])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (spoiled(meta=0x08), "the entry at offset 0 expires, or is of unknown kind"),
        (spoiled(meta=badger.VALUE_POINTER), "the entry at offset 0 has no pointer"),
        (spoiled(key=b""), "the index at offset .* is damaged"),
    ],
)
def test_what_is_not_understood_is_an_error_with_its_place(store, data, problem):
    put(store, (6, [SMALL[0]]))
    (store / "000001.sst").write_bytes(data)
    with pytest.raises(BadgerError, match=rf"000001\.sst: {problem}"):
        list(merge(store))


def raw_block(entries, count, starts=(0,)):
    """A block whose checksum fits, whatever is in it."""
    return with_checksum(
        entries + struct.pack(f"<{len(starts)}I", *starts) + count.to_bytes(4, "big")
    )


VERSION_1 = (2**64 - 2).to_bytes(8, "big")
FIRST = b"key" + VERSION_1
ENTRY = struct.pack("<HH", 0, len(FIRST)) + FIRST + b"\0\0\0value"


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (raw_block(ENTRY, 0, ()), "the block at offset 0 has no entries"),
        (raw_block(ENTRY, 100), "the block at offset 0 has no entries"),
        (raw_block(ENTRY[:2], 1), "the block at offset 0 is damaged"),
        (raw_block(ENTRY[:13], 1), "the block at offset 0 has no entry at 0"),
        (raw_block(ENTRY, 2, (0, 400)), "the block at offset 0 is damaged"),
        (raw_block(b"\1\0" + ENTRY[2:], 1), "the block at offset 0 has no entry at 0"),
        (raw_block(ENTRY * 2, 2, (len(ENTRY), 0)), "the block at offset 0 has no entry at"),
        (raw_block(struct.pack("<HH", 0, 8) + VERSION_1 + b"\0\0\0", 1), "is not in order"),
        (block_of([row(b"key", b"1", 1)])[:-1] + b"\xff", "the checksum of the block at offset 0"),
    ],
)
def test_a_block_that_is_not_understood_is_an_error_with_its_place(store, block, problem):
    put(store, (6, [SMALL[0]]))
    (store / "000001.sst").write_bytes(block + with_footer(index_of([block], [FIRST], 1)))
    with pytest.raises(BadgerError, match=rf"000001\.sst: .*{problem}"):
        list(merge(store))


def index_with(place, data):
    """A table whose index has other bytes in one place, and a checksum that fits."""
    block = block_of([row(b"key", b"1", 1)])
    index = index_of([block], [FIRST], 1)
    return block + with_footer(index[:place] + data + index[place + len(data) :])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (with_footer(b""), "there is no index before offset"),
        (with_footer(b"x" * 100), "there is no index before offset"),
        (index_with(0, b"\xff\xff\xff\x7f"), "the index at offset 37 is damaged"),
        (index_with(56, b"\0\0\0\0"), "the index at offset 37 is damaged"),
        (index_with(56, b"\2\0\0\0"), "the index at offset 37 is damaged"),
        (index_with(84, b"\1"), "the index at offset 37 is damaged"),
        (index_with(88, b"\1"), "the index at offset 37 is damaged"),
    ],
)
def test_an_index_that_is_not_understood_is_an_error_with_its_place(store, data, problem):
    put(store, (0, [SMALL[0]]))
    (store / "000001.sst").write_bytes(data)
    with pytest.raises(BadgerError, match=rf"000001\.sst: {problem}"):
        list(merge(store))


def test_the_version_of_an_index_that_is_not_understood_is_an_error(store):
    put(store, (0, [SMALL[0]]))
    (store / "000001.sst").write_bytes(index_with(0, b"\xff\xff\xff\x7f"))
    with pytest.raises(BadgerError, match=r"000001\.sst: the index at offset 37 is damaged"):
        max_version(store, read_manifest(store))


def test_tables_of_a_level_that_overlap_are_an_error(store):
    put(store, (6, SMALL[:5]), (6, SMALL[3:]))
    with pytest.raises(BadgerError, match=r"000002\.sst: begins before another table ends"):
        list(merge(store))


def test_keys_that_are_not_in_order_are_an_error(store):
    put(store, (6, [SMALL[0]]))
    block = block_of([SMALL[3], SMALL[2]])
    index = index_of([block], [SMALL[3][0] + bytes(8)], 4)
    (store / "000001.sst").write_bytes(block + with_footer(index))
    with pytest.raises(BadgerError, match="the block at offset 0 is not in order"):
        list(merge(store))


def test_a_writer_goes_on_behind_the_tables(store):
    put(store, (0, [row(b"a", b"1", 41)]))
    with contextlib.closing(LogWriter(Path(store))) as writer:
        assert writer.write({b"b": b"2"}) == 42
    assert read_store(store) == {b"a": (41, b"1"), b"b": (42, b"2")}
