"""pre-refresh-check: all reasons at once, and nothing is changed."""

import threading
import time

import pytest
from ops import testing

from tests.unit import archives
from tests.unit.conftest import Unit
from tests.unit.test_every_event import written
from units import GIB

DAY = 24 * 3600


def reasons(unit: Unit, **params: str) -> list[str]:
    """What the action says; it succeeds where that is nothing."""
    context = unit._context()  # noqa: SLF001  # results of an action that fails
    event = context.on.action("pre-refresh-check", params=params)
    try:
        unit._deliver(context, event)  # noqa: SLF001  # the same
    except testing.ActionFailed as failed:
        message = failed.message
    else:
        assert context.action_results == {"refresh": "ready"}
        return []
    found = (context.action_results or {})["reasons"].splitlines()
    assert message == f"not ready for a refresh: {'; '.join(found)}"
    return found


@pytest.fixture
def saved(deployed):
    """A unit with a backup that was verified."""
    deployed.relate_s3()
    made = deployed.act("create-backup")["backup-id"]
    deployed.act("verify-backup", **{"backup-id": made})
    return deployed


def row(unit: Unit) -> dict:
    ((found, _),) = unit.agent.archive.bucket.backups.values()
    return found


def test_a_unit_that_serves_is_ready_and_nothing_is_changed(saved):
    saved.relate()
    files, starts, state = written(saved), saved.border.starts, saved.state
    saved.server.calls.clear()
    assert reasons(saved) == []
    assert written(saved) == files
    assert saved.border.starts == starts
    assert saved.server.changes == []
    assert saved.state.relations == state.relations
    assert saved.state.secrets == state.secrets
    assert saved.status.name == "active"


def test_other_units_are_to_go_first(saved):
    saved.change(planned_units=2)
    assert reasons(saved) == ["run juju scale-application dittofs 1: no other unit gets ready"]


def test_without_s3_and_mysql_nobody_asks_for_them(deployed):
    assert reasons(deployed) == []


def test_an_operation_that_runs(saved):
    saved.border.pace = 100
    saved.agent.archive.script["create"] = archives.RUNNING
    saved.act("create-backup")
    assert reasons(saved) == ["a backup is under way: wait until it is done, see status-detail"]


def test_a_volume_that_is_85_percent_full(deployed):
    deployed.border.spaces["metadata"] = (84 * GIB, 16 * GIB)
    assert reasons(deployed) == []
    deployed.border.spaces["metadata"] = (85 * GIB, 15 * GIB)
    (text,) = reasons(deployed)
    assert text.startswith("delete shares or enlarge the metadata volume: it is 85 % full")


def test_a_mirror_that_is_behind(deployed):
    deployed.relate()
    assert reasons(deployed) == []
    deployed.agent.say(lag=61.0)
    (text,) = reasons(deployed)
    assert text.startswith("mysql: 61 s behind the server")
    deployed.agent.say(state="scanning")
    (text,) = reasons(deployed)
    assert text.startswith("mysql: the metadata is being copied to MySQL")
    deployed.agent.say(state="away", message="gone")
    (text,) = reasons(deployed)
    assert text.startswith("mysql: away since")


NONE = "no backup was made in the last 24 hours: run create-backup, then verify-backup"


def test_no_backup(deployed):
    deployed.relate_s3()
    assert reasons(deployed) == [NONE]


def test_a_backup_that_was_not_verified(deployed):
    deployed.relate_s3()
    made = deployed.act("create-backup")["backup-id"]
    text = f"no backup of the last 24 hours was verified: run verify-backup backup-id={made}"
    assert reasons(deployed) == [text]
    deployed.agent.archive.script["verify"] = lambda _: {"problems": ["a piece is gone"]}
    with pytest.raises(testing.ActionFailed, match="would not restore"):
        deployed.act("verify-backup", **{"backup-id": made})
    assert reasons(deployed) == [text]
    deployed.agent.archive.script.clear()
    deployed.act("verify-backup", **{"backup-id": made})
    assert reasons(deployed) == []


@pytest.mark.parametrize(
    "change",
    [
        {"time": time.time() - DAY - 60},
        {"complete": False, "problem": "its manifest is damaged"},
        {"instance": "another"},
    ],
)
def test_a_backup_that_does_not_count(saved, change):
    row(saved).update(change)
    assert reasons(saved) == [NONE]


def test_a_verified_backup_counts_beside_others_and_until_it_is_gone(saved):
    verified = row(saved)["id"]
    # A backup is named by its second, which only the real clock tells.
    threading.Event().wait(1.1)
    other = saved.act("create-backup")["backup-id"]
    assert reasons(saved) == []
    saved.act("delete-backup", **{"backup-id": verified, "confirm": verified})
    assert reasons(saved) == [
        f"no backup of the last 24 hours was verified: run verify-backup backup-id={other}"
    ]


def test_what_was_verified_of_another_application_says_nothing(saved):
    found = row(saved)
    folder = saved.agent.archive.bucket.backups.popitem()[1][1]
    foreign = found | {"from": "9999/other"}
    saved.agent.archive.bucket.backups["9999/other", found["id"]] = (foreign, folder)
    assert reasons(saved) == [NONE]


def test_s3_that_does_not_answer(saved):
    saved.agent.archive.bucket.problem = ("away", "S3 does not answer")
    assert reasons(saved) == ["S3 does not answer"]


@pytest.mark.parametrize(
    ("server", "text"),
    [
        ("v0.32.0", "attach a dittofs-image of v0.29.x to v0.31.x, or refresh the charm"),
        ("v0.28.0", "attach dittofs-image v0.29.0 or newer: it has served"),
        ("latest", "attach a released dittofs-image, or set allow-unknown-server=true"),
    ],
)
def test_a_server_that_is_to_come(deployed, server, text):
    assert reasons(deployed, server="v0.31.1") == []
    (found,) = reasons(deployed, server=server)
    assert found.startswith(text)


def test_the_present_server(deployed):
    deployed.new_pod()
    deployed.image("v0.28.0")
    (found,) = reasons(deployed)
    assert found.startswith("attach dittofs-image v0.29.0 or newer")


def test_all_of_them_at_once(deployed):
    deployed.relate_s3()
    deployed.relate()
    deployed.agent.say(lag=3600.0)
    deployed.border.spaces["content"] = (99 * GIB, GIB)
    deployed.border.pace = 100
    deployed.agent.archive.script["create"] = archives.RUNNING
    deployed.act("create-backup")
    found = reasons(deployed, server="v0.36.0")
    beginnings = ["a backup is under way", "attach a", "remove files", "mysql: ", "no backup was"]
    assert [
        text[: len(begin)] for text, begin in zip(found, beginnings, strict=True)
    ] == beginnings


def test_where_nothing_can_be_asked(deployed):
    deployed.new_pod(can_connect=False)
    assert reasons(deployed) == ["waiting for the container"]
    deployed.change(storages=[])
    assert reasons(deployed) == ["waiting for the storage to be attached"]
