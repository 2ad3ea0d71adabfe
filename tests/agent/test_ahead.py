"""Reading ahead changes nothing but the time."""

import threading

import pytest

from agent.ahead import ahead


def test_the_items_are_the_same_in_the_same_order():
    assert list(ahead(iter(range(50_001)))) == list(range(50_001))
    assert list(ahead(iter(()))) == []


def test_an_error_comes_in_its_place():
    def source():
        yield from range(3000)
        raise ValueError("the end")

    found = []
    with pytest.raises(ValueError, match="the end"):
        found.extend(ahead(source()))
    assert found == list(range(len(found)))
    assert "ahead" not in {thread.name for thread in threading.enumerate()}


def test_nothing_is_left_when_the_rest_is_not_wanted():
    closed = []

    def source():
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    reader = ahead(source())
    assert next(reader) == 0
    reader.close()
    assert "ahead" not in {thread.name for thread in threading.enumerate()}
