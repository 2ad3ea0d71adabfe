"""A server process on directories of its own, the stand-in or the real one."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
import yaml

from tests import servers
from tests.standin.client import HOST, Files

PORT, METRICS, NFS = 8080, 9090, 12049
SECRET = "k" * 40
PASSWORD = "first-password"
_START_SECONDS = 30.0
_SETTLED = ("ready", "failed")


class Server:
    """A server on the volumes below `root`; a context manager that ends it.

    Args:
        program: the server.
        root: a folder; `data/metadata` and `data/content` in it are the volumes.
        port: of the API.
        metrics: of the metrics.
        nfs: where the real one serves files.
    """

    def __init__(
        self,
        program: servers.Program,
        root: Path,
        *,
        port: int = PORT,
        metrics: int = METRICS,
        nfs: int = NFS,
    ):
        self.program = program
        self.root = root
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self.password = PASSWORD
        self._tokens: dict[str, str] = {}
        self.files = Files(real=program.real, port=port, nfs_port=nfs)
        for volume in (self.metadata, self.content):
            volume.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "DITTOFS_CONTROLPLANE_SECRET": SECRET,
            "DITTOFS_ADMIN_INITIAL_PASSWORD": PASSWORD,
            "GOMEMLIMIT": "1GiB",
        }
        self.config: dict[str, Any] = {
            "logging": {"level": "INFO", "format": "json", "output": "stdout"},
            "shutdown_timeout": "30s",
            "database": {"type": "sqlite", "sqlite": {"path": str(self.database)}},
            "controlplane": {"host": HOST, "port": port, "write_timeout": "30m"},
            "metrics": {"enabled": True, "host": HOST, "port": metrics},
            "metadata": {"badger": {"block_cache_mb": 16, "index_cache_mb": 16}},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)

    @property
    def metadata(self) -> Path:
        """The metadata volume."""
        return self.root / "data/metadata"

    @property
    def content(self) -> Path:
        """The content volume."""
        return self.root / "data/content"

    @property
    def database(self) -> Path:
        """The control plane."""
        return self.metadata / "controlplane.db"

    @property
    def log(self) -> str:
        """What it printed."""
        return (self.root / "log").read_text(errors="replace")

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{HOST}:{self.port}"

    def launch(self) -> None:
        """Start the process without waiting for it."""
        self._tokens = {}
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
        deadline = time.monotonic() + _START_SECONDS
        while not self.ready():
            if time.monotonic() > deadline or not self.process or self.process.poll() is not None:
                raise AssertionError(self.log)
            time.sleep(0.02)

    def ready(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health/ready").is_success
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.end()

    def kill(self) -> None:
        """End it as a crash does."""
        self.stop(signal.SIGKILL)

    def end(self) -> int:
        """Wait for its own end; the exit code."""
        assert self.process is not None
        code = self.process.wait(60)
        self.process = None
        return code

    def login(self, password: str | None = None, user: str = "admin") -> httpx.Response:
        """Log in; the answer."""
        body = {"username": user, "password": password or self.password}
        return httpx.post(f"{self.url}/api/v1/auth/login", json=body)

    def api(
        self, method: str, path: str, body: Any = None, password: str | None = None
    ) -> httpx.Response:
        """Call the API as admin."""
        return httpx.request(
            method, f"{self.url}/api/v1{path}", json=body, headers=self.token(password), timeout=60
        )

    def token(self, password: str | None = None) -> dict[str, str]:
        """The header of one who is logged in as admin."""
        password = password or self.password
        if password not in self._tokens:
            self._tokens[password] = self.login(password).json()["access_token"]
        return {"Authorization": f"Bearer {self._tokens[password]}"}

    def make_share(self, name: str = "/export", *, max_size: int = 2**30, **more: Any) -> None:
        """A share with a Badger store and the local volume, as the charm makes it."""
        key = quote(name[1:], safe="")
        path = str(self.metadata / "stores" / key)
        store = {"name": key, "type": "badger", "config": json.dumps({"path": path})}
        assert self.api("POST", "/store/metadata", store).status_code == 201
        config = json.dumps({"path": str(self.content), "max_size": max_size})
        self.api("POST", "/store/block/local", {"name": "volume", "type": "fs", "config": config})
        share = {
            "name": name,
            "metadata_store_id": key,
            "local_block_store": "volume",
            "default_permission": "read-write",
        }
        assert self.api("POST", "/shares", share | more).status_code == 201
        path = f"{_path(name)}/adapters/nfs/config"
        assert self.api("PATCH", path, {"squash": "none"}).status_code == 200

    def enable(self, name: str = "/export", *, enabled: bool = True) -> None:
        """Enable a share, or disable it."""
        word = "enable" if enabled else "disable"
        assert self.api("POST", f"{_path(name)}/{word}").status_code == 200

    def snapshot(self, share: str = "/export", **body: Any) -> str:
        """Make a snapshot and wait for it; its id."""
        answer = self.api("POST", f"{_path(share)}/snapshots", body)
        assert answer.status_code == 202, answer.text
        identifier = answer.json()["snapshot_id"]
        found = self.settled(share, identifier)
        assert found["state"] == "ready", found
        return identifier

    def settled(self, name: str, identifier: str) -> dict[str, Any]:
        """A snapshot as soon as it is not being made any more."""
        while True:
            found = self.api("GET", f"{_path(name)}/snapshots/{identifier}").json()
            if found["state"] in _SETTLED:
                return found
            time.sleep(0.02)

    def restore(self, name: str, identifier: str, **body: Any) -> httpx.Response:
        """Ask for a restore; the answer."""
        body = {"allow_non_durable": True} | body
        return self.api("POST", f"{_path(name)}/snapshots/{identifier}/restore", body)

    def folder(self, name: str = "/export") -> Path:
        """Where the content of a share is."""
        return self.content / "shares" / quote(name[1:], safe="")

    def snapshot_files(self, name: str, identifier: str) -> dict[str, bytes]:
        """What a snapshot has on the content volume."""
        folder = self.folder(name) / "snapshots" / identifier
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _path(name: str) -> str:
    return f"/shares/{quote(name[1:], safe='')}"
