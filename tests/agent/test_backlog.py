"""What waits for the database: in order, whole, and bounded."""

import errno
import os

import pytest

from agent.backlog import Backlog, FullError
from agent.journal import Batch, Position


def batch(number, size=100, value=b"v"):
    changes = {b"key": (number, value), b"k%d" % number: (number, None)}
    return Batch(changes, 1, size, Position(1, 20 + number, 7, number))


def put_many(backlog, count):
    for number in range(count):
        backlog.put(batch(number), 1000.0)


def spooled(folder):
    """Bytes of the files."""
    return sum(each.stat().st_size for each in folder.iterdir())


def drained(backlog):
    """The batches that wait, one by one."""
    while taken := backlog.take(limit=1):
        yield taken
        backlog.drop()


@pytest.fixture
def backlog(tmp_path):
    made = Backlog(tmp_path / "file", memory=250, disk=2000)
    yield made
    made.clear()


def test_batches_come_out_in_order_merged_and_stay_until_they_are_dropped(backlog):
    for number in range(1, 4):
        backlog.put(batch(number), 1000.0)
    for _ in range(2):
        taken = backlog.take(limit=250)
        assert taken.position.version == 2
        assert taken.changes == {b"key": (2, b"v"), b"k1": (1, None), b"k2": (2, None)}
    assert backlog.transactions == 3
    backlog.drop()
    assert (backlog.transactions, backlog.size) == (1, 100)
    assert backlog.take().position.version == 3
    backlog.drop()
    assert backlog.take() is None
    assert backlog.oldest() is None


def test_what_does_not_fit_into_memory_is_in_files_of_its_own_user(backlog, tmp_path):
    for number in range(1, 11):
        backlog.put(batch(number, value=bytes([number]) * 20), 1000.0)
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}
    assert backlog.transactions == 10
    assert backlog.oldest() == 1000.0
    seen = []
    while taken := backlog.take(limit=100):
        seen.append((taken.position.version, taken.changes[b"key"]))
        backlog.drop()
    assert seen == [(n, (n, bytes([n]) * 20)) for n in range(1, 11)]
    assert not list(tmp_path.iterdir())
    backlog.put(batch(11), 1000.0)
    assert backlog.take().position.version == 11


def test_more_than_the_bound_is_refused(backlog):
    with pytest.raises(FullError):
        put_many(backlog, 100)
    # What was taken in is still there, in order.
    assert backlog.take(limit=100).position.version == 0


def test_room_is_made_where_the_database_is_always_a_little_behind(tmp_path):
    """It never comes to the end of what waits, and what waits is little."""
    backlog = Backlog(tmp_path / "file", memory=0, disk=64_000)
    put_many(backlog, 30)
    least, most = spooled(tmp_path), 0
    for number in range(30, 5000):
        backlog.put(batch(number), 1000.0)
        taken = backlog.take(limit=1)
        assert taken
        assert taken.position.version == number - 30
        backlog.drop()
        most = max(most, spooled(tmp_path))
    assert backlog.transactions == 30
    # The first and the last segment are there in part.
    assert most < least + 2 * 1000 + 2 * 200
    assert [each.position.version for each in drained(backlog)] == list(range(4970, 5000))
    assert not list(tmp_path.iterdir())


def test_there_is_room_again_when_half_of_what_waits_is_written(tmp_path):
    backlog = Backlog(tmp_path / "file", memory=0, disk=64_000)
    with pytest.raises(FullError):
        put_many(backlog, 10_000)
    full = backlog.transactions
    for _ in range(full // 2):
        backlog.take(limit=1)
        backlog.drop()
    for number in range(full, full + full // 3):
        backlog.put(batch(number), 1000.0)
    kept = [each.position.version for each in drained(backlog)]
    assert kept == list(range(full // 2, full + full // 3))


def test_a_batch_that_is_larger_than_a_segment_is_whole(tmp_path):
    backlog = Backlog(tmp_path / "file", memory=0, disk=64_000)
    values = [bytes([number]) * 5000 for number in range(10)]
    for number, value in enumerate(values):
        backlog.put(batch(number, value=value), 1000.0)
    assert [each.changes[b"key"][1] for each in drained(backlog)] == values


def test_what_is_forgotten_takes_no_room(backlog, tmp_path):
    put_many(backlog, 10)
    backlog.clear()
    assert not list(tmp_path.iterdir())
    assert (backlog.oldest(), backlog.transactions, backlog.size) == (None, 0, 0)
    put_many(backlog, 10)
    assert [each.position.version for each in drained(backlog)] == list(range(10))


@pytest.mark.parametrize("before", [0, 3, 40])
def test_a_disk_that_is_full_keeps_what_was_written(tmp_path, monkeypatch, before):
    backlog = Backlog(tmp_path / "file", memory=0, disk=64_000)
    put_many(backlog, before)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write(file, data[:10], at))
    with pytest.raises(FullError, match="disk of the pod is full"):
        backlog.put(batch(99), 1000.0)
    monkeypatch.setattr(os, "pwrite", write)
    backlog.put(batch(100), 1000.0)
    kept = [each.position.version for each in drained(backlog)]
    assert kept == [*range(before), 100]
    assert not list(tmp_path.iterdir())


def test_a_file_that_somebody_cut_is_no_batch(tmp_path):
    backlog = Backlog(tmp_path / "file", memory=0)
    put_many(backlog, 3)
    for each in tmp_path.iterdir():
        os.truncate(each, 50)
    with pytest.raises(OSError, match="was cut") as caught:
        backlog.take()
    assert caught.value.errno == errno.EIO


def test_a_disk_that_cannot_be_written_is_as_good_as_full(tmp_path):
    backlog = Backlog(tmp_path / "missing" / "file", memory=0)
    with pytest.raises(FullError, match="file: No such file"):
        backlog.put(batch(1), 1000.0)
