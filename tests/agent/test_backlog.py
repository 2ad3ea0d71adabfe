"""What waits for the database: in order, whole, and bounded."""

import pytest

from agent.backlog import Backlog, FullError
from agent.journal import Batch, Position


def batch(number, size=100, value=b"v"):
    changes = {b"key": (number, value), b"k%d" % number: (number, None)}
    return Batch(changes, 1, size, Position(1, 20 + number, 7, number))


def put_many(backlog, count):
    for number in range(count):
        backlog.put(batch(number), 1000.0)


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


def test_what_does_not_fit_into_memory_is_in_a_file_of_its_own_user(backlog, tmp_path):
    for number in range(1, 11):
        backlog.put(batch(number, value=bytes([number]) * 20), 1000.0)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert backlog.transactions == 10
    assert backlog.oldest() == 1000.0
    seen = []
    while taken := backlog.take(limit=100):
        seen.append((taken.position.version, taken.changes[b"key"]))
        backlog.drop()
    assert seen == [(n, (n, bytes([n]) * 20)) for n in range(1, 11)]
    assert (tmp_path / "file").stat().st_size == 0
    backlog.put(batch(11), 1000.0)
    assert backlog.take().position.version == 11


def test_more_than_the_bound_is_refused(backlog):
    with pytest.raises(FullError):
        put_many(backlog, 100)
    # What was taken in is still there, in order.
    assert backlog.take(limit=100).position.version == 0


def test_a_disk_that_cannot_be_written_is_as_good_as_full(tmp_path):
    backlog = Backlog(tmp_path / "missing" / "file", memory=0)
    with pytest.raises(FullError, match="file: No such file"):
        backlog.put(batch(1), 1000.0)
