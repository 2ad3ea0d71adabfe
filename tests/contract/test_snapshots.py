"""Snapshots: the states, what is refused, and what a restore needs, here and in a new instance."""

import contextlib
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.contract.server import Server
from tests.standin.client import ClientError

FILES = {f"f{number}": os.urandom(3000 + number) for number in range(20)}
COLUMNS = [
    "id",
    "name",
    "share_name",
    "state",
    "metadata_engine",
    "manifest_count",
    "remote_durable",
    "journal_version",
    "scheduled",
    "error",
    "created_at",
    "updated_at",
]
NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def filled(fresh):
    """A server with one share that has files; a snapshot of the stand-in takes a moment."""
    if fresh.files.missing:
        pytest.skip(f"{fresh.files.missing} is not installed")
    fresh.environment["STANDIN_SNAPSHOT_SECONDS"] = "0.2"
    fresh.start()
    fresh.make_share()
    fresh.files.put("/export", FILES)
    return fresh


@contextlib.contextmanager
def rows(server: Server) -> Iterator[sqlite3.Connection]:
    """The server's own tables."""
    with contextlib.closing(sqlite3.connect(server.database, timeout=10)) as database:
        database.row_factory = sqlite3.Row
        yield database


def markers(server: Server) -> list[str]:
    """The shares whose restore did not end."""
    with rows(server) as database:
        found = database.execute("SELECT share_name FROM restore_markers")
        return [row["share_name"] for row in found]


def take_long(server: Server) -> None:
    """Let snapshots of the stand-in take longer than anything that is asked meanwhile."""
    server.stop()
    server.environment["STANDIN_SNAPSHOT_SECONDS"] = "3"
    server.start()


def started(server: Server) -> str:
    """A snapshot that is being made."""
    if server.program.real:
        # It takes long enough to be met only when there is something to do.
        server.files.put("/export", {f"g{number}": os.urandom(300) for number in range(1000)})
    return server.api("POST", "/shares/export/snapshots", {}).json()["snapshot_id"]


def detail(answer: httpx.Response) -> tuple[int, str]:
    """What is said of a refusal."""
    return answer.status_code, answer.json()["detail"]


def test_one_is_made_in_its_own_time(filled):
    body = {"name": "one"}
    answer = filled.api("POST", "/shares/export/snapshots", body)
    made = answer.json()
    assert (answer.status_code, made["share"]) == (202, "/export")
    place = f"/api/v1/shares/%2Fexport/snapshots/{made['snapshot_id']}"
    assert answer.headers["location"] == place
    found = filled.settled("/export", made["snapshot_id"])
    assert (found["state"], found["name"], found["share"]) == ("ready", "one", "/export")
    assert (found["remote_durable"], found["scheduled"]) == (False, False)
    files = filled.snapshot_files("/export", found["id"])
    assert sorted(files) == ["manifest.hashes", "metadata.dump"]
    assert found["dump_bytes"] == len(files["metadata.dump"])
    digests = files["manifest.hashes"].decode().splitlines()
    assert found["manifest_count"] == len(digests) == len(set(digests))
    assert digests == sorted(digests)
    assert {len(digest) for digest in digests} == {64}
    # A list tells no sizes.
    (listed,) = filled.api("GET", "/shares/export/snapshots").json()
    assert listed == {
        key: value for key, value in found.items() if key not in {"manifest_count", "dump_bytes"}
    }


def test_the_rows_are_where_tools_find_them(filled):
    identifier = filled.snapshot(name="one")
    with rows(filled) as database:
        (row,) = database.execute("SELECT * FROM snapshots")
        assert list(row.keys()) == COLUMNS
        assert (row["id"], row["share_name"], row["state"]) == (identifier, "/export", "ready")
        assert (row["metadata_engine"], row["remote_durable"]) == ("badger", 0)
        assert row["manifest_count"] > 0
        assert row["journal_version"] > 0
        (share,) = database.execute("SELECT name, enabled FROM shares")
        assert tuple(share) == ("/export", 1)
    assert markers(filled) == []


def test_all_are_listed_the_newest_first(filled):
    made = [filled.snapshot() for _ in range(3)]
    listed = [each["id"] for each in filled.api("GET", "/shares/export/snapshots").json()]
    assert listed == made[::-1]


def test_the_same_content_has_the_same_bytes(filled):
    first = filled.snapshot_files("/export", filled.snapshot())
    filled.enable(enabled=False)
    assert filled.snapshot_files("/export", filled.snapshot()) == first
    filled.enable()
    filled.files.put("/export", {"more": b"more"})
    assert filled.snapshot_files("/export", filled.snapshot()) != first


def test_what_is_not_there_is_told_so(filled):
    for identifier in ("nothing", NOBODY):
        path = f"/shares/export/snapshots/{identifier}"
        assert detail(filled.api("GET", path)) == (404, "snapshot not found")
        assert detail(filled.api("DELETE", path)) == (404, "snapshot not found")
    retry = filled.api("POST", "/shares/export/snapshots", {"retry_of": NOBODY})
    assert detail(retry) == (404, "retry target snapshot not found")
    answer = filled.api("POST", "/shares/nothing/snapshots", {})
    assert detail(answer) == (404, "share not found")
    assert filled.api("GET", "/shares/nothing/snapshots").json() == []
    answer = filled.api("GET", f"/shares/nothing/snapshots/{NOBODY}")
    assert detail(answer) == (404, "snapshot not found")
    assert detail(filled.restore("/nothing", NOBODY)) == (404, "share not found")
    filled.enable(enabled=False)
    assert detail(filled.restore("/export", NOBODY)) == (404, "snapshot not found")


@pytest.mark.parametrize("body", [{"name": 5}, {"no_verify": "yes"}])
def test_a_body_of_another_kind_is_refused(filled, body):
    status, text = detail(filled.api("POST", "/shares/export/snapshots", body))
    assert (status, text.startswith("invalid request body")) == (400, True)


def test_a_share_in_memory_has_none(fresh):
    fresh.start()
    fresh.api("POST", "/store/metadata", {"name": "mem", "type": "memory"})
    fresh.api("POST", "/store/block/local", {"name": "m", "type": "memory"})
    body = {"name": "/base", "metadata_store_id": "mem", "local_block_store": "m"}
    assert fresh.api("POST", "/shares", body).status_code == 201
    answer = fresh.api("POST", "/shares/base/snapshots", {})
    assert detail(answer) == (400, "snapshots require an fs-backed local store")
    assert fresh.api("GET", "/shares/base/snapshots").json() == []


def test_a_restore_that_is_refused_changes_nothing(filled):
    identifier = filled.snapshot()
    refused = "share is enabled; disable before restore"
    assert detail(filled.restore("/export", identifier)) == (409, refused)
    filled.enable(enabled=False)
    refused = "snapshot not remotely durable; pass allow_non_durable=true to force"
    answer = filled.restore("/export", identifier, allow_non_durable=False)
    assert detail(answer) == (412, refused)
    assert len(filled.api("GET", "/shares/export/snapshots").json()) == 1


def test_one_in_flight_lets_no_other_be_made_and_is_not_deleted(filled):
    take_long(filled)
    identifier = started(filled)
    second = filled.api("POST", "/shares/export/snapshots", {})
    deleted = filled.api("DELETE", f"/shares/export/snapshots/{identifier}")
    seen = filled.api("GET", f"/shares/export/snapshots/{identifier}").json()
    refused = "snapshot is not in a state that allows this operation"
    assert detail(second) == (409, refused)
    refused = "snapshot operation is in progress; retry once it completes"
    assert detail(deleted) == (409, refused)
    assert seen["state"] == "creating"
    assert "dump_bytes" not in seen
    assert filled.settled("/export", identifier)["state"] == "ready"
    assert filled.api("DELETE", f"/shares/export/snapshots/{identifier}").status_code == 204


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "abandoned"), (signal.SIGTERM, "context canceled")]
)
def test_one_in_flight_when_the_server_ends_has_failed(filled, number, words):
    take_long(filled)
    identifier = started(filled)
    filled.stop(number)
    filled.start()
    found = filled.settled("/export", identifier)
    assert (found["state"], words in found["error"]) == ("failed", True)
    filled.enable(enabled=False)
    refused = "snapshot is not in a state that allows this operation"
    assert detail(filled.restore("/export", identifier)) == (409, refused)
    retried = filled.api("POST", "/shares/export/snapshots", {"retry_of": identifier})
    assert (retried.status_code, retried.json()["snapshot_id"]) == (202, identifier)
    found = filled.settled("/export", identifier)
    assert (found["state"], "error" in found) == ("ready", False)
    again = filled.api("POST", "/shares/export/snapshots", {"retry_of": identifier})
    assert detail(again) == (409, "retry target is not in failed state")


def test_one_that_finds_no_place_has_failed_at_once(filled):
    (filled.folder() / "snapshots").write_text("in the way")
    answer = filled.api("POST", "/shares/export/snapshots", {})
    assert detail(answer) == (500, "snapshot create failed")
    (found,) = filled.api("GET", "/shares/export/snapshots").json()
    assert (found["state"], "error" in found) == ("failed", False)


def test_a_restore_brings_back_what_was_there(filled):
    identifier = filled.snapshot()
    files = filled.snapshot_files("/export", identifier)
    filled.files.remove("/export", "f1")
    filled.files.put("/export", {"f2": b"changed", "new": b"new"})
    filled.enable(enabled=False)
    answer = filled.restore("/export", identifier)
    said = answer.json()
    assert (answer.status_code, said["snapshot_id"], said["share"]) == (
        200,
        identifier,
        "/export",
    )
    assert markers(filled) == []
    assert filled.api("GET", "/shares/export").json()["enabled"] is False
    # The proof: what is there now is what was there then.
    assert filled.snapshot_files("/export", filled.snapshot()) == files
    filled.enable()
    assert filled.files.get("/export", *FILES) == FILES
    with pytest.raises(ClientError):
        filled.files.get("/export", "new")
    # What was there before the restore is a snapshot, too.
    filled.enable(enabled=False)
    assert filled.restore("/export", said["safety_snapshot_id"]).status_code == 200
    filled.enable()
    assert filled.files.get("/export", "f2", "new") == {"f2": b"changed", "new": b"new"}


def test_what_a_snapshot_needs_stays_until_it_is_deleted(filled):
    identifier = filled.snapshot()
    journal = filled.folder() / "journal"
    needed = {path.name for path in journal.glob("*.seg")}
    filled.files.remove("/export", *FILES)
    time.sleep(1)
    assert needed <= {path.name for path in journal.glob("*.seg")}
    filled.enable(enabled=False)
    assert filled.restore("/export", identifier).status_code == 200
    filled.enable()
    assert filled.files.get("/export", *FILES) == FILES
    for each in filled.api("GET", "/shares/export/snapshots").json():
        assert filled.api("DELETE", f"/shares/export/snapshots/{each['id']}").status_code == 204
    assert filled.api("GET", "/shares/export/snapshots").json() == []
    assert list((filled.folder() / "snapshots").iterdir()) == []
    assert filled.files.get("/export", *FILES) == FILES


def test_snapshots_outlive_the_process_and_go_with_their_share(filled):
    filled.make_share("/Größe 1")
    identifier = filled.snapshot("/Größe 1", name="other")
    first = filled.snapshot()
    filled.kill()
    filled.start()
    found = filled.settled("/Größe 1", identifier)
    assert (found["name"], found["state"], found["share"]) == ("other", "ready", "/Größe 1")
    folder = filled.folder("/Größe 1")
    assert (folder / "snapshots" / identifier / "metadata.dump").exists()
    assert filled.api("DELETE", f"/shares/{quote('Größe 1')}").status_code == 204
    assert not list(folder.glob("snapshots/*"))
    assert folder.exists()
    with rows(filled) as database:
        assert [row["id"] for row in database.execute("SELECT id FROM snapshots")] == [first]


def moved(server: Server, identifier: str, to: Path) -> None:
    """Leave only what a backup has: segments, one snapshot, the control plane."""
    share = server.folder()
    paths = [*share.glob("journal/*.seg"), *(share / "snapshots" / identifier).iterdir()]
    for path in paths:
        target = to / path.relative_to(server.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with rows(server) as database, contextlib.closing(sqlite3.connect(to / "copy")) as copy:
        database.backup(copy)
    server.kill()
    shutil.rmtree(server.root / "data")
    shutil.copytree(to / "data", server.root / "data")
    server.metadata.mkdir()
    (to / "copy").rename(server.database)


def test_a_new_instance_needs_segments_a_snapshot_and_the_control_plane(filled, tmp_path):
    identifier = filled.snapshot()
    files = filled.snapshot_files("/export", identifier)
    filled.files.put("/export", {"later": b"later", "f2": b"changed"})
    moved(filled, identifier, tmp_path / "kept")
    filled.start()
    # Nothing is there but the share itself.
    with pytest.raises(ClientError):
        filled.files.get("/export", "f1")
    filled.enable(enabled=False)
    assert filled.restore("/export", identifier).status_code == 200
    assert filled.snapshot_files("/export", filled.snapshot()) == files
    filled.enable()
    # What clients hold of the share is of the root that was made at the start.
    with pytest.raises(ClientError):
        filled.files.get("/export", "f1")
    filled.stop()
    filled.start()
    assert filled.files.get("/export", *FILES) == FILES
    with pytest.raises(ClientError):
        filled.files.get("/export", "later")
    for each in filled.api("GET", "/shares/export/snapshots").json():
        assert filled.api("DELETE", f"/shares/export/snapshots/{each['id']}").status_code == 204
    filled.kill()
    filled.start()
    assert filled.files.get("/export", *FILES) == FILES
    filled.files.put("/export", {"after": b"after"})
    assert filled.files.get("/export", "after") == {"after": b"after"}


def damage(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_dump_empties_the_store_until_the_next_start(filled):
    """It is found after the store was emptied; the next start rolls back."""
    identifier = filled.snapshot()
    filled.files.put("/export", {"new": b"new"})
    damage(filled.folder() / "snapshots" / identifier / "metadata.dump")
    filled.enable(enabled=False)
    answer = filled.restore("/export", identifier)
    assert detail(answer) == (500, "snapshot operation failed")
    assert markers(filled) == ["/export"]
    (safety,) = [
        each["id"]
        for each in filled.api("GET", "/shares/export/snapshots").json()
        if each["id"] != identifier
    ]
    refused = "snapshot is protected by an in-progress restore; retry once it completes"
    for each in (safety, identifier):
        assert detail(filled.api("DELETE", f"/shares/export/snapshots/{each}")) == (409, refused)
    empty = filled.snapshot_files("/export", filled.snapshot())
    assert empty["manifest.hashes"] == b""
    filled.kill()
    filled.start()
    assert markers(filled) == []
    # The root was made anew in the empty store, before that was rolled back.
    filled.enable()
    with pytest.raises(ClientError):
        filled.files.get("/export", "f1")
    filled.stop()
    filled.start()
    assert filled.files.get("/export", *FILES, "new") == FILES | {"new": b"new"}


def test_a_restore_after_a_failed_one_ends_it(filled):
    bad, good = filled.snapshot(), filled.snapshot()
    damage(filled.folder() / "snapshots" / bad / "metadata.dump")
    filled.enable(enabled=False)
    assert filled.restore("/export", bad).status_code == 500
    assert filled.restore("/export", good).status_code == 200
    assert markers(filled) == []
    filled.stop()
    filled.start()
    filled.enable()
    assert filled.files.get("/export", *FILES) == FILES


@pytest.mark.parametrize("name", ["metadata.dump", "manifest.hashes"])
def test_a_snapshot_without_one_of_its_files_is_not_restored(filled, name):
    identifier = filled.snapshot()
    (filled.folder() / "snapshots" / identifier / name).unlink()
    filled.enable(enabled=False)
    answer = filled.restore("/export", identifier)
    assert detail(answer) == (500, "snapshot artifacts missing")
    assert markers(filled) == []
    filled.enable()
    assert filled.files.get("/export", *FILES) == FILES


def test_a_row_without_the_place_in_the_journal_is_not_restored(filled):
    """What happens to rows that are copied without all their columns."""
    identifier = filled.snapshot()
    filled.stop()
    with rows(filled) as database, database:
        database.execute("UPDATE snapshots SET journal_version = 0")
    filled.start()
    filled.enable(enabled=False)
    answer = filled.restore("/export", identifier)
    assert detail(answer) == (500, "snapshot operation failed")


def test_a_restore_that_a_crash_ended_is_rolled_back_at_the_next_start(filled):
    identifier = filled.snapshot()
    filled.files.put("/export", {"new": b"new"})
    filled.enable(enabled=False)
    asking = threading.Thread(target=_ask, args=(filled, identifier))
    asking.start()
    deadline = time.monotonic() + 10
    with rows(filled) as database:
        while not database.execute("SELECT 1 FROM restore_markers").fetchall():
            assert time.monotonic() < deadline
    filled.kill()
    asking.join()
    assert markers(filled) == ["/export"]
    filled.start()
    assert markers(filled) == []
    assert filled.api("GET", "/shares/export").json()["enabled"] is False
    filled.stop()
    filled.start()
    filled.enable()
    assert filled.files.get("/export", *FILES, "new") == FILES | {"new": b"new"}


def _ask(server: Server, identifier: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        server.restore("/export", identifier)


def test_two_restores_at_once_are_one(filled):
    identifier = filled.snapshot()
    filled.enable(enabled=False)
    answers: list[Any] = []
    asking = [
        threading.Thread(target=lambda: answers.append(filled.restore("/export", identifier)))
        for _ in range(2)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    answers.sort(key=lambda answer: answer.status_code)
    assert answers[0].status_code == 200
    # The real one may have ended the first before it begins the second.
    if answers[1].status_code != 200:
        assert detail(answers[1]) == (500, "snapshot restore failed")
    filled.enable()
    assert filled.files.get("/export", *FILES) == FILES
