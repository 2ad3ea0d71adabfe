"""A backup belongs to the instance that made it: a name that comes back is somebody else."""

import base64
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.archive.bucket import open_bucket
from agent.archive.catalogue import Catalogue, row
from agent.archive.progress import Progress
from agent.archive.pruning import outdated, prune
from agent.archive.sealing import Sealer
from agent.archive.settings import S3, ArchiveSettings, Keep
from agent.archive.status import Status
from tests.archive.backups import Backup
from tests.archive.rig import wait_until
from tests.archive.volumes import settings_for

ONE, TWO, THREE, FOUR = (f"2026-11-24T18:00:0{number}Z" for number in (1, 2, 3, 4))
HOME = "uuid-of-files/dittofs"
ALONE = pytest.mark.parametrize("program", ["stand-in"], indirect=True)


@pytest.fixture
def settings(s3, bucket_name, tmp_path):
    for volume in ("metadata", "content"):
        (tmp_path / "data" / volume).mkdir(parents=True)
    made = settings_for(tmp_path, s3=S3(**s3.settings(bucket_name)), keep=Keep(count=1))
    made.notes.mkdir()
    return made


@pytest.fixture
def lost(settings, tmp_path):
    """What the application of the same name had made that is gone: its key is another one."""
    made = replace(settings, instance="lost", key=bytes(range(32)))
    Backup(made, tmp_path).make(id=ONE)
    return made


@pytest.fixture
def backup(settings, tmp_path):
    (tmp_path / "own").mkdir()
    return Backup(settings, tmp_path / "own")


def catalogue(settings: ArchiveSettings) -> Catalogue:
    return Catalogue(open_bucket(settings, 5.0), settings)


def pruned(settings: ArchiveSettings, made: str) -> list[str]:
    return prune(settings, catalogue(settings), made, datetime.now(UTC), Progress()).backups


def ids(settings: ArchiveSettings) -> list[str]:
    return [entry.id for entry in catalogue(settings).entries()]


@ALONE
def test_an_application_deployed_again_deletes_nothing_of_the_lost_one(unit, s3, bucket_name):
    unit.server.start()
    unit.server.make_share("/export")
    files = {"a": secrets.token_bytes(50_000)}
    unit.server.files.put("/export", files)
    unit.start()
    unit.back_up(ONE)
    unit.lose()
    lost, unit.key = unit.key, secrets.token_bytes(32)
    unit.server.new_password()
    unit.server.start()
    unit.server.make_share("/export")
    unit.configure(instance="instance-2", keep={"count": 1, "days": None})
    unit.start()
    wait_until(lambda: unit.status.get("instance") == "instance-2")
    assert unit.status["last-success"] is None
    for number, each in enumerate((TWO, THREE)):
        made = unit.back_up(each)
        assert (made["deleted"], made["problem"]) == ([TWO] if number else [], "")
    rows = unit.call("backup-list")[1]["backups"]
    assert [(row["id"], row["own"], row["instance"]) for row in rows] == [
        (ONE, False, "instance-1"),
        (THREE, True, "instance-2"),
    ]
    unit.stop()
    unit.configure(foreign_key=base64.b64encode(lost).decode())
    unit.start()
    said = unit.perform("verify", "v1", backup_id=ONE, deep=True)
    assert said["result"]["problems"] == []
    # By an explicit action it goes, and all that only it needs.
    unit.perform("delete", "d1", backup_id=ONE)
    unit.perform("delete", "d2", backup_id=THREE)
    assert s3.keys(bucket_name) == []


def test_only_the_own_ones_are_counted(settings, lost, backup):
    for each in (TWO, THREE, FOUR):
        backup.make(id=each)
    assert pruned(settings, FOUR) == [TWO, THREE]
    assert ids(settings) == [ONE, FOUR]
    assert [entry.own for entry in catalogue(settings).entries()] == [False, True]
    assert catalogue(lost).manifest(ONE).head.instance == "lost"


def test_what_a_lost_one_needs_is_not_swept(settings, lost, backup, s3, bucket_name):
    before = set(s3.keys(bucket_name))
    for each in (TWO, FOUR):
        backup.make(id=each)
    pruned(settings, FOUR)
    assert before <= set(s3.keys(bucket_name))
    assert catalogue(lost).manifest(ONE).shares


def test_a_bucket_that_was_moved_loses_nothing_of_a_lost_one(
    settings, lost, backup, s3, bucket_name
):
    """A copy writes manifests first, and so before what they need."""
    keys = s3.keys(bucket_name)
    for key in keys:
        s3.put(bucket_name, key, s3.get(bucket_name, key))
    for each in (TWO, FOUR):
        backup.make(id=each)
    pruned(settings, FOUR)
    assert set(keys) <= set(s3.keys(bucket_name))
    assert catalogue(lost).manifest(ONE).shares


def test_the_same_content_of_both_stays_as_long_as_one_needs_it(settings, lost, backup):
    """Where nothing is encrypted both have the same pieces."""
    backup.make(id=FOUR)
    manifests = [catalogue(each).manifest(name) for each, name in ((lost, ONE), (settings, FOUR))]
    shared = {
        name for share in manifests[0].shares for file in share.files for name in file.pieces
    }
    assert shared & set(manifests[1].pieces())


def test_a_manifest_that_was_copied_in_is_not_the_own_one(settings, backup, s3, bucket_name):
    """Neither one of another application, nor an own one under another name, nor a forged one."""
    good = backup.make(id=TWO)
    other = Sealer(bytes(range(32)), encrypt=False)
    copies = {
        "2026-11-25T18:00:01Z": s3.get(bucket_name, f"{HOME}/backups/{TWO}.json"),
        "2026-11-25T18:00:02Z": replace(good, id="2026-11-25T18:00:02Z").as_json(other),
        "2026-11-25T18:00:03Z": replace(good, id="2026-11-25T18:00:03Z", instance="other").as_json(
            Sealer(settings.key, encrypt=False)
        ),
        "2026-11-25T18:00:04Z": replace(
            good, id="2026-11-25T18:00:04Z", instance="", key_id="other"
        ).as_json(other),
    }
    for name, data in copies.items():
        s3.put(bucket_name, f"{HOME}/backups/{name}.json", data)
    assert [entry.id for entry in catalogue(settings).entries() if entry.own] == [TWO]
    assert pruned(settings, TWO) == []
    assert ids(settings) == [TWO, *copies]


def test_without_an_instance_nothing_is_the_own(settings, backup):
    backup.make(id=ONE, instance="")
    assert [entry.own for entry in catalogue(replace(settings, instance="")).entries()] == [False]


def test_a_key_that_was_lost_makes_backups_foreign(settings, backup):
    """They cannot be told from forged ones: they stay until somebody deletes them."""
    for each in (ONE, TWO):
        backup.make(id=each)
    renewed = replace(settings, key=bytes(range(32)))
    assert pruned(renewed, FOUR) == []
    assert ids(renewed) == [ONE, TWO]


@pytest.mark.parametrize(
    "key",
    [
        "backups/2026-11-24T18:00:01Z.json.bak",
        "backups/2026-11-24T18:00:01Z",
        "backups/2026-11-24T18:0:1Z.json",
        "backups/sub/2026-11-24T18:00:01Z.json",
        "backups//2026-11-24T18:00:01Z.json",
        "backups/2026-11-24T18:00:01Z.json/",
        "backups/ 2026-11-24T18:00:01Z.json",
        "backups/.json",
        "backups/é\x01+&<.json",
        f"backups/{'x' * 700}.json",
    ],
)
def test_what_is_called_otherwise_is_no_backup(settings, backup, s3, bucket_name, key):
    backup.make(id=FOUR)
    data = s3.get(bucket_name, f"{HOME}/backups/{FOUR}.json")
    s3.put(bucket_name, f"{HOME}/{key}", data)
    assert ids(settings) == [FOUR]


def test_clocks_that_were_wrong_delete_nothing(settings, backup):
    """Neither a backup of the future, nor a present that is."""
    future, far = "2099-01-01T00:00:00Z", "9999-12-31T23:59:59Z"
    for each in (ONE, TWO, future, far):
        backup.make(id=each)
    assert pruned(replace(settings, keep=Keep(count=2)), TWO) == []
    assert pruned(settings, TWO) == [ONE]
    assert ids(settings) == [TWO, future, far]
    entries = list(catalogue(settings).entries())
    then = datetime.now(UTC) + timedelta(days=20_000)
    assert outdated(entries, Keep(days=30), future, then) == []


def test_the_one_just_made_stays_whatever_it_is_called(settings, backup):
    """The clock went back: by its name it is the oldest."""
    for each in (TWO, THREE):
        backup.make(id=each)
    backup.make(id="2020-01-01T00:00:00Z")
    assert pruned(settings, "2020-01-01T00:00:00Z") == [TWO, THREE]
    assert ids(settings) == ["2020-01-01T00:00:00Z"]


def test_what_is_listed_says_whose_it_is(settings, lost, backup):
    del lost
    backup.make(id=TWO)
    rows = [row(entry) for entry in catalogue(settings).everywhere()]
    assert [(each["id"], each["own"], each["instance"]) for each in rows] == [
        (ONE, False, "lost"),
        (TWO, True, "instance-1"),
    ]


def test_what_is_remembered_of_another_instance_is_forgotten(tmp_path):
    for name in ("run", "notes"):
        (tmp_path / name).mkdir()
    places = (tmp_path / "run", tmp_path / "notes")
    Status(*places, "one").set(last_success={"id": ONE}, failures=3, standing="x", due=True)
    assert Status(*places, "one")["last-success"] == {"id": ONE}
    # While a restore is under way the instance is not known.
    assert Status(*places)["last-success"] == {"id": ONE}
    other = Status(*places, "two")
    assert (other["last-success"], other["failures"], other["standing"]) == (None, 0, "")
