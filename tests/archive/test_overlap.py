"""A charm that was killed runs a command again while the one that it ran before still works."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest

from agent.archive import swapping
from agent.archive.request import Request
from agent.archive.settings import ArchiveSettings
from tests.archive.volumes import Volumes, request_for

_AT_ONCE = multiprocessing.get_context("forkserver")
_TIMES = 10
Command = Callable[[ArchiveSettings, Request], None]


def run(command: Command, settings: ArchiveSettings, begin: Any) -> None:
    begin.wait()
    command(settings, request_for())


def twice(command: Command, volumes: Volumes) -> list[int | None]:
    """Run it in two processes at the same time; their exit codes."""
    begin = _AT_ONCE.Barrier(2)
    given = (command, volumes.settings, begin)
    both = [_AT_ONCE.Process(target=run, args=given) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(30)
    return [each.exitcode for each in both]


@pytest.mark.parametrize("full", [True, False])
def test_commands_that_overlap_do_what_one_does(tmp_path, full):
    template = Volumes.make(tmp_path / "template", full=full)
    before = template.tree()
    alone = template.copy(tmp_path / "alone")
    swapping.swap(alone.settings, request_for())
    for _ in range(_TIMES):
        volumes = template.copy(tmp_path / "volumes")
        assert twice(swapping.swap, volumes) == [0, 0]
        assert volumes.tree() == alone.tree()
        assert twice(swapping.rollback, volumes) == [0, 0]
        assert volumes.tree() == before
        assert twice(swapping.discard, volumes) == [0, 0]
        assert (volumes.tree(), volumes.leftovers()) == (before, [])
