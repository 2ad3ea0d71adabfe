"""Two snapshots of a share: the same, whatever order and stamp a server writes them with."""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.archive.dumps import DUMP, HASHES, differing
from tests.archive.volumes import Pair, dump

PAIRS: list[Pair] = [
    (b"cap:fs", b"{}"),
    (b"cfg:server", b"{}"),
    *((f"f:{number}".encode(), bytes([number % 256]) * 50) for number in range(500)),
    (b"c:root:format", b"a file that is called so"),
    (b"s:/export", b"{}"),
]
LINES = [f"{number:064x}\n".encode() for number in range(300)]


def snapshot(path: Path, data: bytes, lines: Iterable[bytes] = LINES) -> Path:
    path.mkdir()
    (path / DUMP).write_bytes(data)
    (path / HASHES).write_bytes(b"".join(lines))
    return path


@pytest.fixture
def compare(tmp_path):
    """Which files differ between what was backed up and what came back."""

    def run(after: Iterable[Pair], before: Iterable[Pair] = PAIRS) -> list[str]:
        places = [
            snapshot(tmp_path / name, dump(pairs))
            for name, pairs in (("before", before), ("after", after))
        ]
        return differing(*places)

    return run


def shuffled(pairs: list[Pair]) -> list[Pair]:
    return random.Random(1).sample(pairs, len(pairs))  # noqa: S311  # no secret


def test_the_same(compare):
    assert compare(PAIRS) == []


def test_another_order(compare):
    assert compare(shuffled(PAIRS)) == []


@pytest.mark.parametrize(
    "stamps",
    [
        [(b"meta:format", b"2")],
        [(b"sys:format-version", b"\x00\x02"), (b"schema_version", b"7")],
        [(b"__stamp", b"v0.34.0")],
        [(b"\x00", b"\x02")],
        [(b"cfg:format", b"2")],
    ],
)
def test_a_stamp_that_a_newer_server_has_left(compare, stamps):
    assert compare(shuffled([*PAIRS, *stamps])) == []


def test_a_stamp_that_has_changed(compare):
    assert compare([*PAIRS, (b"meta:format", b"2")], [*PAIRS, (b"meta:format", b"1")]) == []


DIFFERENCES = {
    "one is gone": PAIRS[:100] + PAIRS[101:],
    "the last is gone": PAIRS[:-1],
    "one has come": [*PAIRS, (b"f:new", b"x")],
    "a name has come": [*PAIRS, (b"c:root:version", b"x")],
    "one has changed": [*PAIRS[:100], (PAIRS[100][0], b"x"), *PAIRS[101:]],
    "a bit has changed": [*PAIRS[:100], (PAIRS[100][0], PAIRS[100][1][:-1] + b"?"), *PAIRS[101:]],
    "two are swapped": [
        *PAIRS[:100],
        (PAIRS[100][0], PAIRS[101][1]),
        (PAIRS[101][0], PAIRS[100][1]),
        *PAIRS[102:],
    ],
    "one is there twice": [*PAIRS, PAIRS[3]],
    "a file called format": [
        pair if pair[0] != b"c:root:format" else (pair[0], b"x") for pair in PAIRS
    ],
    "the server's own has changed": [(b"cap:fs", b"{1}"), *PAIRS[1:]],
    "many have come": [*PAIRS, *((f"q:{number}".encode(), b"x") for number in range(50))],
    "one that is large has come": [*PAIRS, (b"meta:format", b"x" * 300)],
    "nothing is left": [],
}


@pytest.mark.parametrize("after", DIFFERENCES.values(), ids=DIFFERENCES)
def test_what_differs(compare, after):
    assert compare(after) == [DUMP]


def test_a_stamp_that_was_lost(compare):
    assert compare(PAIRS, [*PAIRS, (b"meta:format", b"1")]) == [DUMP]


@pytest.mark.parametrize(
    ("lines", "same"),
    [
        (reversed(LINES), True),
        ([line.replace(b"\n", b"\r\n") for line in LINES], True),
        (LINES[1:], False),
        ([*LINES, b"f" * 64 + b"\n"], False),
        ([], False),
    ],
)
def test_the_lists_of_hashes(tmp_path, lines, same):
    places = [
        snapshot(tmp_path / "before", dump(PAIRS)),
        snapshot(tmp_path / "after", dump(PAIRS), lines),
    ]
    assert differing(*places) == ([] if same else [HASHES])


WHOLE = dump(shuffled(PAIRS))
UNREADABLE = {
    "empty": b"",
    "another magic": b"DFBX" + WHOLE[4:],
    "cut": WHOLE[:-1],
    "cut in a pair": WHOLE[: len(WHOLE) // 2],
    "more behind it": WHOLE + b"x",
    "a length that is none": WHOLE[:20] + b"\xff\xff\xff\xff" + WHOLE[24:],
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_the_same_only_to_the_last_byte(tmp_path, data):
    before = snapshot(tmp_path / "before", dump(PAIRS))
    assert differing(before, snapshot(tmp_path / "after", data)) == [DUMP]
    assert differing(snapshot(tmp_path / "b", data), snapshot(tmp_path / "a", data)) == []
