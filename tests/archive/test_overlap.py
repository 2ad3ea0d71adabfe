"""A charm that was killed runs a command again while the one that it ran before still works."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from agent.archive import swapping
from agent.archive.request import Request
from agent.archive.settings import ArchiveSettings
from tests.archive.volumes import Volumes, request_for

_TIMES = 20
Command = Callable[[ArchiveSettings, Request], None]


def twice(command: Command, volumes: Volumes) -> None:
    """Run it twice at the same time; both have to work."""
    begin = Barrier(2)

    def run() -> None:
        begin.wait()
        command(volumes.settings, request_for())

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(run) for _ in range(2)]:
            each.result()


@pytest.mark.parametrize("full", [True, False])
def test_commands_that_overlap_do_what_one_does(tmp_path, monkeypatch, full):
    # Nobody cuts the power here, and disks are slow.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    template = Volumes.make(tmp_path / "template", full=full)
    before = template.tree()
    alone = template.copy(tmp_path / "alone")
    swapping.swap(alone.settings, request_for())
    for _ in range(_TIMES):
        volumes = template.copy(tmp_path / "volumes")
        twice(swapping.swap, volumes)
        assert volumes.tree() == alone.tree()
        twice(swapping.rollback, volumes)
        assert volumes.tree() == before
        twice(swapping.discard, volumes)
        assert (volumes.tree(), volumes.leftovers()) == (before, [])
