"""The report of times, for people and for programs."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.integration.packing import ROOT
from tests.integration.report import Report


def test_it_lists_the_times_of_each_chapter_in_their_order():
    report = Report()
    report.versions["Juju client"] = "4.0.15"
    report.chapter("tests.integration.test_deploy").note("to active", 28.04)
    report.chapter("tests.integration.test_faults").note("server killed: outage", 1.2)
    assert report.lines() == [
        "on Juju client 4.0.15",
        "deploy: to active                  28.0 s",
        "faults: server killed: outage       1.2 s",
    ]


def test_it_measures_what_comes_to_its_end():
    report = Report()
    chapter = report.chapter("test_deploy")
    with chapter.measured("done"):
        pass
    with pytest.raises(ZeroDivisionError), chapter.measured("failed"):
        _ = 1 / 0
    assert [step.name for step in report.steps] == ["done"]
    assert 0 <= report.steps[0].seconds < 1


def test_it_is_kept_as_json(tmp_path):
    report = Report()
    report.chapter("test_backups").note("restore", 3.456)
    path = tmp_path / "a/b.json"
    report.write(path)
    assert json.loads(path.read_text()) == {
        "versions": {},
        "steps": [{"chapter": "backups", "name": "restore", "seconds": 3.46}],
    }


def test_without_any_time_there_is_nothing_to_tell():
    assert Report().lines() == []


def test_a_run_tells_and_keeps_its_times(tmp_path):
    path, chapter = tmp_path / "times.json", tmp_path / "test_chapter.py"
    chapter.write_text("def test_one(times):\n    times.note('of one', 1.5)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.integration.conftest"]
    finished = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(chapter)],
        cwd=ROOT,
        env=os.environ | {"REPORT": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    assert re.search(r"chapter: of one +1\.5 s", finished.stdout)
    assert f"written to {path}" in finished.stdout
    assert json.loads(path.read_text())["steps"][0]["name"] == "of one"
