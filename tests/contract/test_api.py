"""The REST API as the charm uses it: what is taken, what is refused, and how it is said."""

import json
import time
from typing import Any

import httpx
import pytest

from tests import bed

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def stores(server):
    """A memory store and a memory volume, and a share on them."""
    server.api("POST", "/store/metadata", {"name": "mem", "type": "memory"})
    server.api("POST", "/store/block/local", {"name": "m", "type": "memory"})
    body = {"name": "/base", "metadata_store_id": "mem", "local_block_store": "m"}
    assert server.api("POST", "/shares", body).status_code == 201
    return server


REFUSED = [
    ("POST", "/store/metadata", {"type": "badger"}, 400, "Store name is required"),
    (
        "POST",
        "/store/metadata",
        {"name": "x", "type": "mysql"},
        400,
        "Failed to create metadata store: unsupported metadata store type: mysql",
    ),
    (
        "POST",
        "/store/metadata",
        {"name": "x", "type": "badger", "config": "{}"},
        400,
        "Failed to create metadata store: badger metadata store requires path as string",
    ),
    (
        "POST",
        "/store/metadata",
        {"name": "x", "type": "badger", "config": {"path": "/x"}},
        400,
        "Invalid request body",
    ),
    ("POST", "/store/metadata", {"name": 5}, 400, "Invalid request body"),
    (
        "POST",
        "/store/metadata",
        {"name": "mem", "type": "memory"},
        409,
        "Metadata store already exists",
    ),
    (
        "POST",
        "/store/block/local",
        {"name": "x", "type": "fs", "config": "{}"},
        400,
        "Invalid block store config: fs local block store requires path in config",
    ),
    (
        "POST",
        "/store/block/local",
        {"name": "x", "type": "zfs"},
        400,
        "Store type 'zfs' is not valid for kind 'local'",
    ),
    ("PUT", "/store/block/local/nope", {"type": "fs"}, 404, "Block store not found"),
    (
        "DELETE",
        "/store/metadata/mem",
        None,
        409,
        "Cannot delete metadata store: it is in use by one or more shares",
    ),
    ("DELETE", "/store/metadata/nope", None, 404, "Metadata store not found"),
    ("POST", "/shares", {"name": "/a"}, 400, "Metadata store ID is required"),
    (
        "POST",
        "/shares",
        {"metadata_store_id": "mem", "local_block_store": "m"},
        400,
        "Share name is required",
    ),
    (
        "POST",
        "/shares",
        {"name": "/a", "metadata_store_id": "nope", "local_block_store": "m"},
        400,
        "Metadata store not found: nope",
    ),
    (
        "POST",
        "/shares",
        {"name": "/a", "metadata_store_id": "mem", "local_block_store": "nope"},
        400,
        "Local block store not found: nope",
    ),
    (
        "POST",
        "/shares",
        {
            "name": "/a",
            "metadata_store_id": "mem",
            "local_block_store": "m",
            "default_permission": "rw",
        },
        400,
        "Invalid default_permission: rw (want none|read|read-write|admin)",
    ),
    (
        "POST",
        "/shares",
        {"name": "/a", "metadata_store_id": "mem", "local_block_store": "m", "quota_bytes": "x"},
        400,
        'Invalid quota_bytes: invalid byte size format: "x"',
    ),
    (
        "POST",
        "/shares",
        {"name": "/a", "metadata_store_id": "mem", "local_block_store": "m", "quota_bytes": 5},
        400,
        "Invalid request body",
    ),
    (
        "POST",
        "/shares",
        {"name": "base", "metadata_store_id": "mem", "local_block_store": "m"},
        409,
        "Share already exists",
    ),
    ("PUT", "/shares/nope", {"read_only": True}, 404, "Share not found"),
    (
        "PUT",
        "/shares/base",
        {"trash_retention_days": -1},
        400,
        "trash_retention_days must be >= 0",
    ),
    ("GET", "/shares/nope", None, 404, "Share not found"),
    ("GET", "/shares/nope/status", None, 404, "Share not found"),
    ("POST", "/shares/nope/disable", None, 404, "Share not found"),
    ("DELETE", "/shares/nope", None, 404, "Share not found"),
    ("GET", "/shares/nope/adapters/nfs/config", None, 404, "Share not found"),
    (
        "PATCH",
        "/shares/base/adapters/nfs/config",
        {"squash": "bad"},
        400,
        "Invalid squash: bad (want none|root_to_admin|root_to_guest|all_to_admin|all_to_guest)",
    ),
    ("GET", "/adapters/ftp", None, 404, "Adapter not found"),
    ("PUT", "/adapters/ftp", {"enabled": True}, 404, "Adapter not found"),
    (
        "POST",
        "/users/me/password",
        {"current_password": "wrong", "new_password": "new-password"},
        401,
        "Current password is incorrect",
    ),
    (
        "POST",
        "/users/me/password",
        {"new_password": "new-password"},
        400,
        "Current password is required",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "detail"), REFUSED)
def test_what_is_refused_is_said_in_the_same_words(stores, method, path, body, status, detail):
    answer = stores.api(method, path, body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert (problem["status"], problem["detail"]) == (status, detail)


def test_plain_text_where_the_router_answers(server):
    answer = httpx.get(f"{server.url}/api/v1/nothing", headers={"Authorization": "Bearer x"})
    assert (answer.status_code, answer.text.strip()) == (404, "404 page not found")
    assert server.api("PATCH", "/shares").status_code == 405


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "Authorization header required"),
        ({"Authorization": "Bearer bad"}, "Invalid or expired token"),
    ],
)
def test_without_a_good_token_it_is_plain_text(server, headers, text):
    assert server.process
    answer = httpx.get(f"{server.url}/api/v1/shares", headers=headers)
    assert (answer.status_code, answer.text.strip()) == (401, text)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        (b"{", 400, "Invalid request body"),
        (b'{"username": "admin"}', 400, "Username and password are required"),
        (b"a" * 1_200_000, 400, "Invalid request body"),
        (
            b'{"username": "admin", "password": "wrong"}',
            401,
            "Invalid username or password",
        ),
    ],
)
def test_a_login_that_fails(server, content, status, detail):
    assert server.process
    answer = httpx.post(f"{server.url}/api/v1/auth/login", content=content)
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)


def test_a_user_who_is_no_admin_is_refused_in_plain_text(server):
    server.api("POST", "/users", {"username": "u", "password": "a-password", "role": "user"})
    token = server.login("a-password", "u").json()["access_token"]
    answer = httpx.get(f"{server.url}/api/v1/shares", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.text.strip()) == (403, "Admin access required")


def test_health_needs_no_token(server):
    assert server.process
    assert httpx.get(f"{server.url}/health").json()["status"] == "healthy"
    ready = httpx.get(f"{server.url}/health/ready").json()
    assert ready["data"]["shares"] >= 0
    assert httpx.get(f"{server.url}/health/stores").status_code == 404


def test_the_metrics_name_the_version(server):
    assert server.process
    text = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
    assert any(
        line.startswith("dittofs_build_info{") and 'version="v' in line
        for line in text.splitlines()
    )


def test_the_life_of_a_share(stores):
    body = {
        "name": "/Größe 1",
        "metadata_store_id": "mem",
        "local_block_store": "m",
        "default_permission": "read",
        "quota_bytes": "1000000000",
        "read_buffer_size": "33554432",
        "trash_enabled": True,
        "trash_retention_days": 7,
        "unknown": 1,
    }
    made = stores.api("POST", "/shares", body)
    assert made.status_code == 201
    share = made.json()
    assert share["name"] == "/Größe 1"
    assert (share["quota_bytes"], share["read_buffer_size"]) == ("953.67MiB", "32.00MiB")
    assert (share["enabled"], share["used_bytes"]) == (True, 0)
    assert share["status"]["status"] == "healthy"
    path = "/shares/Gr%C3%B6%C3%9Fe%201"
    changed = stores.api("PUT", path, {"quota_bytes": "0", "trash_enabled": False}).json()
    assert "quota_bytes" not in changed
    assert (changed["trash_enabled"], changed["trash_retention_days"]) == (False, 7)
    assert changed["default_permission"] == "read"
    assert stores.api("POST", f"{path}/disable").json()["enabled"] is False
    assert stores.api("POST", f"{path}/disable").status_code == 200
    # Disabled is no illness.
    assert stores.api("GET", f"{path}/status").json()["status"] == "healthy"
    assert stores.api("POST", f"{path}/enable").json()["enabled"] is True
    nfs = stores.api("GET", f"{path}/adapters/nfs/config").json()
    assert nfs["squash"] == "root_to_guest"
    answer = stores.api("PATCH", f"{path}/adapters/nfs/config", {"squash": "all_to_admin"})
    assert answer.json()["squash"] == "all_to_admin"
    assert stores.api("DELETE", path).status_code == 204
    assert stores.api("GET", path).status_code == 404


def test_stores_answer_their_config_as_an_object(server, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("volume"))
    config = {"path": path, "max_size": 1073741824}
    body = {"name": "volume", "type": "fs", "config": json.dumps(config)}
    made = server.api("POST", "/store/block/local", body)
    assert (made.status_code, made.json()["config"]) == (201, config)
    config["max_size"] *= 2
    body = {"type": "fs", "config": json.dumps(config)}
    changed = server.api("PUT", "/store/block/local/volume", body)
    assert (changed.status_code, changed.json()["config"]) == (200, config)
    (found,) = [
        each for each in server.api("GET", "/store/block/local").json() if each["name"] == "volume"
    ]
    assert found["config"] == config
    assert server.api("DELETE", "/store/block/local/volume").status_code == 204


def adapter(server, name: str, wanted: str) -> dict[str, Any]:
    """The adapter as soon as its status is the wanted one: the server caches it for 5 s."""
    found: dict[str, Any] = {}
    for _ in range(80):
        adapters = {each["type"]: each for each in server.api("GET", "/adapters").json()}
        found = adapters[name]
        if found["status"]["status"] == wanted:
            return found
        time.sleep(0.1)
    pytest.fail(f"still {found}")


def test_adapters_are_moved_stopped_and_started_by_put(server):
    port = bed.port(bed.SMB)
    assert server.api("PUT", "/adapters/smb", {"enabled": True, "port": port}).status_code == 200
    assert adapter(server, "smb", "healthy")["port"] == port
    assert server.api("PUT", "/adapters/smb", {"enabled": False}).json()["enabled"] is False
    assert adapter(server, "smb", "unknown")["port"] == port


def test_the_password_is_changed_and_tokens_stay(server):
    token = server.login().json()["access_token"]
    body = {"current_password": "first-password", "new_password": "other-password"}
    assert server.api("POST", "/users/me/password", body).status_code == 200
    answer = httpx.get(
        f"{server.url}/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.json()["username"] == "admin"
    assert server.login().status_code == 401
    body = {"current_password": "other-password", "new_password": "first-password"}
    assert (
        server.api("POST", "/users/me/password", body, password="other-password").status_code
        == 200
    )


def test_draining_a_server_with_nothing_to_upload_returns_at_once(server):
    answer = server.api("POST", "/system/drain-uploads")
    assert (answer.status_code, answer.json()["status"]) == (200, "drained")


def test_no_clients(server):
    assert server.api("GET", "/clients").json() == []
