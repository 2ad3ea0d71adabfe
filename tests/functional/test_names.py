"""A deployment whose earlier charm made shares of names that the server read differently."""

import contextlib
import json

import httpx
import pytest

import names
from tests import bed
from tests.functional.border import border
from tests.functional.files import ClientError
from tests.functional.test_life import CONTENT, server_pid, wait_for_file

BOTH = "- name: /export\n- name: {}"

pytestmark = pytest.mark.usefixtures("client_program")


def make(unit, name: str) -> str:
    """Make a share as the earlier charm did, and list it; the name that the server gave it."""
    login = {"username": "admin", "password": unit.password()}
    with httpx.Client(base_url=f"http://127.0.0.1:{bed.port(bed.API)}/api/v1") as client:
        token = client.post("auth/login", json=login).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        key = names.key(name)
        root = "" if bed.bed().contained else border().root
        config = json.dumps({"path": f"{root}/data/metadata/stores/{key}"})
        store = {"name": key, "type": "badger", "config": config}
        assert client.post("store/metadata", json=store).status_code == 201
        share = {
            "name": name,
            "metadata_store_id": key,
            "local_block_store": "volume",
            "default_permission": "read-write",
        }
        answer = client.post("shares", json=share)
        assert answer.status_code == 201
        unit.change(config={**unit.state.config, "shares": BOTH.format(name)})
        return answer.json()["name"]


def scrape() -> bool:
    """What Prometheus does; whether there was an answer."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{bed.port(bed.METRICS)}/metrics").is_success
    return False


@pytest.mark.parametrize("pod_lost", [False, True])
def test_a_name_that_kills_the_server_is_got_rid_of_by_mending_the_option(
    deployed, files, pod_lost
):
    files.put("/export", "a", CONTENT)
    assert make(deployed, "/caf%e9") == "/caf\ufffd"
    # Each of these killed the server: the charm read the metrics before all else.
    if pod_lost:
        deployed.pod.lose()
        deployed.new_pod()
    before = server_pid(deployed)
    assert deployed.run("update_status").name == "blocked"
    assert deployed.status.message.startswith(
        "shares: entry 2: name: '/caf%e9' must not have \"%\": the server takes it for an escape"
    )
    assert "/caf\ufffd" in deployed.act("status-detail")["status"]
    assert server_pid(deployed) == before
    # Prometheus kills it still, until the option is mended.
    assert not scrape()
    assert wait_for_file(files, "/export", "a") == CONTENT
    deployed.wait("blocked")
    deployed.configure(shares="- name: /export")
    assert deployed.wait().message == "nfs: /export"
    assert scrape()
    assert wait_for_file(files, "/export", "a") == CONTENT
    metadata, content = (deployed.pod.volumes[each].path for each in ("metadata", "content"))
    # Nothing is deleted before a person says so.
    places = [metadata / "stores" / "caf%25e9", content / "shares" / "caf%E9"]
    assert all(place.is_dir() for place in places)
    deployed.act("delete-share", name="/caf%e9", confirm="/caf%e9")
    assert not any(place.exists() for place in places)
    assert deployed.wait().message == "nfs: /export"


def test_a_share_with_another_name_than_was_asked_for_is_closed_or_taken_over(deployed, files):
    assert make(deployed, "/x%20y") == "/x y"
    files.put("/x y", "a", CONTENT)
    assert deployed.run("update_status").name == "blocked"
    assert deployed.configure(shares="- name: /export").message == "nfs: /export"
    with pytest.raises(ClientError):
        files.get("/x y", "a")
    assert deployed.configure(shares=BOTH.format("/x y")).message == "nfs: /export, /x y"
    assert wait_for_file(files, "/x y", "a") == CONTENT
    deployed.configure(shares="- name: /export")
    deployed.act("delete-share", name="/x y", confirm="/x y")
    assert deployed.wait().message == "nfs: /export"
    metadata, content = (deployed.pod.volumes[each].path for each in ("metadata", "content"))
    assert not (metadata / "stores" / "x%2520y").exists()
    assert not (content / "shares" / "x%20y").exists()
    assert deployed.configure(shares=BOTH.format("/x y")).message == "nfs: /export, /x y"
    with pytest.raises(ClientError):
        files.get("/x y", "a")
