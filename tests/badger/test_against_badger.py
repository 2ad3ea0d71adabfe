"""What the real Badger writes is read right, and it reads what is written here.

The peer is Badger, once with the version that DittoFS has and once with the one it moves to.
"""

import contextlib
import hashlib
import shutil
import time
from random import Random

import pytest

from agent import badger
from agent.badger import BadgerError, Entry
from agent.log_writer import LARGEST_LOG, LogWriter, encode_entry, encode_transaction
from agent.manifest import read_manifest
from agent.rebuild import StoreWriter
from agent.tables import max_version, merge, read_store

SEEDS = range(2)


def write(store, transactions, **options):
    with contextlib.closing(LogWriter(store, **options)) as writer:
        for changes in transactions:
            writer.write(changes, sync=False)


def random_transactions(seed, count):
    """Changes of a few keys, so that most are overwritten or deleted."""
    random = Random(seed)  # noqa: S311  # the same each time
    keys = [f"key/{n}".encode() + b"\xff\x00" * (n % 3) for n in range(100)]
    sizes = (0, 1, 100, 127, 128, 16383, 16384)
    return [
        {
            random.choice(keys): random.choice([None, random.randbytes(random.choice(sizes))])
            for _ in range(random.randint(1, 6))
        }
        for _ in range(count)
    ]


def after(transactions, state=None, version=1):
    """Version and value of each key after transactions, by the plainest means."""
    state = dict(state or {})
    for number, changes in enumerate(transactions, version):
        for key, value in changes.items():
            state[key] = (number, value)
    return {key: newest for key, newest in state.items() if newest[1] is not None}


def digest_of(rows):
    """The checksum of sorted rows as the program beside this makes it."""
    checksum, count = hashlib.sha256(), 0
    for key, value, version in rows:
        sizes = (len(key).to_bytes(4, "big"), len(value).to_bytes(4, "big"))
        checksum.update(b"".join([version.to_bytes(8, "big"), *sizes, key, value]))
        count += 1
    return f"{count} {checksum.hexdigest()}"


def rebuild(store, rows):
    with StoreWriter(store) as writer:
        for key in sorted(rows):
            version, value = rows[key]
            writer.add(key, value, version)


def still_read(peer, store, expected):
    """What is read after Badger compacted the store, which is what Badger reads.

    That is what it was before, but for Badger 4.5, which may compact into a level below one that
    has older data: then some of what was deleted is back, for Badger as for us.
    """
    found = read_store(store)
    assert found == expected or found == peer.dump(store)
    return found


def files(store, ending):
    return sorted(path.name for path in store.glob(f"*.{ending}"))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_badger_wrote_is_read(peer, store, seed):
    expected = peer.write(store, seed, 500)
    assert len(expected) > 50
    assert read_store(store) == expected
    # No version is left out, also not for a batch.
    versions = [each.entries[0].version for _, each in badger.read_logs(store)]
    assert versions == list(range(1, len(versions) + 1))
    # When it opens the store again it reads the same, and makes a table of the log.
    assert peer.dump(store) == expected
    assert (files(store, "mem"), files(store, "sst")) == ([], ["000001.sst"])
    assert read_store(store) == expected
    # Then the logs begin at 1 again, and count over the tables.
    expected = peer.write(store, seed + 100, 500)
    assert (files(store, "mem"), files(store, "sst")) == (["00001.mem"], ["000001.sst"])
    assert read_store(store) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_badger_reads_what_is_written(peer, store, seed):
    transactions = random_transactions(seed, 500)
    write(store, transactions, log_size=400_000)
    assert len(badger.log_paths(store)) > 3
    assert read_store(store) == peer.dump(store) == after(transactions)


def test_badger_goes_on_behind_what_is_written(peer, store):
    transactions = random_transactions(4, 200)
    write(store, transactions)
    found = peer.write(store, 4, 5)
    newest = badger.log_paths(store)[-1]
    state = after(transactions)
    for transaction in badger.read_log(newest):
        assert transaction.entries[0].version > 200
        changes = {each.key: None if each.deleted else each.value for each in transaction.entries}
        state = after([changes], state, transaction.entries[0].version)
    assert state == found


def test_writing_goes_on_behind_what_badger_wrote(peer, store):
    before = peer.write(store, 5, 100)
    more = random_transactions(5, 100)
    with contextlib.closing(LogWriter(store, log_size=1_000_000)) as writer:
        version = writer.version + 1
        for changes in more:
            writer.write(changes, sync=False)
    assert peer.dump(store) == after(more, before, version)


def test_a_log_torn_anywhere_ends_for_us_where_it_ends_for_badger(peer, store):
    write(store, random_transactions(7, 5))
    (log,) = badger.log_paths(store)
    whole = log.read_bytes()
    random = Random(7)  # noqa: S311  # the same each time
    for number in range(20):
        torn = store.with_name(f"torn{number}")
        torn.mkdir()
        at = random.randrange(badger.HEADER_SIZE, len(whole))
        damage = random.choice([b"", b"\xff", b"\x00" * 50, bytes([whole[at] ^ 1])])
        rest = whole[at + len(damage) :] if damage else b""
        (torn / log.name).write_bytes(whole[:at] + damage + rest)
        assert read_store(torn) == peer.dump(torn)


@pytest.mark.parametrize("tail", ["nothing", "an end alone", "an entry alone", "another version"])
def test_badger_cuts_a_log_where_reading_ends(peer, store, tail):
    entry = encode_entry(Entry(b"x", b"1", 2), badger.TRANSACTION)
    other = encode_entry(Entry(b"y", b"1", 3), badger.TRANSACTION)
    plain = encode_entry(Entry(b"z", b"1", 2))
    end = encode_entry(Entry(b"!badger!txn", b"3", 3), badger.TRANSACTION_END)
    tails = {
        "nothing": b"",
        "an end alone": end,
        "an entry alone": entry + plain,
        "another version": entry + other + end,
    }
    first = encode_transaction({b"a": b"1"}, 1)
    last = encode_transaction({b"a": b"4"}, 4)
    log = bytes(badger.HEADER_SIZE) + first + tails[tail] + last
    (store / "00001.mem").write_bytes(log)
    expected = {b"a": (4, b"4")} if tail == "nothing" else {b"a": (1, b"1")}
    assert read_store(store) == expected
    assert peer.dump(store) == expected


def test_nothing_is_lost_of_a_log_that_was_followed_until_badger_was_killed(peer, store):
    log, end, followed = store / "00001.mem", badger.HEADER_SIZE, []
    # So few transactions that they fit into one log.
    with peer.start("write", store, transactions=2000) as process:
        while len(followed) < 300:
            assert process.poll() in {None, 0}
            for transaction in badger.read_log(log, end):
                followed.append(transaction)
                end = transaction.end
        process.kill()
    assert list(badger.read_log(log))[: len(followed)] == followed
    assert read_store(store) == peer.dump(store)


def test_the_largest_log_fits_into_the_memory_that_badger_has_for_one(peer, store):
    # The smallest entries need most memory for their size.
    keys = [n.to_bytes(3, "big") for n in range(2**16)]
    transactions = [dict.fromkeys(keys, b"")] * 12
    write(store, transactions)
    (log,) = badger.log_paths(store)
    assert log.stat().st_size > LARGEST_LOG * 0.9
    assert peer.dump(store) == after(transactions)


def test_badger_and_the_writer_keep_each_other_out(peer, store):
    with (
        contextlib.closing(LogWriter(store)),
        pytest.raises(AssertionError, match="Cannot acquire directory lock"),
    ):
        peer.dump(store)
    with peer.start("write", store) as process:
        # It is written after the lock was taken.
        while not (store / "LOCK").exists():
            assert process.poll() is None
        with pytest.raises(BadgerError, match="another process has the store open"):
            LogWriter(store)
        process.kill()


# Tables, the value log, and what becomes of them.


def test_a_busy_store_is_read(peer, store):
    expected, levels = {}, set()
    for seed in range(3):
        expected = peer.busy(store, seed, 500)
        manifest = read_manifest(store)
        assert manifest.live
        levels = set(manifest.live.values())
        assert any(len(value) > 2**20 for _, value in expected.values())
        assert read_store(store) == expected
        assert max_version(store, manifest) <= max(version for version, _ in expected.values())
    assert levels - {0}
    assert peer.dump(store) == expected
    found = still_read(peer, store, expected)
    # From here on all is in the tables.
    assert badger.log_paths(store) == []
    tables = {each.key: (each.version, each.value) for each in merge(store) if not each.deleted}
    assert tables == found


def test_what_is_read_after_a_kill_is_what_badger_reads_when_it_opens_the_store(peer, store):
    dice = Random(9)  # noqa: S311  # the same each time
    before = {}
    for seed in range(6):
        with peer.start("busy", store, seed) as process:
            time.sleep(dice.uniform(0.05, 0.6))
            assert process.poll() is None
            process.kill()
        found = read_store(store)
        # These are never deleted.
        assert found.keys() >= {key for key in before if key.startswith((b"fixed/", b"bulk/"))}
        assert all(found[key][0] >= before[key][0] for key in found.keys() & before.keys())
        # Every other time the log stays for the next one to find.
        if seed % 2:
            assert peer.dump(store) == found
            found = still_read(peer, store, found)
        before = found
    assert len(before) > 100


def test_a_store_is_read_while_it_is_written(peer, store):
    fixed = {b"fixed/%02d" % number for number in range(50)}
    seen, reads, manifests = {}, 0, set()
    with peer.start("busy", store) as process:
        while not (store / "00001.mem").exists() or not read_store(store):
            assert process.poll() is None
            time.sleep(0.01)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            manifests.add(read_manifest(store).mark.size)
            keys = [each.key for each in merge(store)]
            assert keys == sorted(set(keys))
            found = read_store(store)
            reads += 1
            assert {key for key in found if key.startswith(b"fixed/")} == fixed
            assert all(found[key][1] == key for key in fixed)
            # Nothing older than what was seen comes back.
            for key, (version, value) in found.items():
                before = seen.setdefault(key, (version, value))
                assert before[0] < version or before == (version, value)
                seen[key] = (version, value)
        assert process.poll() is None
        process.kill()
    assert reads > 5
    # It was flushed and compacted meanwhile.
    assert len(manifests) > 3
    found = read_store(store)
    assert peer.dump(store) == found


def test_large_values_are_found_where_badger_moved_them(peer, store):
    expected = peer.collect(store, 3, 4)
    assert "000001.vlog" not in files(store, "vlog")
    # What was moved is in the log once more, with the version that it had.
    versions = [each.entries[0].version for _, each in badger.read_logs(store)]
    assert any(version <= max_version(store, read_manifest(store)) for version in versions)
    assert read_store(store) == expected
    assert {each.key: each.version for each in merge(store) if not each.deleted} == {
        key: version for key, (version, _) in expected.items()
    }
    assert peer.dump(store) == expected
    assert read_store(store) == expected


def test_all_data_may_be_dropped(peer, store):
    peer.busy(store, 1, 300)
    before = read_manifest(store)
    assert before.live
    expected = peer.drop(store, 2, 100)
    assert read_store(store) == expected
    dropped = read_manifest(store)
    assert dropped.live == {}
    assert read_manifest(store, before.mark).dropped
    # The tables begin at 1 again, the versions and the logs go on.
    assert peer.dump(store) == expected
    again = read_manifest(store)
    assert again.live == {1: 0}
    since = read_manifest(store, dropped.mark)
    assert (since.continues, since.flushed, since.dropped) == (True, (1,), False)
    assert read_store(store) == expected
    assert min(version for version, _ in expected.values()) > 300


def test_where_there_were_no_tables_only_the_logs_tell_that_all_was_dropped(peer, store):
    peer.write(store, 1, 10)
    assert files(store, "mem") == ["00001.mem"]
    shutil.rmtree(store)
    store.mkdir()
    # A log that had something would be a table when Badger opens the store.
    expected = peer.drop(store, 1, 10)
    assert read_store(store) == expected
    assert not read_manifest(store).dropped
    assert files(store, "mem") == ["00002.mem"]


# Stores that were made of rows.


def some_rows(seed, count, largest):
    random = Random(seed)  # noqa: S311  # the same each time
    rows = {
        b"key/%x" % random.getrandbits(40) + b"\xff\0" * random.randrange(20): (
            random.randint(1, 10**9),
            random.randbytes(random.choice((0, 1, 100, 127, 128, 5000))),
        )
        for _ in range(count)
    }
    return rows | {
        b"\0": (1, b""),
        b"k" * 65_000: (2, b"longest"),
        b"k" * 64_999 + b"l": (3, random.randbytes(largest)),
        b"\xff" * 300: (4, random.randbytes(2**20)),
    }


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_badger_opens_a_store_that_was_made_of_rows(peer, store, count):
    rows = (
        some_rows(count, count, 16 * 2**20)
        if count > 1
        else dict.fromkeys([b"a"] * count, (1, b"1"))
    )
    rebuild(store, rows)
    assert read_store(store) == rows
    assert peer.dump(store) == rows
    assert read_store(store) == rows


def test_badger_goes_on_with_a_store_that_was_made_of_rows(peer, store):
    rows = some_rows(5, 5000, 2**21) | {
        b"fixed/00": (7, b"fixed/00"),
        b"large/1": (8, b"x" * 2**21),
    }
    rebuild(store, rows)
    highest = max(version for version, _ in rows.values())
    expected = rows
    for seed in range(2):
        expected = peer.busy(store, seed, 300)
        assert read_store(store) == expected
        changed = {key for key in expected if expected[key] != rows.get(key)}
        assert len(changed) > 100
        assert all(expected[key][0] > highest for key in changed)
        # The large value of our making was deleted or replaced, the longest key is as it was.
        assert expected[b"k" * 64_999 + b"l"] == rows[b"k" * 64_999 + b"l"]
        rows, highest = expected, max(version for version, _ in expected.values())
        assert peer.dump(store) == expected
        rows = expected = still_read(peer, store, expected)
    # What is read can be made into a store, and so on.
    again = store.with_name("again")
    rebuild(again, expected)
    assert peer.dump(again) == expected


def test_badger_opens_a_store_of_many_rows(peer, store):
    def rows():
        for number in range(250_000):
            yield b"inode/%032x" % (number * 7919), b"%d" % number * 25, number + 1

    with StoreWriter(store) as writer:
        for row in rows():
            writer.add(*row)
    assert len(read_manifest(store).live) > 2
    expected = digest_of(rows())
    assert digest_of((each.key, each.value, each.version) for each in merge(store)) == expected
    assert peer.digest(store) == expected
