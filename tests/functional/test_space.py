"""Volumes at their limits, on real processes: what a client is told, and that it ends."""

import os
import sqlite3
import time
from contextlib import closing

import pytest

from stores import NEVER_EVICTS
from tests.functional.files import ClientError
from tests.functional.pod import Pod
from tests.functional.unit import Unit
from units import GIB, MIB

BLOCK = os.urandom(MIB)


@pytest.fixture(autouse=True)
def _client(files):
    if files.missing:
        pytest.skip(f"{files.missing} is not installed")


@pytest.fixture
def small(tmp_path):
    """A unit on a content volume of 256 MiB that is not deployed yet."""
    pod = Pod(tmp_path / "small", sizes={"content": 256 * MIB})
    try:
        pod.start()
        unit = Unit(pod)
        unit.change(config={"protocols": "nfs"})
        yield unit
    finally:
        pod.close()


def local_stores(unit) -> list[str]:
    """The configurations of the local stores, as they are in the server's file."""
    with closing(sqlite3.connect(unit.pod.volumes["metadata"].path / "controlplane.db")) as found:
        rows = found.execute("SELECT config FROM block_store_configs WHERE kind = 'local'")
        return [config for (config,) in rows]


def fill(files, until: int = 400) -> list[str]:
    """Put files of 1 MiB until one is refused; the names of those that were acknowledged."""
    names: list[str] = []
    for number in range(until):
        try:
            files.put("/export", f"f{number}", BLOCK)
        except ClientError:
            return names
        names.append(f"f{number}")
    raise AssertionError(f"{until} files of 1 MiB were taken")


def test_a_server_never_runs_with_a_limit_at_which_it_deletes_files(deployed, files):
    files.put("/export", "a", BLOCK)
    deployed.pod.lose()
    path = deployed.pod.volumes["metadata"].path / "controlplane.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "UPDATE block_store_configs SET config = replace(config, ?, '900000000')",
            (str(NEVER_EVICTS),),
        )
    assert "900000000" in local_stores(deployed)[0]
    assert deployed.new_pod().name == "active"
    assert str(NEVER_EVICTS) in local_stores(deployed)[0]
    assert files.get("/export", "a") == BLOCK


def test_a_volume_that_is_too_small_is_refused_and_served_for_a_trial(small, files):
    assert small.deploy().name == "blocked"
    assert small.status.message.startswith("the content volume of 256.00MiB holds 0 of the 1")
    with pytest.raises(ClientError):
        files.put("/export", "a", BLOCK)
    trial = "nfs: /export; for a trial: the content volume is too small"
    assert small.configure(allow_small_content_volume=True).message == trial
    files.put("/export", "a", BLOCK)
    assert files.get("/export", "a") == BLOCK


def test_who_fills_the_volume_is_told_before_it_is_full_and_loses_nothing(small, files):
    small.change(config={**small.state.config, "allow-small-content-volume": True})
    small.deploy()
    names = fill(files)
    free = os.statvfs(small.pod.volumes["content"].path)
    assert free.f_bavail * free.f_frsize > 16 * MIB
    end = time.monotonic() + 30
    while "no file can grow" not in small.run("update_status").message:
        assert time.monotonic() < end, small.status
        time.sleep(1)
    assert small.status.name == "blocked"
    for name in names[::10]:
        assert files.get("/export", name) == BLOCK
    # What is there can be written in place, removed and read; and a restart changes nothing.
    small.pod.lose()
    small.new_pod()
    for name in names[::25]:
        assert files.get("/export", name) == BLOCK
    files.remove("/export", names[0])


def test_a_volume_that_is_too_small_for_two_shares_holds_one(deployed):
    status = deployed.configure(shares="- name: /export\n- name: /a\n- name: /b")
    assert status.name == "blocked"
    assert "holds 2 of the 3 shares: use one of 18.00GiB" in status.message
    assert deployed.configure(shares="- name: /export\n- name: /a").name == "active"
    used = os.statvfs(deployed.pod.volumes["content"].path)
    assert used.f_blocks * used.f_frsize == 16 * GIB
