"""The stand-in without a process, as the unit tests have it: the same answers, without volumes."""

import json
from typing import Any

import pytest

from tests.standin.core import StandIn


@pytest.fixture
def call():
    """Calls the API as admin; the status and the answer."""
    core = StandIn.start(None, "k" * 40, "first-password")
    headers: dict[str, str] = {}

    def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        answer = core.handle(method, f"/api/v1{path}", headers, data)
        return answer.status, json.loads(answer.body) if answer.body else None

    login = {"username": "admin", "password": "first-password"}
    headers["authorization"] = f"Bearer {ask('POST', '/auth/login', login)[1]['access_token']}"
    store = {"name": "e", "type": "badger", "config": json.dumps({"path": "/stores/e"})}
    ask("POST", "/store/metadata", store)
    local = {"name": "v", "type": "fs", "config": json.dumps({"path": "/content"})}
    ask("POST", "/store/block/local", local)
    share = {"name": "/export", "metadata_store_id": "e", "local_block_store": "v"}
    assert ask("POST", "/shares", share)[0] == 201
    yield ask
    core.database.close()


def test_a_snapshot_is_ready_at_once_and_can_be_restored(call):
    status, made = call("POST", "/shares/export/snapshots", {"name": "one"})
    assert status == 202
    path = f"/shares/export/snapshots/{made['snapshot_id']}"
    assert call("GET", path)[1]["state"] == "ready"
    assert call("POST", f"{path}/restore", {"allow_non_durable": True})[0] == 409
    call("POST", "/shares/export/disable")
    assert call("POST", f"{path}/restore", {})[0] == 412
    status, said = call("POST", f"{path}/restore", {"allow_non_durable": True})
    assert status == 200
    listed = [each["id"] for each in call("GET", "/shares/export/snapshots")[1]]
    assert listed == [said["safety_snapshot_id"], made["snapshot_id"]]
    for identifier in listed:
        assert call("DELETE", f"/shares/export/snapshots/{identifier}") == (204, None)
    assert call("GET", "/shares/export/snapshots") == (200, [])
