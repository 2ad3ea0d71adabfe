"""A store whose server starts and stops between two looks at it: nothing goes unnoticed."""

import pytest

from agent.journal import Journal, Position
from tests.stores import (
    content,
    flush,
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
