"""verify-backup: what the agent found; it fails where a backup would not restore."""

import base64

import pytest
from ops import testing

from tests.unit import archives

KEY = base64.b64encode(b"k" * 32).decode()
SECRET = testing.Secret({"key": KEY}, id=f"secret:{'keptkey':a<20}")


@pytest.fixture
def related(deployed):
    deployed.relate_s3()
    deployed.act("create-backup")
    return deployed


def backup_id(unit) -> str:
    return next(iter(unit.agent.archive.bucket.backups))[1]


def verify(unit, **params):
    return unit.act("verify-backup", **{"backup-id": backup_id(unit)} | params)


def test_a_backup_that_is_whole(related):
    assert verify(related) == {
        "backup-id": backup_id(related),
        "verification": "complete",
        "checked-objects": "9",
        "size": "3145728",
    }
    assert related.status.name == "active"
    assert related.border.starts == 1


def seen(unit) -> list[dict]:
    """The operations that the agent is asked for."""
    asked: list[dict] = []

    def note(operation):
        asked.append(operation)
        return {"checked-objects": 1, "problems": []}

    unit.agent.archive.script["verify"] = note
    return asked


def test_deep_is_passed_on(related):
    asked = seen(related)
    verify(related, deep=True)
    assert asked[0]["params"] == {"backup-id": backup_id(related), "deep": True}


def test_one_that_would_not_restore_fails_the_action_with_the_reasons(related):
    problems = [f"object {number} is not there" for number in range(5)]
    related.agent.archive.script["verify"] = lambda _: {
        "checked-objects": 9,
        "problems": problems,
    }
    context = related._context()  # noqa: SLF001  # results of an action that fails
    event = context.on.action("verify-backup", params={"backup-id": backup_id(related)})
    with pytest.raises(testing.ActionFailed, match=r"would not restore: object 0 .* and 2 more"):
        related._deliver(context, event)  # noqa: SLF001  # the same
    assert context.action_results is not None
    assert context.action_results["problems"] == ", ".join(problems)
    assert context.action_results["verification"] == "failed"
    assert related.status.name == "active"


def test_what_could_not_be_told_fails_the_action(related):
    related.agent.archive.script["verify"] = ("away", "S3 does not answer")
    with pytest.raises(testing.ActionFailed, match="S3 does not answer"):
        verify(related)


def test_what_is_found_after_the_action_has_ended_is_said(related):
    related.agent.archive.script["verify"] = archives.RUNNING
    assert verify(related)["verification"].startswith("goes on: ")
    assert related.status.message == "nfs, smb: /export; verification of a backup running"
    related.agent.archive.script["verify"] = lambda _: {"problems": ["a piece is gone"]}
    status = related.notice()
    assert status == testing.BlockedStatus(
        f"s3-backup: make or use another backup: {backup_id(related)} would not restore: a piece "
        "is gone"
    )
    (reason,) = related.reasons()
    assert reason.endswith("; this is said until something else is done")
    assert related.run("update_status") == status
    related.agent.archive.script.clear()
    verify(related)
    assert related.status.name == "active"


def test_one_that_is_not_there_is_named(related):
    with pytest.raises(
        testing.ActionFailed, match=r"see list-backups: there is no backup x of .*/dittofs"
    ):
        verify(related, **{"backup-id": "x"})


def test_that_of_another_application_needs_its_key(related):
    row, folder = related.agent.archive.bucket.backups.popitem()[1]
    row["from"] = "9999/other"
    related.agent.archive.bucket.backups["9999/other", row["id"]] = (row, folder)
    with pytest.raises(testing.ActionFailed, match="there is no backup"):
        verify(related)
    with pytest.raises(testing.ActionFailed, match="is of another application: put the key that"):
        verify(related, **{"from": "9999/other"})
    related.change(secrets=[*related.state.secrets, SECRET])
    asked = seen(related)
    verify(related, **{"from": "9999/other", "recovery-key": str(SECRET.id)})
    assert asked[0]["params"]["from"] == "9999/other"
    assert KEY in [start["foreign_key"] for start in related.agent.archive.starts]
    assert related.agent.archive.config["foreign_key"] is None
