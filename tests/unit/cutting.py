"""A charm that is cut from Pebble in the middle of an event, as one that is killed is."""

from collections.abc import Callable

import pytest
from ops import pebble
from ops._private import harness
from scenario import mocking

_CALLS = (
    *("push", "stop_services", "restart_services", "add_layer", "exec", "remove_path"),
    *("start_checks", "stop_checks"),
)


def cut(patch: pytest.MonkeyPatch, number: int, counts: Callable[[], bool]) -> list[str]:
    """Fail each changing call to Pebble after so many of them.

    Args:
        patch: takes it back.
        number: how many work.
        counts: whether a call counts.

    Returns:
        the calls that counted so far.
    """
    made: list[str] = []

    def cutting(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if counts():
                made.append(name)
            if len(made) > number:
                raise pebble.ConnectionError("cut")
            return original(*args, **kwargs)

        return call

    clients = (mocking._MockPebbleClient, harness._TestingPebbleClient)  # noqa: SLF001  # ops.testing's own Pebble
    for name in _CALLS:
        owner = next(client for client in clients if name in vars(client))
        patch.setattr(owner, name, cutting(name, getattr(owner, name)))
    return made
