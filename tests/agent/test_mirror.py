"""The mirror, as a process of its own on a real database: what an operator would notice."""

import os
import shutil
import signal
import time

import pytest

from agent.badger import HEADER_SIZE
from agent.journal import Position
from agent.log_writer import encode_transaction
from agent.mysql_statements import CONNECTIONS
from tests.agent.rig import Agent, wait_until
from tests.databases import ROOT
from tests.soak.writer import Record
from tests.stores import content, flush, write


def test_a_store_is_copied_and_followed(agent, store):
    write(store, {b"a": b"1", b"b": b"1"}, {b"a": b"2"})
    agent.start()
    agent.equal()
    assert agent.mirrored() == {b"a": b"2", b"b": b"1"}
    write(store, {b"b": None, b"\xff\x00": b"\x00" * 300_000, b"empty": b""})
    wait_until(lambda: agent.mirrored() == content(store))
    agent.equal()
    assert agent.health() == 200
    status = agent.status
    assert status["stores"][0]["name"] == "export"
    assert status["lag"] < 5
    metrics = agent.metrics()
    assert metrics["transactions_total"] >= 1
    assert metrics["up"] == 1
    wait_until(lambda: agent.metrics()["last_verify_equal"] == 1)
    assert metrics["scans_total"] == 1


def test_it_ends_at_once_and_goes_on_where_it_was(agent, store):
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    begin = time.monotonic()
    assert agent.stop() == 0
    # On a machine that is busy with other tests, too.
    assert time.monotonic() - begin < 3.5
    assert agent.status["state"] == "stopped"
    write(store, {b"a": b"2"})
    agent.start()
    agent.wait()
    wait_until(lambda: agent.mirrored() == {b"a": b"2"})
    assert agent.metrics()["scans_total"] == 0


def test_a_reader_that_hangs_is_not_well(agent, store):
    """Nothing is noticed then, and nothing waits."""
    write(store, {b"a": b"1"})
    agent.max_lag = 5
    agent.start()
    agent.equal()
    assert agent.health() == 200
    assert agent.status["lag"] < 1
    # Who opens it waits for somebody who writes.
    os.mkfifo(store / "00002.mem")
    wait_until(lambda: agent.health() == 503, 20)
    assert agent.status["state"] == "mirroring"
    assert agent.metrics()["lag_seconds"] > 5


def test_a_reader_that_ends_by_an_error_ends_the_process(agent, store, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, threading, google_crc32c\n"
        "def extend(*arguments, real=google_crc32c.extend):\n"
        "    reads = threading.current_thread().name == 'reader'\n"
        f"    if reads and os.path.exists('{tmp_path}/flag'):\n"
        "        raise RuntimeError('nobody foresaw this')\n"
        "    return real(*arguments)\n"
        "google_crc32c.extend = extend\n"
    )
    agent.environment = {"PYTHONPATH": f"{ROOT}/src:{tmp_path}"}
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    (tmp_path / "flag").touch()
    write(store, {b"b": b"1"})
    assert agent.process.wait(10) == 1
    assert agent.status["state"] == "crashed"
    assert agent.status["message"] == "RuntimeError in the thread reader"
    assert "nobody foresaw this" in agent.log
    # Whoever runs it starts it again.
    (tmp_path / "flag").unlink()
    agent.start()
    agent.equal()


def test_under_load_mysql_is_a_state_the_store_had_at_every_moment(agent, writer, tmp_path):
    record = Record(tmp_path / "record")
    process = writer(rate=400)
    agent.start()
    agent.wait()
    seen = set()
    with agent.connection() as database:
        for number in range(17):
            with database.snapshot("export") as (position, rows):
                state = {key: value for key, _, value in rows}
            found = Position.from_text(position)
            assert found is not None
            version = found.version
            assert state == record.state(version), version
            seen.add(version)
            if number % 8 == 7:
                agent.stop(signal.SIGKILL)
                agent.start()
            time.sleep(0.1)
    assert len(seen) > 5
    process.terminate()
    process.wait()
    agent.equal()


def test_mysql_away_is_waited_for_without_a_gap(agent, database, store, writer):
    process = writer(rate=300)
    agent.start()
    agent.wait()
    scans = agent.metrics()["scans_total"]
    database.kill()
    agent.wait("away")
    assert agent.health() == 503
    time.sleep(2)
    assert agent.status["behind-transactions"] > 100
    database.start()
    agent.wait("mirroring")
    process.terminate()
    process.wait()
    agent.equal()
    assert agent.metrics()["scans_total"] <= scans + 1
    assert agent.mirrored() == content(store)


def spool(agent, database, store):
    """Kill MySQL, and write 14 transactions, more than the agent keeps in memory."""
    database.kill()
    agent.wait("away")
    write(store, *[{b"k%d" % number: bytes(900_000)} for number in range(14)])
    wait_until(lambda: list(agent.run.glob("backlog-*")))


def test_files_of_the_backlog_go_when_mysql_has_what_they_held(agent, database, store):
    """Also those of an agent that was killed, and of a store that is gone."""
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    spool(agent, database, store)
    agent.stop(signal.SIGKILL)
    (agent.run / "backlog-6f74686572.7").write_bytes(bytes(1000))
    assert len(list(agent.run.glob("backlog-*"))) > 1
    database.start()
    agent.start()
    agent.equal()
    assert not list(agent.run.glob("backlog-*"))


def test_rows_that_nobody_needs_go_also_while_clients_write_all_the_time(
    agent, database, store, writer
):
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    agent.stop()
    rows = ",".join(f"(999, '{number:05}', 1, 0, '')" for number in range(25_000))
    database.execute(
        f"INSERT INTO dittofs_entries (copy, name, version, size, value) VALUES {rows}",  # noqa: S608  # made above
        # Each transaction takes longer than the next one takes to come.
        "CREATE TRIGGER slow BEFORE UPDATE ON dittofs_mirror FOR EACH ROW DO SLEEP(0.1)",
        database=agent.name,
    )
    count = "SELECT COUNT(*) FROM dittofs_entries WHERE copy = 999"
    writer(rate=200)
    agent.start()
    wait_until(lambda: database.execute(count, database=agent.name) == [(0,)], 30)
    assert agent.status["state"] == "mirroring"


def test_what_a_vanished_store_had_at_last_reaches_mysql(agent, database, store):
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    spool(agent, database, store)
    wait_until(lambda: agent.status["behind-transactions"] == 14)
    shutil.rmtree(store)
    database.start()
    wait_until(lambda: gone(agent) == ["export"] and len(agent.mirrored()) == 15, 30)
    wait_until(lambda: agent.status["behind-transactions"] == 0)
    assert not list(agent.run.glob("backlog-*"))


def test_a_read_only_database_is_away_and_taken_up_again(agent, database, store):
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    database.set_global("read_only", 1)
    try:
        write(store, {b"a": b"2"})
        agent.wait("away")
        assert agent.status["message"]
    finally:
        database.set_global("read_only", 0)
    agent.equal()
    assert agent.mirrored() == {b"a": b"2"}


def test_what_was_flushed_while_nobody_looked_is_found(agent, store):
    write(store, {b"a": b"1", b"gone": b"1"}, {b"b": b"1"})
    agent.start()
    agent.equal()
    agent.stop()
    write(store, {b"gone": None}, {b"c": b"1"})
    # Nothing is left of the key that was removed, not even its removal.
    flush(store)
    agent.start()
    agent.equal()
    assert agent.mirrored() == content(store) == {b"a": b"1", b"b": b"1", b"c": b"1"}


def test_a_store_that_lost_its_tail_in_a_crash_of_the_node_is_right(agent, store):
    write(store, {b"a": b"1"}, {b"lost": b"1"}, {b"a": b"2"})
    agent.start()
    agent.equal()
    agent.stop()
    log = store / "00001.mem"
    first = encode_transaction({b"a": b"1"}, 1)
    log.write_bytes(log.read_bytes()[: HEADER_SIZE + len(first)])
    write(store, {b"other": b"1"}, {b"a": b"3"})
    agent.start()
    wait_until(lambda: agent.mirrored() == {b"a": b"3", b"other": b"1"})
    agent.equal()


def test_a_deleted_share_leaves_mysql_and_a_vanished_one_stays(agent, store):
    write(store, {b"a": b"1"})
    other = agent.stores / "other"
    other.mkdir()
    write(other, {b"b": b"1"})
    agent.start()
    agent.equal()
    shutil.rmtree(store)
    wait_until(
        lambda: (
            [each["name"] for each in agent.status["stores"] if each["state"] == "gone"]
            == ["export"]
        )
    )
    assert agent.mirrored("export") == {b"a": b"1"}
    deleted = agent.metadata / "deleted-stores"
    deleted.mkdir()
    (deleted / "export").touch()
    wait_until(lambda: [each["name"] for each in agent.status["stores"]] == ["other"])
    assert not list(deleted.iterdir())
    agent.equal()
    # A share of the same name begins anew.
    store.mkdir()
    write(store, {b"new": b"1"})
    wait_until(lambda: len(agent.status["stores"]) == 2)
    agent.equal()
    assert agent.mirrored("export") == {b"new": b"1"}


def test_a_store_that_somebody_emptied_is_kept_in_mysql(agent, store):
    """It is not there any more, which is not the same as having no files."""
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    for _ in range(5):
        kept = {each: each.read_bytes() for each in store.iterdir()}
        for each in kept:
            each.unlink()
        wait_until(lambda: gone(agent) == ["export"])
        assert agent.mirrored() == {b"a": b"1"}
        for each, data in kept.items():
            each.write_bytes(data)
        agent.equal()


def gone(agent):
    return [each["name"] for each in agent.status["stores"] if each["state"] == "gone"]


def test_tables_that_somebody_emptied_are_found_and_mended(agent, database, store):
    write(store, *[{b"k%d" % number: b"1"} for number in range(100)])
    agent.start()
    agent.equal()
    database.execute("DELETE FROM dittofs_entries LIMIT 30", database=agent.name)
    code, answer = agent.call("verify")
    assert (code, answer["result"]) == (1, "different")
    (found,) = answer["stores"]
    assert found["differences"] == 30
    assert len(found["first-differences"]) == 10
    wait_until(lambda: len(agent.mirrored()) == 100)
    agent.equal()


def test_a_mirror_of_another_instance_is_not_touched(agent, database, store, tmp_path):
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    agent.stop()
    other = Agent(
        tmp_path / "other", database, name=agent.name, user=agent.user, password=agent.password,
        instance="instance-2", application="another",
    )  # fmt: skip
    with other:
        (other.stores / "export").mkdir()
        write(other.stores / "export", {b"z": b"1"})
        other.start()
        status = other.wait("blocked")
        assert status["kind"] == "foreign"
        assert status["mirror"]["application"] == "dittofs"
        time.sleep(0.5)
        assert other.health() == 503
    assert agent.mirrored() == {b"a": b"1"}


def test_of_two_agents_the_older_writes_nothing_any_more(agent, database, store, tmp_path):
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    os.kill(agent.process.pid, signal.SIGSTOP)
    newer = Agent(
        tmp_path / "newer", database, name=agent.name, user=agent.user, password=agent.password,
        generation=2,
    )  # fmt: skip
    with newer:
        shutil.copytree(store, newer.stores / "export")
        newer.start()
        newer.equal()
        write(store, {b"a": b"stale"})
        os.kill(agent.process.pid, signal.SIGCONT)
        status = agent.wait("blocked")
        assert status["kind"] == "superseded"
        write(newer.stores / "export", {b"a": b"2"})
        wait_until(lambda: newer.mirrored() == {b"a": b"2"})
        # Also when it is started again.
        agent.stop()
        agent.start()
        assert agent.wait("blocked")["kind"] == "superseded"
        assert newer.mirrored() == {b"a": b"2"}


def test_no_more_connections_are_opened_than_are_asked_for(agent, database):
    """However many stores are compared, beside a `verify`."""
    for number in range(6):
        (agent.stores / f"s{number}").mkdir()
        write(agent.stores / f"s{number}", {b"%05d" % key: b"" for key in range(12_000)})
    agent.start()
    agent.wait()
    agent.equal()
    limited = f"ALTER USER '{agent.user}'@'%' WITH MAX_USER_CONNECTIONS {CONNECTIONS}"
    database.execute(limited, "FLUSH USER_RESOURCES")
    database.execute("DELETE FROM dittofs_entries WHERE name LIKE '%77'", database=agent.name)
    assert agent.call("verify")[1]["result"] == "different"
    database.execute("FLUSH STATUS")
    for _ in range(3):
        agent.call("verify")
    agent.equal(30)
    ((_, most),) = database.execute("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")
    # One is the test's own.
    assert int(most) <= CONNECTIONS + 1
    assert "max_user_connections" not in agent.log


@pytest.mark.parametrize(
    ("fault", "mended", "kind"),
    [
        (
            "ALTER USER '{user}'@'%' WITH MAX_USER_CONNECTIONS 1",
            f"ALTER USER '{{user}}'@'%' WITH MAX_USER_CONNECTIONS {CONNECTIONS}",
            "connections",
        ),
        (
            "ALTER USER '{user}'@'%' ACCOUNT LOCK",
            "ALTER USER '{user}'@'%' ACCOUNT UNLOCK",
            "locked",
        ),
        (
            "REVOKE INSERT ON `{name}`.* FROM '{user}'@'%'",
            "GRANT INSERT ON `{name}`.* TO '{user}'@'%'",
            "rights",
        ),
    ],
)
def test_what_does_not_pass_is_blocked_and_goes_on_when_it_is_mended(
    agent, database, store, fault, mended, kind
):
    write(store, {b"a": b"1"})
    agent.start()
    agent.equal()
    named = {"user": agent.user, "name": agent.name}
    database.execute(fault.format(**named), "FLUSH USER_RESOURCES")
    database.kill_connections(agent.user)
    status = agent.wait("blocked")
    assert status["kind"] == kind
    time.sleep(6)
    assert agent.status["since"] == status["since"]
    write(store, {b"a": b"2"})
    database.execute(mended.format(**named), "FLUSH USER_RESOURCES")
    agent.wait("mirroring", 15)
    agent.equal()
    assert agent.mirrored() == {b"a": b"2"}


def test_a_wrong_password_and_missing_rights_are_named_and_taken_up_when_mended(
    agent, database, store
):
    write(store, {b"a": b"1"})
    database.create(agent.name, agent.user, "another one")
    agent.start()
    status = agent.wait("blocked")
    assert status["kind"] == "password"
    assert agent.password not in str(status) + agent.log
    database.create(agent.name, agent.user, agent.password, rights="SELECT")
    wait_until(lambda: agent.status["kind"] == "rights", 30)
    assert "CREATE" in agent.status["message"]
    database.create(agent.name, agent.user, agent.password)
    agent.wait("mirroring", 30)
    agent.equal()


def test_a_store_that_is_damaged_is_said_and_the_others_go_on(agent, store):
    write(store, {b"a": b"1"})
    flush(store)
    other = agent.stores / "other"
    other.mkdir()
    write(other, {b"b": b"1"})
    (table,) = store.glob("*.sst")
    whole = table.read_bytes()
    table.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    agent.start()
    status = agent.wait("blocked")
    assert status["kind"] == "store"
    assert table.name in status["message"]
    write(other, {b"b": b"2"})
    wait_until(lambda: agent.mirrored("other") == {b"b": b"2"})
    table.write_bytes(whole)
    agent.equal(30)


@pytest.mark.parametrize("command", ["verify", "inspect", "mirror"])
def test_a_configuration_that_is_no_use_is_said_without_its_values(agent, command):
    agent.configure = lambda: agent.run / "config.json"
    (agent.run / "config.json").write_text('{"mysql": {"password": "s3cret"}}')
    code, answer = agent.call(command)
    assert code == 2
    assert answer["error"]["kind"] == "settings"
    assert "s3cret" not in str(answer)
