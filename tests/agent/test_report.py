"""What the agent says of itself."""

import contextlib
import json
import socket
import time

from agent.report import Progress, Report, Server, read_status
from tests.ports import HOST, free_port


def test_progress_tells_rate_and_what_is_left():
    progress = Progress("scan x", total=100)
    progress.began -= 10
    progress.rows = 50
    told = progress.as_json()
    assert told["rate"] == 5
    assert told["eta"] == 10
    assert Progress("scan y").as_json()["eta"] is None


def test_the_status_is_a_file_without_a_trace_of_its_writing(tmp_path):
    report = Report(tmp_path, 60)
    assert read_status(tmp_path) is None
    report.state("mirroring")
    report.flush(now=True)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    status = read_status(tmp_path)
    assert status is not None
    assert status["state"] == "mirroring"
    (tmp_path / "status.json").write_text("{")
    assert read_status(tmp_path) is None


def test_the_time_of_a_state_is_when_it_began(tmp_path):
    report = Report(tmp_path, 60)
    report.state("away", "refused", "one reason")
    report.flush(now=True)
    since = json.loads((tmp_path / "status.json").read_text())["since"]
    report.state("away", "refused", "another reason")
    report.flush(now=True)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["since"], status["message"]) == (since, "another reason")


def test_a_mirror_too_far_behind_is_not_well(tmp_path):
    report = Report(tmp_path, 5)
    report.state("mirroring")
    assert report.healthy() == (True, "mirroring")
    report.equal(time.monotonic() - 7.2)
    assert report.healthy() == (False, "7 s behind")


def test_a_mirror_that_does_not_say_any_more_that_it_is_equal_falls_behind(tmp_path):
    report = Report(tmp_path, 5)
    report.state("mirroring")
    report.equal(time.monotonic() - 4.9)
    assert report.healthy() == (True, "mirroring")
    time.sleep(0.2)
    assert report.healthy() == (False, "5 s behind")
    (line,) = [
        each for each in report.metrics().splitlines() if each.startswith("dittofs_mirror_lag")
    ]
    assert float(line.split()[1]) > 5


def test_metrics_have_the_errors_by_kind_and_the_rows_by_store(tmp_path):
    report = Report(tmp_path, 5)
    report.errors["refused"] += 2
    report.set(stores=[{"name": 'a"b', "state": "mirroring", "rows": 7, "lag": 0, "message": ""}])
    text = report.metrics()
    assert 'dittofs_mirror_errors_total{kind="refused"} 2' in text
    assert 'dittofs_mirror_store_rows{store="a\\"b"} 7' in text
    assert "# TYPE dittofs_mirror_lag_seconds gauge" in text


def test_who_connects_and_asks_nothing_is_let_go(tmp_path):
    """Each holds a thread and a file: probes that hang would take them all in the end."""
    port = free_port()
    with (
        contextlib.closing(Server(Report(tmp_path, 60), port, HOST)),
        socket.create_connection((HOST, port), 20) as silent,
    ):
        assert silent.recv(1) == b""
