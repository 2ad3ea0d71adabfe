"""The short form of `make limits`, and that its index finds what is wrong."""

import time

import pytest

from tests import servers
from tests.limits import shard, volume
from tests.limits.index import HOLE, File, Pattern
from tests.limits.site import SHARE, deployed
from tests.limits.writers import Writers

KIB, MIB = 2**10, 2**20
VOLUME, BLOCK = 64 * MIB, 256 * KIB
SMALL = {
    "STANDIN_SEGMENT_BYTES": str(MIB),
    "STANDIN_SHARDS": "4",
    "STANDIN_CLEAN_SECONDS": "0.05",
}
TIMES = 20
SMALL_VOLUME = pytest.mark.needs_namespaces("a volume that is full")
PATTERN = Pattern(KIB)


@pytest.fixture
def site(tmp_path):
    """The charm and the stand-in with small segments, on a volume of 64 MiB."""
    small = {"allow-small-content-volume": True}
    with deployed(tmp_path, VOLUME, small, servers.standin(**SMALL)) as made:
        yield made


@pytest.fixture
def writers(site):
    return Writers(site.connect, Pattern(BLOCK), blocks=1, threads=2, seed=1)


def refused(writers) -> list[str]:
    """What was refused since the last time it was asked."""
    found = [each.status for each in writers.counts.refusals]
    writers.counts.refusals.clear()
    return found


@SMALL_VOLUME
def test_a_full_volume_is_refused_emptied_overwritten_and_never_wrong(site, writers):
    # Not faster than the guard looks.
    for most in range(0, VOLUME, 2 * MIB):
        writers.fill(most)
        time.sleep(0.5)
    assert set(refused(writers)) == {"make: NFS3ERR_NOSPC"}
    assert volume.free(site.content) > 0
    files = list(writers.files.values())
    writers.remove(files[len(files) // 4 :])
    end = time.monotonic() + 60
    made = writers.counts.acknowledged
    while writers.counts.acknowledged == made:
        assert time.monotonic() < end, "no room again"
        writers.fill(writers.live + BLOCK)
        time.sleep(0.1)
    refused(writers)
    for part in range(1, 5):
        goal = TIMES * VOLUME * part // 4
        writers.overwrite(lambda goal=goal: writers.counts.written >= goal)
        site.kill("server")
        writers.check()
        assert writers.counts.wrong == []
    assert refused(writers) == []
    site.restart()
    assert writers.check() == writers.live
    assert writers.counts.wrong == []


@SMALL_VOLUME
def test_no_file_that_nobody_touched_is_lost_when_the_volume_is_full(tmp_path):
    """The server removes the only copy of files when a share reaches the cap of its store."""
    if not servers.server().real:
        pytest.skip("no real server; tests/contract shows it with the stand-in")
    size = shard.SEGMENT // 16 - 4096
    with deployed(tmp_path, 640 * MIB, {"allow-small-content-volume": True}) as site:
        names = shard.make(SHARE, 17)
        untouched = {name: shard.write(SHARE, name, size) for name in names}
        for name in names[:9]:
            untouched.pop(name)
            shard.write(SHARE, name, size)
        # One segment is full, and more than half of it is dead: the cleaner writes it anew.
        end = time.monotonic() + 90
        while volume.usable(site.content) - volume.free(site.content) > 18.5 * size:
            assert time.monotonic() < end, "the cleaner was not there"
            time.sleep(0.5)
        writers = Writers(site.connect, Pattern(MIB), blocks=16, threads=1, seed=1)
        writers.fill(640 * MIB)
        assert writers.counts.refusals
        assert all(shard.read(SHARE, name, size) == data for name, data in untouched.items())


def written(*versions: int) -> File:
    """A file with these blocks."""
    file = File(1, certain=True)
    for place, version in enumerate(versions):
        file.writing(place, version)
        file.written(place, version)
    return file


def data(*versions: int, number: int = 1) -> bytes:
    return b"".join(PATTERN.block(number, place, each) for place, each in enumerate(versions))


def test_what_was_acknowledged_is_right():
    assert written(1, 2, 3).problems(PATTERN, data(1, 2, 3)) == []


@pytest.mark.parametrize(
    "found",
    [
        data(1, 2),
        data(1, 2, 3, 4),
        data(1, HOLE, 3),
        data(1, 1, 3),
        data(1, 2, 3, number=2),
        data(1, 2, 3)[:-1] + b"x",
        data(1, 2, 3)[:-1],
        b"",
    ],
    ids=["short", "long", "zeros", "old", "another file's", "one byte", "cut", "empty"],
)
def test_anything_else_is_wrong(found):
    assert written(1, 2, 3).problems(PATTERN, found)


def test_what_was_in_flight_may_be_old_or_new_and_nothing_else():
    file = written(1, 2)
    file.writing(1, 5)
    assert file.problems(PATTERN, data(1, 2)) == []
    assert file.problems(PATTERN, data(1, 5)) == []
    assert file.problems(PATTERN, data(1, HOLE))
    assert file.problems(PATTERN, data(5, 5))
    file.seen(PATTERN, data(1, 5))
    assert file.problems(PATTERN, data(1, 2))


def test_what_was_emptied_in_flight_may_be_gone():
    file = written(1, 2)
    file.truncating()
    for found in (data(1, 2), b""):
        assert file.problems(PATTERN, found) == []
    file.truncated()
    assert file.problems(PATTERN, data(1, 2))
