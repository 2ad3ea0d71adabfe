"""The process: how it starts, refuses to start, ends, and what outlives it."""

import shutil
import signal
import socket
import sqlite3
import subprocess

import httpx
import pytest

import releases
from agent import presence


def test_it_says_its_version_without_touching_anything(fresh):
    done = subprocess.run(
        [fresh.program.path, "version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    # It is the standard error that has it.
    assert done.stdout == ""
    first, second, *_ = done.stderr.splitlines()
    assert first == f"dfs {fresh.program.version.split()[-1]}"
    assert second.startswith("  Commit: ")
    assert releases.order(releases.told(done.stdout, done.stderr))
    assert not list(fresh.metadata.iterdir())


@pytest.mark.needs_namespaces("the ports that a server begins with")
def test_a_first_start_has_an_admin_and_two_adapters(fresh):
    fresh.start()
    assert fresh.login().status_code == 200
    adapters = {each["type"]: each for each in fresh.api("GET", "/adapters").json()}
    assert {name: (each["enabled"], each["port"]) for name, each in adapters.items()} == {
        "nfs": (True, 12049),
        "smb": (True, 1445),
    }
    assert fresh.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_acknowledged_outlives_the_process(fresh, number):
    fresh.start()
    fresh.make_share()
    fresh.api("PUT", "/shares/export", {"quota_bytes": "1GiB", "read_only": True})
    fresh.api("POST", "/shares/export/disable")
    fresh.api("PATCH", "/shares/export/adapters/nfs/config", {"squash": "none"})
    fresh.api("PUT", "/adapters/smb", {"enabled": False, "port": 12445})
    fresh.stop(number)
    fresh.start()
    (share,) = fresh.api("GET", "/shares").json()
    assert (share["quota_bytes"], share["read_only"], share["enabled"]) == ("1.00GiB", True, False)
    squash = fresh.api("GET", "/shares/export/adapters/nfs/config").json()["squash"]
    assert squash == "none"
    adapters = {each["type"]: each["enabled"] for each in fresh.api("GET", "/adapters").json()}
    assert adapters == {"nfs": True, "smb": False}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whether_it_is_there_is_seen_on_the_volume(fresh, number):
    stores = fresh.metadata / "stores"

    def seen():
        return (
            presence.present([], fresh.database),
            presence.present(stores.iterdir(), stores / "no database"),
        )

    assert not presence.present([stores / "no store"], fresh.database)
    fresh.start()
    fresh.make_share()
    for _ in range(3):
        assert seen() == (True, True)
    # It is not disturbed by being looked for.
    fresh.make_share("/other")
    fresh.stop(number)
    assert seen() == (False, False)
    fresh.start()
    assert seen() == (True, True)


def test_the_initial_password_counts_only_where_there_is_no_admin(fresh):
    fresh.start()
    fresh.make_share()
    user = {"username": "ann", "password": "her-password", "role": "user"}
    assert fresh.api("POST", "/users", user).status_code == 201
    fresh.stop()
    fresh.environment["DITTOFS_ADMIN_INITIAL_PASSWORD"] = "second-password"
    fresh.start()
    assert fresh.login("second-password").status_code == 401
    assert fresh.login().status_code == 200
    fresh.stop()
    with sqlite3.connect(fresh.database) as database:
        database.execute("DELETE FROM users WHERE username = 'admin'")
    database.close()
    fresh.start()
    assert fresh.login("second-password").status_code == 200
    assert fresh.login().status_code == 401
    assert fresh.login("her-password", "ann").status_code == 200
    shares = fresh.api("GET", "/shares", password="second-password").json()
    assert [share["name"] for share in shares] == ["/export"]


def test_tokens_end_with_the_secret_they_were_signed_with(fresh):
    fresh.start()
    token = fresh.login().json()["access_token"]
    fresh.stop()
    fresh.environment["DITTOFS_CONTROLPLANE_SECRET"] = "n" * 40
    fresh.start()
    answer = httpx.get(f"{fresh.url}/api/v1/shares", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.text.strip()) == (401, "Invalid or expired token")


@pytest.mark.parametrize("lost", ["content", "metadata/stores"])
def test_a_lost_volume_is_not_noticed_by_the_server(fresh, lost):
    """Why the charm has to: it starts, and the share is healthy."""
    fresh.start()
    fresh.make_share()
    fresh.stop()
    shutil.rmtree(fresh.root / "data" / lost)
    fresh.start()
    assert fresh.api("GET", "/shares/export/status").json()["status"] == "healthy"


@pytest.mark.parametrize("secret", [None, "short"])
def test_without_a_secret_of_32_characters_it_does_not_start(fresh, secret):
    del fresh.environment["DITTOFS_CONTROLPLANE_SECRET"]
    if secret:
        fresh.environment["DITTOFS_CONTROLPLANE_SECRET"] = secret
    fresh.launch()
    assert fresh.end() == 1
    assert "Error: failed to create API server: JWT secret must be at least 32" in fresh.log


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("logging", "level", "LOUD", "Error: failed to load configuration"),
        ("controlplane", "port", "abc", "Error: failed to load configuration"),
    ],
)
def test_a_wrong_value_in_the_file_ends_it(fresh, section, key, value, words):
    fresh.config[section][key] = value
    fresh.launch()
    assert fresh.end() == 1
    assert words in fresh.log


def test_an_unknown_key_in_the_file_is_a_warning(fresh):
    fresh.config["bogus"] = {"x": 1}
    fresh.start()
    assert "WARNING: config contains unknown keys (ignored): bogus" in fresh.log


def test_a_store_that_another_process_has_open_ends_it(fresh):
    fresh.start()
    fresh.make_share()
    other = type(fresh)(fresh.program, fresh.root / "other")
    other.config["database"]["sqlite"]["path"] = str(fresh.database)
    other.launch()
    assert other.end() == 1
    assert "Error:" in other.log


def test_a_store_that_it_cannot_read_ends_it_each_time_with_the_same_words(fresh):
    fresh.start()
    fresh.make_share()
    fresh.stop()
    (fresh.metadata / "stores" / "export" / "MANIFEST").write_bytes(b"junk" * 20)
    said = []
    for _ in range(2):
        begin = len(fresh.log)
        fresh.launch()
        assert fresh.end() == 1
        said.append([line for line in fresh.log[begin:].splitlines() if line.startswith("Error")])
    assert len(said[0]) == 1
    assert said[0] == said[1]


def test_an_api_port_that_is_taken_ends_it(fresh):
    with socket.create_server(("127.0.0.1", fresh.port)):
        fresh.launch()
        assert fresh.end() == 1
    assert "address already in use" in fresh.log.lower()


def test_it_says_whether_a_server_answers(fresh):
    def running() -> bool:
        words = ["status", "--api-port", str(fresh.port), "--output", "json"]
        done = subprocess.run(
            [fresh.program.path, *words], env={}, capture_output=True, text=True, check=True
        )
        assert '"running": ' in done.stdout
        return '"running": true' in done.stdout

    assert not running()
    fresh.start()
    assert running()
