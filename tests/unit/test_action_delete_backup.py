"""delete-backup: one of this application's backups, after a second word."""

import pytest
from ops import testing

from tests.unit import archives


@pytest.fixture
def related(deployed):
    deployed.relate_s3()
    deployed.act("create-backup")
    return deployed


def backup_id(unit) -> str:
    return next(iter(unit.agent.archive.bucket.backups))[1]


def delete(unit, **params):
    given = {"backup-id": backup_id(unit), "confirm": backup_id(unit)}
    return unit.act("delete-backup", **given | params)


def test_a_backup_is_deleted(related):
    wanted = backup_id(related)
    assert delete(related) == {
        "backup-id": wanted,
        "deletion": "complete",
        "deleted-objects": "4",
        "freed": "1048576",
    }
    assert related.agent.archive.bucket.backups == {}
    assert related.status.name == "active"


def test_it_has_to_be_confirmed(related):
    with pytest.raises(testing.ActionFailed, match="for ever, say confirm="):
        delete(related, confirm="yes")
    assert len(related.agent.archive.bucket.backups) == 1


def test_one_that_is_not_there_is_named(related):
    with pytest.raises(testing.ActionFailed, match="there is no backup x"):
        delete(related, **{"backup-id": "x", "confirm": "x"})


def test_one_that_is_not_complete_can_be_deleted(related):
    row, _ = related.agent.archive.bucket.backups.copy().popitem()[1]
    row |= {"complete": False, "problem": "its manifest is damaged"}
    assert delete(related)["deletion"] == "complete"


def test_what_is_left_of_it_is_said_and_it_is_deleted(related):
    """To delete a backup and to sweep are two steps, of which the first is done."""
    result = {"deleted-objects": 1, "freed": 0, "problem": "why; 3 objects could not be deleted"}
    related.agent.archive.script["delete"] = lambda _: result
    assert delete(related) == {
        "backup-id": backup_id(related),
        "deletion": "complete",
        "deleted-objects": "1",
        "freed": "0",
        "problem": result["problem"],
    }


def test_what_fails_is_said_also_when_nobody_waits_any_more(related):
    related.agent.archive.script["delete"] = ("credentials", "S3 says AccessDenied")
    with pytest.raises(testing.ActionFailed, match="S3 says AccessDenied"):
        delete(related)
    assert related.status.name == "active"
    related.agent.archive.script["delete"] = archives.RUNNING
    delete(related)
    assert related.status.message == "nfs, smb: /export; deletion of a backup running"
    related.agent.archive.script["delete"] = ("credentials", "S3 says AccessDenied")
    assert related.notice().message.startswith("s3-backup: S3 says AccessDenied")
