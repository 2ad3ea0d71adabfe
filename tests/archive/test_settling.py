"""What was swapped in is served again: with the server, and with one that misbehaves."""

import contextlib
import http.client
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from agent.archive import creation, laying, settling, swapping
from agent.archive.errors import ArchiveError
from agent.archive.progress import Progress
from agent.archive.server import Server as Client
from agent.archive.server import ServerError
from agent.archive.settings import S3, Api, ArchiveSettings
from agent.archive.staging import Staged, StagedShare
from tests import bed, servers
from tests.archive.scripted import answering
from tests.archive.volumes import OPERATION, Volumes, dump, request_for, settings_for
from tests.contract.server import PASSWORD, Server
from tests.s3 import S3Server
from tests.standin.client import HOST, ClientError

ID = "2026-01-01T00:00:00Z"
BEFORE = {f"file-{number}": os.urandom(1000 * number) for number in range(20)}
LATER = {"file-3": b"changed since", "new": b"made since"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    bed.enter()
    with S3Server(tmp_path_factory.mktemp("s3")) as made:
        made.make_bucket("backups")
        yield made


@pytest.fixture(params=["stand-in", "real"])
def server(request, s3, tmp_path):
    """A server that serves /export, with files, and /other, which is disabled."""
    del s3  # only that it is in the same network
    program = servers.standin() if request.param == "stand-in" else servers.server()
    if request.param == "real" and not program.real:
        pytest.skip("no real server on this machine")
    with Server(program, tmp_path) as made:
        if made.files.missing:
            pytest.skip(f"needs {made.files.missing}")
        made.start()
        for share in ("/export", "/other"):
            made.make_share(share)
            made.files.put(share, BEFORE)
        made.enable("/other", enabled=False)
        yield made


@pytest.fixture
def settings(server, s3, request):
    api = Api(server.url, f"http://127.0.0.1:{server.metrics_port}/metrics", "admin", PASSWORD)
    bucket = s3.settings("backups", request.node.name.replace("[", "-").replace("]", ""))
    made = settings_for(server.root, s3=S3(**bucket), api=api)
    made.notes.mkdir()
    made.run.mkdir()
    return made


class Restore:
    """A backup of the server as it is, and the steps of its restore."""

    def __init__(self, server: Server, settings: ArchiveSettings, shares: list[str] | None = None):
        self.server = server
        self.settings = settings
        self._shares = shares
        request = request_for("create", **{"backup-id": ID})
        self.made = creation.create(settings, request, Progress())

    @property
    def left(self) -> list[str]:
        return Volumes(self.server.root).leftovers()

    def step(self, name: str, progress: Progress | None = None) -> Any:
        request = request_for(name, shares=self._shares, **{"backup-id": ID})
        if name in {"swap", "rollback", "discard"}:
            return getattr(swapping, name)(self.settings, request)
        module = laying if name == "fetch" else settling
        return getattr(module, name)(self.settings, request, progress or Progress())

    def swap(self) -> None:
        """Everything until the server is up with what was laid down."""
        self.step("fetch")
        self.server.stop()
        self.step("swap")
        self.server.start()

    def finish(self) -> Any:
        self.server.stop()
        self.server.start()
        return self.step("finish")

    def snapshots(self, share: str) -> list[str]:
        with Client(self.settings.api) as client:
            return [each.id for each in client.snapshots(share)]

    def enabled(self) -> dict[str, bool]:
        with Client(self.settings.api) as client:
            return {share.name: share.enabled for share in client.shares()}


def add_user(server: Server, name: str) -> None:
    body = {"username": name, "password": "a-long-password", "role": "user"}
    assert server.api("POST", "/users", body).status_code == 201


def users(server: Server) -> set[str]:
    return {user["username"] for user in server.api("GET", "/users").json()}


def refused(server: Server, share: str) -> bool:
    try:
        server.files.get(share, "file-1")
    except ClientError:
        return True
    return False


def test_everything(server, settings):
    add_user(server, "alice")
    restore = Restore(server, settings)
    server.files.put("/export", LATER)
    server.files.remove("/export", "file-5")
    server.make_share("/third")
    add_user(server, "bob")
    mine = server.snapshot("/export")

    restore.swap()
    assert restore.enabled() == {"/export": False, "/other": False}
    assert refused(server, "/export")
    result = restore.step("settle")
    assert [(share["name"], share["equal"]) for share in result["shares"]] == [
        ("/export", True),
        ("/other", True),
    ]
    assert restore.enabled() == {"/export": False, "/other": False}

    result = restore.finish()
    size = sum(len(data) for data in BEFORE.values())
    assert result["shares"] == [
        {"name": "/export", "bytes": size, "status": "healthy", "message": ""},
        {"name": "/other", "bytes": size, "status": "disabled", "message": ""},
    ]
    assert restore.enabled() == {"/export": True, "/other": False}
    assert server.files.get("/export", *BEFORE) == BEFORE
    with pytest.raises(ClientError):
        server.files.get("/export", "new")
    server.enable("/other")
    assert server.files.get("/other", *BEFORE) == BEFORE
    assert users(server) == {"admin", "alice"}
    assert restore.snapshots("/export") == restore.snapshots("/other") == []
    assert mine not in os.listdir(server.folder("/export") / "snapshots")  # noqa: PTH208  # names

    restore.step("discard")
    assert restore.left == []
    server.stop()
    server.start()
    assert server.files.get("/export", *BEFORE) == BEFORE
    # The next backup and restore work on what came out of this one.
    server.files.put("/export", LATER)
    server.snapshot("/export")


def test_another_life_with_another_password(server, settings):
    restore = Restore(server, settings)
    restore.step("fetch")
    server.stop()
    restore.step("swap")
    server.password = "another-password"
    server.environment["DITTOFS_ADMIN_INITIAL_PASSWORD"] = server.password
    server.start()
    with pytest.raises(ServerError, match="does not accept"):
        restore.step("settle")
    api = Api(server.url, settings.api.metrics, "admin", server.password)
    restore.settings = settings_for(server.root, s3=settings.s3, api=api)
    restore.step("settle")
    restore.finish()
    assert server.files.get("/export", *BEFORE) == BEFORE


def test_one_share(server, settings):
    restore = Restore(server, settings, ["/export"])
    add_user(server, "bob")
    server.enable("/other")
    for share in ("/export", "/other"):
        server.files.put(share, LATER)
    gone, kept = server.snapshot("/export"), server.snapshot("/other")

    restore.swap()
    assert restore.enabled() == {"/export": False, "/other": True}
    assert server.files.get("/other", *LATER) == LATER
    restore.step("settle")
    restore.finish()
    assert server.files.get("/export", *BEFORE) == BEFORE
    assert server.files.get("/other", *LATER) == LATER
    assert users(server) == {"admin", "bob"}
    assert restore.snapshots("/export") == []
    assert gone not in restore.snapshots("/export")
    assert restore.snapshots("/other") == [kept]
    restore.step("discard")
    assert restore.left == []


@pytest.mark.parametrize("shares", [None, ["/export"]])
def test_rollback_when_it_was_restored_already(server, settings, shares):
    restore = Restore(server, settings, shares)
    server.files.put("/export", LATER)
    mine = server.snapshot("/export")
    add_user(server, "bob")
    restore.swap()
    restore.step("settle")
    server.stop()
    restore.step("rollback")
    server.start()
    restore.step("discard")
    assert restore.left == []
    assert restore.enabled() == {"/export": True, "/other": False}
    assert server.files.get("/export", *(BEFORE | LATER)) == BEFORE | LATER
    assert users(server) == {"admin", "bob"}
    assert server.restore("/export", mine).status_code == 409
    server.enable("/export", enabled=False)
    assert server.restore("/export", mine).status_code == 200


@contextlib.contextmanager
def underway(restore: Restore, share: str) -> Iterator[http.client.HTTPConnection]:
    """A restore that the server is in the middle of, for a caller that is at hand."""
    server = restore.server
    volumes = Volumes(server.root)
    # As the program has it that asked, and was killed.
    volumes.write("metadata/.dittofs-restore/settled.json", json.dumps({"asked": share}))
    staged = volumes.staging.of(OPERATION)
    snapshot = next(each.snapshot for each in staged.shares if each.name == share)
    token = server.login().json()["access_token"]
    asking = http.client.HTTPConnection(HOST, server.port, timeout=60)
    with contextlib.closing(asking):
        asking.request(
            "POST",
            f"/api/v1/shares{share}/snapshots/{snapshot}/restore",
            '{"allow_non_durable": true}',
            {"Authorization": f"Bearer {token}"},
        )
        until_in_the_middle(server)
        yield asking


def until_in_the_middle(server: Server) -> None:
    """Wait until a restore has begun to replace what is there."""
    end = time.monotonic() + 30
    with contextlib.closing(sqlite3.connect(server.database, timeout=10)) as database:
        while not database.execute("SELECT * FROM restore_markers").fetchall():
            assert time.monotonic() < end
            time.sleep(0.005)


@pytest.fixture
def slow(server, monkeypatch):
    """A server whose restores take a while."""
    monkeypatch.setattr(settling, "_RETRY_SECONDS", 0.5)
    server.stop()
    server.environment["STANDIN_SNAPSHOT_SECONDS"] = "0.5"
    server.start()
    if server.program.real:
        server.files.put("/export", {"large": bytes(range(256)) * (100 * 4096)})
    return server


def test_after_the_server_was_killed_in_the_middle(slow, settings):
    restore = Restore(slow, settings)
    restore.swap()
    with underway(restore, "/export"):
        slow.kill()
    slow.start()
    assert restore.enabled()["/export"] is False
    restore.step("settle")
    restore.finish()
    assert slow.files.get("/export", *BEFORE) == BEFORE
    assert restore.snapshots("/export") == []


@pytest.mark.parametrize("gone", [True, False])
def test_while_the_server_is_busy_for_a_program_that_was_killed(slow, settings, gone):
    restore = Restore(slow, settings)
    restore.swap()
    with underway(restore, "/export") as asking:
        if gone:
            asking.close()
        restore.step("settle")
    restore.finish()
    assert slow.files.get("/export", *BEFORE) == BEFORE
    assert restore.snapshots("/export") == []


def test_a_server_that_ends_in_the_middle_is_waited_for(slow, settings):
    restore = Restore(slow, settings)
    restore.swap()

    def restart() -> None:
        until_in_the_middle(slow)
        slow.kill()
        slow.start()

    killer = threading.Thread(target=restart)
    killer.start()
    restore.step("settle")
    killer.join()
    restore.finish()
    assert slow.files.get("/export", *BEFORE) == BEFORE


def test_a_share_that_is_proven_is_not_restored_again(server, settings):
    restore = Restore(server, settings)
    restore.swap()
    first = restore.step("settle")
    snapshots = restore.snapshots("/export")
    assert restore.step("settle") == first
    assert restore.snapshots("/export") == snapshots


def test_finish_again(server, settings):
    restore = Restore(server, settings)
    restore.swap()
    restore.step("settle")
    first = restore.finish()
    assert restore.step("finish") == first


SHARE = StagedShare("/export", "export", "theirs", 10, enabled=True)
_ROUTES: Mapping[str, Any] = {
    "/health/ready": {},
    "/api/v1/store/metadata": [{"id": "m", "type": "badger"}],
    "/api/v1/store/block/local": [{"id": "c", "type": "fs"}],
    "/api/v1/shares": [
        {
            "name": "/export",
            "metadata_store_id": "m",
            "local_block_store_id": "c",
            "used_bytes": 9,
            "status": {"status": "healthy"},
        }
    ],
    "/api/v1/shares/export/disable": {},
    "/api/v1/shares/export/enable": {},
    "/api/v1/shares/export/snapshots": {"snapshot_id": "proof"},
    "/api/v1/shares/export/snapshots/proof": {"id": "proof", "state": "ready"},
    "/api/v1/shares/export/snapshots/theirs": {},
    "/api/v1/shares/export/snapshots/theirs/restore": {"safety_snapshot_id": "safety"},
}


@pytest.fixture
def swapped(tmp_path):
    """Volumes after a swap, with files that differ, and what a server says of them."""
    volumes = Volumes(tmp_path)
    for volume in (volumes.settings.metadata, volumes.settings.content):
        volume.mkdir(parents=True)
    volumes.staging.begin(OPERATION)
    volumes.staging.complete(Staged(OPERATION, ID, True, 1, 1, (SHARE,)))
    volumes.staging.notes.mkdir()
    for snapshot in ("theirs", "proof"):
        place = f"content/shares/export/snapshots/{snapshot}"
        volumes.write(f"{place}/manifest.hashes", "the same")
        volumes.write(f"{place}/metadata.dump", f"of {snapshot}")
    return volumes


@contextlib.contextmanager
def served(
    volumes: Volumes, asked: list[str] | None = None, **other: Any
) -> Iterator[ArchiveSettings]:
    """Answers of a server; `other` replaces those whose path ends with the name, or makes them.

    What is asked for is noted in `asked`.
    """

    def answer(path: str) -> tuple[int, Any]:
        if asked is not None:
            asked.append(path)
        said = next(
            (other[name] for name in other if path.endswith(f"/{name}")), _ROUTES.get(path)
        )
        said = said() if callable(said) else said
        return said if isinstance(said, tuple) else (200, said)

    with answering(answer) as api:
        yield settings_for(volumes.root, api=api)


def test_a_share_that_differs(swapped):
    with (
        served(swapped) as settings,
        pytest.raises(ArchiveError, match="/export is not what was backed up: metadata") as it,
    ):
        settling.settle(settings, request_for("settle"), Progress())
    assert it.value.kind == "damaged"


def test_a_share_that_a_newer_server_has_stamped_is_the_same(swapped):
    pairs = [(f"f:{number}".encode(), b"x" * number) for number in range(100)]
    stamped = [*reversed(pairs), (b"meta:format", b"2")]
    for snapshot, written in (("theirs", pairs), ("proof", stamped)):
        place = swapped.settings.content / "shares/export/snapshots" / snapshot
        (place / "metadata.dump").write_bytes(dump(written))
    snapshots = iter([{"snapshot_id": "proof"}, []])
    with served(swapped, snapshots=lambda: next(snapshots)) as settings:
        said = settling.settle(settings, request_for("settle"), Progress())
    assert said["shares"][0]["equal"]


def times_refused(volumes: Volumes, answer: tuple[int, Any], text: str) -> int:
    """How often a server that answers so is asked for a restore, which fails with the text."""
    asked: list[str] = []
    with (
        served(volumes, asked, restore=answer) as settings,
        pytest.raises(ServerError, match=f"restore /export: {text}"),
    ):
        settling.settle(settings, request_for("settle"), Progress())
    return sum(path.endswith("/restore") for path in asked)


@pytest.fixture
def impatient(monkeypatch):
    """What may be busy is waited for a moment only."""
    monkeypatch.setattr(settling, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(settling, "_BUSY_SECONDS", 0.25)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("answer", "text", "times"),
    [
        ((500, {"detail": "no"}), "the server answered 500 no", {1}),
        ((409, {"detail": "in progress"}), "the server answered 409 in progress", {2, 3, 4}),
        ((412, b""), "the server answered 412", {1}),
        ((0, 0), "the server cut the connection", {2}),
    ],
)
def test_a_share_that_cannot_be_restored(swapped, answer, text, times):
    """Only one that may be busy is asked again: the clients wait."""
    assert times_refused(swapped, answer, text) in times


@pytest.mark.usefixtures("impatient")
def test_one_that_refuses_may_be_at_what_a_killed_program_asked_for(swapped):
    swapped.write("metadata/.dittofs-restore/settled.json", '{"asked": "/export"}')
    assert times_refused(swapped, (500, {"detail": "no"}), "the server answered 500 no") > 1


def test_what_is_not_staged_is_not_settled(swapped):
    swapped.staging.forget()
    for step in (settling.settle, settling.finish):
        with (
            served(swapped) as settings,
            pytest.raises(ArchiveError, match="not there completely"),
        ):
            step(settings, request_for("settle"), Progress())


def test_a_share_that_does_not_get_healthy(swapped, monkeypatch):
    monkeypatch.setattr(settling, "_HEALTHY_SECONDS", 0.1)
    ill = _ROUTES["/api/v1/shares"][0] | {"status": {"status": "degraded", "message": "broken"}}
    with (
        served(swapped, shares=[ill]) as settings,
        pytest.raises(ArchiveError, match="/export is degraded: broken"),
    ):
        settling.finish(settings, request_for("finish"), Progress())


def test_a_share_that_is_not_there(swapped):
    with (
        served(swapped, shares=[]) as settings,
        pytest.raises(ArchiveError, match="does not have the share /export"),
    ):
        settling.finish(settings, request_for("finish"), Progress())


def test_a_snapshot_that_cannot_be_deleted_is_told(swapped):
    swapped.write("metadata/.dittofs-restore/settled.json", '{"shares": {"/export": ["theirs"]}}')
    with served(swapped, theirs=(409, {"detail": "in progress"})) as settings:
        result = settling.finish(settings, request_for("finish"), Progress())
    message = result["shares"][0]["message"]
    assert "the snapshot theirs is left" in message
    assert "had 10 bytes when it was backed up" in message


def test_a_server_that_does_not_start(swapped, monkeypatch):
    monkeypatch.setattr(settling, "_READY_SECONDS", 0.2)
    for step in (settling.settle, settling.finish):
        with pytest.raises(ServerError, match="does not answer for 0 seconds"):
            step(swapped.settings, request_for("settle"), Progress())


def test_the_control_plane_of_the_backup_is_whole(server, settings):
    """The row of admin is all that is taken out of it, and what belongs to the restore."""
    restore = Restore(server, settings)
    restore.step("fetch")
    server.stop()
    restore.step("swap")
    with contextlib.closing(sqlite3.connect(settings.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT * FROM users").fetchall() == []
        assert len(database.execute("SELECT * FROM snapshots").fetchall()) == 2
