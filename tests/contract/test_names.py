"""Names of shares: what the server makes of them, and that the charm's are read alike by all."""

import contextlib
import json
import os
import shutil
import subprocess
import time

import httpx
import pytest
from pydantic import SecretStr

import names
from api import Api, ApiError
from tests import bed
from tests.contract.server import PASSWORD


def make(server, name: str) -> dict:
    """Ask for a share as the charm does, whatever its name; what the server answers."""
    key = names.key(name)
    path = str(server.metadata / "stores" / key)
    store = {"name": key, "type": "badger", "config": json.dumps({"path": path})}
    assert server.api("POST", "/store/metadata", store).status_code == 201
    config = json.dumps({"path": str(server.content), "max_size": 2**30})
    server.api("POST", "/store/block/local", {"name": "volume", "type": "fs", "config": config})
    body = {
        "name": name,
        "metadata_store_id": key,
        "local_block_store": "volume",
        "default_permission": "read-write",
    }
    answer = server.api("POST", "/shares", body)
    assert answer.status_code == 201
    return answer.json()


def told(server) -> set[str]:
    return {share["name"] for share in server.api("GET", "/shares").json()}


def metrics(server) -> httpx.Response:
    """What Prometheus gets."""
    return httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics")


@contextlib.contextmanager
def client(server):
    """The charm's own client, logged in."""
    with Api(server.url) as api:
        api.login(SecretStr(PASSWORD))
        yield api


DECODED = {
    "/x%20y": "/x y",
    "/a%2Fb": "/a/b",
    "/%2e%2e%2fshares%2fexport": "/../shares/export",
    "/a%2520b": "/a%20b",
    "/50%": "/50%",
    "/50%%20": "/50%%20",
    "//slashes": "/slashes",
    "/a&b$c@d": "/a&b$c@d",
}


def test_the_server_decodes_the_name_in_a_body_and_the_charm_knows_how(fresh):
    fresh.start()
    for asked, made in DECODED.items():
        assert make(fresh, asked)["name"] == made == names.as_read(asked)
        assert (fresh.content / "shares" / names.folder(made)).is_dir()
    with client(fresh) as api:
        for asked, made in DECODED.items():
            # The routes decode once more: each of these is found under the name that was told.
            api.enable_share(made, enabled=False)
            (share,) = [each for each in api.shares() if each.name == made]
            assert not share.enabled
            api.delete_share(made)
            api.delete_metadata_store(names.key(asked))
        with pytest.raises(ApiError, match="404 Share not found"):
            api.delete_share("/none%")
    assert told(fresh) == set()


def test_a_name_that_is_no_utf8_kills_the_server_by_its_metrics_and_can_be_taken_out(fresh):
    fresh.start()
    assert make(fresh, "/caf%e9")["name"] == "/caf\ufffd" == names.as_told("/caf\udce9")
    with pytest.raises(httpx.HTTPError):
        metrics(fresh)
    assert fresh.end() == 2
    fresh.start()
    with client(fresh) as api:
        api.enable_share(names.as_read("/caf%e9"), enabled=False)
    with pytest.raises(httpx.HTTPError):
        metrics(fresh)
    fresh.end()
    fresh.start()
    with client(fresh) as api:
        api.delete_share(names.as_read("/caf%e9"))
    assert metrics(fresh).is_success
    assert told(fresh) == set()
    # Its files stay.
    assert (fresh.content / "shares" / names.folder("/caf\udce9")).is_dir()


def test_a_share_with_a_name_too_long_for_file_handles_is_there_in_name_only(fresh):
    fresh.start()
    longest, longer = "/" + "x" * names.LONGEST, "/" + "y" * (names.LONGEST + 1)
    assert make(fresh, longest)["status"]["status"] == "healthy"
    status = make(fresh, longer)["status"]
    assert (status["status"], "share not found" in status["message"]) == ("unknown", True)
    with client(fresh) as api:
        for name in (longest, longer):
            api.delete_share(name)


GOOD = [
    "/export",
    "/größe der daten",
    "/a'(b)!#^{}~`_-.c",
    "/.hidden",
    "/日本語テスト",
    "/😀",
    "/ñandú",
    "/010",
    "/a b",
    "/" + "é" * 13,
]


def reaches(share: str) -> bool:
    """Whether a client of SMB comes to a share."""
    done = subprocess.run(
        ["smbclient", f"//127.0.0.1/{share[1:]}", "-p", str(bed.SMB), "-U", "admin", "-c", "ls"],
        env=os.environ | {"PASSWD": PASSWORD, "LC_ALL": "C.UTF-8"},
        check=False,
        capture_output=True,
        timeout=60,
    )
    return done.returncode == 0


def test_every_name_that_is_taken_is_read_alike_by_all_that_use_it(fresh):
    """The server, its metrics, NFS, the file system, URLs, and SMB where there is a client."""
    if fresh.files.missing:
        pytest.skip(f"{fresh.files.missing} is not installed")
    fresh.start()
    for name in GOOD:
        assert names.check(name) == name
        assert make(fresh, name)["name"] == name
        fresh.api("PATCH", f"/shares/{names.key(name)}/adapters/nfs/config", {"squash": "none"})
        assert names.folder(name) == names.key(name)
        fresh.files.put(name, {"a": name.encode()})
    assert told(fresh) == set(GOOD)
    assert metrics(fresh).is_success
    fresh.stop()
    fresh.start()
    assert {path.name for path in (fresh.content / "shares").iterdir()} == {
        names.key(name) for name in GOOD
    }
    for name in GOOD:
        assert fresh.files.get(name, "a") == {"a": name.encode()}
    if fresh.program.real and shutil.which("smbclient"):
        fresh.api("PUT", "/adapters/smb", {"enabled": True, "port": bed.SMB})
        time.sleep(1)
        assert [name for name in GOOD if not reaches(name)] == []


def test_smb_reaches_no_share_with_capital_letters_and_none_called_ipc(fresh):
    if not fresh.program.real or not shutil.which("smbclient"):
        pytest.skip("needs a real server and smbclient")
    fresh.start()
    fresh.api("PUT", "/adapters/smb", {"enabled": True, "port": bed.SMB})
    for name in ("/Data", "/ÄRGER", "/IPC$"):
        assert make(fresh, name)["status"]["status"] == "healthy"
    time.sleep(1)
    assert [name for name in ("/Data", "/ÄRGER", "/IPC$") if reaches(name)] == []
