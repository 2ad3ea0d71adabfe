"""Which hook commands the charm runs under Juju, counted at ops.testing's border.

Each costs Juju some tens of milliseconds. What ops asks once and keeps is counted once.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from scenario import mocking

# The methods of ops' backend that run one each. A line of the log is one, too.
_METHODS = {
    "application_version_set": "application-version-set",
    "relation_remote_app_name": "relation-list",
    "planned_units": "goal-state",
    **{
        name.replace("-", "_"): name
        for name in (
            *("action-fail", "action-get", "action-log", "action-set", "close-port", "config-get"),
            *("is-leader", "juju-log", "network-get", "open-port", "opened-ports"),
            *("relation-get", "relation-ids", "relation-list", "relation-model-get"),
            *("relation-set", "resource-get", "secret-add", "secret-get", "secret-grant"),
            *("secret-info-get", "secret-remove", "secret-revoke", "secret-set"),
            *("status-get", "status-set", "storage-add", "storage-get", "storage-list"),
        )
    },
}


@contextlib.contextmanager
def counted(ran: list[str]) -> Iterator[None]:
    """Put each hook command that is run in here into the list, with what it is asked for."""
    backend = mocking._MockModelBackend  # noqa: SLF001  # where ops.testing has hook commands
    inside: list[str] = []

    def count(method: Any, command: str) -> Any:
        @functools.wraps(method)
        def counting(*args: Any, **kwargs: Any) -> Any:
            kept = command == "is-leader" and command in ran
            # ops.testing's methods use each other.
            if not inside and not kept:
                ran.append(" ".join([command, *map(str, args[1:]), *map(str, kwargs.values())]))
            inside.append(command)
            try:
                return method(*args, **kwargs)
            finally:
                inside.pop()

        return counting

    with pytest.MonkeyPatch.context() as patch:
        for name, command in _METHODS.items():
            patch.setattr(backend, name, count(getattr(backend, name), command))
        yield
