"""A backup and a content volume that has no space for it, by what the guard says."""

import errno
import json
import os
import shutil
import threading
import time

import pytest

from agent.archive import space
from agent.archive.errors import ArchiveError
from agent.archive.progress import Progress
from agent.archive.staging import volume_errors
from agent.guard.settings import STATUS
from tests import namespaces
from tests.archive.rig import wait_until
from tests.archive.volumes import settings_for

MIB = 2**20
BACKUP, AGAIN = "2026-11-26T21:00:00Z", "2026-11-26T21:10:00Z"
TIGHT = {"tight": ["content"]}
SHORT = TIGHT | {"short": ["content"]}
HALTED = SHORT | {"halted": ["/export"]}


def say(run, **fields):
    """What the guard says; see test_guard.py for the guard itself."""
    status = {"updated": time.time(), "tight": [], "short": [], "halted": []}
    temporary = run / "guard-status.new"
    temporary.write_text(json.dumps(status | fields))
    temporary.replace(run / STATUS)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Of an agent that waits for a second where it waits for a cleaning."""
    monkeypatch.setattr(space, "_CLEANED_SECONDS", 1.0)
    monkeypatch.setattr(space, "_LOOK_SECONDS", 0.05)
    (tmp_path / "run").mkdir()
    return settings_for(tmp_path, run=tmp_path / "run")


def worsens(settings, **fields):
    """Whether a backup that has begun ends when the guard says this."""
    progress = space.wait_for_space(settings, Progress())
    progress.check()
    say(settings.run, **fields)
    time.sleep(0.1)
    try:
        progress.check()
    except ArchiveError as error:
        return error.kind == "busy"
    return False


def test_a_backup_waits_until_the_volume_is_cleaned(settings):
    say(settings.run, **HALTED)
    threading.Timer(0.3, say, (settings.run,)).start()
    began = time.monotonic()
    space.wait_for_space(settings, Progress())
    assert 0.2 < time.monotonic() - began < 0.9


def test_there_is_none_while_clients_cannot_write(settings):
    say(settings.run, **HALTED)
    with pytest.raises(ArchiveError, match="nothing can be written") as raised:
        space.wait_for_space(settings, Progress())
    assert raised.value.kind == "busy"


def test_a_volume_that_is_full_of_files_is_backed_up_as_long_as_they_can_be_written(settings):
    say(settings.run, **SHORT)
    assert not worsens(settings, **SHORT)
    assert worsens(settings, **HALTED)


def test_it_ends_when_clients_need_the_space(settings):
    say(settings.run)
    assert not worsens(settings, tight=["metadata"], short=["metadata"], halted=["/export"])
    assert worsens(settings, **TIGHT)
    say(settings.run, **TIGHT)
    assert not worsens(settings, **TIGHT)
    assert worsens(settings, **SHORT)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"updated": "yesterday"}'])
def test_without_a_guard_nobody_is_spared(settings, text):
    (settings.run / STATUS).write_text(text)
    assert not worsens(settings)
    say(settings.run, updated=time.time() - 100, **HALTED)
    assert not worsens(settings, updated=time.time() - 100, **HALTED)


@pytest.mark.needs_namespaces("a disk that is full")
@pytest.mark.parametrize(
    ("full", "named"),
    [
        ("data/metadata", "the metadata volume"),
        ("data/content", "the content volume"),
        ("run", "the node's disk"),
    ],
)
def test_the_disk_that_is_full_is_named(settings, full, named):
    for volume in (settings.metadata, settings.content):
        volume.mkdir(parents=True)
    place = settings.root / full
    namespaces.mount_tmpfs(place, MIB)
    try:
        told = pytest.raises(ArchiveError, match=f"^make room on {named}: No space left")
        with told, volume_errors(settings), (place / "file").open("wb") as file:
            file.write(bytes(2 * MIB))
    finally:
        namespaces.unmount(place)


def test_a_volume_that_is_full_and_gone_is_told_all_the_same(settings):
    shutil.rmtree(settings.run)
    told = pytest.raises(ArchiveError, match=r"^make room on both volumes: No space left")
    with told, volume_errors(settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_backup_that_is_given_up_leaves_no_snapshot_and_the_next_one_is_made(unit, proxy):
    server = unit.server
    server.start()
    server.make_share("/export")
    server.files.put("/export", {str(number): bytes([number]) * 100_000 for number in range(20)})
    unit.configure(s3=unit.options["s3"] | {"endpoint": proxy.url})
    say(unit.run)
    # After the checks of the bucket, and never the end of what is sent.
    proxy.on_request = lambda number, *_: (
        say(unit.run, **TIGHT) if number == 8 else time.sleep(0.3)
    )
    unit.start()
    said = unit.perform("create", BACKUP)
    assert (said["state"], said["error-kind"]) == ("failed", "busy"), said
    assert "enlarge the content volume: clients overwrite more" in said["message"]
    wait_until(lambda: not server.api("GET", "/shares/export/snapshots").json(), 60)
    proxy.on_request = lambda *_: None
    say(unit.run)
    unit.forget()
    unit.back_up(AGAIN)
