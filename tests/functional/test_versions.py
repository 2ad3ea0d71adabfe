"""The server's version decides before it may touch the volumes."""

import time

import pytest
from ops import testing

from tests import servers
from tests.functional.files import Files
from tests.functional.pod import Pod
from tests.functional.test_life import CONTENT, wait_for_file
from tests.functional.unit import Unit


def program(tmp_path, name: str, script: str) -> servers.Program:
    """A server that writes to the volume when it is started."""
    path = tmp_path / name
    path.write_text(f'#!/bin/sh\n[ "$1" = version ] || touch /data/metadata/touched\n{script}\n')
    path.chmod(0o755)
    return servers.Program(path, name, real=False)


def image(unit: Unit, server: servers.Program):
    """The unit gets another image; its status then."""
    unit.pod.lose()
    unit.pod.server = server
    return unit.new_pod()


def idle(unit: Unit) -> list[tuple[str, str]]:
    """What two events ask of Pebble beside reading."""
    with unit.pebble_calls() as calls:
        for event in ("update_status", "config_changed"):
            unit.run(event)
    return calls


SAYS = {
    "v0.28.9": "attach dittofs-image v0.29.0 or newer: it has served, and v0.28.9 may destroy",
    "v0.29.0-rc3": "attach dittofs-image v0.29.0 or newer: it has served, and v0.29.0-rc3 may",
    "v0.32.0": "attach a dittofs-image of v0.29.x to v0.31.x, or refresh the charm: v0.32.0",
    "dev": "attach a released dittofs-image, or set allow-unknown-server=true: 'dev' is",
}


def test_what_may_not_serve_never_touches_the_volumes(deployed, files, tmp_path):
    if files.missing:
        pytest.skip(f"{files.missing} is not installed")
    right = deployed.pod.server
    files.put("/export", "a", CONTENT)
    for name, text in SAYS.items():
        made = program(tmp_path, name, f"echo 'dfs {name}' >&2\necho '  Commit: x' >&2")
        status = image(deployed, made)
        assert status.name == "blocked"
        assert status.message.startswith(text)
        assert deployed.pod.containers["dittofs"].client.get_services() == []
        # It is asked once for each container.
        assert idle(deployed) == []
        assert deployed.status == status
    assert not (deployed.pod.volumes["metadata"].path / "touched").exists()
    assert image(deployed, right).message == "nfs: /export"
    assert idle(deployed) == []
    assert wait_for_file(files, "/export", "a") == CONTENT
    assert deployed.act("pre-refresh-check") == {"refresh": "ready"}
    with pytest.raises(testing.ActionFailed, match=r"v0\.32\.0 is not tested"):
        deployed.act("pre-refresh-check", server="v0.32.0")


def test_a_program_that_hangs_is_blocked_in_time(deployed, tmp_path):
    right = deployed.pod.server
    deployed.pod.lose()
    deployed.pod.server = program(tmp_path, "hangs", "exec sleep 60")
    deployed.pod.start()
    deployed.change(containers=deployed.containers(can_connect=True))
    began = time.monotonic()
    status = deployed.run("update_status")
    assert time.monotonic() - began < 15
    assert status.name == "blocked"
    assert status.message.startswith("attach another dittofs-image: its /app/dfs does not say")
    assert "imed out" in status.message or "longer than 5 s" in status.message
    assert deployed.pod.containers["dittofs"].client.get_services() == []
    assert image(deployed, right).message == "nfs: /export"


@pytest.fixture
def newest(tmp_path):
    """A unit that v0.31.1 serves."""
    if servers.server().real:
        pytest.skip("only of the stand-in there is another version")
    made = Pod(tmp_path / "newest", servers.standin(STANDIN_VERSION="v0.31.1"))
    try:
        made.start()
        unit = Unit(made)
        unit.change(config={"protocols": "nfs"})
        unit.deploy()
        yield unit
    finally:
        made.close()


def test_a_downgrade_is_refused_and_the_newer_image_is_the_way_out(newest):
    files = Files(real=newest.pod.server.real)
    files.put("/export", "a", CONTENT)
    status = image(newest, servers.standin())
    assert status.name == "blocked"
    assert status.message.startswith("attach dittofs-image v0.31.1 or newer: it has served")
    server = servers.standin(STANDIN_VERSION="v0.31.1")
    assert image(newest, server).message == "nfs: /export"
    assert wait_for_file(files, "/export", "a") == CONTENT


def test_a_build_of_ones_own_serves_when_a_person_says_so(newest):
    assert image(newest, servers.standin(STANDIN_VERSION="dev")).name == "blocked"
    status = newest.configure(allow_unknown_server=True)
    assert status.message == "nfs: /export; server 'dev' is no release"
    assert idle(newest) == []
