"""How long an event and an action take whatever the server does, and how it comes back."""

import os
import signal
import time

import pytest
from ops import testing

from tests import servers
from tests.functional.files import ClientError
from tests.functional.test_life import CONTENT, server_pid

HOOK, ACTION, OUTAGE = 10.0, 60.0, 90.0

pytestmark = pytest.mark.usefixtures("client_program")


def seconds(what, *words, **more) -> float:
    began = time.monotonic()
    what(*words, **more)
    return time.monotonic() - began


def serves(files) -> bool:
    try:
        return files.get("/export", "a") == CONTENT
    except ClientError:
        return False


def test_a_server_that_hangs_holds_no_hook_up_and_is_started_anew(deployed, files):
    files.put("/export", "a", CONTENT)
    # It has answered since its start as soon as the check was made once.
    answered = deployed.pod.containers["dittofs"].root / "config" / "answered"
    while not answered.exists():
        time.sleep(0.2)
    server = server_pid(deployed)
    began = time.monotonic()
    os.kill(server, signal.SIGSTOP)
    took = [seconds(deployed.run, "update_status")]
    assert deployed.status.name == "waiting"
    assert seconds(deployed.act, "status-detail") < ACTION
    with pytest.raises(testing.ActionFailed, match="did not answer in time"):
        deployed.act("list-shares")
    while server in deployed.pod.containers["dittofs"].server_ids():
        took.append(seconds(deployed.run, "update_status"))
        assert time.monotonic() - began < OUTAGE
        time.sleep(0.5)
    while deployed.status.name != "active":
        took.append(seconds(deployed.run, "update_status"))
        assert time.monotonic() - began < OUTAGE
    assert serves(files)
    assert time.monotonic() - began < OUTAGE
    assert max(took) < HOOK, took


def test_a_changed_option_waits_for_no_server_that_hangs(deployed, files):
    files.put("/export", "a", CONTENT)
    os.kill(server_pid(deployed), signal.SIGSTOP)
    took = [seconds(deployed.configure, log_level="debug")]
    while deployed.status.name != "active":
        took.append(seconds(deployed.run, "update_status"))
    assert max(took) < HOOK, took
    assert serves(files)


def test_a_server_that_cannot_start_holds_no_event_up(deployed, files, tmp_path):
    files.put("/export", "a", CONTENT)
    deployed.pod.lose()
    program = tmp_path / "dfs"
    version = deployed.pod.server.version.split()[-1]
    program.write_text(
        f'#!/bin/sh\n[ "$1" = version ] && echo dfs {version} && exit\n'
        "sleep 0.5\necho Error: address already in use >&2\nexit 1\n"
    )
    program.chmod(0o755)
    server, deployed.pod.server = deployed.pod.server, servers.Program(program, "none", real=False)
    deployed.pod.start()
    deployed.change(containers=deployed.containers(can_connect=True))
    events = ("upgrade_charm", "config_changed", "start", "update_status")
    took = [seconds(deployed.run, event) for event in events]
    assert deployed.status.name == "waiting"
    assert max(took) < HOOK, took
    assert seconds(deployed.act, "status-detail") < ACTION
    deployed.pod.lose()
    deployed.pod.server = server
    assert deployed.new_pod().message == "nfs: /export"
    assert serves(files)


def test_a_unit_goes_though_its_server_hangs(deployed):
    os.kill(server_pid(deployed), signal.SIGSTOP)
    (storage, *_) = deployed.storages
    took = [seconds(deployed.run, "storage_detaching", storage), seconds(deployed.run, "stop")]
    assert max(took) < HOOK, took
    while deployed.pod.containers["dittofs"].server_ids():
        time.sleep(0.2)
