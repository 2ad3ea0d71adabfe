"""docs/how-to/backups.md: everything comes back from S3, here and in another model."""

import json

import pytest

from tests.integration.application import BACKUP_KEY, LONG, SERVED, Application
from tests.integration.client import Client, Sample
from tests.integration.counterparts import deploy

_S3, _PROVIDER = "dittofs:s3-backup", "s3-provider:s3-credentials"


@pytest.fixture(scope="module")
def related(serving, s3_charm, juju):
    """The application with a bucket."""
    deploy(juju, s3_charm)
    juju.integrate(_S3, _PROVIDER)
    juju.wait(lambda _: serving.detail()["backups"]["state"] == "idle")
    serving.wait_for(SERVED)
    return serving


def create(application) -> str:
    """Make a backup; its id."""
    made = application.act("create-backup", wait=LONG)
    assert made["backup"] == "complete"
    return made["backup-id"]


def listed(application, **params) -> dict[str, dict[str, object]]:
    """The backups in the bucket by their ids."""
    said = application.act("list-backups", {"output": "json", **params}, wait=LONG)
    return {row["id"]: row for row in json.loads(said["backups"])}


def test_a_backup_is_made_while_clients_work_and_verified(related, files, times):
    files.put("/export", "a", Sample("in the backup", 5_000_000))
    assert "no backup" in related.refused("pre-refresh-check")
    with files.watching("/export", "a") as watch, times.measured("create-backup, 5 MB"):
        backup = create(related)
    assert watch.outages == []
    assert listed(related)[backup]["complete"]
    assert listed(related)[backup]["shares"] == ["/export"]
    named = {"backup-id": backup}
    with times.measured("verify-backup"):
        assert related.act("verify-backup", named, wait=LONG)["verification"] == "complete"
    with times.measured("verify-backup deep=true"):
        deep = related.act("verify-backup", named | {"deep": True}, wait=LONG)
    assert deep["verification"] == "complete"
    assert related.act("pre-refresh-check") == {"refresh": "ready"}


def test_a_second_backup_sends_only_what_changed(related, files, times):
    files.put("/export", "a", Sample("twice", 5_000_000))
    create(related)
    with times.measured("create-backup, nothing changed"):
        second = related.act("create-backup", wait=LONG)
    assert int(second["uploaded"]) < 0.2 * int(second["size"])


def test_a_backup_is_restored_on_the_same_unit(related, files, times):
    files.put("/export", "a", Sample("saved"))
    files.put("/export", "b", Sample("saved, too"))
    backup = create(related)
    files.put("/export", "a", Sample("spoiled"))
    files.remove("/export", "b")
    named = {"backup-id": backup, "confirm": backup}
    with files.watching("/export", "a") as watch, times.measured("restore"):
        assert related.act("restore", named, wait=LONG)["restore"] == "complete"
    times.note("restore: longest outage", watch.longest)
    related.wait_for(SERVED)
    files.wait_for("/export", "a", Sample("saved"))
    files.wait_for("/export", "b", Sample("saved, too"))


def test_a_backup_is_restored_in_another_model_with_the_key(
    related, files, models, charm, resources, s3_charm, client_charm, times
):
    files.put("/export", "a", Sample("to another model"))
    backup = create(related)
    home = listed(related)[backup]["from"]
    key = related.reveal(related.secret(*BACKUP_KEY), "key")
    host = f"s3-provider.{related.juju.show_model().short_name}.svc.cluster.local"

    other = Application(models())
    other.deploy(charm, resources)
    deploy(other.juju, s3_charm, {"endpoint": f"http://{host}:5000"})
    deploy(other.juju, client_charm)
    other.wait_for(SERVED)
    other.juju.integrate(_S3, _PROVIDER)
    other.juju.wait(lambda _: other.detail()["backups"]["state"] == "idle")
    assert backup not in listed(other)
    assert listed(other, all=True)[backup]["from"] == home
    named = {"backup-id": backup, "confirm": backup, "from": home}
    assert "recovery-key" in other.refused("restore", named)
    named["recovery-key"] = other.grant("old-key", "key", key)
    with times.measured("restore in another model"):
        assert other.act("restore", named, wait=LONG)["restore"] == "complete"
    other.wait_for(SERVED)
    elsewhere = Client(other.juju)
    elsewhere.wait_for("/export", "a", Sample("to another model"))
    own = create(other)
    assert listed(other)[own]["from"] != home
    assert backup in listed(related)


def test_a_backup_is_deleted_and_the_others_stay_whole(related, files, times):
    files.put("/export", "a", Sample("in both", 5_000_000))
    first, second = create(related), create(related)
    assert "confirm" in related.refused("delete-backup", {"backup-id": first, "confirm": "no"})
    with times.measured("delete-backup"):
        related.act("delete-backup", {"backup-id": first, "confirm": first}, wait=LONG)
    assert first not in listed(related)
    said = related.act("verify-backup", {"backup-id": second}, wait=LONG)
    assert said["verification"] == "complete"


def test_a_bucket_that_is_not_there_is_told_until_a_backup_is_made(related):
    juju = related.juju
    there = related.detail()["backups"]
    # A provider that names another S3 makes no bucket in it.
    juju.config("s3-provider", {"endpoint": there["endpoint"], "bucket": "absent"})
    juju.wait(lambda _: related.detail()["backups"].get("bucket") == "absent")
    assert "NoSuchBucket" in related.refused("create-backup")
    related.wait(
        lambda status: (
            status.current == "blocked"
            and status.message.startswith("s3-backup: make the bucket or name another ")
        )
    )
    juju.config("s3-provider", reset=["endpoint", "bucket"])
    juju.wait(lambda _: related.detail()["backups"].get("bucket") == there["bucket"])
    create(related)
    related.wait_for(SERVED)
