"""Volumes that do not belong together: not served, nothing overwritten, and the ways out."""

import dataclasses
import shutil
import sqlite3
from pathlib import Path

import pytest
from ops import pebble, testing

from tests.juju import MODEL, VOLUMES
from tests.unit.conftest import Unit


@pytest.fixture(autouse=True)
def really_move(monkeypatch):
    """`mv` in the container, which ops.testing only pretends to run."""
    from scenario import mocking  # noqa: PLC0415  # the border

    original = mocking._MockPebbleClient.exec  # noqa: SLF001  # ops.testing's own Pebble

    def run(self, command, **kwargs):
        if command[0] == "mv":
            root = Path(self._root)
            for source in command[1:-1]:
                target = root / command[-1].lstrip("/") / Path(source).name
                shutil.move((root / source.lstrip("/")), target)
        return original(self, command, **kwargs)

    monkeypatch.setattr(mocking._MockPebbleClient, "exec", run)  # noqa: SLF001  # the same


def content_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def lose(unit: Unit, volume: str) -> None:
    unit.border.stop()
    shutil.rmtree(unit.root / volume)
    (unit.root / volume).mkdir()


def restart(unit: Unit):
    unit.new_pod()
    return unit.run("pebble_ready", unit.state.get_container("dittofs"))


def put_files(unit: Unit) -> None:
    for place in ("metadata/stores/export", "content/shares/export"):
        (unit.root / place).mkdir(parents=True, exist_ok=True)
        (unit.root / place / "file").write_text("data")


@pytest.mark.parametrize("lost", VOLUMES)
def test_a_lost_volume_is_never_served_and_nothing_is_written(deployed, lost):
    put_files(deployed)
    lose(deployed, lost)
    before = content_of(deployed.root)
    starts = deployed.border.starts
    status = restart(deployed)
    assert status.name == "blocked"
    assert status.message == (
        f"bring the {lost} volume back or run start-without volume={lost}: it is empty"
    )
    (reason,) = deployed.reasons()
    assert reason.startswith(f"blocked: {status.message}; ")
    assert "volume has shares /export" in reason
    for event in ("config_changed", "update_status", "leader_elected"):
        assert deployed.run(event) == status
    assert deployed.border.starts == starts
    after = {name: data for name, data in content_of(deployed.root).items() if name in before}
    lost_with_the_pod = ("config", "guard")
    assert after == {
        name: data
        for name, data in before.items()
        if not any(part in name for part in lost_with_the_pod)
    }


@pytest.mark.parametrize("lost", VOLUMES)
def test_the_volume_comes_back_and_is_served(deployed, lost):
    kept = deployed.root.parent / "kept"
    shutil.copytree(deployed.root / lost, kept)
    lose(deployed, lost)
    assert restart(deployed).name == "blocked"
    shutil.copytree(kept, deployed.root / lost, dirs_exist_ok=True)
    assert restart(deployed) == testing.ActiveStatus("nfs, smb: /export")


@pytest.mark.parametrize("lost", VOLUMES)
def test_start_without_keeps_what_is_there_aside_and_serves(deployed, lost):
    put_files(deployed)
    deployed.server.database.put_user({"username": "ann", "role": "user"}, "a password")
    left = "content" if lost == "metadata" else "metadata"
    instance = deployed.marker(left)["instance"]
    lose(deployed, lost)
    restart(deployed)
    results = deployed.act("start-without", volume=lost, confirm=lost)
    assert results["kept-aside"].startswith(f"/data/{left}/aside-")
    assert deployed.status == testing.ActiveStatus("nfs, smb: /export")
    assert deployed.marker("metadata") == deployed.marker("content")
    assert deployed.marker("metadata")["instance"] != instance
    (aside,) = (deployed.root / left).glob("aside-*")
    inner = "shares" if left == "content" else "stores"
    assert (aside / inner / "export" / "file").read_text() == "data"
    assert not (deployed.root / left / inner / "export" / "file").exists()
    users = {user["username"] for user in deployed.server.database.users()}
    assert users == ({"admin", "ann"} if lost == "content" else {"admin"})
    assert restart(deployed) == testing.ActiveStatus("nfs, smb: /export")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"volume": "content", "confirm": "yes"}, "say confirm=content; nothing is deleted"),
        ({"volume": "metadata", "confirm": "metadata"}, "what is not right is volume=content: "),
    ],
)
def test_start_without_refuses_what_was_not_meant(deployed, params, text):
    lose(deployed, "content")
    restart(deployed)
    before = content_of(deployed.root)
    with pytest.raises(testing.ActionFailed, match=text):
        deployed.act("start-without", **params)
    assert content_of(deployed.root) == before


def test_start_without_has_nothing_to_do_where_nothing_is_lost(deployed):
    with pytest.raises(testing.ActionFailed, match="no volume is missing"):
        deployed.act("start-without", volume="content", confirm="content")
    deployed.change(storages=[])
    with pytest.raises(testing.ActionFailed, match="waiting for the storage"):
        deployed.act("start-without", volume="content", confirm="content")


@pytest.mark.parametrize("swapped", VOLUMES)
def test_a_volume_of_another_application_is_not_served(deployed, border, tmp_path, swapped):
    other = Unit(border, tmp_path / "other")
    other.deploy()
    border.stop()
    mine, theirs = deployed.root / swapped, other.root / swapped
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    before = content_of(mine)
    status = restart(deployed)
    assert status.name == "blocked"
    assert status.message.endswith(": it is another's")
    (reason,) = deployed.reasons()
    assert "it belongs to an instance of dittofs and has shares /export" in reason
    assert content_of(mine) == before


def test_a_pair_of_another_model_is_served_after_adopt_volumes(deployed):
    instance = deployed.marker("metadata")["instance"]
    deployed.server.database.put_user({"username": "ann", "role": "user"}, "a password")
    deployed.change(
        model=testing.Model(name="disaster", uuid="4b9b8c1c-98f4-4d4a-8d3f-3f2a3b3ac002"),
        secrets=[],
        relations=[testing.PeerRelation("peers")],
    )
    status = restart(deployed)
    assert f"adopt-volumes confirm={instance}" in status.message
    with pytest.raises(testing.ActionFailed, match=f"say confirm={instance}"):
        deployed.act("adopt-volumes", confirm="yes")
    assert deployed.act("adopt-volumes", confirm=instance) == {"adopted": instance}
    assert deployed.status == testing.ActiveStatus("nfs, smb: /export")
    assert {user["username"] for user in deployed.server.database.users()} == {"admin", "ann"}
    with pytest.raises(testing.ActionFailed, match="no pair of another application"):
        deployed.act("adopt-volumes", confirm=instance)


def test_volumes_of_an_earlier_life_of_the_application_are_adopted_as_they_are(deployed):
    """The application was removed and deployed again: Juju's secrets are new."""
    put_files(deployed)
    deployed.change(secrets=[], relations=[testing.PeerRelation("peers")], model=MODEL)
    deployed.new_pod()
    assert deployed.deploy() == testing.ActiveStatus("nfs, smb: /export")
    assert (deployed.root / "metadata/stores/export/file").read_text() == "data"
    kept = deployed.root / "metadata" / "controlplane.db.before-adoption"
    rows = sqlite3.connect(kept)
    assert rows.execute("SELECT count(*) FROM users WHERE username = 'admin'").fetchone() == (1,)
    rows.close()
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("steps", range(6))
def test_a_crash_while_adopting_loses_nothing(deployed, monkeypatch, steps):
    """Pebble goes away after some of the writes; the next event ends it."""
    from scenario import mocking  # noqa: PLC0415  # the border

    deployed.server.database.put_user({"username": "ann", "role": "user"}, "a password")
    deployed.change(secrets=[], relations=[testing.PeerRelation("peers")])
    deployed.new_pod()
    original = mocking._MockPebbleClient.push  # noqa: SLF001  # ops.testing's own Pebble
    left = iter(range(steps))

    def dying(self, path, *args, **kwargs):
        if "probe" not in path and next(left, None) is None:
            raise pebble.ConnectionError("cut")
        return original(self, path, *args, **kwargs)

    monkeypatch.setattr(mocking._MockPebbleClient, "push", dying)  # noqa: SLF001  # the same
    assert deployed.deploy() == testing.WaitingStatus("waiting for the container")
    monkeypatch.setattr(mocking._MockPebbleClient, "push", original)  # noqa: SLF001  # the same
    assert deployed.run("update_status") == testing.ActiveStatus("nfs, smb: /export")
    assert {user["username"] for user in deployed.server.database.users()} == {"admin", "ann"}


REFUSES = "mend what the server refuses, then set log-level or memory to try again: "


def refuses(unit: Unit, code: int, words: str) -> None:
    """What the script has noted of a server that it gave up."""
    for name, text in (("exit-code", f"{code}\n"), ("last-words", words), ("refused", "")):
        (unit.root / "config" / name).write_text(text)


def test_78_is_said_with_the_last_words_and_not_retried(deployed):
    deployed.new_pod()
    refuses(deployed, 78, "Error: a layout from before the journal\n")
    starts = deployed.border.starts
    status = deployed.run("pebble_ready", deployed.state.get_container("dittofs"))
    assert status == testing.BlockedStatus(
        "attach the dittofs-image that wrote the volumes; this one says: Error: a layout from "
        "before the journal (exit code 78)"
    )
    deployed.run("update_status")
    assert deployed.border.starts == starts
    assert restart(deployed) == testing.ActiveStatus("nfs, smb: /export")


def test_a_refusal_is_tried_again_when_something_of_the_server_changes(deployed):
    deployed.border.stop()
    deployed.border.down = True
    container = deployed.state.get_container("dittofs")
    stopped = {"dittofs": pebble.ServiceStatus.INACTIVE}
    container = dataclasses.replace(container, service_statuses=stopped)
    deployed.change(containers=[container, deployed.state.get_container("agent")])
    refuses(deployed, 1, "Error: \x1b[1mno\x07\nUsage:\n  dfs start\n")
    starts = deployed.border.starts
    for event in ("update_status", "config_changed"):
        assert deployed.run(event) == testing.BlockedStatus(REFUSES + "Error: [1mno")
    assert deployed.configure(shares="- name: /b").name == "blocked"
    assert deployed.border.starts == starts
    deployed.border.down = False
    assert deployed.configure(log_level="debug").name == "active"
    assert deployed.border.starts == starts + 1


def age(unit: Unit, volume: str) -> None:
    """The volume as a copy from before the last start would be."""
    path = unit.root / volume / ".dittofs-charm.json"
    kept = path.read_text()
    restart(unit)
    unit.border.stop()
    path.write_text(kept)


def put_foreign_files(unit: Unit, volume: str) -> None:
    lose(unit, volume)
    (unit.root / volume / "photos").mkdir()
    (unit.root / volume / "photos" / "cat").write_text("a cat")


def make_foreign(unit: Unit, volume: str) -> None:
    unit.border.stop()
    path = unit.root / volume / ".dittofs-charm.json"
    path.write_text(path.read_text().replace('"instance": "', '"instance": "0'))


@pytest.mark.parametrize("volume", VOLUMES)
@pytest.mark.parametrize("harm", [age, put_foreign_files, make_foreign])
def test_whatever_is_wrong_with_a_volume_start_without_is_a_way_out(deployed, harm, volume):
    put_files(deployed)
    harm(deployed, volume)
    status = restart(deployed)
    assert status.name == "blocked"
    named = "content" if f"start-without volume={'content'}" in status.message else "metadata"
    assert f"start-without volume={named}" in status.message
    if harm is not make_foreign:
        assert named == volume
    kept = {data for name, data in content_of(deployed.root).items() if "config" not in name}
    results = deployed.act("start-without", volume=named, confirm=named)
    assert "aside-" in results["kept-aside"]
    assert deployed.status == testing.ActiveStatus("nfs, smb: /export")
    # Nothing but markers and the users' file, which the server goes on with, was changed.
    files = {b"data"} & kept | {b"a cat"} & kept
    assert files <= set(content_of(deployed.root).values())
    assert restart(deployed) == testing.ActiveStatus("nfs, smb: /export")


def test_a_damaged_marker_is_served_again_when_the_file_is_brought_back(deployed):
    path = deployed.root / "content" / ".dittofs-charm.json"
    restart(deployed)
    kept = path.read_text()
    deployed.border.stop()
    path.write_text("{")
    status = restart(deployed)
    assert status.name == "blocked"
    text = "refresh the charm: .dittofs-charm.json on the content volume is damaged or of a newer"
    assert status.message == f"{text} charm"
    assert deployed.reasons() == [
        f"blocked: {text} charm; or bring the file back from a copy of the volume"
    ]
    with pytest.raises(testing.ActionFailed, match="is damaged"):
        deployed.act("start-without", volume="content", confirm="content")
    assert path.read_text() == "{"
    path.write_text(kept)
    assert restart(deployed) == testing.ActiveStatus("nfs, smb: /export")


BOTH = "bring the old volumes back, or run start-without volume=both: both volumes are empty"


def scale_to_zero_and_one(unit: Unit):
    """As in Juju 4: the volumes are kept, and the new unit gets two others, which are empty."""
    (peers,) = unit.state.get_relations("peers")
    owned = [each for each in unit.state.secrets if each.owner != "unit"]
    unit.change(relations=[dataclasses.replace(peers, local_unit_data={})], secrets=owned)
    kept = unit.root.parent / "kept"
    for volume in VOLUMES:
        shutil.copytree(unit.root / volume, kept / volume)
        lose(unit, volume)
    unit.new_pod()
    return unit.deploy()


def known(unit: Unit) -> str | None:
    (peers,) = unit.state.get_relations("peers")
    return peers.local_app_data.get("instance")


def test_two_empty_volumes_of_an_application_that_had_others_are_not_served(deployed):
    instance, starts = known(deployed), deployed.border.starts
    assert instance == deployed.marker("metadata")["instance"]
    assert scale_to_zero_and_one(deployed) == testing.BlockedStatus(BOTH)
    assert len(BOTH) < 100
    assert deployed.run("update_status") == testing.BlockedStatus(BOTH)
    assert deployed.border.starts == starts
    assert not any((deployed.root / volume / ".dittofs-charm.json").exists() for volume in VOLUMES)
    detail = deployed.act("status-detail")["status"]
    for way in (instance, "relate MySQL", "restore", "start-without volume=both confirm=both"):
        assert way in detail


def test_the_two_old_volumes_come_back_and_are_served(deployed):
    instance = known(deployed)
    scale_to_zero_and_one(deployed)
    shutil.copytree(deployed.root.parent / "kept", deployed.root, dirs_exist_ok=True)
    assert restart(deployed) == testing.ActiveStatus("nfs, smb: /export")
    assert deployed.marker("metadata")["instance"] == known(deployed) == instance


def test_a_new_start_with_two_empty_volumes_is_to_be_confirmed(deployed):
    instance = known(deployed)
    scale_to_zero_and_one(deployed)
    with pytest.raises(testing.ActionFailed, match="say confirm=both"):
        deployed.act("start-without", volume="both", confirm="yes")
    with pytest.raises(testing.ActionFailed, match="what is not right is volume=both: "):
        deployed.act("start-without", volume="content", confirm="content")
    results = deployed.act("start-without", volume="both", confirm="both")
    assert results == {"kept-aside": "nothing"}
    assert deployed.status == testing.ActiveStatus("nfs, smb: /export")
    assert known(deployed) == deployed.marker("content")["instance"] != instance
    assert restart(deployed) == testing.ActiveStatus("nfs, smb: /export")


@pytest.mark.parametrize("steps", range(4))
def test_a_crash_in_a_first_start_blocks_nothing(unit, monkeypatch, steps):
    """The application knows of an instance only when both volumes have its marker."""
    from scenario import mocking  # noqa: PLC0415  # the border

    original = mocking._MockPebbleClient.push  # noqa: SLF001  # ops.testing's own Pebble
    left = iter(range(steps))

    def dying(self, path, *args, **kwargs):
        if path.endswith(".dittofs-charm.json") and next(left, None) is None:
            raise pebble.ConnectionError("cut")
        return original(self, path, *args, **kwargs)

    monkeypatch.setattr(mocking._MockPebbleClient, "push", dying)  # noqa: SLF001  # the same
    unit.deploy()
    assert (known(unit) is None) == (steps < 3)
    monkeypatch.setattr(mocking._MockPebbleClient, "push", original)  # noqa: SLF001  # the same
    assert unit.run("update_status") == testing.ActiveStatus("nfs, smb: /export")
    assert known(unit) == unit.marker("metadata")["instance"]


def test_what_the_hook_did_not_commit_is_told_at_the_next_event(deployed):
    (peers,) = deployed.state.get_relations("peers")
    data = {key: value for key, value in peers.local_app_data.items() if key != "instance"}
    deployed.change(relations=[dataclasses.replace(peers, local_app_data=data)])
    assert deployed.run("update_status") == testing.ActiveStatus("nfs, smb: /export")
    assert known(deployed) == deployed.marker("metadata")["instance"]


def test_another_leader_writes_what_unit_0_says(deployed, border, tmp_path):
    (peers,) = deployed.state.get_relations("peers")
    data = {key: value for key, value in peers.local_app_data.items() if key != "instance"}
    deployed.change(leader=False, relations=[dataclasses.replace(peers, local_app_data=data)])
    deployed.run("update_status")
    (peers,) = deployed.state.get_relations("peers")
    instance = deployed.marker("metadata")["instance"]
    assert peers.local_unit_data["instance"] == instance
    other = Unit(border, tmp_path / "other", unit_id=1)
    relation = testing.PeerRelation(
        "peers", local_app_data=data, peers_data={0: dict(peers.local_unit_data)}
    )
    other.change(leader=True, relations=[relation], secrets=deployed.state.secrets)
    assert other.run("relation_changed", relation, remote_unit=0).name == "blocked"
    assert known(other) == instance
