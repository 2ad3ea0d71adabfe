"""The client: bodies, and one worded error for each way a call can fail."""

import json

import httpx
import pytest
from pydantic import SecretStr

from api import Api, ApiError, LoginError, ShareFields, UnreachableError
from errors import BlockedError
from stores import StoreSpec
from units import parse_size

URL = "http://localhost:8080"
PROBLEM = {"content-type": "application/problem+json"}


class Server:
    """The border: answers what a test says, and keeps what was asked."""

    def __init__(self) -> None:
        self.answer: httpx.Response | Exception = httpx.Response(200, json={})
        self.asked: list[tuple[str, str, object]] = []

    def handle(self, _: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, request.url.raw_path.decode(), body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def server(monkeypatch):
    made = Server()

    def handle(transport, request):
        return made.handle(transport, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    return made


@pytest.fixture
def api(server):
    assert server
    with Api(URL) as client:
        yield client


FIELDS = ShareFields(
    read_only=False,
    default_permission="read",
    quota=1024,
    trash_enabled=True,
    trash_retention_days=7,
)
SPEC = StoreSpec("metadata", "a b", "badger", {"path": "/p"})
CALLS = {
    "wait_ready": lambda api: api.wait_ready(0),
    "login": lambda api: api.login(SecretStr("secret-word")),
    "change_password": lambda api: api.change_password(SecretStr("a"), SecretStr("b")),
    "stores": lambda api: api.stores("local"),
    "create_store": lambda api: api.create_store(SPEC),
    "delete_metadata_store": lambda api: api.delete_metadata_store("a b"),
    "shares": lambda api: api.shares(),
    "create_share": lambda api: api.create_share("/a b", "m", "c", FIELDS, 5),
    "change_share": lambda api: api.change_share("/a b", {"read_only": True}),
    "enable_share": lambda api: api.enable_share("/a b", enabled=True),
    "delete_share": lambda api: api.delete_share("/a b"),
    "nfs_config": lambda api: api.nfs_config("/a b"),
    "set_squash": lambda api: api.set_squash("/a b", "none"),
    "adapters": lambda api: api.adapters(),
    "set_adapter": lambda api: api.set_adapter("nfs", enabled=True, port=1),
    "drain": lambda api: api.drain(),
}
ANSWERS = [
    (httpx.Response(401, text="Invalid or expired token"), "401 Invalid or expired token", "401"),
    (httpx.Response(403, text="Admin access required"), "403 Admin access required", "403"),
    (httpx.Response(404, text="404 page not found\n"), "404 404 page not found", "404"),
    (
        httpx.Response(409, json={"title": "Conflict", "detail": "it is there"}, headers=PROBLEM),
        "409 it is there",
        "409",
    ),
    (httpx.Response(413, json={"title": "Too Large"}, headers=PROBLEM), "413 Too Large", "413"),
    (httpx.Response(422, json={"detail": "bad", "errors": {"x": "y"}}), "422 bad", "422"),
    (httpx.Response(500, content=b"\xff\x00<html>"), "500", "500"),
    (httpx.Response(503, json=["odd"]), "503", "503"),
    (httpx.ReadTimeout("slow"), "did not answer in time", "timeout"),
    (httpx.ConnectTimeout("slow"), "did not answer in time", "timeout"),
    (httpx.ConnectError("refused"), "does not answer yet", "connect"),
    (httpx.RemoteProtocolError("cut"), "the connection was cut", "cut"),
    (httpx.ReadError("reset"), "the connection was cut", "cut"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("answer", "words", "kind"), ANSWERS, ids=lambda value: str(value)[:20])
def test_every_failure_of_every_call_is_one_worded_error(server, api, call, answer, words, kind):
    server.answer = answer
    with pytest.raises(ApiError) as raised:
        CALLS[call](api)
    if call == "login" and kind == "401":
        assert isinstance(raised.value, LoginError)
        return
    assert words in str(raised.value)
    assert raised.value.kind == kind
    assert "secret-word" not in str(raised.value)
    assert isinstance(raised.value, UnreachableError) == isinstance(answer, Exception)


@pytest.mark.parametrize(
    "call", ["stores", "shares", "adapters", "nfs_config", "create_share", "login"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"7", b'[{"name": 5}]', b"\xff"])
def test_an_answer_that_makes_no_sense_is_an_error_too(server, api, call, content):
    server.answer = httpx.Response(200, content=content)
    with pytest.raises(ApiError, match="makes no sense") as raised:
        CALLS[call](api)
    assert raised.value.kind == "garbage"


def test_null_is_an_empty_list(server, api):
    server.answer = httpx.Response(200, content=b"null")
    assert api.shares() == []


def test_names_are_encoded_in_paths(server, api):
    api.enable_share("/Größe: 5", enabled=False)
    assert server.asked[-1][:2] == ("POST", "/api/v1/shares/Gr%C3%B6%C3%9Fe%3A%205/disable")
    # The server decodes what it finds in a route once more.
    api.enable_share("/a%20b", enabled=False)
    assert server.asked[-1][:2] == ("POST", "/api/v1/shares/a%252520b/disable")


def test_the_config_of_a_store_is_a_text(server, api):
    server.answer = httpx.Response(200, json={"id": "1", "name": "a b", "type": "badger"})
    assert api.create_store(SPEC).name == "a b"
    assert server.asked == [
        (
            "POST",
            "/api/v1/store/metadata",
            {"name": "a b", "type": "badger", "config": '{"path": "/p"}'},
        )
    ]


def test_the_token_is_sent_after_the_login(server, api, monkeypatch):
    server.answer = httpx.Response(200, json={"access_token": "t0ken"})
    api.login(SecretStr("pw"))
    seen = []

    def note(_, request):
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=[])

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", note)
    api.shares()
    assert seen == ["Bearer t0ken"]


def test_waiting_goes_on_until_the_server_answers(server, api, monkeypatch):
    server.answer = httpx.ConnectError("refused")
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 4:
            server.answer = httpx.Response(200, json={})

    monkeypatch.setattr("time.sleep", sleep)
    api.wait_ready(30)
    assert len(pauses) == 4


def test_waiting_ends_as_soon_as_it_is_of_no_use(server, api, monkeypatch):
    server.answer = httpx.ConnectError("refused")
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)

    def check():
        if sum(pauses) > 3:
            raise BlockedError("it has ended for good")

    with pytest.raises(BlockedError):
        api.wait_ready(45, check)
    assert 3 < sum(pauses) < 5


def test_waiting_ends(server, api, monkeypatch):
    server.answer = httpx.ConnectError("refused")
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    with pytest.raises(UnreachableError):
        api.wait_ready(45)
    assert 40 < now[0] <= 45


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('# HELP x\ndittofs_build_info{commit="c",version="v0.29.0"} 1\n', "v0.29.0"),
        ("dittofs_build_info{} 1\n", None),
        ("other 1\n", None),
    ],
)
def test_the_version_of_the_running_server(server, api, text, version):
    server.answer = httpx.Response(200, text=text)
    assert api.version("http://localhost:9090/metrics") == version
    server.answer = httpx.ConnectError("refused")
    assert api.version("http://localhost:9090/metrics") is None


def test_a_quota_that_the_server_rounded_is_no_change():
    present = FIELDS.model_copy(update={"quota": parse_size("953.67MiB")})
    wanted = FIELDS.model_copy(update={"quota": 1_000_000_000})
    assert wanted.changes(present) == {}
    assert FIELDS.model_copy(update={"quota": 0}).changes(present) == {"quota_bytes": "0"}
