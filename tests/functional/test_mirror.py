"""`juju integrate dittofs mysql`: the charm, its agent, the server and a real database."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ops import testing

from tests.agent.rig import wait_until
from tests.databases import DatabaseServer, program
from tests.functional.bucket import BucketProvider
from tests.functional.files import ClientError
from tests.functional.mysql import Provider
from tests.functional.test_life import CONTENT, wait_for_file
from tests.s3 import S3Server

pytestmark = pytest.mark.usefixtures("client_program")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A database server for all tests; each has a database of its own."""
    program()
    with DatabaseServer(tmp_path_factory.mktemp("mysql")) as made:
        yield made


@pytest.fixture
def provider(server, request):
    return Provider(server, f"d{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
def mirrored(deployed, provider, files):
    """A unit with a file whose metadata is in MySQL."""
    files.put("/export", "a", CONTENT)
    provider.relate(deployed)
    assert deployed.wait().message == "nfs: /export; metadata in MySQL", deployed.agent_log()
    return deployed


def test_a_related_unit_has_its_metadata_in_mysql_and_verifies_it(mirrored, server, provider):
    ((count,),) = server.execute("SELECT COUNT(*) FROM dittofs_entries", database=provider.name)
    assert count >= 1
    results = mirrored.act("verify-metadata")
    assert results["equal"] == "true"
    detail = json.loads(mirrored.act("status-detail", format="json")["status"])
    assert detail["mirror"]["state"] == "mirroring"
    log = mirrored.agent_log() + mirrored.log() + "\n".join(mirrored.logs)
    assert provider.password not in log + json.dumps(detail)


def test_an_idle_event_asks_no_pebble_for_anything_but_to_read(mirrored):
    with mirrored.pebble_calls() as calls:
        mirrored.run("update_status")
    assert calls == []


def test_a_difference_fails_the_action_and_is_mended(mirrored, server, provider):
    server.execute("DELETE FROM dittofs_entries LIMIT 3", database=provider.name)
    with pytest.raises(testing.ActionFailed, match="export"):
        mirrored.act("verify-metadata")

    def equal():
        try:
            return mirrored.act("verify-metadata")["equal"] == "true"
        except testing.ActionFailed:
            return False

    wait_until(equal)


@pytest.mark.parametrize("seconds", [0, 3])
def test_a_lost_metadata_volume_comes_back_with_its_files(mirrored, files, seconds):
    files.put("/export", "b", CONTENT * 2)
    time.sleep(seconds)
    mirrored.wait()
    time.sleep(1)
    mirrored.pod.lose()
    mirrored.pod.volumes["metadata"].lose()
    mirrored.new_pod()
    assert mirrored.wait().message == "nfs: /export; metadata in MySQL"
    assert wait_for_file(files, "/export", "a") == CONTENT
    assert wait_for_file(files, "/export", "b") == CONTENT * 2
    files.put("/export", "c", CONTENT)
    assert files.get("/export", "c") == CONTENT
    assert mirrored.act("verify-metadata")["equal"] == "true"


def test_nothing_acknowledged_is_lost_with_a_pod_that_ends_and_its_metadata_volume(
    mirrored, files
):
    """Files are written until the server takes no more, and nothing is waited for."""
    acknowledged = {}
    stop = threading.Event()

    def work(number):
        while not stop.is_set():
            name, data = f"{number}-{len(acknowledged)}", os.urandom(3000)
            try:
                files.put("/export", name, data)
            except ClientError:
                continue
            acknowledged[name] = data

    with ThreadPoolExecutor(2) as clients:
        working = [clients.submit(work, number) for number in range(2)]
        try:
            time.sleep(1.5)
            began = time.monotonic()
            killed = mirrored.pod.end()
            took = time.monotonic() - began
        finally:
            stop.set()
    for each in working:
        each.result()
    assert killed == []
    assert took < 15
    mirrored.pod.volumes["metadata"].lose()
    mirrored.new_pod()
    assert mirrored.wait().message == "nfs: /export; metadata in MySQL"
    wait_for_file(files, "/export", "a")
    missing = [name for name, data in acknowledged.items() if read(files, name) != data]
    assert (len(acknowledged) > 3, missing) == (True, [])


def read(files, name):
    try:
        return files.get("/export", name)
    except ClientError:
        return None


def test_both_volumes_lost_are_never_served_as_zeros(mirrored):
    mirrored.pod.lose()
    for volume in mirrored.pod.volumes.values():
        volume.lose()
    mirrored.new_pod()
    status = mirrored.wait("blocked")
    assert status.message.startswith(
        "bring the content volume back or run start-without volume=content: it is empty"
    )
    assert "; the metadata volume has shares /export; " in mirrored.reasons()[0]


def test_a_fresh_application_waits_for_mysql_before_its_first_start(unit, provider, server):
    """There could be a mirror of its metadata in it."""
    unit.change(config={"protocols": "nfs"})
    server.stop()
    try:
        assert begin(unit, provider).name == "waiting"
        assert unit.pod.containers["dittofs"].server_ids() == []
    finally:
        server.start()
    assert unit.wait().message == "nfs: /export; metadata in MySQL"


def begin(unit, provider):
    """The events of a deployment that is related at once; the pod comes up last."""
    unit.pod.lose()
    unit.run("install")
    unit.attach()
    unit.run("leader_elected")
    provider.relate(unit)
    unit.pod.start()
    return unit.pebble_ready()


def test_a_new_password_is_taken_over_and_the_old_one_is_nowhere(mirrored, provider, files):
    old = provider.password
    provider.rotate(mirrored)
    assert mirrored.wait().message.endswith("metadata in MySQL")
    files.put("/export", "b", CONTENT)
    wait_until(lambda: mirrored.act("verify-metadata")["equal"] == "true")
    config = mirrored.agent_file("config.json")
    assert provider.password in config
    assert old not in config


def test_a_relation_that_is_removed_leaves_server_and_mysql_alone(
    mirrored, provider, server, files
):
    server_ids = mirrored.pod.containers["dittofs"].server_ids()
    assert provider.part(mirrored).message == "nfs: /export"
    assert mirrored.pod.containers["dittofs"].server_ids() == server_ids
    files.put("/export", "b", CONTENT)
    ((count,),) = server.execute("SELECT COUNT(*) FROM dittofs_entries", database=provider.name)
    assert count >= 1
    provider.relate(mirrored)
    assert mirrored.wait().message == "nfs: /export; metadata in MySQL"
    assert mirrored.act("verify-metadata")["equal"] == "true"


def test_what_is_stopped_is_not_started_with_another_service_nor_asked_for_its_health(
    mirrored, provider
):
    client = mirrored.pod.containers["agent"].client

    def state():
        (service,) = client.get_services(["agent"])
        (check,) = client.get_checks(names=["mirror"])
        return service.current.value, check.status.value

    assert state() == ("active", "up")
    provider.part(mirrored)
    assert state() == ("inactive", "inactive")
    (guard,) = mirrored.agent_ids()
    mirrored.configure(log_level="debug")
    assert guard not in mirrored.agent_ids()
    assert state() == ("inactive", "inactive")
    provider.relate(mirrored)
    assert mirrored.wait().message == "nfs: /export; metadata in MySQL"
    assert state() == ("active", "up")


def test_a_killed_agent_and_a_lost_pod_go_on(mirrored, files):
    for process in mirrored.agent_ids():
        os.kill(process, signal.SIGKILL)
    files.put("/export", "b", CONTENT)
    wait_until(lambda: mirrored.run("update_status").message.endswith("metadata in MySQL"))
    mirrored.pod.lose()
    mirrored.new_pod()
    assert mirrored.wait().message == "nfs: /export; metadata in MySQL"
    assert mirrored.act("verify-metadata")["equal"] == "true"


def test_a_restore_stops_the_mirror_once_and_mysql_has_what_was_restored(
    mirrored, files, tmp_path
):
    with S3Server(tmp_path / "s3") as s3:
        BucketProvider(s3, "mirrored").relate(mirrored)
        mirrored.wait()
        backup = mirrored.act("create-backup")["backup-id"]
        files.put("/export", "a", b"spoiled")
        files.put("/export", "late", CONTENT)
        began = len(mirrored.agent_log())
        mirrored.act("restore", **{"backup-id": backup, "confirm": backup})
        assert mirrored.wait().message == "nfs: /export; metadata in MySQL"
    assert wait_for_file(files, "/export", "a") == CONTENT
    with pytest.raises(ClientError):
        files.get("/export", "late")
    assert mirrored.act("verify-metadata")["equal"] == "true"
    # A replan would have started what was stopped, over and over again.
    assert "on-failure" not in mirrored.agent_log()[began:]


def test_a_deleted_share_leaves_mysql(mirrored, files, server, provider):
    mirrored.configure(shares="- name: /export\n- name: /old")
    files.put("/old", "a", CONTENT)
    names = "SELECT name FROM dittofs_stores"
    wait_until(lambda: len(server.execute(names, database=provider.name)) == 2)
    mirrored.configure(shares="- name: /export")
    mirrored.act("delete-share", name="/old", confirm="/old")
    wait_until(lambda: server.execute(names, database=provider.name) == [(b"export",)])
    assert mirrored.wait().message == "nfs: /export; metadata in MySQL"


def test_another_application_recovers_it_when_told_to(mirrored, provider, files):
    """The application was lost with its secrets; its content volume was brought along."""
    key = next(
        each.tracked_content["key"]
        for each in mirrored.state.secrets
        if set(each.tracked_content) == {"key"}
    )
    instance = json.loads(mirrored.agent_file("config.json"))["instance"]
    mirrored.pod.lose()
    mirrored.pod.volumes["metadata"].lose()
    fresh = type(mirrored)(mirrored.pod)
    fresh.change(config=mirrored.state.config)
    status = begin(fresh, provider)
    assert status.name == "blocked"
    assert instance in status.message
    secret = testing.Secret({"key": key}, label="old-key")
    fresh.change(secrets=[*fresh.state.secrets, secret])
    fresh.act(
        "recover-metadata", **{"from": instance, "confirm": instance, "recovery-key": secret.id}
    )
    assert fresh.wait().message == "nfs: /export; metadata in MySQL"
    assert wait_for_file(files, "/export", "a") == CONTENT
