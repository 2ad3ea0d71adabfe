"""restore: what is refused, what comes back, and the way back where it does not."""

import base64
import contextlib
import json
import shutil

import pytest
from ops import pebble, testing
from scenario import mocking

from tests.unit import agents, archives
from tests.unit.conftest import Unit
from tests.unit.cutting import cut

SERVED = testing.ActiveStatus("nfs, smb: /export")
KEY = base64.b64encode(b"k" * 32).decode()
SECRET = testing.Secret({"key": KEY}, id=f"secret:{'keptkey':a<20}")
OPERATION = ".dittofs-operation.json"
EMPTY = "bring the content volume back or run start-without volume=content: it is empty"


def content(unit: Unit):
    return unit.root / "content" / "shares" / "export" / "journal"


def users(unit: Unit) -> set[str]:
    return {user["username"] for user in unit.server.database.users()}


def backup_id(unit: Unit) -> str:
    return next(iter(unit.agent.archive.bucket.backups))[1]


def restore(unit: Unit, **params):
    given = {"backup-id": backup_id(unit), "confirm": backup_id(unit)}
    return unit.act("restore", **given | params)


def left(unit: Unit) -> set[str]:
    """What a restore has left behind on the volumes."""
    names = {
        path.name for name in ("metadata", "content") for path in (unit.root / name).iterdir()
    }
    begins = ("aside-", ".restoring", OPERATION)
    return {name for name in names if name.startswith(begins)}


def old_state(unit: Unit) -> bool:
    """Whether what was there before the restore is served, all of it."""
    return content(unit).read_text() == "new" and users(unit) == {"admin", "ann", "bob"}


def new_state(unit: Unit) -> bool:
    """Whether what the backup holds is served, all of it."""
    return content(unit).read_text() == "old" and users(unit) == {"admin", "ann"}


@pytest.fixture
def saved(deployed):
    """A unit with a backup, that has changed since."""
    deployed.server.database.put_user({"username": "ann", "role": "user"}, "a password")
    content(deployed).parent.mkdir(parents=True)
    content(deployed).write_text("old")
    deployed.relate_s3()
    deployed.act("create-backup")
    content(deployed).write_text("new")
    deployed.server.database.put_user({"username": "bob", "role": "user"}, "a password")
    deployed.agent.archive.commands.clear()
    # Nobody has to wait in small steps for what goes on by itself.
    deployed.border.pace = 50
    assert old_state(deployed)
    return deployed


def test_everything_comes_back(saved):
    starts, generation = saved.border.starts, saved.marker("metadata")["generation"]
    instance = saved.marker("metadata")["instance"]
    results = restore(saved)
    assert results["restore"] == "complete"
    assert results["backup-id"] == backup_id(saved)
    heading, line = results["shares"].splitlines()
    assert heading.split() == ["name", "size", "equal", "status", "message"]
    assert line.split() == ["/export", "1.00MiB", "yes", "healthy", "-"]
    assert saved.status == SERVED
    assert new_state(saved)
    assert left(saved) == set()
    assert saved.border.starts == starts + 2
    assert saved.marker("metadata") == saved.marker("content")
    assert saved.marker("metadata")["instance"] == instance
    assert saved.marker("metadata")["generation"] == generation + 2
    commands = [words[0] for words in saved.agent.archive.commands]
    assert commands == ["backup-list", "backup-swap", "backup-discard"]


def test_the_server_has_the_password_of_this_application_again(saved):
    secret = testing.Secret({"password": "another one"}, id=f"secret:{'user':a<20}")
    saved.change(secrets=[*saved.state.secrets, secret])
    saved.configure(admin_password=str(secret.id))
    seen = []
    settle = saved.agent.archive.script
    settle["settle"] = lambda asked: (
        seen.append(saved.agent.archive.config["api"]["password"]),
        saved.agent.archive._settle(asked),  # noqa: SLF001  # what it does otherwise
    )[1]
    restore(saved)
    (made,) = [each for each in saved.state.secrets if "token-key" in each.latest_content]
    assert seen == [made.latest_content["admin-password"]]
    assert saved.status == SERVED
    assert saved.agent.archive.config["api"]["password"] == "another one"


def test_the_steps_are_told_and_clients_wait_while_it_is_under_way(saved):
    context = saved._context()  # noqa: SLF001  # the log of an action
    given = {"backup-id": backup_id(saved), "confirm": backup_id(saved)}
    saved.agent.archive.script["settle"] = archives.RUNNING
    saved._deliver(context, context.on.action("restore", params=given))  # noqa: SLF001  # the same
    assert context.action_results is not None
    assert context.action_results["restore"] == "goes on: uploading, 75 % of 4.00MiB"
    assert context.action_logs[-1] == "uploading, 75 % of 4.00MiB"
    status = testing.MaintenanceStatus(
        f"restoring backup {backup_id(saved)}: uploading, 75 % of 4.00MiB"
    )
    assert saved.status == status
    starts = saved.border.starts
    saved.server.calls.clear()
    assert saved.configure(shares="- name: /export\n- name: /more", log_level="debug") == status
    assert saved.server.changes == []
    assert saved.border.starts == starts
    assert 9092 in {port.port for port in saved.state.opened_ports}
    for action in ("list-shares", "create-backup"):
        with pytest.raises(testing.ActionFailed, match=r"the restore of backup .* is under way"):
            saved.act(action)
    assert "restore" in saved.act("status-detail")["status"]
    saved.agent.archive.script.clear()
    saved.notice()
    saved.notice()
    assert saved.notice().message == (
        f"nfs, smb: /export, /more; backup {backup_id(saved)} restored"
    )
    assert new_state(saved)
    saved.act("create-backup")
    assert saved.status.message == "nfs, smb: /export, /more"


def test_while_the_data_is_fetched_the_server_serves_and_is_left_alone(saved):
    saved.agent.archive.script["fetch"] = archives.RUNNING
    restore(saved)
    assert saved.status == testing.ActiveStatus("nfs, smb: /export; restore running")
    starts = saved.border.starts
    saved.server.calls.clear()
    status = saved.configure(shares="- name: /export\n- name: /more", memory="4Gi")
    assert status == testing.ActiveStatus("nfs, smb: /export; restore running")
    assert saved.server.changes == []
    assert saved.border.starts == starts
    assert old_state(saved)


@pytest.mark.parametrize(
    "action", ["delete-share", "create-backup", "delete-backup", "verify-backup", "restore"]
)
def test_nothing_else_is_begun_meanwhile(saved, action):
    saved.configure(shares="- name: /export\n- name: /more")
    saved.configure(shares="- name: /export")
    saved.agent.archive.script["fetch"] = archives.RUNNING
    restore(saved)
    confirmed = {"backup-id": backup_id(saved), "confirm": backup_id(saved)}
    params = {
        "delete-share": {"name": "/more", "confirm": "/more"},
        "create-backup": {},
        "verify-backup": {"backup-id": backup_id(saved)},
    }
    with pytest.raises(testing.ActionFailed, match=r"the restore of backup .* is under way"):
        saved.act(action, **params.get(action, confirmed))


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"confirm": "yes"}, "in the place of what is there now, say confirm=2"),
        ({"backup-id": "x", "confirm": "x"}, "there is no backup x of .*/dittofs"),
        ({"shares": "/export,/b"}, "does not hold /b, but /export"),
        (
            {"recovery-key": f"secret:{'no':a<20}"},
            "recovery-key: run juju grant-secret .*; the secret cannot be read",
        ),
        ({"from": "9999/other"}, "there is no backup .* of 9999/other"),
    ],
)
def test_what_is_refused_changes_nothing(saved, params, text):
    with pytest.raises(testing.ActionFailed, match=text):
        restore(saved, **params)
    assert saved.agent.archive.operation is None
    assert saved.status == SERVED
    assert old_state(saved)


def test_one_that_is_not_complete_is_refused(saved):
    row, _ = next(iter(saved.agent.archive.bucket.backups.values()))
    row |= {"complete": False, "problem": "its manifest is damaged"}
    with pytest.raises(testing.ActionFailed, match="does not restore: its manifest is damaged"):
        restore(saved)


def test_more_than_one_unit_is_refused(saved):
    saved.change(planned_units=2)
    with pytest.raises(testing.ActionFailed, match="juju scale-application dittofs 1"):
        restore(saved)


def test_without_s3_there_is_nothing_to_restore_from(deployed):
    with pytest.raises(testing.ActionFailed, match="no S3 storage is related"):
        deployed.act("restore", **{"backup-id": "x", "confirm": "x"})


def test_some_shares_come_back_and_users_stay(saved):
    asked = []
    saved.agent.archive.script["fetch"] = lambda operation: (
        asked.append(operation["params"]),
        saved.agent.archive._fetch(operation),  # noqa: SLF001  # what it does otherwise
    )[1]
    seen = []
    saved.agent.archive.script["settle"] = lambda operation: (
        seen.append(saved.agent.archive.config["api"]["password"]),
        saved.agent.archive._settle(operation),  # noqa: SLF001  # the same
    )[1]
    life = saved.marker("metadata")["life"]
    results = restore(saved, shares=" /export , ,/export,export")
    assert results["restore"] == "complete"
    assert asked == [{"backup-id": backup_id(saved), "from": None, "shares": ["/export"]}]
    assert users(saved) == {"admin", "ann", "bob"}
    assert saved.marker("metadata")["life"] == life
    (applied,) = saved.admin_secrets("app")
    assert seen == [applied.latest_content["password"]]
    assert saved.status == SERVED


def test_some_shares_only_come_back_beside_others_that_can_be_served(saved):
    lose(saved, "content")
    with pytest.raises(testing.ActionFailed) as raised:
        restore(saved, shares="/export")
    assert raised.value.message == (
        f"{EMPTY}; the metadata volume has shares /export; a backup can be restored, too"
    )


def lose(unit: Unit, volume: str) -> None:
    unit.border.stop()
    shutil.rmtree(unit.root / volume)
    (unit.root / volume).mkdir()
    unit.new_pod()
    assert unit.pebble_ready().name == "blocked"


@pytest.mark.parametrize("volume", ["content", "metadata"])
def test_a_volume_that_was_lost_is_mended(saved, volume):
    other = "content" if volume == "metadata" else "metadata"
    marker = saved.marker(other)
    lose(saved, volume)
    restore(saved)
    assert saved.status == SERVED
    assert new_state(saved)
    assert saved.marker("metadata") == saved.marker("content")
    assert saved.marker("metadata")["instance"] == marker["instance"]
    assert saved.marker("metadata")["generation"] == marker["generation"] + 2


def test_two_volumes_that_were_lost_are_mended(saved):
    for volume in ("metadata", "content"):
        saved.border.stop()
        shutil.rmtree(saved.root / volume)
        (saved.root / volume).mkdir()
    saved.new_pod()
    assert "both volumes are empty" in saved.pebble_ready().message
    restore(saved)
    assert saved.status == SERVED
    assert new_state(saved)
    (peers,) = saved.state.get_relations("peers")
    assert peers.local_app_data["instance"] == saved.marker("metadata")["instance"]


def test_while_it_is_fetched_for_a_lost_volume_that_is_what_the_status_says(saved):
    lose(saved, "content")
    saved.agent.archive.script["fetch"] = archives.RUNNING
    restore(saved)
    assert saved.status == testing.MaintenanceStatus(
        f"restoring backup {backup_id(saved)}: uploading, 75 % of 4.00MiB"
    )
    assert saved.service != pebble.ServiceStatus.ACTIVE
    saved.agent.archive.script["fetch"] = ("space", "the volume has 1 MiB free")
    status = saved.notice()
    assert status.name == "blocked"
    assert EMPTY in saved.act("status-detail")["status"]
    assert left(saved) == set()


def test_a_marker_that_is_damaged_is_mended(saved):
    saved.border.stop()
    (saved.root / "metadata" / ".dittofs-charm.json").write_text("{")
    saved.new_pod()
    message = saved.pebble_ready().message
    assert message.startswith("refresh the charm: ")
    assert message.endswith(" is damaged or of a newer charm")
    restore(saved)
    assert saved.status == SERVED
    assert new_state(saved)


def test_both_volumes_of_a_new_application_in_another_model(saved, border, tmp_path):
    source = f"{saved.state.model.uuid}/dittofs"
    saved.border.stop()
    heir = Unit(border, tmp_path / "heir")
    heir.agent.archive.bucket = saved.agent.archive.bucket
    heir.change(model=testing.Model(name="new", uuid="4b9b8c1c-98f4-4d4a-8d3f-3f2a3b3ac009"))
    assert heir.deploy() == SERVED
    heir.relate_s3()
    with pytest.raises(testing.ActionFailed, match="is of another application: put the key that"):
        restore(heir, **{"from": source})
    assert heir.status == SERVED
    heir.change(secrets=[*heir.state.secrets, SECRET])
    restore(heir, **{"from": source, "recovery-key": str(SECRET.id)})
    assert heir.status == SERVED
    assert new_state(heir)
    keys = [start["foreign_key"] for start in heir.agent.archive.starts]
    assert keys == [None, KEY, None, None]
    assert heir.marker("metadata")["model_uuid"].endswith("009")


def test_volumes_of_another_application_become_this_ones(saved, border, tmp_path):
    saved.border.stop()
    heir = Unit(border, tmp_path / "heir")
    for volume in ("metadata", "content"):
        shutil.copytree(saved.root / volume, heir.root / volume, dirs_exist_ok=True)
    heir.agent.archive.bucket = saved.agent.archive.bucket
    heir.change(
        model=testing.Model(name="new", uuid="4b9b8c1c-98f4-4d4a-8d3f-3f2a3b3ac009"),
        secrets=[SECRET],
    )
    heir.relate_s3()
    assert heir.deploy().message.endswith(" to serve the volumes of another application")
    (reason,) = heir.reasons()
    assert "; they belong to the application dittofs of another life or model" in reason
    source = f"{saved.state.model.uuid}/dittofs"
    restore(heir, **{"from": source, "recovery-key": str(SECRET.id)})
    assert heir.status == SERVED
    assert heir.marker("content")["instance"] != saved.marker("content")["instance"]


def test_the_mirror_ends_before_and_begins_after_it(saved):
    saved.agent.hold(None)
    saved.relate()
    saved.agent.commands.clear()
    seen = []
    saved.agent.archive.script["settle"] = lambda operation: (
        seen.append(saved.agent.archive.config["s3"]["bucket"]),
        saved.agent.archive._settle(operation),  # noqa: SLF001  # what it does otherwise
    )[1]
    saved.agent.archive.script["finish"] = archives.RUNNING
    restore(saved)
    assert seen == ["backups"]
    assert saved.mirror == pebble.ServiceStatus.INACTIVE
    assert saved.agent.commands == []
    saved.agent.archive.script.clear()
    saved.notice()
    assert saved.agent.commands == [["mirror"]]
    assert saved.status.message.startswith("nfs, smb: /export; metadata in MySQL")
    generation = saved.marker("metadata")["generation"]
    assert saved.agent.config["generation"] == generation


def test_a_lost_metadata_volume_is_not_recovered_from_mysql_meanwhile(saved):
    saved.agent.hold(None)
    saved.relate()
    lose(saved, "metadata")
    saved.agent.hold(agents.row(saved.marker("content")))
    saved.agent.commands.clear()
    restore(saved)
    assert ["recover"] not in [words[:1] for words in saved.agent.commands]
    assert new_state(saved)


# --- servers of other versions


def made_by(unit: Unit, server: str) -> None:
    """The backup is one of a server of this version."""
    unit.agent.archive.bucket.backups[next(iter(unit.agent.archive.bucket.backups))][0].update(
        server=server
    )


@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize("server", ["v0.29.1", "v0.31.1", "v0.36.0"])
def test_a_backup_of_a_newer_server_is_refused_also_where_none_answers(saved, server, serves):
    made_by(saved, server)
    if not serves:
        saved.border.stop()
        saved.border.down = True
    with pytest.raises(testing.ActionFailed) as raised:
        restore(saved)
    assert raised.value.message == (
        f"attach dittofs-image {server} or newer first: it made backup {backup_id(saved)}, and "
        "v0.29.0 may destroy what it wrote"
    )
    assert saved.agent.archive.operation is None


def test_a_release_does_not_restore_a_backup_onto_what_a_newer_one_has_served(saved):
    for volume in ("metadata", "content"):
        path = saved.root / volume / ".dittofs-charm.json"
        path.write_text(path.read_text().replace("v0.29.0", "v0.31.0"))
    with pytest.raises(testing.ActionFailed, match=r"attach dittofs-image v0\.31\.0 or newer: "):
        restore(saved)


@pytest.mark.parametrize("server", ["v0.28.3", "v0.29.0-rc1", "v0.29.0"])
def test_a_backup_of_an_older_server_is_restored(saved, server):
    made_by(saved, server)
    restore(saved)
    assert new_state(saved)


@pytest.mark.parametrize("server", ["unknown", "dev", "v0.29.0-5-g1a2b3c4"])
def test_a_backup_of_a_build_that_is_no_release_is_restored_where_somebody_answers_for_it(
    saved, server
):
    made_by(saved, server)
    with pytest.raises(testing.ActionFailed) as raised:
        restore(saved)
    assert raised.value.message == (
        f"set allow-unknown-server=true if v0.29.0 is no older than '{server}', which made backup "
        f"{backup_id(saved)}"
    )
    saved.configure(allow_unknown_server=True)
    restore(saved)
    assert new_state(saved)


# --- what fails


@pytest.mark.parametrize("kind", ["space", "newer", "key", "damaged", "away"])
def test_a_fetch_that_fails_has_changed_nothing(saved, kind):
    starts = saved.border.starts
    saved.agent.archive.script["fetch"] = (kind, "the volume has 1 MiB free")
    with pytest.raises(
        testing.ActionFailed,
        match=r"the volume has 1 MiB free; the restore of backup .* failed, nothing was changed",
    ):
        restore(saved)
    assert saved.status == SERVED
    assert saved.border.starts == starts
    assert old_state(saved)
    assert left(saved) == set()


WRONG = {
    "swap": ("backup-swap", ("space", "no space left")),
    "swap without a word": ("backup-swap", (137, "Killed")),
    "settle": ("settle", ("damaged", "/export is not what was backed up")),
    "settle, differs": ("settle", lambda _: {"shares": [{"name": "/export", "equal": False}]}),
    "finish": ("finish", ("api", "/export is unhealthy")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_step_that_fails_is_undone(saved, wrong):
    step, what = WRONG[wrong]
    saved.agent.archive.script[step] = what
    with pytest.raises(
        testing.ActionFailed,
        match=r"; the restore of backup .* failed, what was there before is in its place again",
    ):
        restore(saved)
    assert saved.status == SERVED
    assert old_state(saved)
    assert left(saved) == set()
    assert saved.marker("metadata") == saved.marker("content")
    saved.agent.archive.script.clear()
    restore(saved)
    assert new_state(saved)


def test_what_was_undone_while_nobody_waited_is_said(saved):
    saved.agent.archive.script["settle"] = archives.RUNNING
    restore(saved)
    saved.agent.archive.script["settle"] = ("api", "the server does not answer")
    status = saved.notice()
    assert status.name == "blocked"
    assert status.message == (
        f"s3-backup: the server does not answer; the restore of backup {backup_id(saved)} failed, "
        "what was there before is in its place again"
    )
    assert old_state(saved)
    saved.agent.archive.script.clear()
    saved.act("create-backup")
    assert saved.status == SERVED


def test_a_server_that_does_not_run_on_it_is_undone(saved):
    saved.agent.archive.script["backup-swap"] = lambda: (
        setattr(saved.border, "last_words", "Error: bad journal\n"),
        saved.agent.archive._swap(),  # noqa: SLF001  # what it does otherwise
    )[1]
    rollback = saved.agent.archive._rollback  # noqa: SLF001  # the same
    saved.agent.archive.script["backup-rollback"] = lambda: (
        setattr(saved.border, "last_words", ""),
        rollback(),
    )[1]
    results = restore(saved)
    assert results["restore"] == "goes on: the server ended with code 1: Error: bad journal"
    assert saved.status.name == "maintenance"
    age(saved, 121)
    assert saved.run("update_status").message.startswith(
        "s3-backup: the server ended with code 1: Error: bad journal"
    )
    assert old_state(saved)


def age(unit: Unit, seconds: float) -> None:
    """The present step was begun longer ago."""
    path = unit.root / "metadata" / OPERATION
    operation = json.loads(path.read_text())
    path.write_text(json.dumps(operation | {"since": operation["since"] - seconds}))


def test_volumes_of_a_newer_server_are_undone_at_once(saved):
    saved.agent.archive.script["settle"] = archives.RUNNING
    restore(saved)
    saved.border.stop()
    (saved.root / "config" / "exit-code").write_text("78\n")
    status = saved.run("update_status")
    assert "attach the dittofs-image that wrote the volumes" in status.message
    assert old_state(saved)


def test_a_server_that_does_not_answer_is_waited_for_and_then_undone(saved):
    swap = saved.agent.archive._swap  # noqa: SLF001  # what it does otherwise
    saved.agent.archive.script["backup-swap"] = lambda: (
        setattr(saved.border, "down", True),
        swap(),
    )[1]
    results = restore(saved)
    assert results["restore"] == "goes on: the server does not answer yet"
    assert saved.status == testing.MaintenanceStatus(
        f"restoring backup {backup_id(saved)}: the server does not answer yet"
    )
    age(saved, 3601)
    saved.agent.archive.script["backup-rollback"] = lambda: (
        setattr(saved.border, "down", False),
        saved.agent.archive._rollback(),  # noqa: SLF001  # the same
    )[1]
    assert "the server does not answer yet" in saved.run("update_status").message
    assert old_state(saved)


def test_a_way_back_that_fails_is_tried_again(saved):
    saved.agent.archive.script["settle"] = ("api", "no")
    saved.agent.archive.script["backup-rollback"] = ("space", "no space left")
    results = restore(saved)
    assert results["restore"] == (
        "goes on: what was there before cannot be put back, which is tried again: no space left"
    )
    assert saved.status.name == "maintenance"
    assert saved.service != pebble.ServiceStatus.ACTIVE
    saved.agent.archive.script.pop("backup-rollback")
    saved.run("update_status")
    assert old_state(saved)
    assert left(saved) == set()


def test_what_cannot_be_removed_keeps_nobody_from_being_served(saved):
    saved.agent.archive.script["backup-discard"] = ("refused", "read-only file system")
    results = restore(saved)
    assert results["restore"] == (
        "goes on: what is not needed any more cannot be removed, which is tried again: read-only "
        "file system"
    )
    assert saved.status == testing.WaitingStatus(
        "s3-backup: what is not needed any more cannot be removed, which is tried again: "
        "read-only file system"
    )
    assert new_state(saved)
    assert saved.act("list-shares")
    saved.agent.archive.script.clear()
    assert saved.run("update_status").message.startswith("nfs, smb: /export; backup ")
    assert left(saved) == set()


def test_a_volume_that_cannot_be_written_is_undone(saved, monkeypatch):
    push = mocking._MockPebbleClient.push  # noqa: SLF001  # ops.testing's own Pebble

    def refuse(self, path, *args, **kwargs):
        if path.endswith("/.dittofs-charm-probe"):
            raise pebble.PathError("generic-file-error", f"open {path}: read-only file system")
        return push(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mocking._MockPebbleClient, "push", refuse)  # noqa: SLF001  # ops' own
        with pytest.raises(testing.ActionFailed, match=r"65532 cannot write to it \(read-only"):
            restore(saved)
    saved.run("update_status")
    assert old_state(saved)


@pytest.mark.parametrize("step", ["swap", "start", "settle", "stop", "restart", "finish"])
def test_a_step_that_finds_the_volume_full_is_noted_when_there_is_space(saved, monkeypatch, step):
    """The agent waits for the note of its step, and the action for the agent."""
    push = mocking._MockPebbleClient.push  # noqa: SLF001  # ops.testing's own Pebble
    refused = []

    def refuse(self, path, source, **kwargs):
        if path.endswith(OPERATION) and f'"step": "{step}"' in source and len(refused) < 3:
            refused.append(path)
            raise pebble.PathError("generic-file-error", f"write {path}: no space left on device")
        return push(self, path, source, **kwargs)

    monkeypatch.setattr(mocking._MockPebbleClient, "push", refuse)  # noqa: SLF001  # ops' own
    assert restore(saved)["restore"] == "complete"
    assert len(refused) == 3
    assert new_state(saved)


def test_a_unit_that_could_not_be_served_before_is_blocked_as_before(saved):
    lose(saved, "content")
    saved.agent.archive.script["settle"] = ("api", "no")
    with pytest.raises(testing.ActionFailed, match=r"no; the restore of .* is in its place again"):
        restore(saved)
    assert saved.status.message.startswith(EMPTY)
    assert saved.service != pebble.ServiceStatus.ACTIVE


def test_a_restore_without_s3_any_more_fails_or_is_finished(saved):
    saved.agent.archive.script["settle"] = archives.RUNNING
    restore(saved)
    assert saved.unrelate_s3().name == "maintenance"
    assert saved.agent.archive.config["s3"] is None
    saved.agent.archive.script.clear()
    saved.agent.archive.poll()
    saved.run("update_status")
    saved.agent.archive.poll()
    assert saved.run("update_status").name == "active"
    assert new_state(saved)
    assert saved.backups == pebble.ServiceStatus.INACTIVE


def test_a_fetch_waits_for_keys_that_cannot_be_read_just_now(saved):
    saved.agent.archive.script["fetch"] = archives.RUNNING
    restore(saved)
    keys = [each for each in saved.state.secrets if each.id == archives.KEYS.id]
    saved.change(secrets=[each for each in saved.state.secrets if each not in keys])
    assert "secret-extra cannot be read yet" in saved.run("config_changed").message
    assert saved.agent.archive.config["s3"]["bucket"] == "backups"
    saved.change(secrets=[*saved.state.secrets, *keys])
    saved.agent.archive.script.clear()
    saved.notice()
    saved.notice()
    saved.notice()
    assert new_state(saved)


# --- what is cut


@pytest.mark.parametrize("step", ["fetch", "settle", "finish"])
def test_a_pod_that_is_lost_goes_on(saved, step):
    saved.agent.archive.script[step] = archives.RUNNING
    restore(saved)
    saved.agent.archive.script.clear()
    saved.new_pod()
    saved.pebble_ready()
    for _ in range(3):
        saved.notice()
    assert saved.status.name == "active"
    assert new_state(saved)
    assert left(saved) == set()


def restore_cut(unit: Unit, monkeypatch, number: int) -> int:
    """Restore, and cut the charm from Pebble at its call of that number, and all later ones.

    Returns:
        how many calls there were.
    """
    with monkeypatch.context() as patch:
        made = cut(patch, number, lambda: unit.agent.archive.operation is not None)
        with contextlib.suppress(testing.ActionFailed):
            restore(unit)
    return len(made)


def test_a_charm_that_is_not_cut_makes_so_many_calls(saved, monkeypatch):
    """The points of the test below cover a restore from its begin to its end."""
    assert 20 < restore_cut(saved, monkeypatch, 10_000) <= 48
    assert new_state(saved)


@pytest.mark.parametrize("number", range(0, 48, 2))
def test_a_charm_that_is_cut_at_any_call_brings_everything_back_later(saved, monkeypatch, number):
    restore_cut(saved, monkeypatch, number)
    go_on(saved)
    assert new_state(saved) or (number == 0 and old_state(saved))


@pytest.mark.parametrize("number", range(17, 44, 4))
def test_a_charm_that_is_cut_at_any_call_puts_everything_back_later(saved, monkeypatch, number):
    saved.agent.archive.script["finish"] = ("api", "/export is unhealthy")
    restore_cut(saved, monkeypatch, number)
    go_on(saved)
    assert old_state(saved)


def go_on(unit: Unit) -> None:
    """A new pod comes up, and what was under way comes to its end."""
    unit.new_pod()
    unit.pebble_ready()
    for _ in range(4):
        unit.notice()
    assert left(unit) == set()
    assert unit.marker("metadata") == unit.marker("content")
    assert unit.service == pebble.ServiceStatus.ACTIVE
    assert unit.status.name in {"active", "blocked"}


def test_an_operation_that_cannot_be_understood_changes_nothing(saved):
    (saved.root / "metadata" / OPERATION).write_text('{"kind": "dance"}')
    starts = saved.border.starts
    status = saved.run("update_status")
    assert status == testing.BlockedStatus(
        f"refresh the charm: {OPERATION} on the metadata volume is damaged or of a newer charm"
    )
    assert saved.border.starts == starts
    assert "damaged or of a newer charm" in saved.act("status-detail")["status"]


def test_teardown_in_the_middle_of_it_changes_no_password(saved):
    saved.agent.archive.script["settle"] = archives.RUNNING
    restore(saved)
    saved.server.calls.clear()
    calls = saved.server.calls
    saved.remove()
    assert [call for call in calls if "auth" in call.path or "password" in call.path] == []
    assert saved.backups == pebble.ServiceStatus.INACTIVE
