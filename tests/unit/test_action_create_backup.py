"""create-backup: begun, waited for in bounded time, and what came of it."""

import pytest
from ops import testing

from tests.unit import archives

SERVED = testing.ActiveStatus("nfs, smb: /export")


@pytest.fixture
def related(deployed):
    deployed.relate_s3()
    return deployed


def test_a_backup_is_made_and_its_id_returned(related):
    results = related.act("create-backup")
    ((row, _),) = related.agent.archive.bucket.backups.values()
    assert results == {
        "backup-id": row["id"],
        "backup": "complete",
        "size": "3145728",
        "uploaded": "1048576",
        "duration": "1.5",
        "shares": "/export",
        "skipped": "/scratch",
    }
    assert related.status == SERVED
    assert related.border.starts == 1
    assert related.agent.archive.operation is None


def test_the_agent_is_told_what_a_backup_is_made_with(related):
    related.configure(backup_keep="14,30d", backup_encryption=True, backup_schedule="30  2 * * *")
    related.act("create-backup")
    config, marker = related.agent.archive.config, related.marker("metadata")
    assert config["keep"] == {"count": 14, "days": 30}
    assert config["encrypt"] is True
    assert config["schedule"] == "30 2 * * *"
    assert config["instance"] == marker["instance"]
    assert (config["application"], config["model"]) == ("dittofs", "files")
    assert config["model_uuid"] == marker["model_uuid"]
    assert config["charm_version"]
    assert config["foreign_key"] is None
    assert config["api"]["url"] == "http://localhost:8080"
    (made,) = [each for each in related.state.secrets if "token-key" in each.latest_content]
    assert config["api"]["password"] == made.latest_content["admin-password"]


def test_the_agent_gets_the_password_that_the_server_has_now(related):
    secret = testing.Secret({"password": "another one"}, id=f"secret:{'user':a<20}")
    related.change(secrets=[*related.state.secrets, secret])
    related.configure(admin_password=str(secret.id))
    assert related.agent.archive.config["api"]["password"] == "another one"


def test_the_progress_is_told(related):
    related.agent.archive.script["create"] = archives.RUNNING
    context = related._context()  # noqa: SLF001  # the log of an action
    related._deliver(context, context.on.action("create-backup"))  # noqa: SLF001  # the same
    follow, *progress = context.action_logs
    assert follow.startswith("may take longer than juju run waits; to follow: juju show-task ")
    assert progress == ["waiting for the agent", "uploading, 75 % of 4.00MiB"]
    assert context.action_results is not None
    assert context.action_results["backup"] == "goes on: uploading, 75 % of 4.00MiB"


def test_what_takes_long_goes_on_without_anybody_waiting(related):
    related.agent.archive.script["create"] = archives.RUNNING
    before = related.border.now[0]
    results = related.act("create-backup")
    assert 600 <= related.border.now[0] - before < 620
    assert results["backup"].startswith("goes on: ")
    assert related.status == testing.ActiveStatus("nfs, smb: /export; backup running")
    related.agent.archive.script.clear()
    assert related.notice() == SERVED
    assert related.agent.archive.operation is None
    detail = related.act("status-detail")["status"]
    assert f"ended-last: {results['backup-id'][:10]}" in detail
    assert "a backup: done" in detail


@pytest.mark.parametrize(
    ("kind", "status"), [("credentials", "blocked"), ("bucket", "blocked"), ("away", "waiting")]
)
def test_a_backup_that_fails_fails_the_action_and_is_said_until_one_is_made(related, kind, status):
    related.agent.archive.script["create"] = (kind, "S3 says NoSuchBucket")
    with pytest.raises(testing.ActionFailed, match="S3 says NoSuchBucket"):
        related.act("create-backup")
    assert related.status.name == status
    said = "the last backup failed: " if status == "waiting" else ""
    assert related.status.message == f"s3-backup: {said}S3 says NoSuchBucket"
    assert related.run("update_status").name == status
    (reason,) = related.reasons()
    assert reason.startswith(f"{status}: {related.status.message}; the last backup failed on 20")
    assert reason.endswith("; run create-backup when it is mended")
    assert "S3 says NoSuchBucket" in related.act("status-detail")["status"]
    related.agent.archive.script.clear()
    related.act("create-backup")
    assert related.status == SERVED


def test_a_failure_without_a_word_is_a_failure(related):
    related.agent.archive.script["create"] = ("api", "")
    with pytest.raises(testing.ActionFailed, match="no reason was given"):
        related.act("create-backup")


def test_two_backups_never_have_the_same_id(related):
    for _ in range(3):
        related.act("create-backup")
    assert len(related.agent.archive.bucket.backups) == 3


def test_one_operation_at_a_time(related):
    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    with pytest.raises(
        testing.ActionFailed,
        match=r"a backup is under way \(uploading, 75 % of 4.00MiB\): wait until it is done",
    ):
        related.act("create-backup")


def test_without_s3_there_is_nowhere_to_put_it(deployed):
    with pytest.raises(
        testing.ActionFailed, match="no S3 storage is related: juju integrate dittofs:s3-backup"
    ):
        deployed.act("create-backup")


def test_s3_that_is_not_complete_is_named(deployed):
    deployed.relate_s3({})
    with pytest.raises(testing.ActionFailed, match="waiting for s3-integrator"):
        deployed.act("create-backup")


def test_a_server_that_does_not_serve_is_not_backed_up(related):
    related.border.down = True
    related.border.stop()
    with pytest.raises(testing.ActionFailed, match="the server does not answer yet"):
        related.act("create-backup")
    assert related.agent.archive.bucket.backups == {}


def test_a_server_that_is_stopped_is_not_backed_up(related):
    related.border.stop()
    (related.root / "content" / ".dittofs-charm.json").unlink()
    related.run("update_status")
    with pytest.raises(testing.ActionFailed, match="the server does not run: see status-detail"):
        related.act("create-backup")


def test_an_agent_that_is_away_is_waited_for(related):
    related.agent.archive.script["create"] = archives.RUNNING
    related.act("create-backup")
    related.agent_away()
    assert related.run("update_status") == testing.WaitingStatus(
        "waiting for the agent's container"
    )
    with pytest.raises(testing.ActionFailed, match="waiting for the agent's container"):
        related.act("create-backup")
