"""templates/serve.sh: which ends of the server are tried again, and which are for good."""

import os
import shutil
import subprocess

import pytest

from tests.juju import CHARM_ROOT

SHELLS = ["sh", *(["busybox sh"] if shutil.which("busybox") else [])]
GAVE_UP = 0


@pytest.fixture(params=SHELLS)
def run(request, tmp_path):
    """A function: the server ends so; what the script ends with."""
    text = (CHARM_ROOT / "templates" / "serve.sh").read_text()
    for name in ("config", "app"):
        (tmp_path / name).mkdir()
        text = text.replace(f"/{name}/", f"{tmp_path}/{name}/")
    script = tmp_path / "serve.sh"
    script.write_text(text)
    server = tmp_path / "app" / "dfs"

    def end(code: int, words: str = "", answered: bool = False) -> int:
        touch = f"touch {tmp_path}/config/answered\n" if answered else ""
        touch += f"env -0 > {tmp_path}/environment\n"
        server.write_text(f"#!/bin/sh\n{touch}printf '%s' '{words}' >&2\nexit {code}\n")
        server.chmod(0o755)
        command = [*request.param.split(), str(script)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=10, text=True)
        assert words in done.stderr
        assert (tmp_path / "config" / "exit-code").read_text() == f"{code}\n"
        assert not (tmp_path / "config" / "answered").exists()
        refused = (tmp_path / "config" / "refused").exists()
        assert refused == (done.returncode == GAVE_UP)
        return done.returncode

    return end


REFUSALS = [
    "Error: the share /export needs a block store",
    "Error: unknown key blockstore.local.path: use blockstore.journal.path",
    "WARNING: x\nError: badger: key format 2 is newer than 1\n",
    "Error: on-disk state is newer than this server, since 12:30:{}",
]


@pytest.mark.parametrize("words", REFUSALS)
def test_the_same_refusal_five_times_in_a_row_is_for_good(run, words):
    assert [run(1, words.format(number)) for number in range(6)] == [1, 1, 1, 1, 0, 0]


def test_78_is_for_good_at_once(run):
    assert run(78, "Error: a layout from before the journal") == GAVE_UP
    assert run(78) == GAVE_UP


def test_others_in_between_begin_anew(run):
    ends = [(1, "Error: a"), (1, "Error: a"), (1, "Error: b"), (1, "Error: a")]
    assert 0 not in [run(*ends[number % 4]) for number in range(12)]
    assert [run(1, "Error: c") for _ in range(5)] == [1, 1, 1, 1, 0]
    # It is tried again, serves, and ends in the same way: that is not the fifth time.
    assert run(1, "Error: c", answered=True) == 1
    assert run(1, "Error: c") == 1


PASSING = [
    "Error: API server failed: listen tcp 0.0.0.0:8080: bind: address already in use",
    "Error: open /data/metadata/x: no space left on device",
    "Error: Cannot acquire directory lock on x. Another process is using this Badger database.",
    "Error: failed to run migrations: database is locked",
    "Error: open /data/content/y: read-only file system",
    "Error: database or disk is full (13)\nUsage:\n  dfs start\n",
]


@pytest.mark.parametrize("words", PASSING)
def test_what_may_pass_by_itself_is_tried_for_ever(run, words):
    assert {run(1, words) for _ in range(7)} == {1}


@pytest.mark.parametrize(("code", "words"), [(2, "panic: x"), (137, "x"), (139, "x"), (1, "")])
def test_crashes_are_tried_for_ever(run, code, words):
    assert {run(code, words) for _ in range(7)} == {code}


def test_an_end_in_good_order_is_none_for_pebble(run):
    assert {run(0, "done") for _ in range(7)} == {1}


def test_a_note_that_is_damaged_counts_from_the_beginning(run, tmp_path):
    (tmp_path / "config" / "refusals").write_text("x\nError: a\n")
    assert [run(1, "Error: a") for _ in range(6)][-1] == 0


def test_the_server_gets_what_is_named_and_nothing_else(run, tmp_path, monkeypatch):
    given = {
        "GOMEMLIMIT": "9MiB",
        "DITTOFS_CONTROLPLANE_SECRET": "a b\n$c",
        "PATH": os.environ["PATH"],
    }
    injected = {
        "DITTOFS_METRICS_PORT": "tcp://10.1.2.3:9",
        "name": "x",
        "words": "a\nPATH=/nowhere",
    }
    for name, value in (given | injected).items():
        monkeypatch.setenv(name, value)
    run(1)
    found = dict(
        each.split("=", 1) for each in (tmp_path / "environment").read_text().split("\0") if each
    )
    assert {name: found.get(name) for name in given | injected} == given | dict.fromkeys(injected)
