"""Volumes at their limits, on real processes: what a client is told, and that it ends."""

import os
import sqlite3
import time
from contextlib import closing

import pytest
import yaml

from stores import NEVER_EVICTS
from tests.databases import ROOT
from tests.functional.files import ClientError
from tests.functional.unit import on_a_volume_of
from units import MIB, parse_size

BLOCK = os.urandom(MIB)

pytestmark = pytest.mark.usefixtures("client_program")


@pytest.fixture
def small(tmp_path):
    """A unit on a volume that no share fits."""
    with on_a_volume_of(tmp_path / "small", 256 * MIB) as unit:
        yield unit


@pytest.fixture
def smallest(tmp_path):
    """A unit on the volume that Juju gives where nobody asks for more."""
    storage = yaml.safe_load((ROOT / "metadata.yaml").read_text(encoding="utf-8"))["storage"]
    size = parse_size(storage["content"]["minimum-size"] + "iB")
    with on_a_volume_of(tmp_path / "smallest", size) as unit:
        yield unit


def local_stores(unit) -> list[str]:
    """The configurations of the local stores, as they are in the server's file."""
    with closing(sqlite3.connect(unit.pod.volumes["metadata"].path / "controlplane.db")) as found:
        rows = found.execute("SELECT config FROM block_store_configs WHERE kind = 'local'")
        return [config for (config,) in rows]


def fill(files, until: int = 400) -> dict[str, bytes]:
    """Put files of 1 MiB until one is refused; those that were acknowledged."""
    taken: dict[str, bytes] = {}
    for number in range(until):
        # No two are equal, or a server may keep them once.
        content = number.to_bytes(8) + BLOCK[8:]
        try:
            files.put("/export", f"f{number}", content)
        except ClientError:
            return taken
        taken[f"f{number}"] = content
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


@pytest.mark.needs_namespaces("a volume that is full")
def test_a_volume_that_is_too_small_is_refused_and_served_for_a_trial(small, files):
    assert small.deploy().name == "blocked"
    text = "use a content volume of 8.00GiB or list fewer shares: 0 of 1 fit"
    assert small.status.message.startswith(text)
    assert small.reasons()[0].startswith(f"blocked: {text}; this one has 256.00MiB; ")
    with pytest.raises(ClientError):
        files.put("/export", "a", BLOCK)
    trial = "nfs: /export; for a trial: the content volume is too small"
    assert small.configure(allow_small_content_volume=True).message == trial
    files.put("/export", "a", BLOCK)
    assert files.get("/export", "a") == BLOCK


@pytest.mark.needs_namespaces("a volume that is full")
def test_who_fills_the_volume_is_told_before_it_is_full_and_loses_nothing(small, files):
    small.change(config={**small.state.config, "allow-small-content-volume": True})
    small.deploy()
    taken = fill(files)
    free = os.statvfs(small.pod.volumes["content"].path)
    assert free.f_bavail * free.f_frsize > 16 * MIB
    end = time.monotonic() + 30
    while "no file can grow" not in small.run("update_status").message:
        assert time.monotonic() < end, small.status
        time.sleep(1)
    assert small.status.name == "blocked"
    for name, content in taken.items():
        assert files.get("/export", name) == content
    # What is there is read and removed, and a restart changes nothing.
    small.pod.lose()
    small.new_pod()
    for name, content in taken.items():
        assert files.get("/export", name) == content
    files.remove("/export", next(iter(taken)))


def test_a_volume_holds_so_many_shares(smallest):
    smallest.deploy()
    status = smallest.configure(shares="- name: /export\n- name: /a\n- name: /b")
    assert status.name == "blocked"
    assert status.message.startswith(
        "use a content volume of 18.00GiB or list fewer shares: 2 of 3 fit"
    )
    assert smallest.configure(shares="- name: /export\n- name: /a").name == "active"


@pytest.mark.needs_namespaces("a volume that is full")
def test_a_volume_that_others_filled_goes_on_when_there_is_space(small, files):
    small.change(config={**small.state.config, "allow-small-content-volume": True})
    status = small.deploy()
    files.put("/export", "a", BLOCK)
    filler = small.pod.volumes["content"].fill()
    with pytest.raises(ClientError):
        files.put("/export", "b", BLOCK * 2)
    assert files.get("/export", "a") == BLOCK
    filler.unlink()
    end = time.monotonic() + 60
    while small.run("update_status") != status:
        assert time.monotonic() < end, small.status
        time.sleep(1)
    files.put("/export", "c", BLOCK)
    small.pod.lose()
    assert small.new_pod() == status
    for name in ("a", "c"):
        assert files.get("/export", name) == BLOCK
