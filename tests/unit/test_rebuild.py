"""Rows become a store. That Badger opens it, too, is shown in tests/badger."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import rebuild
from agent.badger import BadgerError, Entry
from agent.manifest import read_manifest
from agent.rebuild import StoreWriter
from agent.tables import max_version, merge, read_store

KEYS = st.binary(min_size=1, max_size=7)
ROWS = st.dictionaries(
    KEYS, st.tuples(st.integers(1, 2**64 - 2), st.binary(max_size=300)), max_size=60
)
WRITE_MUCH = """
import sys
from pathlib import Path
from agent.rebuild import StoreWriter
with StoreWriter(Path(sys.argv[1])) as writer:
    for number in range(int(sys.argv[2])):
        writer.add(b"key/%09d" % number, b"x" * 200, number + 1)
(most,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(most.split()[1])
"""


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def write(store, rows):
    with StoreWriter(store) as writer:
        for key in sorted(rows):
            version, value = rows[key]
            writer.add(key, value, version)


def names(store):
    return sorted(path.name for path in store.iterdir())


@given(
    rows=ROWS,
    block=st.sampled_from([1, 100, 4096]),
    size=st.sampled_from([1, 1000, 2**24]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(rows, block, size, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rebuild, "_BLOCK_SIZE", block)
        patch.setattr(rebuild, "_TABLE_SIZE", size)
        write(store, rows)
    assert read_store(store) == rows
    manifest = read_manifest(store)
    assert set(manifest.live.values()) <= {6}
    assert max_version(store, manifest) == max((each for each, _ in rows.values()), default=0)
    assert names(store) == sorted(["MANIFEST", *(f"{n:06}.sst" for n in manifest.live)])


def test_a_store_without_rows_is_one(store):
    write(store, {})
    assert names(store) == ["MANIFEST"]
    assert read_store(store) == {}


@pytest.mark.parametrize("length", [1, 127, 128, 4000, 65_000])
def test_long_keys_and_large_values(store, length):
    rows = {
        b"k" * length: (1, b""),
        b"k" * (length - 1) + b"l": (2, os.urandom(16 * 2**20)),
        b"l" * length: (3, b"x"),
        b"l" * length + b"\0": (4, b"x"),
    }
    rows = {key: row for key, row in rows.items() if len(key) <= 65_000}
    write(store, rows)
    assert read_store(store) == rows


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((b"", b"1", 1), r"b'' \(0 bytes\) cannot be a key"),
        ((b"x" * 65_001, b"1", 1), r"b'x{40}'… \(65001 bytes\) cannot be a key"),
        ((b"!badger!txn", b"1", 1), "cannot be a key"),
        ((b"b", b"1", 1), "b'b' does not come behind the key before it"),
        ((b"a", b"1", 1), "b'a' does not come behind the key before it"),
        ((b"c", b"1", 0), "b'c': 0 cannot be a version"),
        ((b"c", b"1", 2**64 - 1), "b'c': 18446744073709551615 cannot be a version"),
        ((b"c", bytes(2**28 + 1), 1), "b'c': a value of 268435457 bytes is too large"),
    ],
)
def test_what_badger_would_not_take_is_not_written(store, row, problem):
    with StoreWriter(store) as writer:
        if row[0] in {b"a", b"b", b"c"}:
            writer.add(b"b", b"1", 1)
        with pytest.raises(BadgerError, match=problem):
            writer.add(*row)
        writer.add(b"d", b"2", 2)
    assert next(iter(merge(store, b"c"))) == Entry(b"d", b"2", 2)


def test_what_is_there_is_not_touched(store):
    store.mkdir()
    (store / "00001.mem").write_bytes(b"theirs")
    with pytest.raises(BadgerError, match="store: is not empty"):
        StoreWriter(store)
    assert (store / "00001.mem").read_bytes() == b"theirs"


def test_a_store_that_was_not_finished_has_no_manifest(store, monkeypatch):
    monkeypatch.setattr(rebuild, "_TABLE_SIZE", 1)

    def begin():
        with StoreWriter(store) as writer:
            for number in range(100):
                writer.add(b"%03d" % number, b"x" * 1000, 1)
            raise KeyError

    with pytest.raises(KeyError):
        begin()
    assert "MANIFEST" not in names(store)
    assert list(merge(store)) == []


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_disk_that_is_full_leaves_no_manifest(store, monkeypatch, call):
    monkeypatch.setattr(rebuild, "_TABLE_SIZE", 1000)
    calls = []
    fsync = os.fsync

    def fail(file):
        calls.append(file)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "full")
        fsync(file)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write(store, {b"a": (1, bytes(5000)), b"b": (2, bytes(5000))})
    # The last call is for the directory: what is in it is whole.
    assert ("MANIFEST" in names(store)) == (call == 4)


def test_the_disk_has_all_of_it_before_the_manifest(store, monkeypatch):
    monkeypatch.setattr(rebuild, "_TABLE_SIZE", 1000)
    synced = []

    def note(file):
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)

    monkeypatch.setattr(os, "fsync", note)
    write(store, {b"a": (1, bytes(5000)), b"b": (2, bytes(5000))})
    assert synced == ["000001.sst", "000002.sst", "MANIFEST.new", "store"]


def test_memory_does_not_grow_with_the_store(store):
    source = str(Path(rebuild.__file__).parents[1])
    most = []
    for count, tables in ((1000, 1), (300_000, 4)):
        path = store.with_name(str(count))
        done = subprocess.run(
            [sys.executable, "-c", WRITE_MUCH, path, str(count)],
            env={"PYTHONPATH": source},
            check=True,
            capture_output=True,
            text=True,
        )
        most.append(int(done.stdout))
        assert len(read_manifest(path).live) == tables
    # Of 80 MB, in kB.
    assert most[1] - most[0] < 8000
