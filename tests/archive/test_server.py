"""The client of the REST API, against the stand-in and the real server."""

import threading
import time

import pytest

from agent.archive import server as archive_server
from agent.archive.errors import ArchiveError
from agent.archive.progress import Progress
from agent.archive.server import Server, ServerError
from agent.archive.settings import Api
from tests import bed, servers
from tests.archive.scripted import scripted
from tests.contract.server import PASSWORD
from tests.contract.server import Server as Process

_SECONDS = 30.0


def access(process: Process, password: str = PASSWORD) -> Api:
    return Api(process.url, f"http://127.0.0.1:{process.metrics_port}/metrics", "admin", password)


@pytest.fixture(scope="module", params=["stand-in", "real"])
def process(request, tmp_path_factory):
    """A server with two shares, one of them in memory."""
    bed.enter()
    program = servers.standin() if request.param == "stand-in" else servers.server()
    if request.param == "real" and not program.real:
        pytest.skip("no real server on this machine")
    with Process(program, tmp_path_factory.mktemp("server")) as made:
        made.start()
        made.make_share("/export")
        made.make_share("/a b")
        for kind in ("metadata", "block/local"):
            body = {"name": "memory", "type": "memory", "config": "{}"}
            assert made.api("POST", f"/store/{kind}", body).status_code == 201
        body = {"name": "/ram", "metadata_store_id": "memory", "local_block_store": "memory"}
        assert made.api("POST", "/shares", body).status_code == 201
        yield made


@pytest.fixture
def server(process):
    with Server(access(process)) as made:
        yield made


def test_version(server):
    assert server.version() == "v0.29.0"


def test_version_of_a_server_that_is_away():
    assert (
        Server(Api("http://127.0.0.1:1", "http://127.0.0.1:1/m", "admin", "x")).version() is None
    )


def test_shares_with_the_types_of_their_stores(server):
    shares = {share.name: share for share in server.shares()}
    found = {name: (share.metadata_type, share.content_type) for name, share in shares.items()}
    assert found == {
        "/export": ("badger", "fs"),
        "/a b": ("badger", "fs"),
        "/ram": ("memory", "memory"),
    }
    assert {share.status for share in shares.values()} == {"healthy"}
    assert {share.enabled for share in shares.values()} == {True}


@pytest.mark.parametrize("share", ["/export", "/a b"])
def test_snapshots(server, share):
    made = server.create_snapshot(share, "one")
    server.wait_snapshot(share, made, Progress(), _SECONDS)
    found = server.snapshot(share, made)
    assert (found.id, found.name, found.state, found.error) == (made, "one", "ready", "")
    assert [each.id for each in server.snapshots(share)] == [made]
    server.delete_snapshot(share, made)
    assert server.snapshots(share) == []
    server.delete_snapshot(share, made)


def test_restore(server):
    made = server.create_snapshot("/export", "one")
    server.wait_snapshot("/export", made, Progress(), _SECONDS)
    with pytest.raises(ServerError, match="share is enabled") as caught:
        server.restore("/export", made)
    assert caught.value.status == 409
    server.enable("/export", False)
    server.enable("/export", False)
    safety = server.restore("/export", made)
    assert {each.id for each in server.snapshots("/export")} == {made, safety}
    assert not next(share for share in server.shares() if share.name == "/export").enabled
    server.enable("/export", True)
    for each in (made, safety):
        server.delete_snapshot("/export", each)


def test_no_snapshot_of_what_is_in_memory(server):
    with pytest.raises(ServerError, match="fs-backed") as caught:
        server.create_snapshot("/ram", "one")
    assert caught.value.status == 400


def test_what_is_not_there(server):
    with pytest.raises(ServerError, match="snapshot of /export: the server answered 404"):
        server.snapshot("/export", "5a0f4c8e-0000-0000-0000-000000000000")
    with pytest.raises(ServerError) as caught:
        server.enable("/nothing", True)
    assert caught.value.status == 404


def test_a_token_that_ended_is_replaced(server):
    server.shares()
    server._token = "an old one"  # noqa: SLF001  # nobody waits for a token to end
    assert server.shares()


def test_a_wrong_password_is_told_without_it(process):
    with (
        Server(access(process, "wrong-password")) as server,
        pytest.raises(ServerError, match="does not accept the admin password") as caught,
    ):
        server.shares()
    assert "wrong-password" not in str(caught.value) + repr(server.__dict__)


def test_ready(server):
    server.wait_ready(Progress(), _SECONDS)


def test_a_server_that_never_gets_ready():
    away = Server(Api("http://127.0.0.1:1", "http://127.0.0.1:1/m", "admin", "x"))
    began = time.monotonic()
    with pytest.raises(ServerError, match="does not answer for 0"):
        away.wait_ready(Progress(), 0.2)
    assert time.monotonic() - began < 5
    with pytest.raises(ServerError, match=r"does not answer$"):
        away.shares()


def test_waiting_ends_when_the_program_has_to():
    stop = threading.Event()
    stop.set()
    away = Server(Api("http://127.0.0.1:1", "http://127.0.0.1:1/m", "admin", "x"))
    with pytest.raises(ArchiveError, match="interrupted") as caught:
        away.wait_ready(Progress(stop=stop), 60)
    assert caught.value.kind == "cancelled"


def test_a_snapshot_that_fails_is_no_success():
    row = {"id": "1", "state": "creating"}
    with (
        scripted((200, row), (200, row | {"state": "failed", "error": "disk full"})) as server,
        pytest.raises(ServerError, match="the snapshot of /export failed: disk full"),
    ):
        server.wait_snapshot("/export", "1", Progress(), _SECONDS)


def test_a_snapshot_that_is_never_ready():
    with (
        scripted((200, {"id": "1", "state": "creating"})) as server,
        pytest.raises(ServerError, match="not ready after 0 seconds"),
    ):
        server.wait_snapshot("/export", "1", Progress(), 0.1)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((200, b"not JSON"), "makes no sense"),
        ((200, b"[1]"), "makes no sense"),
        ((200, {"id": "1"}), "makes no sense"),
        ((500, {"detail": "broken"}), "the server answered 500 broken"),
        ((502, b"<html>\n proxy </html>"), "the server answered 502 <html> proxy </html>"),
        ((404, b"[]"), r"the server answered 404 \[\]"),
        ((0, 0), "cut the connection"),
    ],
)
def test_answers_that_make_no_sense(answer, text):
    with scripted(answer) as server, pytest.raises(ServerError, match=text):
        server.snapshot("/export", "1")


def test_a_snapshot_that_the_server_is_not_done_with_is_deleted_a_moment_later(monkeypatch):
    busy = (409, {"detail": "snapshot operation is in progress; retry once it completes"})
    with scripted(busy, busy, (204, b"")) as server:
        server.delete_snapshot("/export", "1")
    with scripted(busy, (404, {"detail": "snapshot not found"})) as server:
        server.delete_snapshot("/export", "1")
    monkeypatch.setattr(archive_server, "_BUSY_SECONDS", 0.3)
    with scripted(busy) as server, pytest.raises(ServerError, match="409 snapshot operation is"):
        server.delete_snapshot("/export", "1")
    with scripted((500, {"detail": "broken"}), (204, b"")) as server, pytest.raises(ServerError):
        server.delete_snapshot("/export", "1")


def test_null_is_an_empty_list():
    with scripted((200, None)) as server:
        assert server.snapshots("/export") == []
        assert server.shares() == []


def test_metrics_without_a_version():
    with scripted((200, b'# nothing\ndittofs_build_info{commit="x"} 1\n')) as server:
        assert server.version() is None


def test_a_server_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(archive_server, "RESTORE_SECONDS", 0.2)
    with scripted((0, 3)) as server, pytest.raises(ServerError, match="did not answer in time"):
        server.restore("/export", "1")
