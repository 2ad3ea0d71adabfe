"""What the program says of itself, and what it remembers when its pod is lost."""

import json
import time

import pytest

from agent.archive.request import Request, read
from agent.archive.status import STATUS, Status

CREATE = Request("2026-11-24T18:00:00Z", "create", "create", {})
RESULT = {"backup-id": CREATE.id, "size": 10, "uploaded": 4, "duration": 1.5}


@pytest.fixture
def places(tmp_path):
    for name in ("run", "volume"):
        (tmp_path / name).mkdir()
    return tmp_path / "run", tmp_path / "volume" / "notes"


def written(places):
    return json.loads((places[0] / STATUS).read_text())


def test_an_operation_from_its_begin_to_its_end(places):
    status = Status(*places)
    assert status.begin(CREATE)
    assert written(places)["operation"]["state"] == "running"
    status.told("uploading", 5, 10)
    assert not status.finished(CREATE)
    status.done(RESULT)
    found = written(places)
    assert status.finished(CREATE)
    assert found["operation"]["result"] == RESULT
    assert found["last-success"]["id"] == CREATE.id
    assert found["last-failure"] is None
    assert not status.finished(Request(CREATE.id, "restore", "fetch", {}))


def test_what_is_new_is_written_at_once_and_how_far_it_is_now_and_then(places):
    """Nothing more may be said for long, and each piece of many would be a write."""
    status = Status(*places)
    status.begin(CREATE)
    status.told("taking the snapshot of /a", None, None)
    status.told("uploading", 1, 1000)
    assert written(places)["operation"]["message"] == "uploading"
    for done in range(2, 1000):
        status.told("uploading", done, 1000)
    assert written(places)["operation"]["bytes-done"] < 999
    time.sleep(0.25)
    status.told("uploading", 1000, 1000)
    assert written(places)["operation"]["bytes-done"] == 1000


def test_a_new_pod_remembers(places):
    status = Status(*places)
    status.begin(CREATE)
    status.failed("credentials", "S3 refuses the credentials: ExpiredToken")
    (places[0] / STATUS).unlink()
    again = Status(*places)
    assert again.finished(CREATE)
    assert again["last-failure"]["kind"] == "credentials"
    assert again["failures"] == 1


def test_what_ends_again_and_again_is_given_up(places):
    assert [Status(*places).begin(CREATE) for _ in range(7)] == [True] * 5 + [False] * 2
    other = Request("2026-11-24T19:00:00Z", "create", "create", {})
    assert Status(*places).begin(other)


def test_to_be_told_to_end_is_no_failure(places):
    for _ in range(20):
        status = Status(*places)
        assert status.begin(CREATE)
        status.interrupted()
    assert not Status(*places).finished(CREATE)


def test_a_failed_verification_is_no_failed_backup(places):
    status = Status(*places)
    status.begin(Request("1", "verify", "verify", {}))
    status.failed("away", "S3 cannot be reached")
    assert status["last-failure"] is None
    status.begin(Request("1", "delete", "delete", {}))
    status.done({"deleted-objects": 1, "freed": 2})
    assert status["last-success"] is None


def test_metrics(places):
    status = Status(*places)
    status.begin(CREATE)
    status.done(RESULT)
    status.begin(Request("2", "create", "create", {}))
    status.failed("away", "gone")
    lines = dict(
        line.rsplit(" ", 1) for line in status.metrics().splitlines() if not line.startswith("#")
    )
    assert float(lines["dittofs_backup_last_success_timestamp_seconds"]) == pytest.approx(
        status["last-success"]["at"]
    )
    assert float(lines["dittofs_backup_last_duration_seconds"]) == 1.5
    assert float(lines["dittofs_backup_last_uploaded_bytes"]) == 4
    assert float(lines["dittofs_backup_failures_total"]) == 1
    assert float(lines["dittofs_backup_operation_running"]) == 0
    assert status.healthy() == (True, "ok")


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(places):
    status = Status(places[0] / "gone", places[1] / "gone" / "too")
    status.set(due=True)
    assert status["due"]


@pytest.mark.parametrize("text", [None, "", "[]", '{"id": "1"}', '{"id": "1", "params": 3}'])
def test_a_request_that_makes_no_sense_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "request").write_text(text)
    assert read(tmp_path / "request") is None


def test_a_request(tmp_path):
    asked = {"id": "1", "kind": "restore", "step": "fetch", "phase": "of the charm's own"}
    (tmp_path / "request").write_text(
        json.dumps(asked | {"params": {"backup-id": "2", "from": "m/a", "shares": ["/b"]}})
    )
    found = read(tmp_path / "request")
    assert found is not None
    assert (found.backup_id, found.home, found.shares) == ("2", "m/a", ("/b",))
    bare = Request("1", "create", "create", {"shares": None})
    assert (bare.backup_id, bare.home, bare.shares) == ("1", None, None)
