"""A metadata volume that was lost comes back from MySQL."""

import shutil
import signal
import sqlite3
import time
from contextlib import closing

import pytest

from tests.agent.rig import Agent, wait_until
from tests.stores import content, write


@pytest.fixture
def mirrored(agent, store):
    """An agent with two stores and a control plane in MySQL, stopped."""
    other = agent.stores / "other"
    other.mkdir()
    with closing(sqlite3.connect(agent.metadata / "controlplane.db")) as connection, connection:
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.execute("INSERT INTO users VALUES ('alice')")
    write(store, *[{b"k%04d" % n: b"%d" % n * 50, b"x": b"%d" % n} for n in range(1000)])
    write(store, {b"k0001": None, b"large": bytes(900_000), b"empty": b""})
    write(other, {b"b": b"1"})
    agent.start()
    agent.equal()
    wait_until(lambda: agent.status["control-plane"]["copied"])
    agent.stop()
    agent.contents = {name: content(agent.stores / name) for name in ("export", "other")}
    return agent


def lose(agent):
    shutil.rmtree(agent.metadata)
    agent.metadata.mkdir()


def users(agent):
    with closing(sqlite3.connect(agent.metadata / "controlplane.db")) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM users")]


def check(agent):
    for name, expected in agent.contents.items():
        assert content(agent.stores / name) == expected
    assert users(agent) == ["alice"]
    assert not (agent.metadata / ".recovering").exists()


def test_everything_comes_back_and_is_mirrored_on(mirrored):
    lose(mirrored)
    code, answer = mirrored.call("recover")
    assert code == 0, answer
    assert answer["recovered"]["instance"] == "instance-1"
    check(mirrored)
    mirrored.start()
    mirrored.equal()
    write(mirrored.stores / "export", {b"new": b"1"})
    wait_until(lambda: mirrored.mirrored().get(b"new") == b"1")


def test_a_volume_that_holds_something_is_refused(mirrored):
    code, answer = mirrored.call("recover")
    assert (code, "not empty" in answer["error"]["text"]) == (1, True)
    check(mirrored)


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_moment_it_is_begun_again(mirrored, seed):
    lose(mirrored)
    process = mirrored.spawn("recover")
    time.sleep(0.1 + 0.07 * seed)
    process.kill()
    process.wait()
    if not (mirrored.metadata / "controlplane.db").exists():
        code, answer = mirrored.call("recover")
        assert code == 0, answer
    check(mirrored)


def test_the_key_of_another_application_is_refused(mirrored):
    lose(mirrored)
    mirrored.key = bytes(32)
    code, answer = mirrored.call("recover")
    assert code == 1
    assert "cannot be decrypted" in answer["error"]["text"]
    assert not mirrored.stores.exists()


def test_another_instance_is_recovered_only_when_it_is_named(mirrored, tmp_path):
    new = Agent(
        tmp_path / "new", mirrored.database, name=mirrored.name, user=mirrored.user,
        password=mirrored.password, key=mirrored.key, instance="", application="new",
    )  # fmt: skip
    new.contents = mirrored.contents
    code, answer = new.call("inspect")
    assert answer["mirror"]["instance"] == "instance-1"
    assert answer["stores"] == {"export": {"complete": True}, "other": {"complete": True}}
    code, answer = new.call("recover")
    assert code == 1
    assert "the mirror of dittofs in the model files" in answer["error"]["text"]
    code, answer = new.call("recover", "--from", "instance-9")
    assert code == 1
    code, answer = new.call("recover", "--from", "instance-1")
    assert code == 0, answer
    check(new)


def test_a_database_without_a_mirror_is_said(agent):
    assert agent.call("inspect") == (0, {"mirror": None, "stores": {}, "error": None})
    code, answer = agent.call("recover")
    assert (code, answer["error"]["text"]) == (1, "MySQL holds no mirror")


def test_staying_it_waits_for_the_database_and_answers_until_it_is_stopped(mirrored):
    lose(mirrored)
    mirrored.database.stop()
    process = mirrored.spawn("recover", "--stay")
    try:
        wait_until(lambda: mirrored.status["kind"])
        mirrored.database.start()
        wait_until(lambda: mirrored.status["state"] == "recovered")
        wait_until(lambda: mirrored.health() == 200)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    check(mirrored)
