"""The service of backups as a process, beside a server: making, listing, checking, deleting."""

import base64
import dataclasses
import json
import os
import secrets
import signal
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from agent.archive.errors import ArchiveError
from agent.archive.settings import load
from tests.archive.rig import wait_until
from tests.archive.scripted import Answer, answering
from tests.databases import ROOT

FILES = {"a": b"a" * 50_000, "b": os.urandom(200_000), "c": b""}
ONE, TWO, THREE = (f"2026-11-24T18:00:0{number}Z" for number in (1, 2, 3))


@pytest.fixture
def serving(unit):
    """A unit that serves a share with some files, and its agent."""
    unit.server.start()
    unit.server.make_share("/export")
    unit.server.files.put("/export", FILES)
    unit.start()
    return unit


def listed(unit, *arguments):
    code, said = unit.call("backup-list", *arguments)
    assert (code, said["error"]) == (0, None), said
    return said["backups"]


def test_a_backup_is_made_listed_verified_and_restored_after_a_loss(serving, s3, bucket_name):
    made = serving.back_up(ONE)
    assert (made["backup-id"], made["shares"], made["skipped"]) == (ONE, ["/export"], [])
    assert made["size"] > sum(map(len, FILES.values()))
    (row,) = listed(serving)
    assert (row["id"], row["complete"], row["encrypted"]) == (ONE, True, True)
    assert row["from"] == "uuid-of-files/dittofs"
    found = serving.perform("verify", "v1", backup_id=ONE, deep=True)
    assert (found["state"], found["result"]["problems"]) == ("done", [])
    assert not serving.server.api("GET", "/shares/export/snapshots").json()
    serving.lose()
    serving.server.new_password()
    serving.server.start()
    serving.start()
    results = serving.restore(ONE)
    assert results["settle"]["shares"][0]["equal"]
    assert serving.server.files.get("/export", *FILES) == FILES
    keys = " ".join(s3.keys(bucket_name))
    assert "check-" not in keys
    assert "export" not in keys


def test_nothing_secret_is_in_the_bucket_or_the_log(serving, s3, bucket_name):
    serving.server.files.put("/export", {"secret": b"a word that nobody may read" * 1000})
    serving.back_up(ONE)
    stored = b"".join(s3.get(bucket_name, key) for key in s3.keys(bucket_name))
    assert b"a word that nobody may read" not in stored
    assert b"$2a$" not in stored
    for word in (serving.server.password, s3.secret_key, base64.b64encode(serving.key).decode()):
        assert word not in serving.log
        assert word not in json.dumps(serving.status)


def test_the_second_backup_sends_only_what_changed(serving, s3, bucket_name):
    first = serving.back_up(ONE)
    second = serving.back_up(TWO)
    assert second["uploaded"] < first["uploaded"] / 5
    before = s3.keys(bucket_name)
    assert serving.back_up(TWO)["backup-id"] == TWO
    assert s3.keys(bucket_name) == before


def test_an_error_that_nobody_foresaw_ends_the_service_and_is_not_tried_for_ever(
    serving, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, threading\n"
        "def getaddrinfo(*arguments, real=socket.getaddrinfo, **more):\n"
        "    if threading.current_thread() is not threading.main_thread():\n"
        "        raise RuntimeError('nobody foresaw this')\n"
        "    return real(*arguments, **more)\n"
        "socket.getaddrinfo = getaddrinfo\n"
    )
    serving.stop()
    serving.ask("create", "create", ONE)
    serving.environment = {"PYTHONPATH": f"{ROOT}/src:{tmp_path}"}
    for attempt in range(1, 6):
        serving.start()
        assert serving.process.wait(20) == 1
        assert serving.status["operation"]["attempts"] == attempt
    assert "nobody foresaw this" in serving.log
    serving.start()
    wait_until(lambda: serving.status["operation"]["state"] == "failed")


@pytest.mark.parametrize("busy", [True, False])
def test_a_service_that_hangs_ends(serving, tmp_path, busy):
    """Where nothing of it ends, nothing else would tell."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading\n"
        "if 'agent' in sys.orig_argv:\n"
        "    from agent.archive import commands, daemon, progress, status\n"
        "    progress.SILENCE = daemon.SILENCE = status.SILENCE = 1.0\n"
        "    commands._WATCH_SECONDS = 0.1\n"
        "    def hang(*_, **__):\n"
        "        threading.Event().wait()\n"
        "    daemon.STEPS = {('create', 'create'): hang}\n"
        + ("" if busy else "    daemon.Daemon._look_at_the_clock = hang\n")
    )
    serving.stop()
    if busy:
        serving.ask("create", "create", ONE)
    serving.environment = {"PYTHONPATH": f"{ROOT}/src:{tmp_path}"}
    serving.start()
    assert serving.process.wait(20) == 1
    assert "the service hangs, and ends" in serving.log


def test_deleting_one_leaves_what_the_other_needs(serving, s3, bucket_name):
    serving.back_up(ONE)
    serving.server.files.put("/export", {"d": os.urandom(300_000)})
    serving.back_up(TWO)
    result = serving.perform("delete", "d1", backup_id=ONE)["result"]
    assert result["deleted-objects"] >= 2
    assert result["freed"] > 0
    assert [row["id"] for row in listed(serving)] == [TWO]
    assert not serving.perform("verify", "v1", backup_id=TWO)["result"]["problems"]
    serving.perform("delete", "d2", backup_id=TWO)
    assert s3.keys(bucket_name) == []


def test_what_is_not_to_be_kept_goes_after_a_backup(serving):
    serving.back_up(ONE)
    serving.back_up(TWO)
    serving.stop()
    serving.configure(keep={"count": 2, "days": None})
    serving.start()
    assert serving.back_up(THREE)["deleted"] == [ONE]
    assert [row["id"] for row in listed(serving)] == [TWO, THREE]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"count": 1, "days": None}, 2),
        ({"count": None, "days": 5}, 1),
        ({"count": 2, "days": 5}, 1),
        ({"count": 1, "days": 60}, 0),
        ({"count": None, "days": None}, 0),
    ],
)
def test_a_backup_goes_when_it_is_beyond_all_that_is_given(serving, keep, expected):
    now = datetime.now(UTC)
    ages = [timedelta(days=20), timedelta(days=2), timedelta()]
    ids = [(now - age).strftime("%Y-%m-%dT%H:%M:%SZ") for age in ages]
    serving.back_up(ids[0])
    serving.back_up(ids[1])
    serving.stop()
    serving.configure(keep=keep)
    serving.start()
    assert serving.back_up(ids[2])["deleted"] == ids[:expected]


def test_a_damaged_backup_is_found_and_stops_no_other(serving, s3, bucket_name):
    serving.back_up(ONE)
    pieces = {key: size for key, size in s3.sizes(bucket_name).items() if "/pieces/" in key}
    largest = max(pieces, key=lambda key: pieces[key])
    s3.damage(bucket_name, largest)
    problems = serving.perform("verify", "v1", backup_id=ONE)["result"]["problems"]
    assert any("is not what it was" in each for each in problems)
    s3.delete(bucket_name, largest)
    problems = serving.perform("verify", "v2", backup_id=ONE)["result"]["problems"]
    assert any("is missing" in each for each in problems)
    # What is missing is sent again.
    serving.back_up(TWO)
    assert not serving.perform("verify", "v3", backup_id=TWO)["result"]["problems"]


def test_a_manifest_that_was_tampered_with_is_refused(serving, s3, bucket_name):
    serving.back_up(ONE)
    key = f"uuid-of-files/dittofs/backups/{ONE}.json"
    good = s3.get(bucket_name, key)
    s3.damage(bucket_name, key)
    (row,) = listed(serving)
    assert (row["complete"], row["problem"]) == (False, "the manifest is damaged")
    said = serving.perform("restore", "r1", step="fetch", backup_id=ONE)
    assert (said["state"], said["error-kind"]) == ("failed", "damaged")
    # What was there before it was written may be needed by it: the other one is deleted.
    made = serving.perform("create", TWO)["result"]
    assert f"backup {ONE}: it cannot be read (the manifest is damaged)" in made["problem"]
    said = serving.perform("delete", "d1", backup_id=TWO)
    assert (said["state"], said["result"]["problem"]) == ("done", made["problem"])
    assert [row["id"] for row in listed(serving)] == [ONE]
    said = serving.perform("delete", "d2", backup_id=ONE)
    assert (said["result"]["problem"], serving.status["standing"]) == ("", "")
    assert s3.keys(bucket_name) == []
    # One that somebody without the key has made out of a whole one.
    s3.put(bucket_name, key.replace(ONE, THREE), good)
    assert serving.perform("verify", "v1", backup_id=THREE)["result"]["problems"]


def test_another_key_is_told_and_the_right_one_opens_it(serving):
    serving.back_up(ONE)
    old = serving.key
    serving.key = secrets.token_bytes(32)
    serving.stop()
    serving.configure(application="other")
    serving.start()
    home = "uuid-of-files/dittofs"
    assert [row["from"] for row in listed(serving, "--all")] == [home]
    assert listed(serving) == []
    asked = {"backup_id": ONE, "from": home}
    said = serving.perform("verify", "v1", **asked)
    assert (said["error-kind"], "recovery-key" in said["message"]) == ("key", True)
    serving.stop()
    serving.configure(foreign_key=base64.b64encode(old).decode())
    serving.start()
    assert serving.perform("verify", "v2", **asked)["result"]["problems"] == []


@pytest.mark.parametrize("wrong", ["nonsense", "2026-01-01T00:00:00Z", "../../x"])
def test_an_unknown_backup_is_missing(serving, wrong):
    for number, kind in enumerate(("verify", "restore")):
        step = "fetch" if kind == "restore" else kind
        said = serving.perform(kind, f"o{number}", step=step, backup_id=wrong)
        assert (said["state"], said["error-kind"]) == ("failed", "missing")


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"secret_key": "wrong"}, "credentials", "SignatureDoesNotMatch"),
        ({"bucket": "no-such-bucket"}, "bucket", "NoSuchBucket"),
    ],
)
def test_what_is_wrong_with_s3_is_told_before_the_long_work(serving, fields, kind, text):
    good = serving.options["s3"]
    serving.stop()
    serving.configure(s3=good | fields)
    serving.start()
    said = serving.perform("create", ONE)
    assert (said["state"], said["error-kind"]) == ("failed", kind)
    assert text in said["message"]
    assert serving.status["last-failure"]["kind"] == kind
    code, answer = serving.call("backup-list")
    assert (code, answer["error"]["kind"]) == (1, kind)
    serving.stop()
    serving.configure(s3=good)
    serving.start()
    serving.back_up(TWO)
    assert serving.status["last-success"]["id"] == TWO


def test_without_a_server_there_is_no_backup(serving):
    serving.server.stop()
    said = serving.perform("create", ONE)
    assert (said["state"], said["error-kind"]) == ("failed", "api")
    assert listed(serving) == []


def test_a_share_in_memory_is_left_out_and_named(serving):
    store = {"name": "m", "type": "memory", "config": "{}"}
    serving.server.api("POST", "/store/metadata", store)
    serving.server.api("POST", "/store/block/local", store)
    share = {"name": "/scratch", "metadata_store_id": "m", "local_block_store": "m"}
    assert serving.server.api("POST", "/shares", share).status_code == 201
    made = serving.back_up(ONE)
    assert (made["shares"], made["skipped"]) == (["/export"], ["/scratch"])


def test_a_backup_that_is_due_is_told_until_it_is_made(serving):
    serving.stop()
    serving.configure(schedule="daily")
    status = serving.run / "backup-status.json"
    long_ago = {"scheduled-since": time.time() - 5 * 86400}
    status.write_text(json.dumps(serving.status | long_ago))
    serving.start()
    wait_until(lambda: serving.status.get("due"))
    assert serving.status["overdue"]
    serving.back_up(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    wait_until(lambda: not serving.status["due"])
    assert not serving.status["overdue"]
    assert serving.status["next"] > time.time()


def test_metrics_are_served_while_it_works(serving):
    serving.back_up(ONE)
    address = f"http://127.0.0.1:{serving._http}"  # noqa: SLF001  # the rig's own port
    text = httpx.get(f"{address}/metrics").text
    assert "dittofs_backup_failures_total 0" in text
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_new_pod_knows_the_last_backup_from_the_bucket(serving):
    serving.back_up(ONE)
    serving.stop(signal.SIGKILL)
    for place in (serving.run, serving.server.metadata / ".dittofs-backup"):
        for path in place.iterdir():
            path.unlink()
    serving.start()
    assert wait_until(lambda: serving.status.get("last-success"))["id"] == ONE


def test_what_the_pod_was_doing_when_it_was_lost_is_gone_on_with(serving, proxy):
    serving.stop()
    serving.configure(s3=serving.options["s3"] | {"endpoint": proxy.url})
    proxy.on_request = lambda number, *_: (
        serving.process.send_signal(signal.SIGKILL) if number == 8 else None
    )
    serving.start()
    serving.ask("create", "create", ONE)
    wait_until(lambda: serving.process.poll() is not None)
    assert listed(serving) == []
    for path in serving.run.glob("backup-status.json"):
        path.unlink()
    serving.start()
    assert serving.wait(ONE, "create")["state"] == "done"
    assert not serving.perform("verify", "v1", backup_id=ONE)["result"]["problems"]
    assert not serving.server.api("GET", "/shares/export/snapshots").json()


@pytest.mark.parametrize(
    ("step", "message"),
    [("settle", "restoring /export"), ("settle", "comparing /export"), ("finish", "")],
)
def test_a_restore_outlives_a_server_that_ends_in_the_middle(serving, step, message):
    server = serving.server
    serving.back_up(ONE)
    server.files.put("/export", {"a": b"newer"})
    server.environment["STANDIN_SNAPSHOT_SECONDS"] = "0.5"

    def reached() -> bool:
        found = serving.status["operation"] or {"step": "", "message": ""}
        return found["step"] == step and found["message"].startswith(message)

    def end() -> None:
        wait_until(reached)
        server.kill()
        time.sleep(0.5)
        server.start()

    results = serving.restore(ONE, at={step: end})
    assert results["settle"]["shares"][0]["equal"]
    assert server.files.get("/export", *FILES) == FILES
    # One that could not be deleted just then goes as soon as there is nothing else to do.
    wait_until(lambda: not server.api("GET", "/shares/export/snapshots").json(), 60)


def test_a_restore_whose_server_ends_each_time_is_given_up(serving):
    serving.back_up(ONE)
    asked: list[str] = []

    def ends(path: str) -> Answer:
        asked.append(path)
        return (200, b"") if path.startswith("/health") else (0, 0)

    def settle_with_another() -> None:
        with answering(ends) as api:
            serving.stop()
            serving.configure(api=dataclasses.asdict(api))
            serving.start()
            said = serving.wait("restore-1", "settle")
        assert (said["state"], said["error-kind"]) == ("failed", "api"), said
        assert said["message"] == "disable /export: the server cut the connection"

    with pytest.raises(AssertionError, match="cut the connection"):
        serving.restore(ONE, at={"settle": settle_with_another})
    assert 2 <= sum(path.endswith("/disable") for path in asked) <= 10


def test_a_snapshot_that_an_earlier_try_left_in_flight_is_waited_for(serving):
    server = serving.server
    server.stop()
    server.environment["STANDIN_SNAPSHOT_SECONDS"] = "3"
    server.start()
    answer = server.api("POST", "/shares/export/snapshots", {"name": f"backup-{ONE}"})
    assert answer.status_code == 202
    serving.back_up(ONE)
    assert not server.api("GET", "/shares/export/snapshots").json()


def test_a_snapshot_that_a_backup_left_is_deleted_as_soon_as_the_server_is_there(serving):
    server = serving.server
    serving.stop()
    theirs = server.snapshot("/export", name="backup-of-mine")
    server.snapshot("/export", name=f"backup-{ONE}")
    server.stop()
    serving.start()
    time.sleep(1)
    server.start()
    wait_until(lambda: len(server.api("GET", "/shares/export/snapshots").json()) == 1, 60)
    (left,) = server.api("GET", "/shares/export/snapshots").json()
    assert left["id"] == theirs


def test_to_end_the_service_takes_a_moment_also_while_s3_is_away(serving, s3):
    s3.pause()
    asked = time.monotonic()
    serving.ask("create", "create", ONE)
    wait_until(lambda: serving.status["operation"])
    assert time.monotonic() - asked < 5
    time.sleep(0.5)
    began = time.monotonic()
    serving.stop()
    assert time.monotonic() - began < 2
    assert serving.status["operation"]["attempts"] == 0
    s3.resume()


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"s3": {}}'],
)
def test_a_configuration_that_is_not_complete_is_told_without_its_values(unit, text):
    path = unit.configure()
    if text:
        path.write_text(text)
    else:
        path.unlink()
    with pytest.raises(ArchiveError) as caught:
        load(path, unit.root)
    assert caught.value.kind == "settings"


def test_a_key_of_another_size_is_refused(unit):
    with pytest.raises(ArchiveError, match="is not complete"):
        load(unit.configure(key=base64.b64encode(b"short").decode()), unit.root)


def test_a_step_without_a_restore_is_refused(unit):
    code, said = unit.call("backup-swap")
    assert (code, said["error"]["kind"]) == (1, "settings")
