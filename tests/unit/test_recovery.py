"""A metadata volume that was lost comes back from MySQL before the server is started on it."""

import json
import re
import shutil
import time

import pytest
from ops import pebble, testing

from agent import mysql_errors
from tests.unit import agents
from tests.unit.conftest import AGENT, Unit

SERVED = testing.ActiveStatus("nfs, smb: /export")
MIRRORED = testing.ActiveStatus("nfs, smb: /export; metadata in MySQL")
NOTE = ".dittofs-charm-recovery.json"
EMPTY = "bring the {0} volume back or run start-without volume={0}: it is empty"
# What `status-detail` says besides.
ASKED = "the metadata volume is empty, so MySQL is asked first; to serve without it, remove the "


@pytest.fixture
def lost(deployed, tmp_path):
    """A unit whose metadata was in MySQL and whose metadata volume is empty; its pod is new."""
    deployed.server.database.put_user({"username": "ann", "role": "user"}, "a password")
    deployed.relate()
    stores = deployed.root / "metadata/stores/export"
    stores.mkdir(parents=True)
    (stores / "000001.sst").write_text("names")
    deployed.border.stop()
    lose(deployed, tmp_path / "mirror")
    deployed.new_pod()
    return deployed


def lose(unit: Unit, copy) -> None:
    """The metadata volume is empty, and what it had is what MySQL has."""
    unit.agent.hold(agents.row(unit.marker("metadata")))
    shutil.move(unit.root / "metadata", copy)
    (unit.root / "metadata").mkdir()
    unit.agent.copy = copy
    unit.agent.commands.clear()


def metadata(unit: Unit) -> set[str]:
    return {path.name for path in (unit.root / "metadata").iterdir()}


def test_a_lost_metadata_volume_comes_back_before_the_server_is_started(lost):
    starts = lost.border.starts
    generation = lost.marker("content")["generation"]
    instance = lost.marker("content")["instance"]
    assert lost.pebble_ready() == MIRRORED
    assert lost.agent.commands == [["recover", "--from", instance, "--stay"], ["mirror"]]
    assert lost.border.starts == starts + 1
    assert lost.marker("metadata") == lost.marker("content")
    assert lost.marker("metadata")["instance"] == instance
    assert lost.marker("metadata")["generation"] == generation + 1
    assert {user["username"] for user in lost.server.database.users()} == {"admin", "ann"}
    assert (lost.root / "metadata/stores/export/000001.sst").read_text() == "names"
    assert NOTE not in metadata(lost)


def test_while_it_comes_back_the_server_is_down_and_the_progress_is_told(lost):
    lost.agent.copy = None
    starts = lost.border.starts
    with pytest.MonkeyPatch.context() as patch:
        progress = {"what": "recover export", "rows": 50, "total": 200, "eta": 3}
        patch.setattr(
            lost.agent, "recover", lambda: lost.agent.say(state="recovering", progress=progress)
        )
        status = lost.pebble_ready()
    assert status == testing.WaitingStatus(
        "mysql: recovering the metadata volume: recover export, 50 of 200 (25 %) rows, 3 s left"
    )
    assert lost.run("update_status") == status
    assert lost.border.starts == starts
    assert len(lost.agent.commands) == 1
    assert NOTE in metadata(lost)


def test_what_the_server_started_after_the_last_copy_counts(lost):
    """MySQL was away at the last start: its generation is one behind the content volume's."""
    marker = lost.marker("content")
    lost.agent.hold(agents.row({**marker, "generation": 1}))
    path = lost.root / "content" / ".dittofs-charm.json"
    path.write_text(json.dumps({**marker, "generation": 4}))
    assert lost.pebble_ready() == MIRRORED
    assert lost.marker("metadata")["generation"] == 5


def test_a_content_volume_of_an_old_copy_is_still_told(lost):
    marker = lost.marker("content")
    lost.agent.hold(agents.row({**marker, "generation": 9}))
    status = lost.pebble_ready()
    assert status.name == "blocked"
    assert status.message == (
        "restore a backup or run start-without volume=content: that volume is older"
    )
    assert lost.mirror == pebble.ServiceStatus.INACTIVE


def test_with_both_volumes_lost_the_shares_without_content_are_named(lost):
    shutil.rmtree(lost.root / "content")
    (lost.root / "content").mkdir()
    starts = lost.border.starts
    status = lost.pebble_ready()
    assert status.name == "blocked"
    assert status.message == EMPTY.format("content")
    (reason,) = lost.reasons()
    assert "; the metadata volume has shares /export; " in reason
    assert lost.border.starts == starts
    assert lost.mirror == pebble.ServiceStatus.INACTIVE


def test_nothing_in_mysql_is_a_lost_volume_as_ever(lost):
    lost.agent.hold(None)
    status = lost.pebble_ready()
    assert status.name == "blocked"
    assert status.message == EMPTY.format("metadata")
    (reason,) = lost.reasons()
    assert "; the content volume has shares /export; " in reason


def test_a_first_start_with_an_empty_database(unit):
    unit.agent.hold(None)
    unit.relate()
    assert unit.deploy() == MIRRORED
    assert unit.agent.commands == [["mirror"]]


def test_a_first_start_waits_until_mysql_could_be_asked(unit):
    unit.relate({})
    assert unit.deploy() == testing.WaitingStatus(
        "mysql: waiting for mysql-k8s: it has not given endpoints, username, password yet"
    )
    unit.agent.refuse("away", "connection refused")
    status = unit.relate()
    assert status.name == "waiting"
    assert status.message == "mysql: no server is started: connection refused"
    (reason,) = unit.reasons()
    assert reason.startswith(f"waiting: {status.message}; {ASKED}relation, or run ")
    unit.agent.refuse("password", "access denied for the user")
    assert unit.run("update_status").name == "blocked"
    unit.agent.answers["inspect"] = (137, "Killed")
    status = unit.run("update_status")
    assert status.message == (
        "mysql: no server is started: the agent ended with 137 while it asked"
    )
    (reason,) = unit.reasons()
    assert reason.startswith(f"waiting: {status.message}; {ASKED}relation, or run ")
    assert unit.border.starts == 0
    assert metadata(unit) == set()
    assert unit.unrelate() == SERVED


def test_the_agents_container_is_waited_for(lost):
    import dataclasses  # noqa: PLC0415  # only here

    agent = dataclasses.replace(lost.state.get_container(AGENT), can_connect=False)
    lost.change(containers=[lost.state.get_container("dittofs"), agent])
    status = lost.run("pebble_ready", lost.state.get_container("dittofs"))
    assert status == testing.WaitingStatus("waiting for the agent's container")
    lost.change(containers=lost.containers(can_connect=True))
    assert lost.run("pebble_ready", lost.state.get_container(AGENT)) == MIRRORED


@pytest.mark.parametrize(
    "whose",
    [
        {"application": "files"},
        {"model_uuid": "another", "model": "lost"},
        {"instance": "0b5e"},
        {"marker": "{"},
    ],
    ids=lambda whose: next(iter(whose)),
)
def test_the_metadata_of_another_is_never_taken_by_itself(lost, whose):
    lost.agent.hold(agents.row(lost.marker("content"), **whose))
    instance = whose.get("instance", lost.marker("content")["instance"])
    starts = lost.border.starts
    status = lost.pebble_ready()
    assert status.name == "blocked"
    assert status.message.startswith(
        f"mysql: run recover-metadata from={instance} or relate a fresh database"
    )
    (reason,) = lost.reasons()
    assert f"this database holds the metadata of instance {instance} (" in reason
    assert "last written 2 hours ago" in reason
    assert f"run recover-metadata from={instance} confirm={instance} recovery-key=" in reason
    assert lost.border.starts == starts
    assert metadata(lost) == set()
    assert lost.agent.commands == []
    assert lost.unrelate().message == EMPTY.format("metadata")


def test_an_application_that_was_deployed_again_does_not_take_it_by_itself(lost, border, tmp_path):
    """Same name, same model: but its keys are new, and so it may be another."""
    again = Unit(border, tmp_path / "again")
    again.agent.answers = lost.agent.answers
    again.relate()
    status = again.deploy()
    assert status.name == "blocked"
    assert status.message.startswith("mysql: run recover-metadata from=")
    assert border.starts == 1


@pytest.mark.parametrize("moved", [[], ["stores"]])
def test_a_pod_that_is_lost_meanwhile_goes_on(lost, moved):
    """The agent was at work, or between its last two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lost.agent, "recover", lambda: lost.agent.say(state="recovering"))
        lost.pebble_ready()
    (lost.root / "metadata" / ".recovering").mkdir()
    for name in moved:
        (lost.root / "metadata" / name).mkdir()
    lost.new_pod()

    def recover():
        shutil.rmtree(lost.root / "metadata" / "stores", ignore_errors=True)
        type(lost.agent).recover(lost.agent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lost.agent, "recover", recover)
        assert lost.pebble_ready() == MIRRORED
    assert not metadata(lost) & {".recovering", NOTE}


def test_a_pod_that_is_lost_after_the_last_step_only_needs_its_marker(lost):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lost.agent, "recover", lambda: lost.agent.say(state="recovering"))
        lost.pebble_ready()
    shutil.copytree(lost.agent.copy / "stores", lost.root / "metadata/stores")
    shutil.copy(lost.agent.copy / "controlplane.db", lost.root / "metadata")
    lost.agent.commands.clear()
    lost.new_pod()
    assert lost.pebble_ready() == MIRRORED
    assert lost.agent.commands == [["mirror"]]


@pytest.mark.parametrize("steps", range(5))
def test_a_crash_of_the_charm_at_any_write_loses_nothing(lost, monkeypatch, steps):
    from scenario import mocking  # noqa: PLC0415  # the border

    original = mocking._MockPebbleClient.push  # noqa: SLF001  # ops.testing's own Pebble
    left = iter(range(steps))

    def dying(self, path, *args, **kwargs):
        if "/data/" in path and "probe" not in path and next(left, None) is None:
            raise pebble.ConnectionError("cut")
        return original(self, path, *args, **kwargs)

    monkeypatch.setattr(mocking._MockPebbleClient, "push", dying)  # noqa: SLF001  # the same
    assert lost.pebble_ready().name == "waiting"
    monkeypatch.setattr(mocking._MockPebbleClient, "push", original)  # noqa: SLF001  # the same
    lost.new_pod()
    assert lost.pebble_ready() == MIRRORED
    assert lost.marker("metadata") == lost.marker("content")
    assert {user["username"] for user in lost.server.database.users()} == {"admin", "ann"}
    assert NOTE not in metadata(lost)


def test_a_recovery_that_fails_is_worded_and_tried_again(lost):
    kept, lost.agent.copy = lost.agent.copy, None
    lost.agent.failure = "the metadata volume has 1 MiB free, 9 MiB are needed"
    status = lost.pebble_ready()
    assert status.name == "waiting"
    assert status.message == (
        "mysql: no server is started: the metadata volume has 1 MiB free, 9 MiB are needed"
    )
    assert NOTE not in metadata(lost)
    assert lost.run("update_status") == status
    lost.agent.copy = kept
    assert lost.run("update_status") == MIRRORED


@pytest.mark.parametrize("kind", sorted(mysql_errors.REMEDIES))
def test_a_fault_of_mysql_that_does_not_pass_is_for_a_person(lost, kind):
    """When the volume is asked for, and while it comes back."""
    held = dict(lost.agent.answers)
    lost.agent.refuse(kind, "GRANT SELECT on it")
    status = lost.pebble_ready()
    assert status.name == "blocked"
    assert status.message == "mysql: no server is started: GRANT SELECT on it"
    (reason,) = lost.reasons()
    assert reason.startswith(f"blocked: {status.message}; {ASKED}")
    lost.agent.answers |= held
    kept, lost.agent.copy = lost.agent.copy, None
    lost.agent.failure, lost.agent.failure_kind = "GRANT SELECT on it", kind
    status = lost.run("update_status")
    assert status.name == "blocked"
    assert status.message == "mysql: no server is started: GRANT SELECT on it"
    lost.agent.copy = kept
    assert lost.run("update_status") == MIRRORED


def test_another_database_after_a_failure_is_asked_anew(lost):
    lost.agent.copy = None
    lost.pebble_ready()
    lost.agent.hold(None)
    assert lost.run("update_status").message == EMPTY.format("metadata")


def test_start_without_is_a_way_out_of_a_recovery_that_fails(lost):
    lost.agent.copy = None
    lost.pebble_ready()
    (lost.root / "metadata" / ".recovering").mkdir()
    lost.act("start-without", volume="metadata", confirm="metadata")
    assert lost.status == MIRRORED
    assert lost.agent.commands[-1] == ["mirror"]
    assert lost.marker("metadata") == lost.marker("content")
    assert not metadata(lost) & {".recovering", NOTE}


def test_a_note_that_makes_no_sense_is_passed_over(lost):
    (lost.root / "metadata" / NOTE).write_text("{")
    assert lost.pebble_ready() == MIRRORED


def test_a_volume_with_files_and_without_a_marker_is_never_recovered_over(lost):
    (lost.root / "metadata/stores/export").mkdir(parents=True)
    status = lost.pebble_ready()
    assert status.message == (
        "bring the metadata volume back or run start-without volume=metadata: it has foreign files"
    )
    assert lost.agent.commands == []


def test_the_mirrors_age_is_left_out_where_it_is_not_known(lost):
    lost.agent.hold(agents.row(lost.marker("content"), application="x", updated=None))
    assert lost.pebble_ready().name == "blocked"
    assert "(x in the model files); " in str(lost.reasons())


def test_what_the_mirror_holds_is_shown_with_its_age(lost):
    # Events take a moment, and more of it where much else runs.
    for age, text in ((5, r"\d+ s"), (620, "10 min"), (90600, "25 hours"), (864600, "10 days")):
        row = agents.row(lost.marker("content"), application="x", updated=time.time() - age)
        lost.agent.hold(row)
        assert lost.pebble_ready().name == "blocked"
        assert re.search(f"last written {text} ago", str(lost.reasons()))
