"""The server is asked for its version before it may touch the volumes; they know the highest."""

import json

import pytest
from ops import testing

import volumes
from tests.unit import agents, archives

ACTIVE = testing.ActiveStatus("nfs, smb: /export")
OLDER = "attach dittofs-image {} or newer: it has served, and {} may destroy what it wrote"


def image(unit, name: str, **execution):
    """The unit gets another image; its status then."""
    unit.new_pod()
    unit.image(name, **execution)
    return unit.pebble_ready()


def blocked(text: str) -> testing.BlockedStatus:
    return testing.BlockedStatus(text)


@pytest.fixture
def upgraded(deployed):
    """A unit that v0.31.1 serves."""
    assert image(deployed, "v0.31.1") == ACTIVE
    return deployed


def test_the_highest_release_that_served_is_on_both_volumes(deployed):
    assert deployed.marker("metadata")["server"] == "v0.29.0"
    assert image(deployed, "v0.31.1") == ACTIVE
    for volume in ("metadata", "content"):
        assert deployed.marker(volume)["server"] == "v0.31.1"


def test_it_is_asked_once_in_each_container(deployed):
    deployed.new_pod()
    deployed.asked_for_name = 0
    for _ in range(3):
        deployed.pebble_ready()
        deployed.configure(log_level="debug")
        deployed.run("update_status")
    assert deployed.asked_for_name == 1
    image(deployed, "v0.28.0")
    assert deployed.asked_for_name == 2
    for _ in range(3):
        assert deployed.run("update_status").name == "blocked"
    assert deployed.asked_for_name == 2


def test_an_older_one_is_not_started_and_changes_nothing(upgraded):
    starts, marker = upgraded.border.starts, upgraded.marker("metadata")
    assert image(upgraded, "v0.29.0") == blocked(OLDER.format("v0.31.1", "v0.29.0"))
    assert upgraded.border.starts == starts
    assert upgraded.marker("metadata") == upgraded.marker("content") == marker
    assert image(upgraded, "v0.31.1") == ACTIVE


def test_markers_without_a_version_allow_every_tested_one(deployed):
    for volume in ("metadata", "content"):
        path = deployed.root / volume / ".dittofs-charm.json"
        marker = json.loads(path.read_text())
        path.write_text(
            json.dumps({k: v for k, v in marker.items() if k not in {"server", "build"}})
        )
    assert image(deployed, "v0.30.0") == ACTIVE
    assert deployed.marker("content")["server"] == "v0.30.0"


@pytest.mark.parametrize("volume", ["metadata", "content"])
def test_the_higher_one_of_the_two_markers_counts(deployed, volume):
    path = deployed.root / volume / ".dittofs-charm.json"
    path.write_text(path.read_text().replace("v0.29.0", "v0.31.0"))
    assert image(deployed, "v0.30.0") == blocked(OLDER.format("v0.31.0", "v0.30.0"))


def test_a_marker_with_what_is_no_release_is_damaged(deployed):
    path = deployed.root / "content" / ".dittofs-charm.json"
    path.write_text(path.read_text().replace("v0.29.0", "the best"))
    assert deployed.pebble_ready() == blocked(
        "refresh the charm: .dittofs-charm.json on the content volume is damaged or of a newer "
        "charm"
    )


def test_a_build_that_is_no_release_needs_a_word_and_is_shown(upgraded):
    status = image(upgraded, "dev")
    assert status == blocked(
        "attach a released dittofs-image, or set allow-unknown-server=true: 'dev' is no release"
    )
    shown = testing.ActiveStatus("nfs, smb: /export; server 'dev' is no release")
    assert upgraded.configure(allow_unknown_server=True) == shown
    assert upgraded.run("update_status") == shown
    assert upgraded.marker("content")["server"] == "v0.31.1"
    upgraded.configure(allow_unknown_server=False)
    # Nobody knows whether the release is older than the build.
    status = image(upgraded, "v0.31.1")
    assert status == blocked(
        "set allow-unknown-server=true if v0.31.1 is no older than 'dev', which has served"
    )
    assert upgraded.configure(allow_unknown_server=True) == ACTIVE
    assert upgraded.configure(allow_unknown_server=False) == ACTIVE


def test_a_program_that_fails_is_blocked_and_asked_again(deployed):
    status = image(deployed, "v0.29.0", return_code=2)
    assert status == blocked(
        "attach another dittofs-image: its /app/dfs does not say its version (it ended with 2)"
    )
    asked = deployed.asked_for_name
    deployed.run("update_status")
    assert deployed.asked_for_name == asked + 1


def test_a_program_that_is_not_there_is_blocked(deployed):
    deployed.new_pod()
    (deployed.root / "app" / "dfs").unlink()
    status = deployed.pebble_ready()
    assert status.name == "blocked"
    assert status.message.startswith("attach another dittofs-image: its /app/dfs does not say")


def test_a_program_that_changed_in_its_container_is_asked_again(deployed):
    assert image(deployed, "v0.28.0").name == "blocked"
    deployed.image("v0.30.0")
    assert deployed.run("update_status") == ACTIVE


def test_a_lost_content_volume_leaves_the_file_of_users_as_it_was(upgraded):
    for path in (upgraded.root / "content").iterdir():
        path.unlink()
    image(upgraded, "v0.31.1")
    upgraded.act("start-without", volume="content", confirm="content")
    assert upgraded.status == ACTIVE
    assert image(upgraded, "v0.30.0").message.startswith("attach dittofs-image v0.31.1")


def test_volumes_that_are_adopted_keep_what_served_them(upgraded):
    for volume in ("metadata", "content"):
        path = upgraded.root / volume / ".dittofs-charm.json"
        path.write_text(path.read_text().replace("dittofs", "files"))
    image(upgraded, "v0.30.0")
    instance = upgraded.marker("metadata")["instance"]
    upgraded.act("adopt-volumes", confirm=instance)
    assert upgraded.status == blocked(OLDER.format("v0.31.1", "v0.30.0"))


def recovered(unit, marker: dict):
    """The metadata volume was lost and comes back from MySQL, with this marker."""
    unit.agent.copy = unit.root / "copy"
    unit.agent.copy.mkdir()
    unit.relate()
    for path in (unit.root / "metadata").iterdir():
        path.rename(unit.agent.copy / path.name)
    unit.agent.hold(agents.row(unit.marker("content"), marker=json.dumps(marker)))
    return image(unit, "v0.30.0")


def test_metadata_from_mysql_knows_what_served_it(deployed):
    status = recovered(deployed, deployed.marker("content") | {"server": "v0.31.1"})
    assert status == blocked(OLDER.format("v0.31.1", "v0.30.0"))


def test_metadata_of_a_newer_charm_in_mysql_is_refused(deployed):
    instance = deployed.marker("content")["instance"]
    status = recovered(deployed, {"version": 2, "more": "than is known"})
    assert status == blocked(
        f"refresh the charm: the metadata of {instance} in MySQL is of a newer one"
    )
    assert deployed.agent.commands[-1] != ["recover"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": null}', '{"version": Infinity}', "[" * 200_000]
)
def test_what_is_no_marker_at_all_is_not_of_a_newer_charm(text):
    assert not volumes.is_newer(text)


def test_a_restore_that_meets_an_older_server_is_undone(deployed):
    deployed.relate_s3()
    made = deployed.act("create-backup")["backup-id"]
    deployed.border.pace = 100
    deployed.agent.archive.script["settle"] = archives.RUNNING
    deployed.act("restore", **{"backup-id": made, "confirm": made})
    deployed.agent.archive.script.clear()
    starts = deployed.border.starts
    status = image(deployed, "v0.28.0")
    assert deployed.border.starts == starts
    assert "attach dittofs-image v0.29.0 or newer" in status.message
    assert "; the restore of backup" in image(deployed, "v0.29.0").message
