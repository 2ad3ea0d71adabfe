"""Backups beside a server that serves: the schedule, the statuses, the service."""

import json
import time

import pytest
from ops import pebble, testing

from tests.unit import archives
from tests.unit.conftest import AGENT, Unit

SERVED = testing.ActiveStatus("nfs, smb: /export")
RUNNING = testing.ActiveStatus("nfs, smb: /export; backup running")
NIGHT = time.mktime(time.strptime("2026-03-01 02:30", "%Y-%m-%d %H:%M")) - time.timezone


@pytest.fixture
def related(deployed):
    deployed.relate_s3()
    return deployed


@pytest.fixture
def scheduled(related):
    related.configure(backup_schedule="daily")
    return related


def due(unit: Unit) -> None:
    """It is time for a backup."""
    unit.agent.archive.say(due=True, next=time.time() - 1)


def made(unit: Unit) -> int:
    return len(unit.agent.archive.bucket.backups)


def test_a_backup_that_is_due_is_begun_and_nobody_waits_for_it(scheduled):
    due(scheduled)
    before = scheduled.border.now[0]
    assert scheduled.run("update_status") == RUNNING
    assert scheduled.border.now[0] == before
    asked = scheduled.agent.archive.operation
    assert asked is not None
    assert (asked["kind"], asked["step"], asked["params"]) == ("create", "create", {})
    assert scheduled.notice() == SERVED
    assert made(scheduled) == 1
    assert scheduled.notice() == SERVED
    assert made(scheduled) == 1


def test_a_notice_of_the_agent_is_enough(scheduled):
    due(scheduled)
    assert scheduled.notice() == RUNNING


def test_what_is_due_waits_until_the_server_serves(scheduled):
    due(scheduled)
    scheduled.border.down = True
    scheduled.border.stop()
    assert scheduled.run("update_status").name == "waiting"
    assert scheduled.agent.archive.operation is None


def test_what_is_due_waits_for_what_is_under_way(scheduled):
    scheduled.agent.archive.script["create"] = archives.RUNNING
    scheduled.act("create-backup")
    first = scheduled.agent.archive.operation
    due(scheduled)
    assert scheduled.run("update_status") == RUNNING
    assert scheduled.agent.archive.operation == first


def test_without_a_schedule_nothing_is_due(related):
    due(related)
    assert related.run("update_status") == SERVED
    assert related.agent.archive.operation is None


def test_a_schedule_with_a_mistake_is_none(scheduled):
    due(scheduled)
    status = scheduled.configure(backup_schedule="every day")
    assert status.message.startswith("backup-schedule: 'every day' must be hourly")
    assert scheduled.agent.archive.operation is None
    assert scheduled.agent.archive.config["schedule"] == ""


def test_a_backup_is_made_by_itself_is_shown_with_the_next_turn(scheduled):
    scheduled.act("create-backup")
    scheduled.agent.archive.say(next=NIGHT)
    detail = json.loads(scheduled.act("status-detail", format="json")["status"])["backups"]
    ((_, backup_id),) = scheduled.agent.archive.bucket.backups
    assert detail["state"] == "idle"
    assert (detail["last"], detail["next"]) == (backup_id, "2026-03-01 02:30 UTC")
    assert (detail["bucket"], detail["endpoint"]) == ("backups", "https://s3.example.com")
    assert detail["place"] == f"files/{scheduled.state.model.uuid}/dittofs"
    assert (detail["schedule"], detail["last-failure"]) == ("daily", "none")
    assert detail["last-size-bytes"] == 3 * 2**20


def test_a_schedule_that_was_missed_is_said_until_a_backup_is_made(scheduled):
    scheduled.agent.archive.said = {"overdue": True}
    scheduled.agent.archive.say()
    assert scheduled.run("update_status") == testing.WaitingStatus(
        "s3-backup: a backup is overdue, there is none yet"
    )
    scheduled.act("create-backup")
    assert scheduled.status.message.startswith(
        "s3-backup: a backup is overdue, the last one is of 20"
    )
    scheduled.agent.archive.said = {}
    scheduled.agent.archive.say(overdue=False)
    assert scheduled.run("update_status") == SERVED


def test_what_failed_before_the_last_success_is_forgotten(scheduled):
    failure = {"at": time.time() - 100, "kind": "away", "text": "no answer"}
    success = {"id": "2026-03-01T02:30:00Z", "at": time.time() - 50}
    scheduled.agent.archive.say(last_failure=failure, last_success=success)
    assert scheduled.run("update_status") == SERVED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"operation": 5}'])
def test_a_status_that_makes_no_sense_is_none(related, text):
    (related.root / AGENT / "backup-status.json").write_text(text)
    assert related.run("update_status") == SERVED


# --- what is under way


def test_while_a_backup_is_made_the_server_is_not_restarted_and_shares_stay(related):
    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    starts = related.border.starts
    related.server.calls.clear()
    assert related.configure(shares="- name: /b", memory="4Gi") == RUNNING
    assert related.server.changes == []
    assert related.border.starts == starts
    related.agent.archive.script.clear()
    assert related.notice() == testing.ActiveStatus("nfs, smb: /b")
    assert related.border.starts == starts + 1


@pytest.mark.parametrize(("kind", "anew"), [("create-backup", 1), ("restore", 0)])
def test_what_cannot_be_written_waits_for_a_restore_and_for_no_backup(related, kind, anew):
    related.agent.answers["make-writable"] = (0, '{"writable": ["/export"], "error": null}')
    related.act("create-backup")
    related.agent.archive.script |= {"create": archives.RUNNING, "fetch": archives.RUNNING}
    identifier = next(iter(related.agent.archive.bucket.backups))[1]
    given = {"backup-id": identifier, "confirm": identifier} if kind == "restore" else {}
    related.act(kind, **given)
    starts = related.border.starts
    related.agent.guard.say(stuck=["/export"])
    related.run("update_status")
    assert related.border.starts == starts + anew


def test_a_server_that_is_down_is_started_all_the_same(related):
    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    related.new_pod()
    assert related.pebble_ready() == RUNNING
    related.agent.archive.script.clear()
    assert related.notice() == SERVED
    assert made(related) == 1


def test_what_is_wrong_with_the_options_is_said_meanwhile(related):
    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    status = related.configure(shares="- {name: /export, metadata: memory}")
    assert "set metadata of /export back to badger, or use another name" in status.message


def test_a_backup_without_s3_any_more_is_given_up(related):
    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    assert related.unrelate_s3() == SERVED
    assert related.agent.archive.operation is None
    assert related.backups == pebble.ServiceStatus.INACTIVE
    related.relate_s3()
    assert "S3 is not related any more" in related.act("status-detail")["status"]


def test_silence_is_said(related):
    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    path = related.root / "metadata" / ".dittofs-operation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"since": time.time() - 9000}))
    operation = related.agent.archive.status["operation"] | {"updated": time.time() - 2000}
    related.agent.archive.say(operation=operation)
    status = related.run("update_status")
    assert status.name == "waiting"
    assert status.message.startswith("s3-backup: nothing is heard of a backup since ")
    assert related.reasons() == [f"waiting: {status.message}; to give it up, remove the relation"]
    assert "nothing is heard since" in related.act("status-detail")["status"]
    related.agent.archive.script.clear()
    assert related.notice() == SERVED


def test_an_agent_that_has_not_begun_yet_is_waited_for(related):
    related.agent.archive.running = False
    results = related.act("create-backup")
    assert results["backup"] == "goes on: waiting for the agent"


def test_a_step_that_does_not_count_bytes_says_what_it_is_at(related):
    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    operation = related.agent.archive.status["operation"]
    for message, shown in (("waiting for /export", "waiting for /export"), ("", "running")):
        said = {"message": message, "bytes-total": 0}
        related.agent.archive.say(operation=operation | said)
        assert f"state: {shown}\n" in related.act("status-detail")["status"]


def test_what_ended_last_may_be_unknown(related):
    related.act("create-backup")
    (related.root / "metadata" / ".dittofs-charm-ended.json").write_text("{")
    assert related.run("update_status") == SERVED
    assert "ended-last: none" in related.act("status-detail")["status"]


def test_a_teardown_does_not_need_to_understand_what_is_under_way(related):
    (related.root / "metadata" / ".dittofs-operation.json").write_text("{")
    related.remove()
    assert related.service != pebble.ServiceStatus.ACTIVE
    assert any("is damaged or of a newer charm" in line for line in related.logs)


@pytest.mark.parametrize("number", range(8))
def test_pebble_that_fails_in_the_middle_of_a_hook_is_said(related, monkeypatch, number):
    from scenario import mocking  # noqa: PLC0415  # the border

    client = mocking._MockPebbleClient  # noqa: SLF001  # ops.testing's own Pebble
    original, left = client.list_files, iter(range(number))

    def cut(self, *args, **kwargs):
        if next(left, None) is None:
            raise pebble.ConnectionError("cut")
        return original(self, *args, **kwargs)

    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    with monkeypatch.context() as patch:
        patch.setattr(client, "list_files", cut)
        status = related.run("update_status")
    waits = testing.WaitingStatus("waiting for the container")
    assert status == (waits if number < 4 else RUNNING)
    assert related.run("update_status") == RUNNING


# --- the service


def test_the_service_is_one_of_three_in_the_container(related):
    related.agent.hold(None)
    related.relate()
    plan = related.state.get_container(AGENT).plan
    assert set(plan.services) == {"agent", "backup", "guard"}
    service = plan.services["backup"]
    assert service.on_failure == "restart"
    assert set(plan.checks) == {"mirror"}
    assert {9091, 9092} <= {port.port for port in related.state.opened_ports}
    assert related.mirror == related.backups == pebble.ServiceStatus.ACTIVE


def test_neither_service_is_restarted_for_the_other(related):
    related.agent.hold(None)
    related.relate()
    related.configure(mirror_max_lag=7)
    assert len(related.agent.archive.starts) == 1
    related.configure(backup_keep="7")
    assert related.agent.commands == [["mirror"]] * 2
    assert len(related.agent.archive.starts) == 2
    assert related.agent.archive.status["updated"]
    related.unrelate()
    related.run("update_status")
    assert len(related.agent.archive.starts) == 2
    assert related.backups == pebble.ServiceStatus.ACTIVE


def test_the_program_is_put_once_for_both(deployed):
    archive = deployed.root / AGENT / "lib.tar"
    deployed.agent.bare()
    deployed.agent.hold(None)
    deployed.relate()
    archive.unlink()
    deployed.relate_s3()
    assert not archive.exists()
    assert deployed.backups == pebble.ServiceStatus.ACTIVE


def test_an_image_that_cannot_run_it_is_named_and_the_server_serves(deployed):
    deployed.agent.bare()
    deployed.agent.unpack = (3, "3.8")
    status = deployed.relate_s3()
    assert status.name == "blocked"
    assert status.message.startswith("attach an agent-image with glibc and Python 3.")
    assert status.message.endswith(": this one has Python 3.8")
    with pytest.raises(
        testing.ActionFailed, match=r": this one has Python 3.8; .* juju attach-resource$"
    ):
        deployed.act("create-backup")
    assert deployed.agent.archive.operation is None


def test_the_service_runs_where_the_server_must_not(related):
    related.border.stop()
    (related.root / "content" / ".dittofs-charm.json").unlink()
    related.new_pod()
    assert related.pebble_ready().name == "blocked"
    assert related.backups == pebble.ServiceStatus.ACTIVE
    assert related.act("list-backups") == {"backups": "none"}


def test_the_service_ends_with_the_unit_before_the_server(related):
    order = []
    with pytest.MonkeyPatch.context() as patch:
        stop = related.agent.archive.stop
        patch.setattr(
            related.agent.archive,
            "stop",
            lambda: (order.append(related.border.server is not None), stop()),
        )
        related.remove()
    assert order[0] is True
    assert related.backups == pebble.ServiceStatus.INACTIVE


def test_volumes_that_go_end_the_service(related):
    related.change(storages=[])
    assert related.run("config_changed").message == "waiting for the storage to be attached"
    assert related.backups == pebble.ServiceStatus.INACTIVE
    with pytest.raises(testing.ActionFailed, match="waiting for the storage"):
        related.act("list-backups")
    assert "waiting for the storage" in related.act("status-detail")["status"]


def test_without_s3_the_detail_says_so(deployed):
    assert "state: no S3 storage is related" in deployed.act("status-detail")["status"]


def test_an_application_that_is_not_told_the_passwords_yet_waits(deployed):
    deployed.relate_s3()
    (peers,) = deployed.state.get_relations("peers")
    others = [each for each in deployed.state.relations if each.id != peers.id]
    deployed.change(relations=[*others, testing.PeerRelation("peers")], leader=False)
    with pytest.raises(testing.ActionFailed, match="waiting for the leader"):
        deployed.act("create-backup")
    assert deployed.run("update_status").name == "waiting"


def test_what_stays_wrong_in_the_bucket_is_said_until_it_is_mended(related):
    problem = "mend or delete backup 2026-03-01T02:30:00Z: it cannot be read (damaged)"
    related.agent.archive.said = {"standing": problem}
    related.agent.archive.say()
    assert related.run("update_status") == testing.BlockedStatus(f"s3-backup: {problem}")
    (reason,) = related.reasons()
    assert reason == (
        f"blocked: s3-backup: {problem}; a damaged backup goes by delete-backup, all else is "
        "tried again after the next backup"
    )
    detail = json.loads(related.act("status-detail", format="json")["status"])["backups"]
    assert detail["problem"] == problem
    related.agent.archive.said = {}
    related.agent.archive.say(standing="")
    assert related.run("update_status") == SERVED


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("credentials", "blocked"),
        ("bucket", "blocked"),
        ("settings", "blocked"),
        ("refused", "blocked"),
        ("away", "waiting"),
        ("api", "waiting"),
    ],
)
def test_what_passes_is_waited_for_and_what_does_not_is_blocked(related, kind, name):
    related.agent.archive.script["create"] = (kind, "S3 says so")
    with pytest.raises(testing.ActionFailed, match="S3 says so"):
        related.act("create-backup")
    status = related.run("update_status")
    assert (status.name, "S3 says so" in status.message) == (name, True)
