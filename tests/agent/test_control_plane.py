"""The copy of the control plane: whole, encrypted, and made only when the file changed."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.control_plane import ControlPlane, ControlPlaneError, seal, unseal

KEY = bytes(range(32))


class Vault:
    def __init__(self):
        self.kept = []

    def put_control_plane(self, data, digest):
        self.kept.append((data, digest))


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "controlplane.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE users (name TEXT)")
    return path


@pytest.fixture
def plane(database, tmp_path):
    (tmp_path / "scratch").mkdir()
    made = ControlPlane(database, KEY, "i1", tmp_path / "scratch" / "copy")
    yield made
    made.close()


def add(path, name):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO users VALUES (?)", (name,))


def names(sealed, tmp_path):
    copy = tmp_path / "copy.db"
    copy.write_bytes(unseal(sealed, KEY, "i1"))
    with closing(sqlite3.connect(copy)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM users")]


def test_a_change_is_copied_once(plane, database, tmp_path):
    vault = Vault()
    add(database, "alice")
    assert plane.changed()
    assert plane.copy(vault)
    assert not plane.changed()
    add(database, "bob")
    assert plane.changed()
    assert plane.copy(vault)
    assert names(vault.kept[-1][0], tmp_path) == ["alice", "bob"]
    assert not plane.changed()
    assert len(vault.kept) == 2
    assert b"alice" not in vault.kept[0][0]
    assert not (tmp_path / "controlplane.copy").exists()


def test_what_a_copy_that_was_killed_left_goes(plane, database, tmp_path, monkeypatch):
    """It has hashes of passwords."""
    vault = Vault()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        plane.copy(vault)
    add(database, "dave")
    assert list((tmp_path / "scratch").iterdir())
    plane.copy(vault)
    assert len(vault.kept) == 2
    assert not list((tmp_path / "scratch").iterdir())


def test_a_change_that_changes_nothing_is_not_written_again(plane, database):
    vault = Vault()
    plane.copy(vault)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM users WHERE name = 'nobody'")
    plane.copy(vault)
    assert len(vault.kept) == 1


def test_a_file_that_was_replaced_is_opened_anew(plane, database, tmp_path):
    vault = Vault()
    plane.copy(vault)
    database.rename(tmp_path / "old")
    for side in ("-wal", "-shm"):
        (tmp_path / f"controlplane.db{side}").unlink(missing_ok=True)
    assert not plane.changed()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.execute("INSERT INTO users VALUES ('carol')")
    assert plane.changed()
    plane.copy(vault)
    assert names(vault.kept[-1][0], tmp_path) == ["carol"]


def test_a_file_that_is_none_is_said(tmp_path):
    path = tmp_path / "controlplane.db"
    path.write_bytes(b"no database" * 1000)
    plane = ControlPlane(path, KEY, "i1", tmp_path)
    with pytest.raises(ControlPlaneError, match=r"controlplane\.db: file is not a database"):
        plane.copy(Vault())


@pytest.mark.parametrize(
    ("sealed", "key", "instance"),
    [
        (seal(b"x", KEY, "i1"), bytes(32), "i1"),
        (seal(b"x", KEY, "i1"), KEY, "i2"),
        (seal(b"x", KEY, "i1")[:-1], KEY, "i1"),
        (b"other", KEY, "i1"),
        (b"DFSCP\x01", KEY, "i1"),
    ],
)
def test_a_wrong_key_and_a_damaged_copy_are_refused(sealed, key, instance):
    with pytest.raises(ControlPlaneError):
        unseal(sealed, key, instance)


def test_a_copy_of_a_newer_charm_is_refused_with_the_way_out():
    newer = seal(b"data", KEY, "i1").replace(b"DFSCP\x01", b"DFSCP\x02", 1)
    with pytest.raises(ControlPlaneError, match="of a newer charm: refresh the charm"):
        unseal(newer, KEY, "i1")
