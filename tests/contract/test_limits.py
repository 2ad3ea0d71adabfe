"""What happens to a share at its limits: by the real server's word, held to by the stand-in."""

import os
import time

import pytest

from tests import namespaces
from tests.limits import nfs3, shard
from tests.limits.nfs3 import RefusedError
from tests.standin.client import ClientError

MIB = 2**20
# The segments of the stand-in; the real one's are of 256 MiB.
SMALL_SEGMENT = 4 * MIB
SMALL = {"STANDIN_SEGMENT_BYTES": str(SMALL_SEGMENT), "STANDIN_CLEAN_SECONDS": "0.5"}
CAP = 2.2
CLEANED_AFTER = 75.0


@pytest.fixture
def limited(fresh):
    """A server that waits 2 s at most where a store is full; the stand-in's segments are small."""
    if fresh.files.missing:
        pytest.skip(fresh.files.missing)
    fresh.environment |= SMALL | {"STANDIN_SHARDS": "1"}
    fresh.config["blockstore"] = {"local": {"backpressure_max_wait": "2s"}}
    fresh.start()
    return fresh


def segment(server) -> int:
    return shard.SEGMENT if server.program.real else SMALL_SEGMENT


def used(server) -> int:
    return server.api("GET", "/shares/export").json()["used_bytes"]


def put(server, name: str, size: int) -> bytes:
    data = os.urandom(size)
    server.files.put("/export", {name: data})
    return data


def test_a_quota_refuses_growth_and_counts_removed_files_for_ever(limited):
    limited.make_share(quota_bytes="4MiB")
    first = put(limited, "a", 3 * MIB)
    with pytest.raises(ClientError):
        put(limited, "b", 2 * MIB)
    assert limited.files.get("/export", "a") == {"a": first}
    limited.files.remove("/export", "a")
    before = used(limited)
    assert before >= 3 * MIB
    with pytest.raises(ClientError):
        put(limited, "c", 3 * MIB)
    limited.stop()
    limited.start()
    assert used(limited) >= before
    with pytest.raises(ClientError):
        put(limited, "d", 3 * MIB)
    # It is moved while it serves, and in force at once.
    assert limited.api("PUT", "/shares/export", {"quota_bytes": "40MiB"}).status_code == 200
    assert limited.api("GET", "/shares/export").json()["quota_bytes"] == "40.00MiB"
    put(limited, "e", 3 * MIB)


def test_a_file_that_is_written_in_place_is_not_refused_for_the_quota(limited):
    limited.make_share()
    put(limited, "a", MIB)
    limited.api("PUT", "/shares/export", {"quota_bytes": "1B"})
    # The server remembers the size that a file had when it was made, until it is restarted.
    limited.stop()
    limited.start()
    if limited.program.real:
        with nfs3.Client("/export") as client:
            handle = client.lookup("a")
            assert handle
            client.write(handle, 0, b"b" * MIB)
            client.commit(handle)
            with pytest.raises(RefusedError) as refused:
                client.write(handle, MIB, b"b")
            assert refused.value.status == nfs3.NO_SPACE
    else:
        put(limited, "a", MIB)
    with pytest.raises(ClientError):
        put(limited, "a-longer", MIB + 1)


def write(server, name: str, size: int) -> bytes:
    """Write a file in place."""
    if server.program.real:
        return shard.write("/export", name, size)
    return put(server, name, size)


def read(server, name: str) -> bytes:
    return server.files.get("/export", name)[name]


def repacked(server, cap: int) -> dict[str, bytes]:
    """Let the cleaner write a segment anew; the files that were never written again."""
    size = segment(server) // 16
    server.make_share(max_size=cap)
    names = [f"file-{number}" for number in range(17)]
    if server.program.real:
        names = shard.make("/export", 17)
    found = {name: write(server, name, size - 4096) for name in names}
    again = names[: len(names) // 2 + 1]
    for name in again:
        write(server, name, size - 4096)
    # The first segment had 16 of them, 9 dead: a pass of the cleaner leaves 17 of what are 26.
    end = time.monotonic() + CLEANED_AFTER
    while _used_on_disk(server) > 18.5 * size:
        assert time.monotonic() < end, "the cleaner was not there"
        time.sleep(0.2)
    return {name: data for name, data in found.items() if name not in again}


def _used_on_disk(server) -> int:
    return sum(path.stat().st_blocks * 512 for path in (server.folder() / "journal").glob("*.seg"))


def fill(server, size: int, count: int) -> int:
    """Write new files; how many were taken."""
    taken = 0
    for number in range(count):
        try:
            put(server, f"new-{number}", size)
        except ClientError:
            break
        taken += 1
    return taken


def test_at_the_cap_the_only_copy_of_files_that_nobody_touched_is_removed(limited):
    """This is why the charm never lets a share reach it."""
    untouched = repacked(limited, int(CAP * segment(limited)))
    fill(limited, segment(limited) // 16, 40)
    lost = [name for name, data in untouched.items() if not read(limited, name).strip(b"\0")]
    assert lost
    assert all(read(limited, name) in (data, bytes(len(data))) for name, data in untouched.items())


def test_without_a_cap_nothing_is_removed(limited):
    untouched = repacked(limited, 10**18)
    fill(limited, segment(limited) // 16, 40)
    assert all(read(limited, name) == data for name, data in untouched.items())


def test_what_was_there_before_a_restart_is_not_evicted(limited):
    untouched = repacked(limited, int(CAP * segment(limited)))
    limited.stop()
    limited.start()
    assert fill(limited, segment(limited) // 16, 40) < 40
    assert all(read(limited, name) == data for name, data in untouched.items())


@pytest.mark.needs_namespaces("a volume that is full")
def test_on_a_full_volume_nothing_is_lost_and_writes_fail(fresh):
    if fresh.files.missing:
        pytest.skip(fresh.files.missing)
    namespaces.mount_tmpfs(fresh.content, 32 * MIB)
    try:
        fresh.start()
        fresh.make_share()
        kept = {f"a{number}": put(fresh, f"a{number}", 4 * MIB) for number in range(5)}
        assert fill(fresh, 4 * MIB, 20) < 20
        assert fresh.files.get("/export", *kept) == kept
        # Removing gives no room: what is dead is in a segment that is not full.
        fresh.files.remove("/export", *kept)
        time.sleep(1)
        with pytest.raises(ClientError):
            put(fresh, "b", 16 * MIB)
        fresh.stop()
    finally:
        namespaces.unmount(fresh.content)
