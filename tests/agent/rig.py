"""The agent as a process of its own, a database server, and a volume."""

import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from agent.mysql import Database, Server
from tests.databases import ROOT, DatabaseServer
from tests.ports import HOST, free_port

_TIMEOUT = 60.0
_SOURCES = f"{ROOT}/src"


def wait_until(what: Callable[[], Any], seconds: float = _TIMEOUT) -> Any:
    """Return the first true result."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise AssertionError(f"not in {seconds} s: {what}")
        time.sleep(0.02)
    return found


@dataclass
class Agent:
    """One application's agent on the volume below `root`; a context manager that ends it.

    Attributes:
        port: where the database is for the agent; None: where it really is.
        wrapper: goes in front of the command.
        arguments: of the service.
    """

    root: Path
    database: DatabaseServer
    name: str = "dittofs"
    instance: str = "instance-1"
    generation: int = 1
    port: int | None = None
    max_lag: int = 60
    application: str = "dittofs"
    user: str = "dittofs"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    wrapper: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.contents: dict[str, dict[bytes, bytes]] = {}
        self.http = free_port()
        self.run = self.root / "run"
        self.run.mkdir(parents=True, exist_ok=True)
        self.stores.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def metadata(self) -> Path:
        """The metadata volume."""
        return self.root / "data" / "metadata"

    @property
    def stores(self) -> Path:
        """The stores on it."""
        return self.metadata / "stores"

    @property
    def log(self) -> str:
        """What the agent printed."""
        return (self.run / "log").read_text(errors="replace")

    @property
    def status(self) -> dict[str, Any]:
        """What it wrote last."""
        with contextlib.suppress(OSError):
            return json.loads((self.run / "status.json").read_text())
        return {"state": "none"}

    def configure(self) -> Path:
        """Write its configuration file."""
        path = self.run / "config.json"
        path.touch(mode=0o600)
        settings = {
            "instance": self.instance,
            "generation": self.generation,
            "application": self.application,
            "model": "files",
            "model_uuid": "uuid-of-files",
            "marker": json.dumps({"instance": self.instance}),
            "mysql": {
                "endpoints": [[HOST, self.port or self.database.port]],
                "user": self.user,
                "password": self.password,
                "database": self.name,
                "tls": False,
                "ca": None,
            },
            "control_plane_key": base64.b64encode(self.key).decode(),
            "max_lag": self.max_lag,
            "log_level": "debug",
        }
        path.write_text(json.dumps(settings))
        return path

    def start(self) -> None:
        """Start the service."""
        self.process = self.spawn("mirror", *self.arguments)

    def spawn(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command without waiting for it."""
        with (self.run / "log").open("ab") as log:
            return subprocess.Popen(
                self._command(command, *arguments),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for its own end; its exit code."""
        assert self.process is not None
        code = self.process.wait(30)
        self.process = None
        return code

    def call(self, command: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run another command; its exit code and its answer."""
        done = subprocess.run(
            self._command(command, *arguments),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
            check=False,
        )
        lines = done.stdout.decode().strip().splitlines()
        assert lines, done.stderr.decode()
        return done.returncode, json.loads(lines[-1])

    def wait(self, state: str = "mirroring", seconds: float = _TIMEOUT) -> dict[str, Any]:
        """Wait for a state of the service; the status."""
        try:
            wait_until(lambda: self.status["state"] == state or self._died(), seconds)
            assert not self._died()
        except AssertionError:
            raise AssertionError(f"{self.status}\n{self.log[-3000:]}") from None
        return self.status

    def _died(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def equal(self, seconds: float = _TIMEOUT) -> None:
        """Wait until the mirror has caught up, and compare both sides."""
        self.wait("mirroring", seconds)
        wait_until(lambda: self.status["behind-transactions"] == 0, seconds)
        code, answer = self.call("verify")
        assert (code, answer["error"]) == (0, None), (answer, self.log[-3000:])

    def health(self) -> int:
        """The code of its /health."""
        return httpx.get(f"http://{HOST}:{self.http}/health").status_code

    def metrics(self) -> dict[str, float]:
        """Its metrics by name and labels."""
        text = httpx.get(f"http://{HOST}:{self.http}/metrics").text
        lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
        return {name.removeprefix("dittofs_mirror_"): float(value) for name, _, value in lines}

    @contextlib.contextmanager
    def connection(self) -> Iterator[Database]:
        """A reader's connection to the database, past everything that is in between."""
        endpoints = ((HOST, self.database.port),)
        server = Server(endpoints, self.user, self.password, self.name, tls=False, ca=None)
        with contextlib.closing(Database(server)) as database:
            database.connect()
            yield database

    def mirrored(self, store: str = "export") -> dict[bytes, bytes]:
        """Key to value of a store, as MySQL has them now."""
        with self.connection() as database:
            return {key: value for key, _, value in database.rows(database.stores()[store].copy)}

    def _command(self, command: str, *arguments: str) -> list[str]:
        return [
            *self.wrapper,
            sys.executable,
            "-m",
            "agent",
            command,
            "--config",
            str(self.configure()),
            "--root",
            str(self.root),
            "--port",
            str(self.http),
            *arguments,
        ]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": _SOURCES, **self.environment}
