"""What the real Badger writes is read right, and it reads what is written here.

The program beside this file is Badger, once with the version that DittoFS has and once with the
one it moves to. Its modules come from the Go module proxy when `make setup` runs.
"""

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from agent import badger
from agent.badger import BadgerError, LogWriter

HERE = Path(__file__).parent
MODULES = {"4.5.2": "go.mod", "4.9.6": "badger-4.9.6.mod"}
SEEDS = range(3)


class Peer:
    """The real Badger; of each key it tells value and version."""

    def __init__(self, program: Path):
        self._program = program

    def dump(self, directory):
        """Open and close a store: afterwards it has tables."""
        return self._run("dump", directory)

    def write(self, directory, seed, transactions):
        """Write random transactions and end without closing the store."""
        return self._run("write", directory, str(seed), str(transactions))

    def start_writing(self, directory, transactions):
        command = [self._program, "write", directory, "1", str(transactions)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def _run(self, *arguments):
        done = subprocess.run(
            [self._program, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        items = [json.loads(line) for line in done.stdout.splitlines()]
        return {
            bytes.fromhex(each["key"]): (bytes.fromhex(each["value"]), each["version"])
            for each in items
        }


@pytest.fixture(scope="session", params=MODULES)
def peer(request, tmp_path_factory):
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no Go to build the real Badger with")
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}
    module = f"-modfile={MODULES[request.param]}"
    program = tmp_path_factory.mktemp("peer") / "badger-peer"
    # The list needs all packages and no compiler: what it says is about modules.
    for command, timeout in (
        ([go, "list", module, "-deps", "."], 60),
        ([go, "build", module, "-o", program, "."], 300),
    ):
        try:
            done = subprocess.run(
                command, cwd=HERE, env=environment, timeout=timeout, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            pytest.skip(f"Badger {request.param} could not be built in {timeout} s")
        if command[1] == "list" and done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1]
            pytest.skip(f"the modules of Badger {request.param} cannot be had: {reason}")
        assert done.returncode == 0, done.stderr
    return Peer(program)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path


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
    """Value and version of each key after transactions, by the plainest means."""
    state = dict(state or {})
    for number, changes in enumerate(transactions, version):
        for key, value in changes.items():
            state[key] = (value, number)
    return {key: newest for key, newest in state.items() if newest[0] is not None}


def read(store):
    """Value and version of each key, by the module under test."""
    changes = [
        {entry.key: None if entry.deleted else entry.value for entry in transaction.entries}
        for _, transaction in badger.read_logs(store)
    ]
    versions = [each.entries[0].version for _, each in badger.read_logs(store)]
    state = {}
    for each, version in zip(changes, versions, strict=True):
        state = after([each], state, version)
    assert badger.snapshot(store) == {key: value for key, (value, _) in state.items()}
    return state


@pytest.mark.parametrize("seed", SEEDS)
def test_what_badger_wrote_is_read(peer, store, seed):
    expected = peer.write(store, seed, 500)
    assert len(expected) > 50
    assert read(store) == expected
    # When it opens the store again it reads the same, and makes a table of the log.
    assert peer.dump(store) == expected
    with pytest.raises(BadgerError, match="tables are not read yet"):
        badger.snapshot(store)


@pytest.mark.parametrize("seed", SEEDS)
def test_badger_reads_what_is_written(peer, store, seed):
    transactions = random_transactions(seed, 500)
    write(store, transactions, log_size=400_000)
    assert len(badger.log_paths(store)) > 3
    assert read(store) == peer.dump(store) == after(transactions)


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
        assert read(torn) == peer.dump(torn)


@pytest.mark.parametrize("tail", ["nothing", "an end alone", "an entry alone", "another version"])
def test_badger_cuts_a_log_where_reading_ends(peer, store, tail):
    entry = badger.encode_entry(badger.Entry(b"x", b"1", 2), badger.TRANSACTION)
    other = badger.encode_entry(badger.Entry(b"y", b"1", 3), badger.TRANSACTION)
    plain = badger.encode_entry(badger.Entry(b"z", b"1", 2))
    end = badger.encode_entry(badger.Entry(b"!badger!txn", b"3", 3), badger.TRANSACTION_END)
    tails = {
        "nothing": b"",
        "an end alone": end,
        "an entry alone": entry + plain,
        "another version": entry + other + end,
    }
    first = badger.encode_transaction({b"a": b"1"}, 1)
    last = badger.encode_transaction({b"a": b"4"}, 4)
    log = bytes(badger.HEADER_SIZE) + first + tails[tail] + last
    (store / "00001.mem").write_bytes(log)
    expected = {b"a": (b"4", 4)} if tail == "nothing" else {b"a": (b"1", 1)}
    assert read(store) == expected
    assert peer.dump(store) == expected


def test_nothing_is_lost_of_a_log_that_was_followed_until_badger_was_killed(peer, store):
    log, end, followed = store / "00001.mem", badger.HEADER_SIZE, []
    # So few transactions that they fit into one log.
    with peer.start_writing(store, 2000) as process:
        while len(followed) < 300:
            assert process.poll() in {None, 0}
            for transaction in badger.read_log(log, end):
                followed.append(transaction)
                end = transaction.end
        process.kill()
    assert list(badger.read_log(log))[: len(followed)] == followed
    assert read(store) == peer.dump(store)


def test_the_largest_log_fits_into_the_memory_that_badger_has_for_one(peer, store):
    # The smallest entries need most memory for their size.
    keys = [n.to_bytes(3, "big") for n in range(2**16)]
    transactions = [dict.fromkeys(keys, b"")] * 12
    write(store, transactions)
    (log,) = badger.log_paths(store)
    assert log.stat().st_size > badger.LARGEST_LOG * 0.9
    assert peer.dump(store) == after(transactions)


def test_badger_and_the_writer_keep_each_other_out(peer, store):
    with (
        contextlib.closing(LogWriter(store)),
        pytest.raises(AssertionError, match="Cannot acquire directory lock"),
    ):
        peer.dump(store)
    with peer.start_writing(store, 1_000_000) as process:
        # It is written after the lock was taken.
        while not (store / "LOCK").exists():
            assert process.poll() is None
        with pytest.raises(BadgerError, match="another process has the store open"):
            LogWriter(store)
        process.kill()
