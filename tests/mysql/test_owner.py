"""Whose mirror it is: schema, epochs and generations, other instances."""

import dataclasses
import threading
import time

import pytest

from agent.mysql import (
    AwayError,
    Database,
    DatabaseError,
    ForeignError,
    RefusedError,
    SupersededError,
)
from tests import databases
from tests.mysql.conftest import IDENTITY, PASSWORD

OTHER = dataclasses.replace(IDENTITY, instance="instance-2", application="other")


def test_looking_changes_nothing(place, connect):
    database = connect(place.access())
    assert database.inspect() is None
    assert database.stores() == {}
    assert database.control_plane() is None
    assert place.tables() == set()


def test_the_version_is_the_servers(place, connect):
    database = connect(place.access())
    product, version = database.version.split()
    assert product == ("MariaDB" if place.server.program.mariadb else "MySQL")
    assert place.server.program.version.startswith(version)
    assert database.endpoint == f"127.0.0.1:{place.server.port}"


def test_claiming_makes_the_tables_and_says_whose_it_is(place, connect):
    database = connect(place.access())
    before = time.time() - 1
    row = database.claim(IDENTITY)
    assert dataclasses.asdict(row) == {
        **dataclasses.asdict(IDENTITY),
        "epoch": 1,
        "updated": row.updated,
    }
    assert before < row.updated < time.time() + 1
    assert database.inspect() == row
    assert all(name.startswith("dittofs_") for name in place.tables())


@pytest.mark.usefixtures("database")
def test_every_table_has_a_primary_key_and_is_innodb(place):
    tables = place.query(
        "SELECT t.table_name, t.engine, COUNT(c.constraint_name)"
        " FROM information_schema.tables t LEFT JOIN information_schema.table_constraints c"
        " ON c.table_schema = t.table_schema AND c.table_name = t.table_name"
        " AND c.constraint_type = 'PRIMARY KEY'"
        f" WHERE t.table_schema = '{place.name}' GROUP BY t.table_name, t.engine"
    )
    assert len(tables) == len(place.tables())
    assert {(engine, keys) for _, engine, keys in tables} == {("InnoDB", 1)}


def test_a_restarted_agent_has_a_new_epoch(place, database, connect):
    again = connect(place.access())
    assert again.claim(IDENTITY).epoch == 2
    with pytest.raises(SupersededError, match="epoch 2") as caught:
        database.begin_copy("/export")
    assert caught.value.kind == "superseded"
    assert again.stores() == {}


def test_a_stale_agent_writes_nothing(place, database, connect):
    copy = database.begin_copy("/export")
    database.load(copy, [(b"a", 1, b"1")])
    row = database.finish_copy("/export", copy, "one")
    building = database.begin_copy("/export")
    connect(place.access()).claim(IDENTITY)
    before = (
        place.query("SELECT * FROM dittofs_mirror"),
        place.query("SELECT * FROM dittofs_stores"),
    )
    attempts = [
        lambda: database.apply(row, {b"a": (2, b"2")}, "two"),
        lambda: database.load(building, [(b"b", 1, b"1")]),
        lambda: database.follow(building, {b"b": (1, b"1")}),
        lambda: database.finish_copy("/export", building, "two"),
        lambda: database.begin_copy("/other"),
        lambda: database.forget("/export"),
        database.purge,
        lambda: database.put_control_plane(b"x", "digest"),
    ]
    for attempt in attempts * 2:
        with pytest.raises(SupersededError):
            attempt()
    after = (
        place.query("SELECT * FROM dittofs_mirror"),
        place.query("SELECT * FROM dittofs_stores"),
    )
    assert after == before
    assert place.query("SELECT name, value FROM dittofs_entries") == [(b"a", b"1")]
    assert place.count("control_plane") == 0


def test_a_newer_generation_takes_over_and_an_older_never_gets_it_back(place, database, connect):
    newer = connect(place.access())
    assert newer.claim(dataclasses.replace(IDENTITY, generation=2)).generation == 2
    with pytest.raises(SupersededError):
        database.claim(IDENTITY)
    with pytest.raises(SupersededError):
        database.begin_copy("/export")
    newer.begin_copy("/export")


def test_another_instances_mirror_is_left_alone(place, database, connect):
    before = place.query("SELECT * FROM dittofs_mirror")
    other = connect(place.access())
    with pytest.raises(ForeignError, match=r"instance-1 \(dittofs in model prod\)") as caught:
        other.claim(OTHER)
    assert caught.value.kind == "foreign"
    assert caught.value.mirror == database.inspect()
    assert place.query("SELECT * FROM dittofs_mirror") == before
    with pytest.raises(DatabaseError, match="claim"):
        other.begin_copy("/export")
    database.begin_copy("/export")


@pytest.mark.usefixtures("database")
def test_a_newer_schema_is_refused_and_untouched(place, connect):
    place.query("UPDATE dittofs_schema SET version = 2")
    place.query("ALTER TABLE dittofs_mirror DROP COLUMN marker")
    before = place.query("SELECT * FROM dittofs_mirror")
    other = connect(place.access())
    for attempt in (other.inspect, lambda: other.claim(OTHER)):
        with pytest.raises(RefusedError, match=r"version 2.*newer charm.*refresh") as caught:
            attempt()
        assert caught.value.kind == "schema"
    assert place.query("SELECT * FROM dittofs_mirror") == before


def test_a_creation_that_was_cut_short_is_done_again(place, connect):
    place.query(
        "CREATE TABLE dittofs_schema (id TINYINT UNSIGNED PRIMARY KEY, version INT UNSIGNED)"
    )
    database = connect(place.access())
    assert database.inspect() is None
    assert database.claim(IDENTITY).epoch == 1


def test_many_agents_at_once_leave_one_writer(place, connect):
    agents = [connect(place.access()) for _ in range(6)]
    stores = [f"/{number}" for number in range(6)]
    start = threading.Barrier(len(agents))
    wrote: list[list[int]] = [[] for _ in agents]
    epochs: list[int] = []

    def run(number: int) -> None:
        agent = agents[number]
        start.wait()
        epochs.append(agent.claim(IDENTITY).epoch)
        try:
            row = agent.finish_copy(stores[number], agent.begin_copy(stores[number]), "0")
            for turn in range(1, 1000):
                agent.apply(row, {b"%d" % turn: (turn, b"")}, str(turn))
                wrote[number].append(turn)
        except SupersededError:
            pass

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(agents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epochs) == [1, 2, 3, 4, 5, 6]
    assert [len(turns) == 999 for turns in wrote].count(True) == 1
    # What was acknowledged is there, and nothing else is.
    check = connect(place.access())
    found = check.stores()
    for name, turns in zip(stores, wrote, strict=True):
        if name in found and found[name].copy:
            keys = [int(key) for key, _, _ in check.rows(found[name].copy)]
            assert sorted(keys) == turns


def test_a_mirror_that_somebody_removed_is_noticed(place, database):
    row = database.finish_copy("/export", database.begin_copy("/export"), "here")
    place.query("DELETE FROM dittofs_mirror")
    with pytest.raises(AwayError) as caught:
        database.apply(row, {b"a": (1, b"1")}, "there")
    assert caught.value.kind == "emptied"
    assert database.inspect() is None
    database.claim(IDENTITY)
    assert database.stores()["/export"].position == "here"
    place.query("DROP TABLE dittofs_entries")
    with pytest.raises(AwayError) as caught:
        database.apply(row, {b"a": (1, b"1")}, "there")
    assert caught.value.kind == "emptied"


def test_a_wrong_password_is_said_and_never_shown(place):
    access = place.access(password="wrong-secret")
    with pytest.raises(RefusedError, match="password") as caught:
        Database(access).connect()
    assert caught.value.kind == "password"
    assert "wrong-secret" not in str(caught.value)
    assert "wrong-secret" not in repr(access)
    assert PASSWORD not in repr(place.access())


def test_a_database_that_is_not_there(place):
    with pytest.raises(RefusedError) as caught:
        Database(place.access(database="nowhere")).connect()
    assert caught.value.kind in {"database", "rights"}
    assert "nowhere" in str(caught.value)


@pytest.mark.parametrize("missing", ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"])
def test_a_missing_right_is_named(shared_server, new_place, connect, missing):
    rights = [right for right in databases.RIGHTS.split(", ") if right != missing]
    place = new_place(shared_server, ", ".join(rights))
    database = connect(place.access())
    with pytest.raises(RefusedError) as caught:
        database.claim(IDENTITY)
    assert caught.value.kind == "rights"
    assert f"lacks {missing}" in str(caught.value)
    assert f"GRANT {databases.RIGHTS} ON `{place.name}`.* TO '{place.name}'@'%'" in str(
        caught.value
    )


def test_no_rights_at_all(shared_server, new_place):
    place = new_place(shared_server, "")
    with pytest.raises(RefusedError, match="GRANT SELECT") as caught:
        Database(place.access()).connect()
    assert caught.value.kind == "rights"


def test_rights_that_are_given_later_are_enough(shared_server, new_place, connect):
    place = new_place(shared_server, "SELECT")
    database = connect(place.access())
    with pytest.raises(RefusedError):
        database.claim(IDENTITY)
    shared_server.execute(f"GRANT {databases.RIGHTS} ON `{place.name}`.* TO '{place.name}'@'%'")
    database.connect()
    assert database.claim(IDENTITY).epoch == 1
