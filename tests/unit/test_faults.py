"""Every fault is a worded status, and everything comes back when its cause is gone."""

import contextlib
import json
from typing import Any

import pytest
from ops import pebble, testing

from tests.standin.core import Cut, Response, Timeout
from tests.unit.cutting import cut as cut_from_pebble
from units import GIB

ACTIVE = testing.ActiveStatus("nfs, smb: /export, /more")
WANTED = "- {name: /export, access: read, squash: none}\n- name: /more"


def cuts(*_):
    raise Cut


def slow(*_):
    raise Timeout


def answers(status: int, body: bytes = b"", content_type: str = "text/plain"):
    return lambda *_: Response(status, body, content_type)


PROBLEM = b'{"title": "T", "detail": "D"}'
FAULTS = {
    "401": answers(401, b"Invalid or expired token\n"),
    "403 text": answers(403, b"Admin access required\n"),
    "403 password": answers(403, b"Password change required\n"),
    "404": answers(404, b"404 page not found\n"),
    "409": answers(409, PROBLEM, "application/problem+json"),
    "413": answers(413, PROBLEM, "application/problem+json"),
    "422": answers(422, b'{"detail": "D", "errors": {"x": "y"}}', "application/problem+json"),
    "500": answers(500),
    "503": answers(503, b"<html>"),
    "time-out": slow,
    "cut": cuts,
    "garbage": answers(200, b"{{{", "application/json"),
}
PLACES = {
    "login": ("POST", "/auth/login"),
    "health": ("GET", "/health/ready"),
    "list shares": ("GET", "/shares"),
    "list stores": ("GET", "/store/metadata"),
    "list block stores": ("GET", "/store/block/local"),
    "list adapters": ("GET", "/adapters"),
    "nfs settings": ("GET", "/shares/export/adapters/nfs/config"),
    "make store": ("POST", "/store/metadata"),
    "make share": ("POST", "/shares"),
    "change share": ("PUT", "/shares/export"),
    "squash": ("PATCH", "/shares/export/adapters/nfs/config"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_call_that_fails_is_said_and_made_again(deployed, place, fault):
    method, path = PLACES[place]

    def only_there(asked_method, asked_path):
        if asked_method == method and asked_path.endswith(path):
            return FAULTS[fault](asked_method, asked_path)
        return None

    # Nobody reads the body of these answers: garbage there is no fault.
    harmless = fault == "garbage" and place in {"health", "make store", "change share", "squash"}
    deployed.server.fault = only_there
    status = deployed.configure(shares=WANTED)
    if not harmless:
        assert status.name in {"waiting", "blocked"}
        assert status.message
        assert "Traceback" not in status.message
    deployed.server.fault = lambda *_: None
    assert deployed.run("update_status") == (status if harmless and status == ACTIVE else ACTIVE)


def test_one_share_that_cannot_be_made_does_not_keep_the_others_from_being_served(deployed):
    def refuse(method, path):
        return Response(500) if (method, path) == ("PUT", "/api/v1/shares/export") else None

    deployed.server.fault = refuse
    status = deployed.configure(shares=WANTED)
    assert status.message.startswith("change share /export: the server answered 500")
    assert deployed.server.database.find("share", "/more") is not None


def test_a_share_that_does_not_open_is_said(deployed, monkeypatch):
    answer = deployed.server._share_answer  # noqa: SLF001  # the server's answer is the fault

    def unopened(share):
        made = answer(share)
        if share["name"] == "/more":
            made["status"] = {"status": "unhealthy", "message": "share not found"}
        return made

    monkeypatch.setattr(deployed.server, "_share_answer", unopened)
    status = deployed.configure(shares="- name: /export\n- name: /more")
    assert status.name == "waiting"
    assert "share /more does not open: share not found" in status.message


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (pebble.ConnectionError("gone"), "waiting for the container"),
        (pebble.APIError({}, 500, "x", "odd"), "the container refused: odd"),
        (pebble.PathError("generic-file-error", "no space left"), "the container refused: no"),
        (pebble.TimeoutError("slow"), "the container did not answer in time"),
        (pebble.ChangeError("cannot", None), "Pebble failed: cannot"),  # pyright: ignore[reportArgumentType]  # Pebble may not send it
    ],
)
@pytest.mark.parametrize("call", ["list_files", "pull", "get_plan", "get_services"])
def test_pebble_that_fails_in_the_middle_of_a_hook(deployed, monkeypatch, call, raised, text):
    from scenario import mocking  # noqa: PLC0415  # the border

    def fail(*_args, **_kwargs):
        raise raised

    monkeypatch.setattr(mocking._MockPebbleClient, call, fail)  # noqa: SLF001  # ops' own Pebble
    status = deployed.run("update_status")
    assert status.name == "waiting"
    assert status.message.startswith(text)
    monkeypatch.undo()


def test_a_server_that_does_not_start_is_said_with_its_last_words(unit):
    unit.border.last_words = "WARNING: x\nError: database is locked\n"
    assert unit.deploy() == testing.WaitingStatus(
        "the server ended with code 1: Error: database is locked"
    )
    unit.border.last_words = ""
    assert unit.run("update_status") == testing.ActiveStatus("nfs, smb: /export")


def test_a_volume_that_cannot_be_written_is_named_and_the_server_not_started(unit, monkeypatch):
    from scenario import mocking  # noqa: PLC0415  # the border

    push = mocking._MockPebbleClient.push  # noqa: SLF001  # ops.testing's own Pebble

    def refuse(self, path, *args, **kwargs):
        if path.startswith("/data/content"):
            raise pebble.PathError("generic-file-error", f"open {path}: read-only file system")
        return push(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mocking._MockPebbleClient, "push", refuse)  # noqa: SLF001  # ops' own
        status = unit.deploy()
        assert status.name == "blocked"
        assert status.message == (
            "check the content volume: the server's user 65532 cannot write to it (read-only file "
            "system)"
        )
        assert unit.border.starts == 0
    assert unit.run("update_status") == testing.ActiveStatus("nfs, smb: /export")


def test_a_wrong_option_leaves_the_server_as_it_is_and_is_mended(deployed):
    starts = deployed.border.starts
    deployed.server.calls.clear()
    status = deployed.configure(shares="- name: a:b", memory="x", log_level="debug", protocols="q")
    assert status.name == "blocked"
    assert deployed.server.changes == []
    assert deployed.border.starts == starts
    status = deployed.configure(
        shares="- name: /export", memory="2Gi", log_level="info", protocols="nfs,smb"
    )
    assert status == testing.ActiveStatus("nfs, smb: /export")
    assert deployed.border.starts == starts


def test_a_lost_pod_comes_back_although_the_configuration_is_wrong(deployed):
    deployed.configure(shares="- nonsense", memory="x")
    deployed.new_pod()
    status = deployed.run("pebble_ready", deployed.state.get_container("dittofs"))
    assert status.name == "blocked"
    assert deployed.server.database.find("share", "/export")["enabled"]


def test_a_backend_cannot_be_changed_and_says_so(deployed):
    deployed.server.calls.clear()
    status = deployed.configure(shares="- {name: /export, metadata: memory}")
    assert status.message == (
        "shares: entry 1: set metadata of /export back to badger, or use another name"
    )
    assert deployed.reasons() == [f"blocked: {status.message}; it cannot become memory"]
    assert deployed.server.changes == []
    status = deployed.configure(shares="- name: /export")
    assert status == testing.ActiveStatus("nfs, smb: /export")


def test_too_many_shares_for_the_memory(deployed):
    deployed.border.spaces["content"] = (0, 400 * GIB)
    text = "\n".join(f"- name: /s{number}" for number in range(20))
    status = deployed.configure(shares=text)
    assert status.message == (
        "raise the option memory or list fewer shares: 9 of 20 fit in 2.00GiB"
    )
    assert deployed.configure(memory="8Gi").name == "active"


def altered(server, route: str, **fields: Any):
    """Let the server answer a creation with other fields than were asked for."""
    handle = server.handle

    def answer(method: str, target: str, headers: Any, body: bytes) -> Response:
        if method == "POST" and target.endswith(route):
            body = json.dumps({**json.loads(body), **fields}).encode()
        return handle(method, target, headers, body)

    server.handle = answer


@pytest.mark.parametrize(
    ("route", "fields", "text"),
    [
        ("/shares", {"name": "/other"}, "use another name than /new: the server made /other of"),
        ("/shares", {"default_permission": "none"}, "/new was made with another default_perm"),
        ("/store/metadata", {"type": "memory"}, "the server made the store new otherwise than"),
        ("/store/metadata", {"config": "{}", "type": "memory"}, "made the store new otherwise"),
    ],
)
def test_what_a_creation_answers_is_compared_with_what_was_asked(deployed, route, fields, text):
    altered(deployed.server, route, **fields)
    deployed.configure(shares="- name: /export\n- name: /new")
    assert deployed.status.name != "active"
    assert text in deployed.status.message
    shares = {each["name"]: each["enabled"] for each in deployed.server.database.all("share")}
    assert shares.get("/other", False) is False
    # Nothing is made on a store that is another one.
    assert ("/new" in shares) == ("default_permission" in fields)


def cut(unit, monkeypatch, number, event):
    """Run an event that is cut from Pebble after so many changes, and an idle one after it."""
    with monkeypatch.context() as patch:
        made = cut_from_pebble(patch, number, lambda: True)
        with contextlib.suppress(pebble.ConnectionError, testing.errors.UncaughtCharmError):
            event()
    unit.run("update_status")
    return len(made)


def runs_as_planned(unit) -> None:
    for name in ("dittofs", "agent"):
        container = unit.state.get_container(name)
        for service, told in container.plan.services.items():
            assert container.service_statuses[service] == pebble.ServiceStatus.ACTIVE
            assert unit.border.environments[service] == told.environment, service
        for check in container.check_infos:
            assert check.status == pebble.CheckStatus.UP, check


@pytest.mark.parametrize("number", range(24))
def test_what_runs_is_what_the_plan_says_wherever_a_change_was_cut(deployed, monkeypatch, number):
    deployed.relate()
    deployed.relate_s3()
    made = cut(deployed, monkeypatch, number, lambda: deployed.configure(log_level="debug"))
    assert made <= 24
    runs_as_planned(deployed)


@pytest.mark.parametrize("number", range(16))
def test_what_was_stopped_runs_whole_wherever_its_start_was_cut(deployed, monkeypatch, number):
    marker = deployed.root / "content" / ".dittofs-charm.json"
    text = marker.read_text()
    marker.unlink()
    assert deployed.run("update_status").name == "blocked"
    assert deployed.service == pebble.ServiceStatus.INACTIVE
    marker.write_text(text)
    assert cut(deployed, monkeypatch, number, lambda: deployed.run("config_changed")) <= 16
    runs_as_planned(deployed)
