"""The client that the integration tests have in the cluster, against a server at hand."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.functional.test_life import server_pid

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/integration/charms/nfs-client/src/files.py"

pytestmark = pytest.mark.needs_namespaces("the ports that clients name")


@pytest.fixture(autouse=True)
def _real(pod):
    if not pod.server.real:
        pytest.skip("the stand-in speaks no NFS")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, PROGRAM, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, stdin: str = "") -> dict[str, object]:
    said, _ = start(*arguments).communicate(stdin, timeout=60)
    return json.loads(said)


def test_it_writes_reads_and_removes_files(deployed):
    named = "127.0.0.1", "/export", "a"
    assert "no file" in str(run("get", *named)["error"])
    assert run("put", *named, "first", "700000") == {"size": 700_000}
    first = run("get", *named)
    assert first["size"] == 700_000
    assert run("put", *named, "second", "5") == {"size": 5}
    second = run("get", *named)
    assert (second["size"], second["sha256"] == first["sha256"]) == (5, False)
    assert run("remove", *named) == {"removed": True}
    assert run("remove", *named) == {"removed": False}
    assert "error" in run("get", "127.0.0.1", "/none", "a")
    deployed.configure(shares="- {name: /export, read-only: true}")
    assert "error" in run("put", *named, "third", "5")


def test_it_tells_who_is_let_in_and_which_ports_are_open(deployed):
    assert run("login", "127.0.0.1", stdin=f"{deployed.password()}\n") == {"accepted": True}
    assert run("login", "127.0.0.1", stdin="of nobody\n") == {"accepted": False}
    assert run("reach", "127.0.0.1", "12049", "8080", "9") == {
        "12049": True,
        "8080": True,
        "9": False,
    }


def test_it_tells_how_long_an_outage_was(deployed, tmp_path):
    place = tmp_path / "watch"
    assert run("put", "127.0.0.1", "/export", "a", "watched", "1000") == {"size": 1000}
    watching = start("watch", "127.0.0.1", "/export", "a", str(place), "60")
    while not place.with_suffix(".started").exists():
        time.sleep(0.1)
    os.kill(server_pid(deployed), signal.SIGKILL)
    deployed.wait()
    time.sleep(1)
    place.with_suffix(".stop").touch()
    found = json.loads(watching.communicate(timeout=60)[0])
    assert found["reads"] > 1
    assert len(found["outages"]) == 1
    assert 0 < found["outages"][0] < 60
    assert found["served-at-the-end"]
