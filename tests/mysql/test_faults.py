"""Networks, servers and disks that fail: everything or nothing, and then it goes on."""

import contextlib
import random
import signal
import socket
import struct
import threading
import time

import pymysql
import pytest

from agent.mysql import AwayError, Database, DatabaseError, RefusedError
from agent.mysql_errors import REMEDIES
from agent.mysql_statements import CONNECTIONS
from tests import databases
from tests.mysql.certificates import Authority
from tests.mysql.conftest import IDENTITY

STORE = "/export"
MIB = 2**20
# What a proxy has cut or refused is one of these.
CUT = {"lost", "refused"}


def changes_at(version: int, count: int = 300) -> dict[bytes, tuple[int, bytes | None]]:
    """Changes of the same keys at each version: a mixture would show."""
    made: dict[bytes, tuple[int, bytes | None]] = {
        b"%04d" % number: (version, b"%d" % version * (number % 90)) for number in range(count)
    }
    made[b"large"] = (version, b"%d" % version * 150_000)
    return made


def follow(database: Database) -> None:
    """Start a copy that has version 0 of everything."""
    database.claim(IDENTITY)
    row = database.finish_copy(STORE, database.begin_copy(STORE), "0")
    database.apply(row, changes_at(0), "0")


def check(database: Database) -> int:
    """Which version is there; it has to be the one of the position, and whole."""
    row = database.stores()[STORE]
    version = int(row.position)
    found = {key: (number, value) for key, number, value in database.rows(row.copy)}
    assert found == changes_at(version)
    return version


@pytest.fixture
def proxy(shared_server):
    with databases.TcpProxy(shared_server.port) as made:
        yield made


def test_a_connection_cut_anywhere_in_a_transaction(place, proxy, connect):
    database = connect(place.access(proxy.port), timeout=2)
    follow(database)
    row = database.stores()[STORE]
    numbers = random.Random(5)
    outcomes = set()
    for version in range(1, 30):
        proxy.cut_after(numbers.randrange(MIB * 3 // 2))
        before = check(database) if version % 5 == 0 else version - 1
        try:
            database.apply(row, changes_at(version), str(version))
        except AwayError:
            found = check(database)
            assert found in {before, version}
            outcomes.add("before" if found == before else "after")
            # Again, whatever had happened; the cut of this round is over.
            database.apply(row, changes_at(version), str(version))
        else:
            outcomes.add("uncut")
        if version % 10 == 0:
            assert check(database) == version
    assert {"before", "uncut"} <= outcomes


def test_a_commit_whose_answer_is_lost(place, proxy, connect):
    database = connect(place.access(proxy.port), timeout=2)
    follow(database)
    row = database.stores()[STORE]
    direct = connect(place.access())
    # As many bytes go to the server each time, where all numbers have two digits.
    counted = 0
    for version in range(10, 22):
        started = proxy.sent
        database.apply(row, changes_at(version), str(version))
        counted = proxy.sent - started
    for version in range(30, 34):
        proxy.lose_answer_after(counted)
        with pytest.raises(AwayError):
            database.apply(row, changes_at(version), str(version))
        assert int(place.query("SELECT position FROM dittofs_stores")[0][0]) == version
        database.apply(row, changes_at(version), str(version))
        assert check(direct) == version


def test_a_scan_over_a_bad_network(place, proxy, connect):
    database = connect(place.access(proxy.port), timeout=2)
    database.claim(IDENTITY)
    entries = [(b"%05d" % number, number, b"v" * 500) for number in range(6000)]
    numbers = random.Random(6)
    copy = database.begin_copy(STORE)
    cuts = 0
    for start in range(0, len(entries), 500):
        for _ in range(10):
            proxy.cut_after(numbers.randrange(1_000_000))
            try:
                database.load(copy, entries[start : start + 500])
            except AwayError:
                cuts += 1
            else:
                break
    proxy.cut()
    with pytest.raises(AwayError):
        database.finish_copy(STORE, copy, "end")
    assert database.finish_copy(STORE, copy, "end").copy == copy
    assert list(database.rows(copy)) == entries
    assert cuts


def test_nobody_listens(place, proxy, connect):
    database = connect(place.access(proxy.port), timeout=2)
    follow(database)
    proxy.refuse()
    for attempt in (database.ping, database.stores, database.connect, lambda: check(database)):
        with pytest.raises(AwayError) as caught:
            attempt()
        assert caught.value.kind in CUT
    proxy.accept()
    database.ping()
    assert check(database) == 0


def test_a_server_that_accepts_and_says_nothing(place, proxy):
    proxy.pause()
    started = time.monotonic()
    with pytest.raises(AwayError, match="no greeting"):
        Database(place.access(proxy.port), timeout=0.5).connect()
    assert time.monotonic() - started < 5


def test_something_that_is_no_mysql(place):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(AwayError):
            Database(place.access(listener.getsockname()[1]), timeout=0.5).connect()
        thread.join()


def test_an_answer_that_does_not_come(place, proxy, connect):
    database = connect(place.access(proxy.port), timeout=0.4)
    follow(database)
    row = database.stores()[STORE]
    proxy.pause()
    with pytest.raises(AwayError) as caught:
        database.apply(row, changes_at(1), "1")
    assert caught.value.kind == "lost"
    proxy.resume()
    # Without its client the server undoes what it had begun, and gives the lock back.
    database.apply(row, changes_at(1), "1")
    assert check(database) == 1


def test_the_first_endpoint_that_can_be_written_to(place, connect, proxy):
    dead = databases.free_port()
    endpoints = tuple((databases.HOST, port) for port in (dead, proxy.port, place.server.port))
    database = connect(place.access(endpoints=endpoints), timeout=2)
    assert database.endpoint == f"127.0.0.1:{proxy.port}"
    follow(database)
    proxy.refuse()
    with pytest.raises(AwayError):
        database.ping()
    assert check(database) == 0
    assert database.endpoint == f"127.0.0.1:{place.server.port}"


def test_an_idle_connection_that_the_server_closed(place, database):
    place.server.kill_connections(place.name)
    with pytest.raises(AwayError):
        database.stores()
    assert database.stores() == {}


def test_another_transaction_in_the_way(place, connect):
    database = connect(place.access(), timeout=5)
    follow(database)
    row = database.stores()[STORE]
    with place.server.connection(place.name) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM dittofs_entries FOR UPDATE")
        timer = threading.Timer(1.5, connection.rollback)
        timer.start()
        started = time.monotonic()
        database.apply(row, changes_at(1), "1")
        assert time.monotonic() - started > 1
        timer.join()
    assert check(database) == 1


def test_a_lock_that_nobody_gives_back(place, connect, monkeypatch):
    database = connect(place.access(), timeout=5)
    follow(database)
    row = database.stores()[STORE]
    with place.server.connection(place.name) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM dittofs_mirror FOR UPDATE")
        monkeypatch.setattr("agent.mysql._TRIES", 1)
        with pytest.raises(AwayError) as caught:
            database.apply(row, changes_at(1), "1")
        assert caught.value.kind == "lock"
        connection.rollback()
    assert check(database) == 0
    database.apply(row, changes_at(1), "1")


def test_deadlocks_are_tried_again(place, database):
    follow(database)
    row = database.stores()[STORE]
    stop = threading.Event()

    def disturb() -> None:
        """Lock rows in the other order than the mirror does."""
        with place.server.connection(place.name) as connection, connection.cursor() as cursor:
            while not stop.is_set():
                with contextlib.suppress(pymysql.MySQLError):
                    cursor.execute("BEGIN")
                    cursor.execute("UPDATE dittofs_entries SET size = size WHERE name >= '0100'")
                    cursor.execute("SELECT * FROM dittofs_mirror FOR UPDATE")
                    connection.rollback()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for version in range(1, 15):
            database.apply(row, changes_at(version), str(version))
    finally:
        stop.set()
        thread.join()
    assert check(database) == 14


def test_writes_that_mysql_lost_are_noticed(place, database):
    follow(database)
    row = database.stores()[STORE]
    saved = place.query("SELECT sequence, position FROM dittofs_stores")
    database.apply(row, changes_at(1), "1")
    database.apply(row, changes_at(2), "2")
    # As after a failover to a server that had not got the last two.
    place.query(f"UPDATE dittofs_stores SET sequence = {saved[0][0]}, position = '0'")
    for attempt in (
        lambda: database.apply(row, changes_at(3), "3"),
        lambda: database.begin_copy(STORE),
    ):
        with pytest.raises(AwayError, match="acknowledged") as caught:
            attempt()
        assert caught.value.kind == "rewound"
    assert database.stores()[STORE].position == "0"
    database.apply(row, changes_at(3), "3")


# -- a server of its own --


@pytest.fixture
def started(own_server, new_place, connect):
    """A place on a server of its own, and a Database that follows."""
    own_server.start()
    place = new_place(own_server)
    database = connect(place.access(), timeout=2)
    follow(database)
    return place, database


def test_a_server_killed_at_any_moment(started):
    place, database = started
    row = database.stores()[STORE]
    done = 0
    for turn in range(3):
        timer = threading.Timer(0.05 + 0.05 * turn, place.server.kill)
        timer.start()
        tried = done
        with contextlib.suppress(AwayError):
            while True:
                tried = done + 1
                database.apply(row, changes_at(tried), str(tried))
                done = tried
        timer.join()
        with pytest.raises(AwayError) as caught:
            database.apply(row, {}, "no")
        assert caught.value.kind in CUT
        place.server.start()
        # What was acknowledged is there; what was not is there or not, and whole.
        assert check(database) in {done, tried}
        database.apply(row, changes_at(tried), str(tried))
        done = tried
    assert check(database) == done


def test_a_stopped_and_a_restarted_server(started):
    place, database = started
    row = database.stores()[STORE]
    place.server.restart()
    with pytest.raises(AwayError) as caught:
        database.apply(row, changes_at(1), "1")
    assert caught.value.kind in {"lost", "stopping"}
    database.apply(row, changes_at(1), "1")
    place.server.signal(signal.SIGSTOP)
    database.close()
    with pytest.raises(AwayError):
        database.connect()
    place.server.signal(signal.SIGCONT)
    assert check(database) == 1


def test_a_read_only_server_is_passed_over(started, connect):
    place, database = started
    row = database.stores()[STORE]
    place.server.set_global("read_only", 1)
    with pytest.raises(AwayError) as caught:
        database.apply(row, changes_at(1), "1")
    assert caught.value.kind == "read-only"
    for attempt in (database.connect, lambda: connect(place.access())):
        with pytest.raises(AwayError, match="read-only") as caught:
            attempt()
        assert caught.value.kind == "read-only"
    place.server.set_global("read_only", 0)
    database.apply(row, changes_at(1), "1")
    assert check(database) == 1


def test_packets_become_smaller_and_then_too_small(started):
    place, database = started
    row = database.stores()[STORE]
    place.server.set_global("max_allowed_packet", MIB // 2)
    with pytest.raises(RefusedError, match=f"{MIB // 2}.*{MIB}") as caught:
        database.connect()
    assert caught.value.kind == "packet"
    place.server.set_global("max_allowed_packet", 8 * MIB)
    database.connect()
    database.apply(row, changes_at(1), "1")
    assert check(database) == 1


def test_too_many_connections(started, connect):
    place, database = started
    limit(place, f"MAX_USER_CONNECTIONS {CONNECTIONS}")
    others = [connect(place.access()) for _ in range(CONNECTIONS - 1)]
    database.connect()
    database.claim(IDENTITY)
    with pytest.raises(AwayError) as caught:
        connect(place.access())
    assert caught.value.kind == "busy"
    others[0].close()
    connect(place.access()).ping()


def limit(place, what: str) -> None:
    place.server.execute(f"ALTER USER '{place.name}'@'%' WITH {what}", "FLUSH USER_RESOURCES")


@pytest.mark.parametrize("allowed", [1, CONNECTIONS - 1])
def test_fewer_connections_than_are_needed_are_refused_at_once(started, connect, allowed):
    place, _ = started
    limit(place, f"MAX_USER_CONNECTIONS {allowed}")
    remedy = f"ALTER USER '{place.name}'@'%' WITH MAX_USER_CONNECTIONS {CONNECTIONS}"
    database = connect(place.access())
    with pytest.raises(RefusedError) as caught:
        database.claim(IDENTITY)
    assert caught.value.kind == "connections"
    assert str(caught.value).startswith(remedy)
    others = [connect(place.access()) for _ in range(allowed - 1)]
    with pytest.raises(RefusedError) as caught:
        connect(place.access())
    assert caught.value.kind == "connections"
    assert str(caught.value).startswith(remedy)
    for other in others:
        other.close()
    place.server.execute(remedy, "FLUSH USER_RESOURCES")
    database.connect()
    database.claim(IDENTITY)


def test_few_connections_for_every_user(started, connect):
    place, _ = started
    place.server.restart(max_user_connections=1)
    database = connect(place.access())
    with pytest.raises(RefusedError) as caught:
        database.claim(IDENTITY)
    assert caught.value.kind == "connections"


@pytest.mark.parametrize("what", ["QUERIES", "UPDATES"])
def test_a_limit_of_each_hour(started, what):
    place, database = started
    row = database.stores()[STORE]
    limit(place, f"MAX_{what}_PER_HOUR 30")

    def work() -> None:
        for version in range(1, 30):
            database.connect()
            database.apply(row, changes_at(version), str(version))

    with pytest.raises(RefusedError) as caught:
        work()
    assert caught.value.kind == "limit"
    remedy = f"ALTER USER '{place.name}'@'%' WITH MAX_{what}_PER_HOUR 0"
    assert str(caught.value).startswith(remedy)
    place.server.execute(remedy, "FLUSH USER_RESOURCES")
    database.connect()
    database.apply(row, changes_at(40), "40")


def test_a_binary_log_of_statements(own_server, new_place, connect):
    own_server.start(log_bin="binlog", server_id=1, binlog_format="STATEMENT")
    place = new_place(own_server)
    database = connect(place.access())
    with pytest.raises(RefusedError, match=r"^SET GLOBAL binlog_format = ROW: ") as caught:
        database.claim(IDENTITY)
    assert caught.value.kind == "binlog"
    own_server.execute("SET GLOBAL binlog_format = ROW")
    database.connect()
    follow(database)
    assert check(database) == 0


def test_a_user_that_was_locked(started):
    place, database = started
    place.server.execute(f"ALTER USER '{place.name}'@'%' ACCOUNT LOCK")
    remedy = f"ALTER USER '{place.name}'@'%' ACCOUNT UNLOCK"
    with pytest.raises(RefusedError, match="^" + remedy) as caught:
        database.connect()
    assert caught.value.kind == "locked"
    place.server.execute(remedy)
    database.connect()
    assert check(database) == 0


def test_a_user_that_gave_a_wrong_password_too_often(started):
    place, database = started
    if not place.server.program.mariadb:
        pytest.skip("MySQL has it for each user, as a lock")
    place.server.set_global("max_password_errors", 2)
    for _ in range(3):
        with pytest.raises(RefusedError):
            Database(place.access(password="wrong")).connect()
    with pytest.raises(RefusedError, match="FLUSH PRIVILEGES") as caught:
        database.connect()
    assert caught.value.kind == "locked"
    place.server.execute("FLUSH PRIVILEGES")
    database.connect()


@pytest.mark.parametrize("strict", [0, 1])
def test_a_password_that_has_expired(started, strict):
    place, database = started
    place.server.set_global("disconnect_on_expired_password", strict)
    place.server.execute(f"ALTER USER '{place.name}'@'%' PASSWORD EXPIRE")
    with pytest.raises(RefusedError, match="PASSWORD EXPIRE NEVER") as caught:
        database.connect()
    assert caught.value.kind == "expired"


@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE", "DELETE"])
def test_a_right_that_was_taken_away_is_missed_when_attaching(started, right):
    place, database = started
    account = f"'{place.name}'@'%'"
    place.server.execute(f"REVOKE {right} ON `{place.name}`.* FROM {account}")
    remedy = f"GRANT {databases.RIGHTS} ON `{place.name}`.* TO {account}"
    database.connect()
    with pytest.raises(RefusedError) as caught:
        database.claim(IDENTITY)
    assert caught.value.kind == "rights"
    assert str(caught.value).startswith(f"{remedy}: the user lacks {right}: ")
    place.server.execute(remedy)
    database.connect()
    assert database.claim(IDENTITY)


def test_a_database_that_was_dropped(started):
    place, database = started
    row = database.stores()[STORE]
    place.query(f"DROP DATABASE `{place.name}`")
    with pytest.raises(AwayError):
        database.apply(row, changes_at(1), "1")
    with pytest.raises(RefusedError, match=f"CREATE DATABASE `{place.name}`") as caught:
        database.connect()
    assert caught.value.kind == "database"
    place.server.execute(f"CREATE DATABASE `{place.name}`")
    database.connect()
    follow(database)
    assert check(database) == 0


def test_tables_that_somebody_changed_are_made_anew_once_they_are_dropped(started):
    place, database = started
    row = database.stores()[STORE]
    place.query("ALTER TABLE dittofs_entries DROP COLUMN version")
    with pytest.raises(RefusedError, match=r"^DROP all TABLEs dittofs_") as caught:
        database.apply(row, changes_at(1), "1")
    assert caught.value.kind == "tables"
    place.query(f"DROP TABLE {', '.join(sorted(place.tables()))}")
    follow(database)
    assert check(database) == 0


@pytest.mark.parametrize(
    ("number", "said", "kind"),
    [
        (1034, "Index for table dittofs_entries is corrupt", "tables"),
        (1194, "Table dittofs_entries is marked as crashed", "tables"),
        (1712, "Index PRIMARY is corrupted", "tables"),
        (1877, "Table is corrupted", "tables"),
        (1197, "more than max_binlog_cache_size bytes", "transaction"),
        (1180, 'Got error 90 "Message too long" during COMMIT', "transaction"),
        (1206, "The total number of locks exceeds the lock table size", "transaction"),
        (1785, "violates GTID consistency", "tables"),
        (3161, "Storage engine InnoDB is disabled", "engine"),
        (1180, 'Got error 149 "Lock deadlock" during COMMIT', None),
        (1030, 'Got error 28 "No space left on device"', None),
        (1114, "The table dittofs_entries is full", None),
        (1836, "Running in read-only mode", None),
        (1047, "WSREP has not yet prepared node for application use", None),
        (3100, "Error on observer while running replication hook", None),
    ],
)
def test_what_is_for_a_person_and_what_passes(started, number, said, kind):
    place, database = started
    row = database.stores()[STORE]
    place.query(
        "CREATE TRIGGER says BEFORE UPDATE ON dittofs_mirror FOR EACH ROW SIGNAL SQLSTATE"
        f" 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = '{said}'"
    )
    with pytest.raises(RefusedError if kind else AwayError) as caught:
        database.apply(row, changes_at(1), "1")
    if kind:
        remedy = REMEDIES[kind].format(database=place.name, account="")
        assert str(caught.value).startswith(remedy)
        assert caught.value.kind == kind
        assert len(remedy) < 100
    place.query("DROP TRIGGER says")
    database.apply(row, changes_at(1), "1")


# -- what a server says before anybody is logged in --


def packet(number: int, payload: bytes) -> bytes:
    return struct.pack("<I", len(payload))[:3] + bytes([number]) + payload


def greeting(plugin: bytes) -> bytes:
    """Of a server without TLS."""
    head = b"\x0a8.0.36\0" + struct.pack("<I", 7) + b"saltsalt\0"
    capabilities = 0x00080000 | 0x8000 | 0x200 | 0x8 | 0x1
    low, high = capabilities & 0xFFFF, capabilities >> 16
    rest = struct.pack("<HBHHB", low, 45, 2, high, 21) + bytes(10) + b"saltsaltsalt\0" + plugin
    return packet(0, head + rest + b"\0")


def refusal(code: int, text: str) -> bytes:
    return b"\xff" + struct.pack("<H", code) + text.encode()


@pytest.fixture
def saying():
    """Starts a server that says these packets, each after what the client answers."""
    with contextlib.ExitStack() as stack:

        def start(*packets: bytes) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def answer() -> None:
                client, _ = listener.accept()
                with client, contextlib.suppress(OSError):
                    for each in packets:
                        client.sendall(each)
                        client.recv(4096)

            thread = threading.Thread(target=answer)
            thread.start()
            stack.callback(thread.join)
            return listener.getsockname()[1]

        yield start


@pytest.mark.parametrize(
    "packets",
    [
        # ed25519 of MariaDB
        [b"\xfeclient_ed25519\0" + bytes(32)],
        # the same of a newer one, GSSAPI, LDAP
        [b"\xfeparsec\0" + bytes(32)],
        [b"\xfeauth_gssapi_client\0principal"],
        [b"\xfeauthentication_ldap_sasl_client\0SCRAM"],
        [refusal(1251, "Client does not support authentication protocol requested by server")],
        # a password that has to be sent whole, and no key of the server to encrypt it with
        [b"\xfecaching_sha2_password\0" + bytes(21), b"\x01\x04", refusal(2061, "requires TLS")],
        [b"\xfesha256_password\0" + bytes(21), b"\x00\x00\x00\x02\x00\x00\x00"],
    ],
)
def test_a_login_that_this_program_does_not_know(place, saying, packets):
    answers = [packet(2 + 2 * number, each) for number, each in enumerate(packets)]
    port = saying(greeting(b"mysql_native_password"), *answers)
    with pytest.raises(RefusedError, match=r"^let '.*'@'%' log in by") as caught:
        Database(place.access(port), timeout=2).connect()
    assert caught.value.kind == "login"


@pytest.mark.parametrize(
    ("number", "said", "kind", "remedy"),
    [
        (1129, "Host '10.1.2.3' is blocked", "host-blocked", "run mysqladmin flush-hosts"),
        (1130, "Host '10.1.2.3' is not allowed", "host", "let '.*' log in from the pod's"),
        (1040, "Too many connections", "busy", ""),
    ],
)
def test_a_host_that_is_not_let_in(place, saying, number, said, kind, remedy):
    port = saying(packet(0, refusal(number, said)))
    with pytest.raises(RefusedError if remedy else AwayError, match=f"^{remedy}") as caught:
        Database(place.access(port), timeout=2).connect()
    assert caught.value.kind == kind


@pytest.mark.needs_namespaces("a disk that is full")
def test_a_full_disk(tmp_path, new_place, connect):
    server = databases.DatabaseServer(tmp_path / "server", size=400 * MIB, durable=True)
    with server:
        place = new_place(server)
        database = connect(place.access(), timeout=3)
        follow(database)
        row = database.stores()[STORE]
        server.fill_disk(left=4 * MIB)
        filler = {b"filler %d" % n: (1, random.randbytes(3000)) for n in range(1000)}

        def fill() -> None:
            for turn in range(20):
                database.apply(row, {b"%d" % turn + k: v for k, v in filler.items()}, "full")

        with pytest.raises(AwayError) as caught:
            fill()
        assert caught.value.kind in {"disk", "lost"}, str(caught.value)
        server.free_disk()
        if not server.running:
            # MariaDB ends itself where it has no room even to undo.
            server.start()
        deadline = time.monotonic() + 20
        while True:
            try:
                database.apply(row, changes_at(1), "1")
            except AwayError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                break
        assert database.stores()[STORE].position == "1"
        found = {key: value for key, _, value in database.rows(row.copy) if b"filler" not in key}
        assert found == {key: value for key, (_, value) in changes_at(1).items()}


# -- TLS --


@pytest.fixture
def authority() -> Authority:
    return Authority("the relation's authority")


def encrypted(database: Database, server: databases.DatabaseServer, user: str) -> bool:
    assert database.stores() == {}
    # The server's own view of the user's connection.
    rows = server.execute(
        "SELECT 1 FROM performance_schema.status_by_thread s"
        " JOIN performance_schema.threads t ON t.thread_id = s.thread_id"
        f" WHERE t.processlist_user = '{user}' AND s.variable_name = 'Ssl_cipher'"
        " AND s.variable_value <> ''"
    )
    return bool(rows)


def test_tls_with_the_relations_authority(own_server, new_place, connect, authority, tmp_path):
    own_server.start(**authority.write(tmp_path / "tls"), performance_schema=1)
    place = new_place(own_server)
    own_server.execute(f"ALTER USER '{place.name}'@'%' REQUIRE SSL")
    for access in (
        place.access(tls=True, ca=authority.pem),
        place.access(tls=True, ca=Authority("another").pem + authority.pem),
        place.access(tls=True),
        # Not asked for, but offered.
        place.access(),
    ):
        database = connect(access)
        assert encrypted(database, own_server, place.name)
        database.close()
    with pytest.raises(RefusedError, match=r"encrypted.*certificate") as caught:
        connect(place.access(tls=True, ca=Authority("another").pem))
    assert caught.value.kind == "tls"
    with pytest.raises(RefusedError, match="CA") as caught:
        connect(place.access(tls=True, ca="no certificate"))
    assert caught.value.kind == "tls"
    database = connect(place.access(tls=True, ca=authority.pem))
    follow(database)
    assert check(database) == 0


def test_tls_that_the_server_has_not(own_server, new_place, connect, authority):
    without = {"ssl": 0} if own_server.program.mariadb else {"tls_version": ""}
    own_server.start(**without)
    place = new_place(own_server)
    with pytest.raises(RefusedError, match="encrypted") as caught:
        connect(place.access(tls=True, ca=authority.pem))
    assert caught.value.kind == "tls"
    # The password goes by the server's RSA key where it is not stored as MariaDB does.
    database = connect(place.access())
    assert isinstance(database, Database)
    assert database.inspect() is None


def test_errors_are_of_one_family():
    assert issubclass(AwayError, DatabaseError)
    assert issubclass(RefusedError, DatabaseError)


# -- Group Replication, as Charmed MySQL and MySQL InnoDB Cluster have it --


def test_group_replication(own_server, new_place, connect):
    if own_server.program.mariadb:
        pytest.skip("MariaDB has no Group Replication")
    own_server.start(
        server_id=1,
        log_bin="binlog",
        gtid_mode="ON",
        enforce_gtid_consistency="ON",
        sql_require_primary_key="ON",
        report_host=databases.HOST,
        plugin_load_add="group_replication.so",
        plugin_dir=own_server.program.share.parents[1] / "lib/mysql/plugin",
        loose_group_replication_group_name="8d3c0a3e-1111-4222-8333-444455556666",
        loose_group_replication_local_address=f"{databases.HOST}:{databases.free_port()}",
        loose_group_replication_start_on_boot="OFF",
        # The default is 150 MB.
        loose_group_replication_transaction_size_limit=20 * MIB,
    )
    place = new_place(own_server)
    database = connect(place.access(), timeout=5)
    own_server.execute(
        "SET GLOBAL group_replication_bootstrap_group = ON",
        "START GROUP_REPLICATION",
        "SET GLOBAL group_replication_bootstrap_group = OFF",
    )
    follow(database)
    row = database.stores()[STORE]
    database.apply(row, changes_at(1), "1")
    copy = database.begin_copy(STORE)
    for number in range(3):
        database.load(copy, [(b"%d-%d" % (number, n), 1, b"x" * 200_000) for n in range(50)])
    database.put_control_plane(random.randbytes(24 * MIB), "digest")
    database.put_control_plane(b"small", "digest")
    database.begin_copy(STORE)
    while database.purge(100_000):
        pass
    assert check(database) == 1
    assert place.count("entries") == len(changes_at(1))
    # A member that lost the others, and one that is not the primary, take no writes.
    own_server.execute("STOP GROUP_REPLICATION")
    assert own_server.execute("SELECT @@super_read_only") == [(1,)]
    with pytest.raises(AwayError) as caught:
        database.apply(row, changes_at(2), "2")
    assert caught.value.kind == "read-only"
    with pytest.raises(AwayError, match="read-only"):
        database.connect()
