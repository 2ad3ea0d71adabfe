"""The bed itself: what it leaves behind, what it tells first, and the border of the plain one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import bed, folders, namespaces
from tests.databases import ROOT
from tests.functional.border import Border

_ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}/lib:{ROOT}"}


def in_a_process(
    text: str, folder: Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a program whose temporary files are in a folder."""
    return subprocess.run(
        [sys.executable, "-c", text],
        env={**_ENVIRONMENT, "TMPDIR": str(folder), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_run_leaves_nothing_behind_and_two_have_nothing_in_common(tmp_path):
    text = "from tests import servers; print(servers.standin().path, servers.pebble().path)"
    ran = [in_a_process(text, tmp_path, PEBBLE_PROGRAM="standin") for _ in range(2)]
    assert [done.returncode for done in ran] == [0, 0], ran
    assert not set(ran[0].stdout.split()) & set(ran[1].stdout.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_namespaces("something mounted")
def test_what_is_still_mounted_and_used_is_let_go_and_the_first_error_told(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail() -> None:
        with folders.temporary() as folder:
            (folder / "a b").mkdir()
            namespaces.mount_tmpfs(folder / "a b", 2**20)
            stack.append((folder / "a b/busy").open("w"))
            raise ZeroDivisionError

    stack = []
    with pytest.raises(ZeroDivisionError):
        fail()
    stack[0].close()
    assert list(tmp_path.iterdir()) == []


def test_without_namespaces_the_first_line_says_so_and_why(tmp_path):
    text = "from tests.bed import bed; print(bed())"
    done = in_a_process(text, tmp_path, DITTOFS_TEST_BED="plain")
    assert done.stdout.startswith("plain: folders and free ports")
    assert "For the better one: unset DITTOFS_TEST_BED" in done.stdout


def test_a_command_that_cannot_do_without_namespaces_says_what_helps(tmp_path):
    text = "from tests import bed\nbed.enter_or_exit()"
    done = in_a_process(text, tmp_path, DITTOFS_TEST_BED="plain")
    assert done.returncode == 1
    assert done.stderr.startswith("namespaces are needed and refused here: ")
    assert done.stderr.endswith("What helps: unset DITTOFS_TEST_BED\n")


def test_what_was_tried_in_vain_changes_nothing(tmp_path):
    """Half of the way in there would be a network without loopback."""
    text = (
        "import os\n"
        "from tests import bed, namespaces\n"
        "def fail(): raise namespaces.NamespaceError('mount: no')\n"
        "namespaces._raise_loopback = fail\n"
        "before = os.readlink('/proc/self/ns/net')\n"
        "print(bed.enter(), os.readlink('/proc/self/ns/net') == before, bed.port(8080) != 8080)"
    )
    done = in_a_process(text, tmp_path)
    assert done.stdout.split()[-2:] == ["True", "True"], done
    assert not done.stdout.startswith(" ")


@pytest.fixture
def border(tmp_path, monkeypatch):
    """Ports of its own, also where the bed has the usual ones."""
    monkeypatch.setattr(bed, "port", lambda usual: usual + 13_000)
    return Border(tmp_path)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("path: /data/metadata/controlplane.db\n", "path: {}/data/metadata/controlplane.db\n"),
        ('{"path": "/data/content"}', '{"path": "{}/data/content"}'),
        ("/bin/sh /config/serve.sh", "/bin/sh {}/config/serve.sh"),
        ("--config /tmp/dittofs-agent/c.json", "--config {}/tmp/dittofs-agent/c.json"),
        ("http://localhost:8080/health", "http://localhost:21080/health"),
        ('{"enabled":true,"port":12049}', '{"enabled":true,"port":25049}'),
        ("  host: 0.0.0.0\n  port: 9090\n", "  host: 127.0.0.1\n  port: 22090\n"),
        ("/app/dfs status --api-port 8080", "{}/app/dfs status --api-port 21080"),
        ("/export/config /database /dataset 8080", "/export/config /database /dataset 8080"),
    ],
)
def test_the_border_translates_and_translates_back(border, tmp_path, there, here):
    assert border.into(there) == here.replace("{}", str(tmp_path), 1) if "{}" in here else here
    assert border.back(border.into(there)) == there


def test_the_port_that_a_server_begins_with_is_seen_as_another_one(border):
    assert border.back('{"port": 12049}') == '{"port": 25049}'
