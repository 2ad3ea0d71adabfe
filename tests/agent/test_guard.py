"""The space guard, against the stand-in and the real server, on volumes of a limited size."""

import contextlib
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.archive.server import Server, ServerError, Usage
from agent.archive.settings import Api
from agent.badger import BadgerError
from agent.guard import read_only
from agent.guard.daemon import Guard
from agent.guard.quotas import ShareQuota
from agent.guard.removed import removed_bytes
from agent.guard.settings import STATUS, Bounds, GuardedShare, GuardSettings
from agent.log_writer import LogWriter
from tests import namespaces, servers
from tests.contract.server import PASSWORD
from tests.contract.server import Server as Process
from tests.standin.client import ClientError

MIB = 2**20
VOLUME = 256 * MIB
pytestmark = pytest.mark.needs_namespaces("a volume that is full")


@pytest.fixture(params=["stand-in", "real"])
def process(request, tmp_path):
    """A server with one share, its content on a volume of 256 MiB."""
    program = servers.standin() if request.param == "stand-in" else servers.server()
    if request.param == "real" and not program.real:
        pytest.skip("no real server on this machine")
    content = tmp_path / "data/content"
    content.mkdir(parents=True)
    namespaces.mount_tmpfs(content, VOLUME)
    try:
        with Process(program, tmp_path) as made:
            made.start()
            made.make_share("/export")
            if made.files.missing:
                pytest.skip(made.files.missing)
            yield made
    finally:
        namespaces.unmount(content)


def settings(process, quota=0, freeze=0, halt=0, room=0, *, read_only=False):
    api = Api(process.url, f"http://127.0.0.1:{process.metrics_port}/metrics", "admin", PASSWORD)
    run = process.root / "run"
    run.mkdir(exist_ok=True)
    bounds = Bounds(freeze, freeze * 5 // 4, halt, freeze * 5 // 4)
    shares = {
        "/export": GuardedShare(quota, "export", read_only),
        "/not-made": GuardedShare(0, "not-made"),
    }
    return GuardSettings(api, {"content": bounds}, room, shares, 20, process.root, run)


def guard(process, **more):
    return Guard(settings(process, **more), threading.Event())


def look_until(made, process, what, seconds=20.0):
    """Look again and again, as the service does, until its status says what is waited for."""
    end = time.monotonic() + seconds
    while True:
        made.look()
        shown = status(process)
        if what(shown):
            return shown
        assert time.monotonic() < end, shown
        time.sleep(0.2)


def status(process):
    return json.loads((process.root / "run" / STATUS).read_text())


def put(process, name, size):
    process.files.put("/export", {name: bytes([len(name)]) * size})


def writable(process, seconds=0.0):
    """Whether a file can be made, in so many seconds at last."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(ClientError):
            put(process, "one-more", MIB)
            process.files.remove("/export", "one-more")
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.5)


def test_removed_files_are_counted(process):
    directory = process.metadata / "stores/export"
    for number in range(6):
        put(process, f"file-{number}", (number + 1) * 100_000)
    assert removed_bytes(directory) == 0
    process.files.remove("/export", "file-1", "file-3")
    assert removed_bytes(directory) == 600_000
    # From the tables, too.
    process.stop()
    process.start()
    assert removed_bytes(directory) == 600_000
    process.files.remove("/export", "file-5")
    assert removed_bytes(directory) == 1_200_000


def test_a_quota_counts_what_is_there_and_not_what_was_removed(process):
    made = guard(process, quota=20 * MIB)
    made.look()
    put(process, "a", 19 * MIB)
    with pytest.raises(ClientError):
        put(process, "b", 4 * MIB)
    process.files.remove("/export", "a", "b")
    made = guard(process, quota=20 * MIB)
    look_until(made, process, lambda shown: shown["shares"]["/export"]["removed"] >= 19 * MIB)
    put(process, "c", 19 * MIB)
    with pytest.raises(ClientError):
        put(process, "d", 4 * MIB)
    shown = status(process)["shares"]["/export"]
    assert shown["quota"] == 20 * MIB
    assert shown["removed"] >= 19 * MIB
    assert shown["limit"] == shown["quota"] + shown["removed"]


def test_no_file_grows_while_the_volume_is_short_of_space(process):
    made = guard(process, freeze=100 * MIB)
    made.look()
    assert status(process)["short"] == []
    assert writable(process)
    ballast = process.content / "ballast"
    ballast.write_bytes(bytes(VOLUME - 80 * MIB))
    made.look()
    assert status(process)["short"] == ["content"]
    assert not writable(process)
    # An empty file and what is written in place are let be; so is a restart of the server.
    process.stop()
    process.start()
    assert not writable(process)
    ballast.write_bytes(bytes(VOLUME - 115 * MIB))
    made.look()
    assert status(process)["short"] == ["content"]
    ballast.unlink()
    made.look()
    assert status(process)["short"] == []
    assert writable(process)


def test_nothing_is_written_while_next_to_nothing_is_left(process):
    made = guard(process, freeze=100 * MIB, halt=50 * MIB)
    put(process, "there", MIB)
    made.look()
    ballast = process.content / "ballast"
    ballast.write_bytes(bytes(VOLUME - 40 * MIB))
    made.look()
    assert status(process)["halted"] == ["/export", "/not-made"]
    with pytest.raises(ClientError):
        put(process, "there", MIB)
    with pytest.raises(ClientError):
        process.files.remove("/export", "there")
    # As far as removing files works again, in place and in part.
    ballast.write_bytes(bytes(VOLUME - 110 * MIB))
    made.look()
    shown = status(process)
    assert (shown["halted"], shown["short"]) == ([], ["content"])
    process.files.remove("/export", "there")
    ballast.unlink()
    made.look()
    assert writable(process)


def test_a_guard_that_starts_anew_opens_what_an_earlier_one_closed(process):
    guard(process, freeze=1000 * MIB, halt=1000 * MIB).look()
    assert not writable(process)
    guard(process).look()
    assert writable(process)


def test_a_share_that_is_to_be_read_only_stays_so(process):
    guard(process, freeze=1000 * MIB, halt=1000 * MIB, read_only=True).look()
    guard(process, read_only=True).look()
    assert process.api("GET", "/shares/export").json()["read_only"] is True


def test_shares_hold_no_more_than_there_is_room_for(process):
    made = guard(process, room=40 * MIB)
    made.look()
    put(process, "a", 30 * MIB)
    put(process, "b", 12 * MIB)
    look_until(made, process, lambda shown: shown["full"])
    assert not writable(process)
    # What was removed is no longer there, although the server counts it.
    process.files.remove("/export", "a")
    look_until(made, process, lambda shown: not shown["full"])
    assert writable(process)


def test_a_guard_that_starts_anew_takes_no_removed_files_for_a_full_volume(process):
    put(process, "a", 30 * MIB)
    process.files.remove("/export", "a")
    put(process, "b", 30 * MIB)
    made = guard(process, room=40 * MIB)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        made.look()
        assert not status(process)["full"]
    assert writable(process)
    # One that was full stays so meanwhile.
    put(process, "c", 12 * MIB)
    look_until(made, process, lambda shown: shown["full"])
    again = guard(process, room=40 * MIB)
    again.look()
    assert not writable(process)
    look_until(again, process, lambda shown: shown["full"])
    assert not writable(process)


def test_a_file_that_is_made_shorter_fills_nothing(process, monkeypatch):
    monkeypatch.setattr("agent.guard.daemon._ASK_EVERY", 0.0)
    put(process, "a", 30 * MIB)
    process.files.remove("/export", "a")
    put(process, "b", 36 * MIB)
    made = guard(process, room=40 * MIB)
    look_until(made, process, lambda shown: shown["shares"]["/export"]["removed"] >= 30 * MIB)
    put(process, "b", 20 * MIB)
    used = process.api("GET", "/shares/export").json()["used_bytes"]
    if used > 55 * MIB:
        pytest.skip("a file is not made shorter by writing less of it here")
    for _ in range(5):
        made.look()
        assert not status(process)["full"]


def test_a_frozen_share_keeps_its_own_quota_where_that_is_less(process):
    made = guard(process, quota=4 * MIB, freeze=1000 * MIB)
    put(process, "a", MIB)
    made.look()
    assert status(process)["shares"]["/export"]["limit"] == MIB
    process.api("PUT", "/shares/export", {"quota_bytes": "0"})
    again = guard(process, quota=4 * MIB, freeze=0)
    again.look()
    assert status(process)["shares"]["/export"]["limit"] == 4 * MIB


def test_what_somebody_else_sets_is_set_back(process, monkeypatch):
    monkeypatch.setattr("agent.guard.daemon._ASK_EVERY_SHORT", 0.0)
    made = guard(process, quota=4 * MIB)
    made.look()
    made.look()
    process.api("PUT", "/shares/export", {"quota_bytes": "1GiB"})
    made.look()
    assert process.api("GET", "/shares/export").json()["quota_bytes"] == "4.00MiB"


def test_what_cannot_be_counted_now_leaves_the_quota_as_it_was(monkeypatch):
    monkeypatch.setattr("agent.guard.quotas._COUNT_EVERY", 0.0)
    monkeypatch.setattr("agent.guard.quotas._COUNTING_PART", 1e9)
    told = iter([30 * MIB, None, None, None])
    usage = Usage(49 * MIB, "", read_only=False, default_permission="none")
    with ThreadPoolExecutor(1) as executor:
        quota = ShareQuota(GuardedShare(20 * MIB, "export"), lambda: next(told), executor)
        for _ in range(4):
            quota.look(usage, crowded=False)
            time.sleep(0.1)
    assert quota.limit == 50 * MIB


def test_a_count_that_hangs_is_told(process, monkeypatch):
    counts = threading.Event()
    monkeypatch.setattr("agent.guard.daemon.removed_bytes", lambda _: counts.wait() and 0)
    made = guard(process, quota=MIB)
    try:
        began = time.time()
        shown = look_until(made, process, lambda shown: shown["counting-since"])
        assert began <= shown["counting-since"] <= time.time()
    finally:
        counts.set()
    monkeypatch.setattr("agent.guard.daemon._WRITE_EVERY", 0.0)
    look_until(made, process, lambda shown: shown["counting-since"] is None)


def test_a_server_that_is_away_is_tried_again(process):
    process.stop()
    made = guard(process, quota=4 * MIB)
    made.look()
    assert "does not answer" in status(process)["error"]
    process.start()
    made.look()
    assert status(process)["error"] == ""
    assert process.api("GET", "/shares/export").json()["quota_bytes"] == "4.00MiB"


def test_what_the_server_keeps_read_only_is_seen_and_written_again(process):
    directory = process.metadata / "stores/export"
    put(process, "a", MIB)
    guard(process, freeze=1000 * MIB, halt=1000 * MIB).look()
    process.stop(signal.SIGKILL)
    process.start()
    made = guard(process)
    look_until(made, process, lambda shown: shown["stuck"] == ["/export"])
    assert process.api("GET", "/shares/export").json()["read_only"] is False
    assert not writable(process)
    with pytest.raises(BadgerError, match="another process has the store open"):
        read_only.make_writable(settings(process))
    process.stop(signal.SIGKILL)
    assert read_only.make_writable(settings(process)) == ["/export"]
    assert read_only.make_writable(settings(process)) == []
    process.start()
    look_until(made, process, lambda shown: not shown["stuck"])
    assert writable(process)
    assert process.files.get("/export", "a")["a"] == bytes([1]) * MIB
    assert not read_only.is_noted(directory)
    # It stays so, also after what was in the log is in the tables.
    process.stop()
    process.start()
    assert writable(process)


def test_what_is_kept_read_only_is_seen_also_where_the_next_step_failed(process, monkeypatch):
    monkeypatch.setattr("agent.guard.daemon._ASK_EVERY", 0.0)
    made = guard(process, freeze=100 * MIB, halt=50 * MIB)
    for _ in range(5):
        # What there is to be found at its start is found.
        made.look()
        time.sleep(0.1)
    ballast = process.content / "ballast"
    ballast.write_bytes(bytes(VOLUME - 40 * MIB))
    made.look()
    assert status(process)["halted"]
    process.stop(signal.SIGKILL)
    process.start()
    ballast.unlink()
    set_quota, failed = Server.set_quota, []

    def fail_once(server, share, quota):
        if not failed:
            failed.append(share)
            raise ServerError("the server cut the connection")
        set_quota(server, share, quota)

    monkeypatch.setattr(Server, "set_quota", fail_once)
    made.look()
    assert failed
    assert process.api("GET", "/shares/export").json()["read_only"] is False
    look_until(made, process, lambda shown: shown["stuck"] == ["/export"])


def test_a_store_that_cannot_be_changed_costs_no_other_share(tmp_path):
    shares = {name: GuardedShare(0, name) for name in ("bad", "good")}
    api = Api("", "", "admin", "")
    made = GuardSettings(api, {}, 0, shares, 20, tmp_path, tmp_path)
    for name in shares:
        with contextlib.closing(LogWriter(made.stores / name)) as writer:
            writer.write({b"s:/export": b'{"share": {"Options": {"ReadOnly": true}}}'})
    (made.stores / "bad" / "MANIFEST").write_bytes(b"no manifest")
    with pytest.raises(BadgerError):
        read_only.make_writable(made)
    assert not read_only.is_noted(made.stores / "good")


def test_who_is_halted_or_to_be_read_only_is_not_stuck(process):
    guard(process, freeze=1000 * MIB, halt=1000 * MIB).look()
    process.stop()
    process.start()
    halted = guard(process, freeze=1000 * MIB, halt=1000 * MIB)
    wanted = guard(process, read_only=True)
    for made in (halted, wanted):
        made.look()
        time.sleep(0.5)
        made.look()
        assert status(process)["stuck"] == []
    process.stop()
    assert read_only.make_writable(settings(process, read_only=True)) == []
    assert read_only.is_noted(process.metadata / "stores/export")


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{}", b'{"share": null}', b'{"share": {"Options": {}}}', b"\xff\x00"]
)
def test_a_row_of_another_kind_is_no_note(tmp_path, value):
    with contextlib.closing(LogWriter(tmp_path / "store")) as writer:
        writer.write({b"s:/export": value, b"sx": b'{"share": {"Options": {"ReadOnly": true}}}'})
    assert not read_only.is_noted(tmp_path / "store")
    assert not read_only.take_back(tmp_path / "store")


def test_a_store_in_memory_has_no_note(tmp_path):
    assert not read_only.is_noted(tmp_path / "nothing")
    assert not read_only.take_back(tmp_path / "nothing")


def test_a_store_that_cannot_be_read_now_is_read_again(tmp_path):
    store = tmp_path / "store"
    with contextlib.closing(LogWriter(store)) as writer:
        writer.write({b"s:/export": b'{"share": {"Options": {"ReadOnly": true}}}'})
    (store / "MANIFEST").write_bytes(b"no manifest")
    with ThreadPoolExecutor(1) as executor:
        note = read_only.Note(store, executor)

        def look(times=3):
            for _ in range(times):
                note.look(read_only=False)
                time.sleep(0.05)
            return note.stuck, note.pending

        assert look() == (False, True)
        (store / "MANIFEST").unlink()
        assert look() == (True, True)
        assert read_only.take_back(store)
        assert look() == (False, False)
