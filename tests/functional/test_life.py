"""The life of the charm on real processes: what a user would notice."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ops import pebble

from tests import bed
from tests.functional.files import ClientError

CONTENT = bytes(range(256)) * 500

pytestmark = pytest.mark.usefixtures("client_program")


def server_pid(unit) -> int:
    return unit.pod.containers["dittofs"].server_ids()[-1]


# What the scripts that stand for programs in the bed set, and the shells that run them.
WRAPPERS = {"TMPDIR", "DITTOFS_TEST_CONTAINER", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
WRAPPERS |= {"PWD", "OLDPWD", "SHLVL", "_"}


def names_of_variables(pid: int) -> set[str]:
    """What a process has got in its environment."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {each.partition(b"=")[0].decode() for each in variables if each}


def wait_for_file(files, share: str, name: str) -> bytes:
    """Read a file as soon as the server serves again."""
    end = time.monotonic() + 60
    while True:
        try:
            return files.get(share, name)
        except ClientError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_a_file_survives_kill_pod_loss_and_configuration(deployed, files):
    files.put("/export", "a", CONTENT)
    assert files.get("/export", "a") == CONTENT
    os.kill(server_pid(deployed), signal.SIGKILL)
    assert wait_for_file(files, "/export", "a") == CONTENT
    assert deployed.wait().message == "nfs: /export"
    deployed.configure(log_level="debug", shares="- {name: /export, quota: 1GiB}\n- name: /b")
    assert wait_for_file(files, "/export", "a") == CONTENT
    deployed.pod.lose()
    assert deployed.new_pod().message == "nfs: /export, /b"
    assert wait_for_file(files, "/export", "a") == CONTENT


def test_acknowledged_files_are_there_after_a_kill_under_load(deployed, files):
    acknowledged = []
    for number in range(40):
        content = f"{number}".encode() * 5000
        try:
            files.put("/export", f"f{number}", content)
            acknowledged.append((f"f{number}", content))
        except ClientError:
            time.sleep(0.3)
        if number == 15:
            os.kill(server_pid(deployed), signal.SIGKILL)
    assert len(acknowledged) >= 16
    deployed.wait()
    for name, content in acknowledged:
        assert wait_for_file(files, "/export", name) == content


def test_an_update_status_changes_nothing_and_restarts_nothing(deployed):
    before = server_pid(deployed)
    written = {
        path: path.stat().st_mtime_ns
        for path in (deployed.pod.containers["dittofs"].root / "config").iterdir()
    }
    logged = len(deployed.log()), len(deployed.agent_log())
    for event in ("update_status", "config_changed", "start", "upgrade_charm"):
        deployed.run(event)
    assert server_pid(deployed) == before
    # Nor is Pebble told anything: what its plan has is what the charm wants.
    said = deployed.log()[logged[0] :] + deployed.agent_log()[logged[1] :]
    assert "POST /v1/layers" not in said
    assert "POST /v1/services" not in said
    for path, at in written.items():
        assert path.name == "answered" or path.stat().st_mtime_ns == at


def test_an_idle_event_asks_pebble_for_nothing_but_to_read(deployed):
    with deployed.pebble_calls() as calls:
        for event in ("update_status", "config_changed"):
            deployed.run(event)
    assert calls == []


@pytest.mark.parametrize("lost", ["content", "metadata"])
def test_a_lost_volume_is_not_served_and_start_without_is_the_way_out(deployed, files, lost):
    files.put("/export", "a", CONTENT)
    deployed.pod.lose()
    deployed.pod.volumes[lost].lose()
    status = deployed.new_pod()
    assert status.name == "blocked"
    assert status.message.startswith(
        f"bring the {lost} volume back or run start-without volume={lost}: it is empty"
    )
    with deployed.pebble_calls() as calls:
        assert deployed.run("update_status") == status
    assert calls == []
    with pytest.raises(ClientError):
        files.get("/export", "a")
    deployed.act("start-without", volume=lost, confirm=lost)
    assert deployed.status.message == "nfs: /export"
    # Never zeros: the file is gone with what was lost, and can be written anew.
    with pytest.raises(ClientError):
        files.get("/export", "a")
    files.put("/export", "b", CONTENT)
    deployed.pod.lose()
    assert deployed.new_pod().name == "active"
    assert wait_for_file(files, "/export", "b") == CONTENT
    left = deployed.pod.volumes["metadata" if lost == "content" else "content"]
    assert list(left.path.glob("aside-*"))


def test_a_lost_volume_that_is_found_again_is_served(deployed, files, tmp_path):
    files.put("/export", "a", CONTENT)
    deployed.pod.lose()
    content = deployed.pod.volumes["content"]
    shutil.copytree(content.path, tmp_path / "kept")
    content.lose()
    assert deployed.new_pod().name == "blocked"
    deployed.pod.lose()
    shutil.copytree(tmp_path / "kept", content.path, dirs_exist_ok=True)
    assert deployed.new_pod().name == "active"
    assert wait_for_file(files, "/export", "a") == CONTENT


def test_an_application_that_was_scaled_to_0_serves_its_own_volumes_or_none(
    deployed, files, tmp_path
):
    """Kubernetes keeps the volumes, and Juju makes new claims for the next unit."""
    files.put("/export", "a", CONTENT)
    assert deployed.pod.end() == []
    for name, volume in deployed.pod.volumes.items():
        shutil.copytree(volume.path, tmp_path / name)
        volume.lose()
    scaled = type(deployed)(deployed.pod)
    (peers,) = deployed.state.get_relations("peers")
    scaled.change(
        config=deployed.state.config,
        secrets=deployed.state.secrets,
        relations=[dataclasses.replace(peers, local_unit_data={})],
    )
    deployed.pod.start()
    assert scaled.deploy().message == (
        "bring the old volumes back, or run start-without volume=both: both volumes are empty"
    )
    with pytest.raises(ClientError):
        files.get("/export", "a")
    scaled.pod.lose()
    for name, volume in scaled.pod.volumes.items():
        shutil.copytree(tmp_path / name, volume.path, dirs_exist_ok=True)
    assert scaled.new_pod().message == "nfs: /export"
    assert wait_for_file(files, "/export", "a") == CONTENT


def test_volumes_of_an_earlier_life_are_served_with_their_files_and_users(deployed, files):
    """The application was removed with its secrets, and deployed again on its volumes."""
    files.put("/export", "a", CONTENT)
    old = deployed.password()
    deployed.pod.lose()
    fresh = type(deployed)(deployed.pod)
    fresh.change(config=deployed.state.config)
    deployed.pod.start()
    assert fresh.deploy().message == "nfs: /export"
    assert fresh.password() != old
    assert wait_for_file(files, "/export", "a") == CONTENT


@pytest.mark.needs_namespaces("a volume that is read-only")
@pytest.mark.parametrize("name", ["content", "metadata"])
def test_a_read_only_volume_is_named_and_served_when_it_is_writable_again(deployed, files, name):
    files.put("/export", "a", CONTENT)
    deployed.pod.lose()
    deployed.pod.volumes[name].protect()
    status = deployed.new_pod()
    assert status.name == "blocked"
    assert status.message.startswith(
        f"check the {name} volume: the server's user 65532 cannot write to it ("
    )
    deployed.pod.lose()
    deployed.pod.volumes[name].protect(protected=False)
    assert deployed.new_pod().name == "active"
    assert wait_for_file(files, "/export", "a") == CONTENT


def test_a_protocol_port_that_is_taken_is_said_and_taken_over_when_it_is_free(unit):
    with socket.create_server(("", bed.port(bed.SMB))):
        status = unit.deploy()
        assert status.name == "waiting"
        assert "smb does not listen on port 12445 yet" in status.message
    unit.configure(protocols="nfs")
    unit.configure(protocols="nfs,smb")
    assert unit.wait(seconds=20).message == "nfs, smb: /export"


def test_an_api_port_that_is_taken_is_waited_for(unit, files):
    """Pebble starts the server again until the port is free; nobody has to do anything."""
    unit.change(config={"protocols": "nfs"})
    taken = socket.create_server(("", bed.port(bed.API)))
    timer = threading.Timer(3, taken.close)
    timer.start()
    try:
        unit.deploy()
        assert unit.wait(seconds=90).message == "nfs: /export"
    finally:
        timer.join()
    files.put("/export", "a", CONTENT)


def test_a_newer_state_on_the_volumes_is_said_and_not_retried(deployed, files):
    if files.missing or deployed.pod.server.real:
        pytest.skip("only the stand-in's volumes can be made newer here")
    deployed.pod.lose()
    (deployed.pod.volumes["metadata"].path / "standin-format").write_text("2")
    began = time.monotonic()
    status = deployed.new_pod()
    assert status.name == "blocked"
    assert status.message == (
        "attach the dittofs-image that wrote the volumes; this one says: Error: on-disk state is "
        "newer than this server (exit code 78)"
    )
    # A hook does not wait for what cannot come.
    assert time.monotonic() - began < 30
    time.sleep(2)
    assert deployed.pod.containers["dittofs"].server_ids() == []
    assert deployed.run("update_status") == status


def test_what_is_refused_again_and_again_is_said_and_tried_when_something_changes(deployed, files):
    if files.missing:
        pytest.skip(f"{files.missing} is not installed")
    files.put("/export", "a", CONTENT)
    deployed.pod.lose()
    manifest = deployed.pod.volumes["metadata"].path / "stores" / "export" / "MANIFEST"
    # The stand-in begins a store without one.
    whole = manifest.read_bytes() if manifest.exists() else None
    manifest.write_bytes(b"junk" * 20)
    began = time.monotonic()
    deployed.new_pod()
    status = deployed.wait("blocked")
    assert time.monotonic() - began < 60
    assert status.message.startswith(
        "mend what the server refuses, then set log-level or memory to try again: Error: "
    )
    assert deployed.pod.containers["dittofs"].server_ids() == []
    with deployed.pebble_calls() as calls:
        assert deployed.run("update_status") == status
    assert calls == []
    # One try more, and no five.
    began = time.monotonic()
    assert deployed.configure(log_level="debug") == status
    assert time.monotonic() - began < 20
    manifest.unlink()
    if whole is not None:
        manifest.write_bytes(whole)
        manifest.chmod(0o666)
    assert deployed.run("update_status") == status
    assert deployed.configure(log_level="info").message == "nfs: /export"
    assert wait_for_file(files, "/export", "a") == CONTENT


def test_pebble_killed_in_the_middle_is_waited_for(deployed, files):
    files.put("/export", "a", CONTENT)
    deployed.pod.lose()
    status = deployed.run("update_status")
    assert status.name == "waiting"
    assert status.message == "waiting for the container"
    assert deployed.new_pod().name == "active"
    assert wait_for_file(files, "/export", "a") == CONTENT


def test_delete_share_frees_its_space_on_both_volumes(deployed, files):
    deployed.configure(shares="- name: /export\n- name: /old")
    files.put("/old", "a", os.urandom(4_000_000))
    files.put("/export", "a", CONTENT)
    deployed.configure(shares="- name: /export")
    with pytest.raises(ClientError):
        files.get("/old", "a")
    assert deployed.act("delete-share", name="/old", confirm="/old")["deleted"] == "/old"
    assert deployed.status.message == "nfs: /export"
    volumes = deployed.pod.volumes
    assert not (volumes["metadata"].path / "stores" / "old").exists()
    assert not (volumes["content"].path / "shares" / "old").exists()
    assert wait_for_file(files, "/export", "a") == CONTENT
    deployed.configure(shares="- name: /export\n- name: /old")
    with pytest.raises(ClientError):
        files.get("/old", "a")
    files.put("/old", "b", CONTENT)
    assert files.get("/old", "b") == CONTENT


def test_a_share_that_leaves_and_comes_back_has_its_files(deployed, files):
    deployed.configure(shares="- name: /export\n- name: /Größe 1")
    files.put("/Größe 1", "a", CONTENT)
    deployed.configure(shares="- name: /export")
    with pytest.raises(ClientError):
        files.get("/Größe 1", "a")
    deployed.configure(shares="- name: /export\n- name: /Größe 1")
    assert wait_for_file(files, "/Größe 1", "a") == CONTENT


def test_access_and_read_only_are_changed_while_clients_work(deployed, files):
    files.put("/export", "a", CONTENT)
    closed = ["read-only: true"]
    if deployed.pod.server.real:
        # The stand-in has no users whom it could tell apart.
        closed += ["access: none", "access: read"]
    for number, entry in enumerate(closed):
        deployed.configure(shares=f"- {{name: /export, {entry}}}")
        with pytest.raises(ClientError):
            files.put("/export", f"closed{number}", CONTENT)
        deployed.configure(shares="- name: /export")
        files.put("/export", f"open{number}", CONTENT)
    assert files.get("/export", "a") == CONTENT


def test_the_password_of_a_secret_is_the_one_of_the_server(deployed):
    password = deployed.password()
    rows = json.loads(deployed.act("list-shares", format="json")["shares"])
    assert [row["name"] for row in rows] == ["/export"]
    log = deployed.log() + "\n".join(deployed.logs)
    assert password not in log


def test_teardown_leaves_no_process_and_writes_nothing_afterwards(deployed, files):
    files.put("/export", "a", CONTENT)
    begin = time.monotonic()
    deployed.remove()
    assert time.monotonic() - begin < 60
    container = deployed.pod.containers["dittofs"]
    assert container.server_ids() == []
    (check,) = container.client.get_checks(names=["hang"])
    assert check.status == pebble.CheckStatus.INACTIVE
    before = {
        path: path.stat().st_mtime_ns
        for volume in deployed.pod.volumes.values()
        for path in volume.path.rglob("*")
    }
    time.sleep(1)
    assert before == {
        path: path.stat().st_mtime_ns
        for volume in deployed.pod.volumes.values()
        for path in volume.path.rglob("*")
    }


def ready(pod) -> bool:
    """Whether Kubernetes sends clients to the pod."""
    client = pod.containers["dittofs"].client
    return all(each.status == pebble.CheckStatus.UP for each in client.get_checks(names=["ready"]))


def test_a_second_unit_never_starts_a_server_and_gets_no_clients(pod, unit):
    other = type(unit)(pod, unit_id=1)
    other.run("install")
    other.pebble_ready()
    end = time.monotonic() + 15
    while ready(pod):
        assert time.monotonic() < end
        time.sleep(0.2)
    other.deploy()
    assert other.status.name == "blocked"
    assert pod.containers["dittofs"].server_ids() == []
    assert not ready(pod)


def test_a_unit_that_waits_for_its_first_start_gets_no_clients_and_then_all(pod, unit):
    unit.change(config={"protocols": "nfs"}, leader=False)
    assert unit.deploy().name == "waiting"
    end = time.monotonic() + 15
    while ready(pod):
        assert time.monotonic() < end
        time.sleep(0.2)
    unit.change(leader=True)
    assert unit.run("leader_elected").message == "nfs: /export"
    assert ready(pod)


def test_the_check_tells_a_hanging_server_from_a_starting_one(deployed):
    container = deployed.pod.containers["dittofs"]
    check = ["/bin/sh", "/config/check-hang.sh"]
    container.client.exec(check).wait()
    assert (container.root / "config" / "answered").exists()
    pid = server_pid(deployed)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Exception, match="non-zero exit code 1"):
            container.client.exec(check).wait()
        (container.root / "config" / "answered").unlink()
        container.client.exec(check).wait()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_nothing_of_the_containers_environment_reaches_server_and_agent(deployed):
    """`INJECTED` would end the server: it reads all that begins with DITTOFS_."""
    needed = {
        "PATH",
        "GOMEMLIMIT",
        "DITTOFS_CONTROLPLANE_SECRET",
        "DITTOFS_ADMIN_INITIAL_PASSWORD",
    }
    assert names_of_variables(server_pid(deployed)) - WRAPPERS == needed
    (guard,) = deployed.agent_ids()
    assert names_of_variables(guard) - WRAPPERS == {"PATH", "PEBBLE", "PEBBLE_SOCKET"}


@pytest.mark.parametrize("wget", ["#!/bin/sh\nkill -SEGV $$\n", "#!/bin/sh\nexit 127\n"])
def test_a_hang_is_seen_without_the_images_wget(deployed, wget):
    container = deployed.pod.containers["dittofs"]
    program = container.root / "bin" / "wget"
    program.write_text(wget)
    answered = container.root / "config" / "answered"
    answered.unlink(missing_ok=True)
    check = ["/bin/sh", "/config/check-hang.sh"]
    container.client.exec(check).wait()
    assert answered.exists()
    pid = server_pid(deployed)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Exception, match="non-zero exit code 1"):
            container.client.exec(check, timeout=20).wait()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_smb_serves_a_file(unit, tmp_path):
    if not unit.pod.server.real or not shutil.which("smbclient"):
        pytest.skip("needs a real server and smbclient")
    assert unit.deploy().message == "nfs, smb: /export"
    (tmp_path / "source").write_bytes(CONTENT)
    target = tmp_path / "target"
    command = f"put {tmp_path / 'source'} a; get a {target}"
    subprocess.run(
        [
            *("smbclient", "//127.0.0.1/export", "-p", str(bed.port(bed.SMB))),
            *("-U", "admin", "-c", command),
        ],
        env=os.environ | {"PASSWD": unit.password()},
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert target.read_bytes() == CONTENT
