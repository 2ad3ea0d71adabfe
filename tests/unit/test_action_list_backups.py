"""list-backups: a table for people, JSON for programs."""

import json

import pytest
from ops import testing


@pytest.fixture
def related(deployed):
    deployed.relate_s3()
    deployed.act("create-backup")
    return deployed


def foreign(unit) -> None:
    """A backup of another application in the same bucket, which is not complete."""
    row, folder = next(iter(unit.agent.archive.bucket.backups.values()))
    other = {
        **row,
        "id": "2024-01-02T03:04:05Z",
        "from": "9999/other",
        "application": "other",
        "shares": [],
        "complete": False,
        "problem": "its manifest is of a newer version",
    }
    unit.agent.archive.bucket.backups["9999/other", other["id"]] = (other, folder)


def backup_id(unit) -> str:
    return next(iter(unit.agent.archive.bucket.backups))[1]


def test_the_own_backups_as_a_table(related):
    foreign(related)
    heading, line = related.act("list-backups")["backups"].splitlines()
    assert heading.split() == ["id", "time", "size", "shares", "server", "complete"]
    cells = line.split("  ")
    assert cells[0] == backup_id(related)
    assert "3.00MiB" in line
    assert line.endswith("/export  v0.29.0  yes")
    assert related.agent.archive.commands[-1] == ["backup-list"]


def test_those_of_others_say_whose_they_are_and_why_they_do_not_restore(related):
    foreign(related)
    heading, _, line = related.act("list-backups", all=True)["backups"].splitlines()
    assert heading.split()[4] == "from"
    assert line.split("  ")[0] == "2024-01-02T03:04:05Z"
    assert "  9999/other  " in line
    assert line.endswith("no: its manifest is of a newer version")
    assert related.agent.archive.commands[-1] == ["backup-list", "--all"]


def test_json_has_everything(related):
    (row,) = json.loads(related.act("list-backups", output="json")["backups"])
    assert row["id"] == backup_id(related)
    assert row["from"] == f"{related.state.model.uuid}/dittofs"
    assert row["model-uuid"] == related.state.model.uuid
    assert (row["size"], row["uploaded"], row["shares"]) == (3 * 2**20, 2**20, ["/export"])
    assert (row["complete"], row["problem"], row["encrypted"]) == (True, None, False)


def test_no_backup_at_all(deployed):
    deployed.relate_s3()
    assert deployed.act("list-backups") == {"backups": "none"}
    assert deployed.act("list-backups", output="json") == {"backups": "[]"}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (("credentials", "S3 does not know the key"), "S3 does not know the key"),
        ((137, "Killed"), "backup-list ended with 137 and without a word"),
        ((1, ""), "backup-list ended with 1 and without a word"),
        ((0, "no JSON"), "the agent's list of backups makes no sense"),
        ((0, '{"backups": [{"id": 1}]}'), "the agent's list of backups makes no sense"),
    ],
)
def test_what_cannot_be_listed_fails_the_action(related, answer, text):
    related.agent.archive.script["backup-list"] = answer
    with pytest.raises(testing.ActionFailed, match=text):
        related.act("list-backups")
    assert related.status.name == "active"


def test_it_works_beside_an_operation_with_the_settings_of_that(related):
    from tests.unit import archives  # noqa: PLC0415  # only here

    given = {"backup-id": backup_id(related), "confirm": backup_id(related)}
    related.agent.archive.script["settle"] = archives.RUNNING
    related.act("restore", **given)
    before = related.agent.archive.config
    related.act("list-backups")
    assert related.agent.archive.config == before


def test_without_s3_there_is_nothing_to_list(deployed):
    with pytest.raises(testing.ActionFailed, match="no S3 storage is related"):
        deployed.act("list-backups")


def test_those_of_an_application_that_had_the_name_before_are_told_apart(related):
    row, folder = related.agent.archive.bucket.backups.popitem()[1]
    for number, instance in enumerate(("lost", row["instance"])):
        made = {**row, "id": f"2024-01-02T03:04:0{number}Z", "instance": instance}
        related.agent.archive.bucket.backups[row["from"], made["id"]] = (made, folder)
    heading, lost, own = related.act("list-backups")["backups"].splitlines()
    assert heading.split() == ["id", "time", "size", "shares", "own", "server", "complete"]
    assert (lost.split()[-3], own.split()[-3]) == ("no", "yes")
    rows = json.loads(related.act("list-backups", output="json")["backups"])
    assert [each["own"] for each in rows] == [False, True]
