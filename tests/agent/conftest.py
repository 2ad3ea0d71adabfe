"""A database server for all tests of the agent, and an application of its own for each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import bed
from tests.agent.rig import Agent, wait_until
from tests.databases import ROOT, DatabaseServer, find_program, program


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """A server that runs for all tests; they leave it running and writable."""
    program()
    bed.enter()
    with DatabaseServer(tmp_path_factory.mktemp("database")) as made:
        yield made


@pytest.fixture
def agent(database, tmp_path, request):
    """An agent that is not started, with a database of its own."""
    name = f"d{abs(hash(request.node.name)) % 10**9}"
    made = Agent(tmp_path / "unit", database, name=name, user=name)
    database.create(name, made.user, made.password)
    with made:
        yield made
    if not database.running:
        # The test failed before it started it again.
        database.start()
    database.execute(f"DROP DATABASE `{name}`")


@pytest.fixture
def store(agent):
    """The one store of the agent's volume."""
    path = agent.stores / "export"
    path.mkdir()
    return path


@pytest.fixture
def writer(store, tmp_path):
    """Starts a process that writes the store; ends it with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(record: Path | None = None, rate: int = 200, seed: int = 1):
        # fmt: off
        command = [
            sys.executable, "-m", "tests.soak.writer",
            str(store), str(record or tmp_path / "record"), str(seed), str(rate),
        ]
        # fmt: on
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        started.append(subprocess.Popen(command, env=environment))
        # A mirror of nothing is well, too.
        wait_until(lambda: list(store.glob("*.mem")))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def pytest_terminal_summary(terminalreporter) -> None:
    """Say what it was that was tested."""
    terminalreporter.write_line(f"agent: ran against {find_program()}")
