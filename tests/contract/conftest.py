"""A server of its own for each module: the stand-in, and the real one where there is one."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import bed, servers
from tests.contract.server import Server

_RAN: set[str] = set()


@pytest.fixture(scope="session", autouse=True)
def own_namespaces() -> None:
    """They are entered before anything is started, where the machine allows it."""
    bed.enter()


def _program(which: str) -> servers.Program:
    if which == "stand-in":
        return servers.standin()
    program = servers.server()
    if not program.real:
        pytest.skip("no real server on this machine")
    return program


@contextlib.contextmanager
def _serving(which: str, root: Path) -> Iterator[Server]:
    program = _program(which)
    _RAN.add(str(program))
    with Server(program, root) as made:
        yield made
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["stand-in", "real"])
def fresh(request, tmp_path):
    """A server that is not started yet."""
    with _serving(request.param, tmp_path) as made:
        yield made


@pytest.fixture(scope="module", params=["stand-in", "real"])
def server(request, tmp_path_factory):
    """A server that runs for all tests of the module; they leave it as they found it."""
    with _serving(request.param, tmp_path_factory.mktemp("server")) as made:
        made.start()
        yield made


def pytest_terminal_summary(terminalreporter) -> None:
    """The last line says what it ran against."""
    terminalreporter.write_line(f"contract: ran against {', '.join(sorted(_RAN)) or 'nothing'}")
