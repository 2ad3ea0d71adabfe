"""The tools of the soak: they find what is missing, and they end."""

import hashlib
import subprocess
import threading
import time

import pytest

from tests.soak.clients import Clients
from tests.soak.ledger import Known, Ledger, written


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "notes")
    yield made
    made.close()


def digest(seed: str, size: int, cut: int | None = None) -> str:
    data = written(seed, size)
    data = data if cut is None else data[:cut].ljust(cut, b"\0")
    return hashlib.sha256(data).hexdigest()


def note(ledger: Ledger, *operation: object, answer: int | None = 0) -> None:
    ledger.begin(str(operation[0]), *operation[1:])
    if answer == 0:
        ledger.done()
    elif answer is not None:
        ledger.refused(answer)


def differences(tmp_path, tree):
    return Known([tmp_path / "notes"]).differences(tree)


def test_what_was_acknowledged_has_to_be_there_as_it_was_written(ledger, tmp_path):
    note(ledger, "create", "/a", "1", 10)
    note(ledger, "create", "/b", "2", 10)
    note(ledger, "rename", "/b", "/c")
    note(ledger, "link", "/c", "/d")
    note(ledger, "truncate", "/d", 20)
    note(ledger, "create", "/e", "3", 5)
    note(ledger, "unlink", "/e")
    tree = {"/a": digest("1", 10), "/c": digest("2", 10, 20), "/d": digest("2", 10, 20)}
    assert differences(tmp_path, tree) == []
    assert differences(tmp_path, {**tree, "/a": digest("9", 10)}) == ["/a has another content"]
    assert differences(tmp_path, {**tree, "/b": digest("2", 10)}) == ["/b is there"]
    assert differences(tmp_path, {**tree, "/e": digest("3", 5)}) == ["/e is there"]
    del tree["/d"]
    assert differences(tmp_path, tree) == ["/d is missing"]


def test_what_was_not_answered_may_be_there_or_not_and_so_may_its_other_names(ledger, tmp_path):
    note(ledger, "create", "/a", "1", 10)
    note(ledger, "link", "/a", "/b")
    note(ledger, "create", "/c", "2", 10)
    note(ledger, "create", "/a", "3", 10, answer=None)
    note(ledger, "create", "/d", "4", 10, answer=None)
    for tree in ({}, {"/a": digest("3", 10)}, {"/b": digest("1", 7), "/d": digest("4", 3)}):
        assert differences(tmp_path, {**tree, "/c": digest("2", 10)}) == []
    assert differences(tmp_path, {}) == ["/c is missing"]


def test_a_file_that_the_server_does_not_know_any_more_is_found(ledger, tmp_path):
    note(ledger, "create", "/a", "1", 10)
    note(ledger, "unlink", "/b", answer=2)
    note(ledger, "truncate", "/a", 5, answer=2)
    wrong = "truncate of /a: it is not there"
    assert differences(tmp_path, {}) == [wrong, "/a is missing"]
    assert differences(tmp_path, {"/a": digest("1", 10)}) == [wrong]


def test_a_server_that_is_ending_may_not_know_a_file_that_is_there_afterwards(ledger, tmp_path):
    note(ledger, "create", "/a", "1", 10)
    note(ledger, "create", "/b", "2", 10)
    ledger.began()
    ledger.begin("truncate", "/a", 5)
    ledger.ending()
    ledger.refused(2)
    note(ledger, "create", "/b", "3", 10, answer=2)
    tree = {"/a": digest("1", 10), "/b": digest("2", 0)}
    assert differences(tmp_path, tree) == []
    assert differences(tmp_path, {}) == ["/a is missing"]
    ledger.began()
    note(ledger, "truncate", "/a", 5, answer=2)
    assert differences(tmp_path, tree) == ["truncate of /a: it is not there"]


def test_nothing_is_expected_of_the_last_moments_before_a_node_died(ledger, tmp_path):
    note(ledger, "create", "/a", "1", 10)
    time.sleep(0.3)
    note(ledger, "create", "/b", "1", 10)
    note(ledger, "rename", "/b", "/c")
    ledger.lost(0.2)
    note(ledger, "create", "/d", "1", 10)
    tree = {"/a": digest("1", 10), "/d": digest("1", 10)}
    assert differences(tmp_path, tree) == []
    assert differences(tmp_path, {}) == ["/a is missing", "/d is missing"]


def test_an_operation_is_as_old_as_its_answer(ledger, tmp_path):
    ledger.begin("create", "/a", "1", 10)
    time.sleep(0.3)
    ledger.done()
    note(ledger, "create", "/b", "2", 10)
    ledger.lost(0.2)
    note(ledger, "truncate", "/b", 5, answer=2)
    assert differences(tmp_path, {}) == []


def test_a_file_that_a_loss_may_not_take_is_told_with_its_age(ledger, tmp_path):
    note(ledger, "create", "/a", "1", 10)
    time.sleep(0.3)
    ledger.lost(0.1)
    note(ledger, "truncate", "/a", 5, answer=2)
    wrong, _ = differences(tmp_path, {})
    assert wrong.startswith("truncate of /a: it is not there (changed 0.")


def test_a_client_that_is_started_while_others_are_killed_is_not_waited_for(tmp_path, monkeypatch):
    started = threading.Event()
    popen = subprocess.Popen

    def slow(*arguments, **more):
        started.set()
        time.sleep(0.5)
        return popen(*arguments, **more)

    monkeypatch.setattr(subprocess, "Popen", slow)
    clients = Clients(tmp_path, 1, ["/a", "/b"], command=("sh", "-c", "exec sleep 60", "sh"))
    clients.start()
    started.wait()
    ending = threading.Thread(target=clients.end, daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()


def test_the_clients_of_a_seed_do_the_same_each_time(tmp_path):
    said = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        clients = Clients(tmp_path / place, 7, ["/a"], command=("sh", "-c", 'echo "$2"', "sh"))
        clients.start()
        while not (log := tmp_path / place / "clients.log").exists() or (
            len(log.read_text().splitlines()) < 2
        ):
            time.sleep(0.02)
        clients.end()
        said.append(log.read_text().splitlines()[:2])
    assert said[0] == said[1]
