"""`create-backup` and `restore`: the charm, its agent, the server and a real S3."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ops import testing

from tests.functional.bucket import BucketProvider
from tests.functional.files import ClientError, Files
from tests.functional.pod import Pod
from tests.functional.test_life import CONTENT, wait_for_file
from tests.functional.unit import Unit, killed_hook
from tests.s3 import S3Server

SHARES = "- name: /export\n- name: /b"

pytestmark = pytest.mark.usefixtures("client_program")


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """An S3 server for all tests; each has a bucket of its own."""
    with S3Server(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture
def provider(s3, request):
    return BucketProvider(s3, f"b{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
def related(deployed, provider, files):
    """A unit with two shares, a file in each, and a bucket."""
    deployed.configure(shares=SHARES)
    files.put("/export", "a", CONTENT)
    files.put("/b", "a", CONTENT * 2)
    provider.relate(deployed)
    assert deployed.wait().message == "nfs: /export, /b", deployed.agent_log()
    return deployed


@contextmanager
def writing(files: Files) -> Iterator[dict[str, bytes]]:
    """A client that writes all the time; what was acknowledged."""
    stop, written = threading.Event(), dict[str, bytes]()

    def write() -> None:
        number = 0
        while not stop.wait(0.02):
            data = os.urandom(20_000)
            try:
                files.put("/export", f"w{number}", data)
            except ClientError:
                continue
            written[f"w{number}"] = data
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join()


def restore(unit: Unit, backup: str, **params: str) -> dict[str, str]:
    return dict(unit.act("restore", **{"backup-id": backup, "confirm": backup}, **params))


def test_a_backup_under_load_brings_everything_back(related, files):
    with writing(files) as written:
        while len(written) < 5:
            time.sleep(0.05)
        before = dict(written)
        made = related.act("create-backup")
        during = len(written)
    assert during > len(before)
    assert int(made["size"]) > len(CONTENT)
    files.put("/export", "a", b"spoiled")
    files.remove("/b", "a")
    results = restore(related, made["backup-id"])
    assert "/export" in results["shares"], results
    assert related.wait().message == "nfs: /export, /b"
    assert wait_for_file(files, "/export", "a") == CONTENT
    assert wait_for_file(files, "/b", "a") == CONTENT * 2
    for name, data in before.items():
        assert files.get("/export", name) == data
    left = [path.name for path in related.pod.volumes["content"].path.iterdir()]
    assert not [name for name in left if name.startswith(("aside-", ".restoring"))], left


def test_the_second_backup_sends_what_changed(related):
    first = related.act("create-backup")
    time.sleep(1)
    second = related.act("create-backup")
    assert int(second["uploaded"]) < 0.2 * int(first["size"])
    listed = json.loads(related.act("list-backups", output="json")["backups"])
    ids = [first["backup-id"], second["backup-id"]]
    assert [row["id"] for row in listed] == ids
    assert all(row["complete"] for row in listed)
    verified = related.act("verify-backup", **{"backup-id": ids[1], "deep": True})
    assert int(verified["checked-objects"]) > 2
    deleted = related.act("delete-backup", **{"backup-id": ids[0], "confirm": ids[0]})
    assert int(deleted["deleted-objects"]) >= 1
    assert ids[0] not in related.act("list-backups")["backups"]
    related.act("verify-backup", **{"backup-id": ids[1]})
    assert related.act("pre-refresh-check") == {"refresh": "ready"}


def test_one_share_comes_back_and_the_others_stay(related, files):
    backup = related.act("create-backup")["backup-id"]
    files.put("/export", "a", b"newer")
    files.put("/b", "a", b"spoiled")
    restore(related, backup, shares="/b")
    assert related.wait().message == "nfs: /export, /b"
    assert wait_for_file(files, "/b", "a") == CONTENT * 2
    assert wait_for_file(files, "/export", "a") == b"newer"


def test_another_application_serves_it(related, files, provider, tmp_path):
    backup = related.act("create-backup")["backup-id"]
    (key,) = [
        each.tracked_content["key"] for each in related.state.secrets if each.label == "backup-key"
    ]
    related.pod.lose()
    pod = Pod(tmp_path / "other")
    try:
        pod.start()
        other = Unit(pod)
        other.change(
            config={"protocols": "nfs", "shares": SHARES},
            model=testing.Model("disaster", type="kubernetes"),
        )
        other.deploy()
        provider.relate(other)
        (row,) = json.loads(other.act("list-backups", output="json", all=True)["backups"])
        assert row["id"] == backup
        with pytest.raises(testing.ActionFailed, match="recovery-key"):
            restore(other, backup, **{"from": row["from"]})
        secret = testing.Secret({"key": key})
        other.change(secrets=[*other.state.secrets, secret])
        restore(other, backup, **{"from": row["from"], "recovery-key": secret.id})
        assert other.wait().message == "nfs: /export, /b"
        assert wait_for_file(files, "/export", "a") == CONTENT
        assert wait_for_file(files, "/b", "a") == CONTENT * 2
        assert key not in "\n".join(other.logs) + other.agent_log()
    finally:
        pod.close()


def test_a_lost_content_volume_is_mended(related, files):
    backup = related.act("create-backup")["backup-id"]
    related.pod.lose()
    related.pod.volumes["content"].lose()
    assert related.new_pod().name == "blocked"
    restore(related, backup)
    assert related.wait().message == "nfs: /export, /b"
    assert wait_for_file(files, "/export", "a") == CONTENT


def test_what_s3_refuses_fails_the_action_and_is_shown_until_a_backup_is_made(related, provider):
    provider.server.remove_bucket(provider.name)
    with pytest.raises(testing.ActionFailed, match="NoSuchBucket"):
        related.act("create-backup")
    assert "NoSuchBucket" in related.run("update_status").message
    provider.server.make_bucket(provider.name)
    related.act("create-backup")
    assert related.wait().message == "nfs: /export, /b"


def test_a_killed_agent_goes_on(related, files):
    files.put("/export", "big", os.urandom(30 * 2**20))
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            time.sleep(0.4)
            for pid in related.pod.containers["agent"].ids_of(b"backup"):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    made = related.act("create-backup")
    thread.join()
    assert killed
    verified = related.act("verify-backup", **{"backup-id": made["backup-id"]})
    assert int(verified["checked-objects"]) > 2


@pytest.mark.parametrize("seconds", [1.5, 4.5])
def test_a_pod_that_is_lost_while_restoring(related, files, seconds):
    backup = related.act("create-backup")["backup-id"]
    files.put("/export", "a", b"newer")
    with killed_hook(seconds):
        restore(related, backup)
    related.pod.lose()
    related.new_pod()
    related.wait(seconds=120)
    assert wait_for_file(files, "/export", "a") in {CONTENT, b"newer"}
    assert wait_for_file(files, "/b", "a") == CONTENT * 2
