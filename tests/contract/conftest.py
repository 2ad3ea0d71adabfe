"""A server of its own for each module: the stand-in, and the real one where there is one."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests import namespaces, servers

PORT = 8080
SECRET = "k" * 40
PASSWORD = "first-password"
_RAN: set[str] = set()


class Server:
    """A server process on directories of its own."""

    def __init__(self, program: servers.Program, root: Path):
        self.program = program
        self.root = root
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "DITTOFS_CONTROLPLANE_SECRET": SECRET,
            "DITTOFS_ADMIN_INITIAL_PASSWORD": PASSWORD,
            "GOMEMLIMIT": "1GiB",
        }
        self.config: dict[str, Any] = {
            "logging": {"level": "INFO", "format": "json", "output": "stdout"},
            "shutdown_timeout": "30s",
            "database": {"type": "sqlite", "sqlite": {"path": str(root / "controlplane.db")}},
            "controlplane": {"host": "127.0.0.1", "port": PORT, "write_timeout": "30m"},
            "metrics": {"enabled": True, "host": "127.0.0.1", "port": 9090},
            "metadata": {"badger": {"block_cache_mb": 16, "index_cache_mb": 16}},
        }

    @property
    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")

    def launch(self) -> None:
        """Start the process without waiting for it."""
        path = self.root / "config.yaml"
        path.write_text(yaml.safe_dump(self.config))
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program.path, "start", "--foreground", "--config", path],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{PORT}/health/ready")
                return
            time.sleep(0.02)
        raise AssertionError(self.log)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def end(self) -> int:
        """Wait for its own end; the exit code."""
        assert self.process is not None
        code = self.process.wait(60)
        self.process = None
        return code

    def login(self, password: str = PASSWORD, user: str = "admin") -> httpx.Response:
        body = {"username": user, "password": password}
        return httpx.post(f"http://127.0.0.1:{PORT}/api/v1/auth/login", json=body)

    def api(self, method: str, path: str, body: Any = None, password: str = PASSWORD):
        """Call the API as admin."""
        token = self.login(password).json()["access_token"]
        return httpx.request(
            method,
            f"http://127.0.0.1:{PORT}/api/v1{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )


@pytest.fixture(scope="session", autouse=True)
def own_namespaces() -> None:
    try:
        namespaces.enter()
    except namespaces.NamespaceError as error:
        pytest.skip(f"this machine allows no namespaces: {error}")


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
    made = Server(program, root)
    try:
        yield made
    finally:
        if made.process is not None:
            made.process.kill()
            made.process.wait()
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
