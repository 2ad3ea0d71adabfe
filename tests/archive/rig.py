"""A unit without containers: a server on two volumes, and the agent that makes its backups."""

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from tests import bed, servers
from tests.contract.server import Server as Process
from tests.databases import ROOT
from tests.ports import free_port

_TIMEOUT = 120.0
Params = dict[str, Any]


def wait_until(what: Callable[[], Any], seconds: float = _TIMEOUT) -> Any:
    """Return the first true result."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise AssertionError(f"not in {seconds} s: {what}")
        time.sleep(0.02)
    return found


class Server(Process):
    """A server on free ports; more than one can run on a machine.

    The paths of its stores are in its control plane, as `root` makes them: a new instance that is
    to be given the old one's data has to be at the same `root`, see `Unit.lose`.
    """

    def __init__(self, program: servers.Program, root: Path):
        nfs = free_port() if program.real else bed.NFS
        super().__init__(program, root, port=free_port(), metrics=free_port(), nfs=nfs)
        self.new_password()

    def new_password(self) -> None:
        """Another one for the user admin, at the next start that makes that user."""
        self.password = secrets.token_urlsafe(12)
        self.environment["DITTOFS_ADMIN_INITIAL_PASSWORD"] = self.password

    def _move_files(self) -> None:
        """It may have another control plane than at its last start."""
        found = {each["type"]: each for each in self.api("GET", "/adapters").json()}
        if found["smb"]["enabled"]:
            self.api("PUT", "/adapters/smb", {"enabled": False})
        if found["nfs"]["port"] != self._nfs:
            self.api("PUT", "/adapters/nfs", {"enabled": True, "port": self._nfs})

    def settings(self) -> dict[str, str]:
        """How the agent reaches it: the part `api` of its configuration."""
        return {
            "url": self.url,
            "metrics": f"http://localhost:{self.metrics_port}/metrics",
            "user": "admin",
            "password": self.password,
        }


class Unit:
    """A server, its volumes and the agent below `root`; a context manager that ends both.

    Attributes:
        options: fields of the agent's configuration that replace those made here.
        environment: of the agent, beside the present one.
    """

    def __init__(self, program: servers.Program, root: Path, s3: Params | None):
        self.root = root
        self.run = root / "run"
        self.run.mkdir(parents=True)
        self.server = Server(program, root)
        self.key = secrets.token_bytes(32)
        self.options: Params = {"s3": s3}
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._http = free_port()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)
        self.server.__exit__()

    @property
    def log(self) -> str:
        """What the agent printed."""
        path = self.run / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def status(self) -> Params:
        """What the agent says of itself."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.run / "backup-status.json").read_text())
        return {"operation": None}

    def configure(self, **fields: Any) -> Path:
        """Write the agent's configuration as the charm does; `fields` replace parts of it."""
        self.options |= fields
        path = self.run / "backup.json"
        path.touch(mode=0o600)
        settings: Params = {
            "application": "dittofs",
            "model": "files",
            "model_uuid": "uuid-of-files",
            "charm_version": "1.0",
            "instance": "instance-1",
            "api": self.server.settings(),
            "key": base64.b64encode(self.key).decode(),
            "foreign_key": None,
            "encrypt": True,
            "keep": {"count": None, "days": None},
            "schedule": "",
            "log_level": "debug",
        }
        path.write_text(json.dumps(settings | self.options))
        return path

    def start(self) -> None:
        """Start the agent's service."""
        with (self.run / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command("backup"),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the agent's service; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(10)
        self.process = None
        return code

    def call(self, command: str, *arguments: str) -> tuple[int, Params]:
        """Run another command of the agent; its exit code and its answer."""
        done = subprocess.run(
            self._command(command, *arguments),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
        lines = done.stdout.decode().strip().splitlines()
        assert lines, done.stderr.decode()
        return done.returncode, json.loads(lines[-1])

    def ask(self, kind: str, step: str, identifier: str, **params: Any) -> None:
        """Write down what is to be done, as the charm does."""
        path = self.server.metadata / ".dittofs-operation.json"
        operation = {
            "id": identifier,
            "kind": kind,
            "step": step,
            "began": time.time(),
            "params": {name.replace("_", "-"): value for name, value in params.items()},
        }
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(operation))
        temporary.rename(path)

    def forget(self) -> None:
        """Remove what was written down."""
        (self.server.metadata / ".dittofs-operation.json").unlink(missing_ok=True)

    def wait(self, identifier: str, step: str, seconds: float = _TIMEOUT) -> Params:
        """What the agent says of a step when that has ended, well or not."""

        def ended() -> Params | None:
            assert self.process is None or self.process.poll() is None, self.log[-3000:]
            found = self.status["operation"]
            same = found and (found["id"], found["step"]) == (identifier, step)
            return found if same and found["state"] != "running" else None

        try:
            return wait_until(ended, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status}\n{self.log[-3000:]}") from None

    def perform(self, kind: str, identifier: str, *, step: str = "", **params: Any) -> Params:
        """Let the running agent do something, and give what it says of it in the end."""
        self.ask(kind, step or kind, identifier, **params)
        return self.wait(identifier, step or kind)

    def back_up(self, identifier: str) -> Params:
        """Make a backup with this id; its result."""
        said = self.perform("create", identifier)
        self.forget()
        assert said["state"] == "done", (said, self.log[-3000:])
        return said["result"]

    def restore(
        self,
        backup: str,
        identifier: str = "restore-1",
        *,
        shares: list[str] | None = None,
        home: str | None = None,
        at: Mapping[str, Callable[[], None]] = MappingProxyType({}),
    ) -> dict[str, Params]:
        """Play the charm's part of a restore that works; the results by step.

        Args:
            backup: its id.
            identifier: of the restore.
            shares: which ones; None: everything.
            home: where the backup is, if it is somebody else's.
            at: what to do while a step runs, by its name.
        """
        params = {"backup_id": backup, "from": home, "shares": shares}
        results: dict[str, Params] = {}

        def long(step: str) -> None:
            self.ask("restore", step, identifier, **params)
            if step in at:
                at[step]()
            said = self.wait(identifier, step)
            assert said["state"] == "done", (said, self.log[-3000:])
            results[step] = said["result"]

        def short(step: str) -> None:
            self.ask("restore", step, identifier, **params)
            code, said = self.call(f"backup-{step}")
            assert (code, said["error"]) == (0, None), said

        long("fetch")
        self.server.stop()
        short("swap")
        self.server.start()
        long("settle")
        self.server.stop()
        self.server.start()
        long("finish")
        short("discard")
        self.forget()
        return results

    def lose(self) -> None:
        """Lose both volumes and all processes; a new instance may be made at the same place."""
        if self.process is not None:
            self.stop(signal.SIGKILL)
        if self.server.process is not None:
            self.server.kill()
        for volume in (self.server.metadata, self.server.content):
            shutil.rmtree(volume)
            volume.mkdir()
        shutil.rmtree(self.run)
        self.run.mkdir()

    def _command(self, command: str, *arguments: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "agent",
            command,
            "--config",
            str(self.configure()),
            "--root",
            str(self.root),
            "--port",
            str(self._http),
            *arguments,
        ]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": f"{ROOT}/src", **self.environment}
