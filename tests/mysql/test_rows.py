"""Rows of copies: following, scanning, large values, deleting what is left over."""

import random
import threading
import time

import pytest

from agent.mysql import DatabaseError, RefusedError, StoreRow
from agent.mysql_statements import INLINE_SIZE, LONGEST_KEY, PART_SIZE
from tests.mysql.conftest import IDENTITY

STORE = "/export"
MIB = 2**20
# Where something about a value's way into MySQL or out of it changes.
SIZES = [
    0,
    1,
    INLINE_SIZE,
    INLINE_SIZE + 1,
    PART_SIZE - 1,
    PART_SIZE,
    PART_SIZE + 1,
    2 * PART_SIZE,
    3 * PART_SIZE + 7,
]


@pytest.fixture
def row(database) -> StoreRow:
    """A store with an empty copy."""
    return database.finish_copy(STORE, database.begin_copy(STORE), "start")


def everything(database, copy: int) -> dict[bytes, tuple[int, bytes]]:
    found = list(database.rows(copy))
    keys = [key for key, _, _ in found]
    assert keys == sorted(set(keys))
    return {key: (version, value) for key, version, value in found}


def purge(database, limit: int = 5000) -> int:
    turns = 0
    while database.purge(limit):
        turns += 1
        assert turns < 1000
    return turns


def test_applying_writes_rows_and_the_position(database, row):
    database.apply(row, {b"a": (1, b"one"), b"b": (2, b""), b"c": (3, None)}, '{"at": "ä"}')
    assert everything(database, row.copy) == {b"a": (1, b"one"), b"b": (2, b"")}
    found = database.stores()[STORE]
    assert (found.name, found.copy, found.position) == (STORE, row.copy, '{"at": "ä"}')
    database.apply(found, {b"a": (4, b"two"), b"b": (5, None)}, "next")
    assert everything(database, row.copy) == {b"a": (4, b"two")}
    database.apply(row, {}, "only the position")
    assert database.stores()[STORE].position == "only the position"


def test_the_row_of_a_store_may_be_from_before_other_calls(database, row):
    for turn in range(5):
        database.apply(row, {b"a": (turn, b"%d" % turn)}, str(turn))
    later = database.stores()[STORE]
    database.apply(row, {}, "once more")
    database.apply(later, {}, "and again")
    assert database.stores()[STORE].position == "and again"


def test_a_position_of_64_kib(database, row):
    database.apply(row, {}, "ä" * 2**15)
    assert database.stores()[STORE].position == "ä" * 2**15


def test_keys_are_bytes_of_any_kind(database, row):
    keys = [bytes([number]) for number in range(256)]
    keys += [b"\0", b"\0\0", b"a", b"A", b"a ", b"a\0", b"\xc3\xa4", b"\xe4", b"'\\\"%s{}"]
    keys += [b"x" * LONGEST_KEY, b"x" * (LONGEST_KEY - 1), b"\xff" * LONGEST_KEY]
    changes = {key: (number, key[::-1]) for number, key in enumerate(keys)}
    database.apply(row, changes, "")
    assert everything(database, row.copy) == changes
    half = dict(list(changes.items())[::2])
    database.apply(row, dict.fromkeys(half, (9, None)), "")
    assert everything(database, row.copy) == {k: v for k, v in changes.items() if k not in half}


def test_many_long_keys_fit_into_the_packets(database, row):
    changes = {b"%04d" % n + b"\xff" * (LONGEST_KEY - 4): (n, b"v" * 3000) for n in range(700)}
    database.apply(row, changes, "")
    assert everything(database, row.copy) == changes
    database.apply(row, dict.fromkeys(changes, (9, None)), "")
    assert everything(database, row.copy) == {}
    building = database.begin_copy(STORE)
    database.follow(building, dict.fromkeys(changes, (9, None)))


def test_a_key_that_is_too_long_is_named(database, row):
    key = b"f:" + b"x" * LONGEST_KEY
    for attempt in (
        lambda: database.apply(row, {key: (1, b"")}, "behind"),
        lambda: database.load(database.begin_copy(STORE), [(key, 1, b"")]),
    ):
        with pytest.raises(RefusedError, match=r"3002 bytes.*f:xxx") as caught:
            attempt()
        assert caught.value.kind == "key"
    assert database.stores()[STORE].position == "start"


def test_versions_up_to_the_largest(database, row):
    changes = {b"a": (0, b""), b"b": (2**63, b""), b"c": (2**64 - 1, b"")}
    database.apply(row, changes, "")
    assert everything(database, row.copy) == changes


def test_values_of_all_sizes(database, row):
    changes = {b"%09d" % size: (size, random.randbytes(size)) for size in SIZES}
    database.apply(row, changes, "")
    assert everything(database, row.copy) == changes
    copy = database.begin_copy(STORE)
    database.load(copy, [(key, version, value) for key, (version, value) in changes.items()])
    database.follow(copy, changes)
    assert everything(database, copy) == changes
    assert database.summary(copy) == (len(SIZES), sum(SIZES))


@pytest.mark.parametrize("before", [0, PART_SIZE, PART_SIZE + 1, 3 * PART_SIZE + 7])
def test_a_value_that_changes_its_size_leaves_nothing(place, database, row, before):
    parts = 0
    for number, after in enumerate([*SIZES, None]):
        key = b"%d" % number
        database.apply(row, {key: (1, b"x" * before)}, "")
        value = None if after is None else random.randbytes(after)
        database.apply(row, {key: (2, value)}, "")
        if after is not None and after > PART_SIZE:
            parts += -(-after // PART_SIZE) - 1
    found = everything(database, row.copy)
    assert [len(value) for _, value in found.values()] == SIZES
    assert place.count("parts") == parts


def test_a_value_that_has_no_parts_any_more_costs_nothing_more(place, database, row):
    """Nor does its key stay in memory: keys come and go for months."""
    database.apply(row, {b"key": (1, b"x" * 2 * PART_SIZE)}, "")
    database.apply(row, {b"key": (2, b"small")}, "")

    def deletes() -> int:
        return int(place.query("SHOW GLOBAL STATUS LIKE 'Com_delete'")[0][1])

    before = deletes()
    database.apply(row, {b"key": (3, b"small")}, "")
    assert deletes() == before
    assert place.count("parts") == 0


def test_parts_are_forgotten_by_a_transaction_that_was_tried_again(place, connect):
    database = connect(place.access(), timeout=5)
    database.claim(IDENTITY)
    row = database.finish_copy(STORE, database.begin_copy(STORE), "")
    database.apply(row, {b"key": (1, b"x" * 2 * PART_SIZE), b"z": (1, b"1")}, "")
    with place.server.connection(place.name) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        # It is in the way of what comes behind the parts.
        cursor.execute("SELECT * FROM dittofs_parts WHERE name = 'z' FOR UPDATE")
        timer = threading.Timer(1.5, connection.rollback)
        timer.start()
        changes = {b"key": (2, b"small"), b"z": (2, b"y" * 2 * PART_SIZE)}
        database.apply(row, changes, "")
        timer.join()
    assert everything(database, row.copy) == changes
    assert place.query("SELECT name FROM dittofs_parts") == [(b"z",)]


def test_a_restarted_agent_knows_which_values_have_parts(place, database, row, connect):
    database.apply(row, {b"a": (1, b"x" * MIB), b"b": (1, b"y" * MIB)}, "")
    again = connect(place.access())
    again.claim(again.inspect())
    again.apply(again.stores()[STORE], {b"a": (2, b"small"), b"b": (2, None)}, "")
    assert everything(again, row.copy) == {b"a": (2, b"small")}
    assert place.count("parts") == 0


def test_a_value_of_16_mib_in_packets_of_1_mib(place, database, row):
    value = random.randbytes(16 * MIB)
    database.apply(row, {b"small": (1, b"1"), b"large": (2, value)}, "")
    assert everything(database, row.copy) == {b"small": (1, b"1"), b"large": (2, value)}
    database.apply(row, {b"large": (3, None)}, "")
    assert (place.count("entries"), place.count("parts")) == (1, 0)


def test_a_part_that_somebody_deleted_is_noticed(place, database, row):
    database.apply(row, {b"a": (1, b"x" * MIB)}, "")
    place.query("DELETE FROM dittofs_parts WHERE part = 2")
    with pytest.raises(DatabaseError, match=f"{PART_SIZE} bytes.*b'a'") as caught:
        list(database.rows(row.copy))
    assert caught.value.kind == "damaged"


def test_loading_leaves_what_the_follower_wrote(place, database):
    large, larger = b"l" * MIB, b"m" * (2 * MIB)
    copy = database.begin_copy(STORE)
    followed = {
        b"changed": (10, b"new"),
        b"gone": (11, None),
        b"large gone": (12, None),
        b"large now": (13, larger),
        b"small now": (14, b"s"),
    }
    database.follow(copy, followed)
    database.load(
        copy,
        [
            (b"changed", 1, b"old"),
            (b"gone", 1, b"old"),
            (b"large gone", 1, large),
            (b"large now", 1, large),
            (b"loaded", 1, b"old"),
            (b"small now", 1, larger),
        ],
    )
    expected = {
        b"changed": (10, b"new"),
        b"large now": (13, larger),
        b"loaded": (1, b"old"),
        b"small now": (14, b"s"),
    }
    assert everything(database, copy) == expected
    assert database.summary(copy) == (4, 3 + 2 * MIB + 3 + 1)
    done = database.finish_copy(STORE, copy, "end")
    assert database.stores()[STORE] == done
    # Tombstones go; a key that was written again meanwhile stays.
    database.apply(done, {b"gone": (20, b"back")}, "")
    purge(database)
    assert everything(database, copy) == {**expected, b"gone": (20, b"back")}
    assert place.count("tombstones") == 0
    assert place.count("entries") == 5


def test_a_copy_counts_when_it_is_finished(database, row):
    database.apply(row, {b"a": (1, b"old")}, "old position")
    copy = database.begin_copy(STORE)
    database.load(copy, [(b"b", 2, b"new")])
    before = database.stores()[STORE]
    assert (before.copy, before.position) == (row.copy, "old position")
    database.apply(before, {b"a": (3, b"still followed")}, "older position")
    done = database.finish_copy(STORE, copy, "new position")
    assert database.stores() == {STORE: done}
    assert (done.copy, done.position) == (copy, "new position")
    with pytest.raises(DatabaseError, match="not with this copy"):
        database.apply(row, {b"a": (4, b"late")}, "late")
    assert everything(database, copy) == {b"b": (2, b"new")}


def test_a_store_without_a_finished_copy(database):
    database.begin_copy(STORE)
    row = database.stores()[STORE]
    assert (row.copy, row.position) == (0, "")
    with pytest.raises(DatabaseError) as caught:
        database.apply(row, {b"a": (1, b"1")}, "")
    assert caught.value.kind == "copy"


def test_finishing_twice_and_other_wrong_orders(database):
    copy = database.begin_copy(STORE)
    with pytest.raises(DatabaseError, match="not one of /other"):
        database.finish_copy("/other", copy, "")
    database.finish_copy(STORE, copy, "")
    for attempt in (
        lambda: database.finish_copy(STORE, copy, ""),
        lambda: database.load(copy, []),
        lambda: database.follow(copy, {}),
    ):
        with pytest.raises(DatabaseError, match="not being built"):
            attempt()
    first = database.begin_copy(STORE)
    second = database.begin_copy(STORE)
    assert first != second
    with pytest.raises(DatabaseError, match="not being built"):
        database.load(first, [])


def test_garbage_goes_in_steps(place, database, row):
    entries = [(b"%05d" % number, number, b"v" * 10) for number in range(2500)]
    database.load(first := database.begin_copy(STORE), entries)
    database.load(second := database.begin_copy(STORE), entries)
    database.follow(second, {b"large": (1, b"x" * 20 * MIB), b"00007": (2, None)})
    current = database.finish_copy(STORE, database.begin_copy(STORE), "")
    database.apply(current, {b"stays": (1, b"1")}, "")
    assert len({first, second, current.copy, row.copy}) == 4
    assert database.purge(1000)
    assert place.count("entries") == 2 * 2500 + 2 - 1000
    assert purge(database, 1000) > 5
    assert place.query("SELECT copy, name FROM dittofs_entries") == [(current.copy, b"stays")]
    assert place.count("parts") == place.count("tombstones") == 0
    assert not database.purge()


def test_a_purge_deletes_little_where_values_are_long(place, database):
    copy = database.begin_copy(STORE)
    for number in range(6):
        database.load(copy, [(b"%d-%d" % (number, n), 1, b"x" * PART_SIZE) for n in range(16)])
    database.begin_copy(STORE)
    assert database.purge()
    assert place.count("entries") >= 6 * 16 - 64
    purge(database)
    assert place.count("entries") == 0


def test_a_copy_under_construction_is_no_garbage(place, database):
    copy = database.begin_copy(STORE)
    database.load(copy, [(b"a", 1, b"1")])
    database.follow(copy, {b"b": (1, None)})
    assert not database.purge()
    assert place.count("tombstones") == 1
    assert everything(database, copy) == {b"a": (1, b"1")}


def test_forgetting_a_store(place, database, row):
    database.apply(row, {b"a": (1, b"1")}, "")
    other = database.finish_copy("/other", database.begin_copy("/other"), "")
    database.apply(other, {b"a": (1, b"1")}, "")
    assert database.forget(STORE)
    assert not database.forget(STORE)
    assert set(database.stores()) == {"/other"}
    purge(database)
    assert place.query("SELECT copy FROM dittofs_entries") == [(other.copy,)]
    with pytest.raises(DatabaseError):
        database.apply(row, {b"a": (2, b"2")}, "")
    again = database.finish_copy(STORE, database.begin_copy(STORE), "again")
    assert again.copy not in {row.copy, other.copy}
    database.apply(again, {b"b": (1, b"1")}, "")


def test_names_of_stores_are_exact(database):
    names = ["/export", "/EXPORT", "/export ", "/ä", "/" + "x" * 1000, "'; DROP TABLE x; --"]
    for name in names:
        row = database.finish_copy(name, database.begin_copy(name), name)
        database.apply(row, {b"name": (1, name.encode())}, name)
    found = database.stores()
    assert set(found) == set(names)
    for name in names:
        assert everything(database, found[name].copy) == {b"name": (1, name.encode())}


def test_numbers_of_copies_are_not_used_again(place, database, row):
    database.apply(row, {b"a": (1, b"left over")}, "")
    place.query("DELETE FROM dittofs_mirror")
    place.query("DELETE FROM dittofs_stores")
    assert database.inspect() is None
    database.claim(IDENTITY)
    copy = database.begin_copy(STORE)
    assert copy > row.copy
    purge(database)
    assert place.count("entries") == 0


@pytest.mark.parametrize("length", [10, 700, INLINE_SIZE, 20_000])
def test_many_rows_come_in_order_and_from_anywhere(database, row, length):
    count = 6000 if length < 1000 else 300
    changes = {
        b"k%05d" % number + b"-" * (number % 50): (number, random.randbytes(number % (length + 1)))
        for number in random.sample(range(10 * count), count)
    }
    changes[b"k-first"] = (1, random.randbytes(length))
    keys = sorted(changes)
    for start in range(0, len(keys), 2000):
        database.apply(row, {key: changes[key] for key in keys[start : start + 2000]}, "")
    assert everything(database, row.copy) == changes
    middle = keys[len(keys) // 2]
    assert [key for key, _, _ in database.rows(row.copy, middle)] == [
        k for k in keys if k > middle
    ]
    assert not list(database.rows(row.copy, keys[-1]))
    assert database.summary(row.copy) == (len(keys), sum(len(v) for _, v in changes.values()))


def test_reading_shows_one_moment(database, row):
    changes = {b"%05d" % number: (1, b"old") for number in range(3000)}
    database.apply(row, changes, "")
    reading = database.rows(row.copy)
    first = next(reading)
    database.apply(row, {**dict.fromkeys(changes, (2, None)), b"new": (2, b"")}, "")
    assert len([first, *reading]) == 3000


def test_reading_can_be_left_early(place, database, row):
    database.apply(row, {b"%05d" % number: (1, b"v") for number in range(3000)}, "")
    connections = f"SELECT COUNT(*) FROM information_schema.processlist WHERE user='{place.name}'"
    for _ in range(3):
        reading = database.rows(row.copy)
        next(reading)
        reading.close()
    deadline = time.monotonic() + 5
    while place.query(connections) != [(1,)] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert place.query(connections) == [(1,)]


def test_random_work_ends_as_a_dictionary_would(place, database, row):
    numbers = random.Random(7)
    model: dict[bytes, tuple[int, bytes]] = {}
    version = 0

    def changes() -> dict[bytes, tuple[int, bytes | None]]:
        nonlocal version
        made: dict[bytes, tuple[int, bytes | None]] = {}
        for _ in range(numbers.randrange(40)):
            version += 1
            key = b"%d" % numbers.randrange(60)
            size = numbers.choice([0, 5, 300, INLINE_SIZE + 1, PART_SIZE + 1, 2 * PART_SIZE + 1])
            gone = numbers.random() < 0.3
            made[key] = (version, None if gone else numbers.randbytes(size))
        return made

    def remember(made: dict[bytes, tuple[int, bytes | None]]) -> None:
        for key, (number, value) in made.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = (number, value)

    for _ in range(4):
        for _ in range(3):
            made = changes()
            database.apply(row, made, str(version))
            remember(made)
        # A scan while the store goes on changing.
        snapshot = sorted((key, number, value) for key, (number, value) in model.items())
        copy = database.begin_copy(STORE)
        for start in range(0, len(snapshot) + 1, 15):
            made = changes()
            database.follow(copy, made)
            remember(made)
            database.load(copy, snapshot[start : start + 15])
        row = database.finish_copy(STORE, copy, str(version))
        assert everything(database, row.copy) == model
        database.purge()
    purge(database)
    assert everything(database, row.copy) == model
    assert place.count("entries") == len(model)
    assert place.count("tombstones") == 0


def test_the_control_plane_in_parts(place, database, connect):
    assert database.control_plane() is None
    for size in (20 * MIB, 0, 1, PART_SIZE, MIB + 3):
        data = random.randbytes(size)
        database.put_control_plane(data, f"digest {size}")
        assert database.control_plane() == (data, f"digest {size}")
        assert place.count("control_plane") == max(1, -(-size // PART_SIZE))
    again = connect(place.access())
    again.claim(again.inspect())
    assert again.control_plane() == (data, f"digest {size}")
    place.query("DELETE FROM dittofs_control_plane WHERE part = 3")
    with pytest.raises(DatabaseError, match="control plane") as caught:
        again.control_plane()
    assert caught.value.kind == "damaged"
