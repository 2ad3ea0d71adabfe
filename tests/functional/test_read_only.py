"""Shares that are read-only while the server starts, and are to be written again afterwards.

The server (seen on v0.29.0) notes in the share's own metadata store at its start that a share is
read-only, and never takes that back.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.functional.files import ClientError
from tests.functional.unit import on_a_volume_of
from units import MIB

CONTENT = bytes(range(256)) * 500

pytestmark = pytest.mark.usefixtures("client_program")


def kill_server(unit) -> None:
    """Kill the server with -9; Pebble starts it again."""
    pids = unit.pod.containers["dittofs"].server_ids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while not set(unit.pod.containers["dittofs"].server_ids()) - set(pids):
        assert time.monotonic() < end, "Pebble does not start the server again"
        time.sleep(0.1)


def put_soon(unit, files, name: str, seconds: float = 60) -> None:
    """Write a file as soon as that works; Juju's regular event comes meanwhile."""
    end = time.monotonic() + seconds
    while True:
        try:
            files.put("/export", name, CONTENT)
        except ClientError:
            if time.monotonic() > end:
                raise
            unit.run("update_status")
            time.sleep(0.5)
        else:
            return


def test_a_share_whose_option_was_read_only_at_a_start_is_writable_again(deployed, files):
    files.put("/export", "a", CONTENT)
    deployed.configure(shares="- {name: /export, read-only: true}")
    kill_server(deployed)
    deployed.wait()
    with pytest.raises(ClientError):
        files.put("/export", "b", CONTENT)
    deployed.configure(shares="- name: /export")
    put_soon(deployed, files, "b")
    assert deployed.wait().message == "nfs: /export"
    kill_server(deployed)
    put_soon(deployed, files, "c")
    for name in "abc":
        assert files.get("/export", name) == CONTENT


@pytest.fixture
def small(tmp_path):
    """A unit that serves from a volume that is soon full."""
    with on_a_volume_of(tmp_path / "small", 256 * MIB) as unit:
        unit.change(config={**unit.state.config, "allow-small-content-volume": True})
        unit.deploy()
        yield unit


@pytest.mark.needs_namespaces("a volume that is full")
@pytest.mark.parametrize("started_by", ["Pebble", "a new pod"])
def test_a_share_that_was_halted_at_a_start_is_writable_again(small, files, started_by):
    files.put("/export", "a", CONTENT)
    filler: Path = small.pod.volumes["content"].fill()
    end = time.monotonic() + 30
    while "nothing can be written" not in small.run("update_status").message:
        assert time.monotonic() < end, small.status
        time.sleep(0.5)
    if started_by == "Pebble":
        kill_server(small)
    else:
        small.pod.lose()
        small.new_pod()
    small.run("update_status")
    filler.unlink()
    put_soon(small, files, "b")
    assert small.wait().message.startswith("nfs: /export")
    for name in "ab":
        assert files.get("/export", name) == CONTENT
