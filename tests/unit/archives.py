"""The agent's program of backups as the charm sees it: a service that reports, and commands.

What it does is tested with the real program elsewhere. Here a backup is a copy of the control
plane and of the content, made in an instant; a test says where something else is to happen.
"""

import io
import json
import shlex
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ops import pebble, testing

from sidecar import PYTHON

RUN = "tmp/dittofs-agent"
STATUS, CONFIG, COMMAND = "backup-status.json", "backup.json", "backup-command.json"
OPERATION, MARKER = ".dittofs-operation.json", ".dittofs-charm.json"
KEPT = {"lost+found", ".restoring", "deleted-stores", ".recovering"}
RUNNING = "running"

Failure = tuple[str, str]
Row = dict[str, Any]


class Bucket:
    """What is in S3: rows of the list, and the files of each backup, by place and id."""

    def __init__(self) -> None:
        self.backups: dict[tuple[str, str], tuple[Row, Path]] = {}
        self.problem: Failure | None = None

    def rows(self, home: str | None) -> list[Row]:
        """Those of a place, or all."""
        return [row for (each, _), (row, _) in self.backups.items() if home in {None, each}]


class Archive:
    """The program in one pod; `run` is its folder, `volumes` the folder with both volumes.

    Attributes:
        starts: the settings that the service was started with, each time.
        commands: the words of each command that was run.
        script: by step or command what happens instead: `RUNNING`, a kind and a text of an error,
            or a function.
        said: fields of the status beside what is under way.
    """

    def __init__(self, run: Path, volumes: Path):
        self._run, self._volumes = run, volumes
        self.bucket = Bucket()
        self.starts: list[dict[str, Any]] = []
        self.commands: list[list[str]] = []
        self.script: dict[str, Any] = {}
        self.said: dict[str, Any] = {}
        self.running = False
        self._settings = CONFIG

    @property
    def config(self) -> dict[str, Any]:
        """The settings."""
        return json.loads((self._run / self._settings).read_text())

    @property
    def operation(self) -> dict[str, Any] | None:
        """What the charm wants to be done."""
        path = self._volumes / "metadata" / OPERATION
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def status(self) -> dict[str, Any]:
        """What it said last; kept on the volume, too."""
        for path in (self._run / STATUS, self._memory):
            if path.exists():
                return json.loads(path.read_text())
        return {"operation": None, "last-success": None, "last-failure": None}

    @property
    def _memory(self) -> Path:
        return self._volumes / "metadata" / ".dittofs-backup" / "status.json"

    def start(self, command: str) -> None:
        """What Pebble does with the service's command."""
        words = [*PYTHON, "-m", "agent", "backup", "--config", f"/{RUN}/{CONFIG}"]
        assert shlex.split(command) == words
        assert (self._run / CONFIG).stat().st_mode & 0o777 == 0o600
        self.starts.append(self.config)
        self.running = True
        self.say()
        self.poll()

    def stop(self) -> None:
        """What Pebble does when the service shall stop."""
        self.running = False

    def say(self, **fields: Any) -> None:
        """Write the status."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        about = {"due": False, "overdue": False, "next": None}
        status = about | self.status | self.said | {"updated": time.time()} | named
        (self._run / STATUS).write_text(json.dumps(status))
        if (self._volumes / "metadata").is_dir():
            self._memory.parent.mkdir(exist_ok=True)
            self._memory.write_text(json.dumps(status))

    def poll(self) -> None:
        """Do what the operation file says, where that is not done yet."""
        asked = self.operation
        if not self.running or asked is None:
            return
        work = {
            "create": self._create,
            "verify": self._verify,
            "delete": self._delete,
            "fetch": self._fetch,
            "settle": self._settle,
            "finish": self._finish,
        }.get(asked["step"])
        said = self.status["operation"]
        done = said and (said["id"], said["step"]) == (asked["id"], asked["step"])
        if work is None or (done and said["state"] != "running"):
            return
        self._do(asked, self.script.get(asked["step"], work))

    def _do(self, asked: dict[str, Any], work: Any) -> None:
        if work == RUNNING:
            self._report(asked, "running", "uploading", done=3 * 2**20, total=4 * 2**20)
        elif isinstance(work, tuple):
            kind, text = work
            self._report(asked, "failed", text, kind=kind)
            if asked["kind"] == "create":
                failure = {"at": time.time(), "kind": kind, "text": text}
                self.say(last_failure=failure, due=False)
        else:
            result = work(asked)
            self._report(asked, "done", "done", result=result)
            if asked["kind"] == "create":
                names = ("size", "uploaded", "duration")
                about = {name: result[name] for name in names}
                success = {"id": result["backup-id"], "at": time.time(), **about}
                self.say(last_success=success, due=False)

    def _report(self, asked: dict[str, Any], state: str, message: str, **more: Any) -> None:
        operation = {
            "id": asked["id"],
            "kind": asked["kind"],
            "step": asked["step"],
            "state": state,
            "message": message,
            "error-kind": more.get("kind", ""),
            "began": time.time(),
            "updated": time.time(),
            "bytes-done": more.get("done", 0),
            "bytes-total": more.get("total", 0),
            "attempts": 1,
            "result": more.get("result", {}),
        }
        self.say(operation=operation)

    def command(self, words: list[str]) -> tuple[int, str]:
        """Run a command; its exit code and what it prints."""
        assert words[-2:] == ["--config", f"/{RUN}/{COMMAND}"]
        self.commands.append(words[:-2])
        self._settings = COMMAND
        try:
            return self._command(words)
        finally:
            self._settings = CONFIG

    def _command(self, words: list[str]) -> tuple[int, str]:
        name = words[0]
        scripted = self.script.get(name)
        if isinstance(scripted, tuple):
            code, output = scripted
            return (code, output) if isinstance(code, int) else _failed(scripted)
        work: dict[str, Callable[[], tuple[int, str]]] = {
            "backup-list": lambda: self._list(everywhere="--all" in words),
            "backup-swap": self._swap,
            "backup-rollback": self._rollback,
            "backup-discard": self._discard,
        }
        return (scripted or work[name])()

    @property
    def _home(self) -> str:
        return f"{self.config['model_uuid']}/{self.config['application']}"

    def _list(self, *, everywhere: bool) -> tuple[int, str]:
        if self.bucket.problem:
            return _failed(self.bucket.problem)
        mine = (self._home, self.config["instance"])
        rows = [
            {**row, "own": (row["from"], row["instance"]) == mine}
            for row in self.bucket.rows(None if everywhere else self._home)
        ]
        return 0, f"a line of a log\n{json.dumps({'backups': rows, 'error': None})}\n"

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        number = len(self.bucket.backups)
        folder = self._volumes.parent / f"bucket-{self._volumes.name}-{number}"
        folder.mkdir(parents=True)
        with (
            closing(sqlite3.connect(self._volumes / "metadata" / "controlplane.db")) as present,
            closing(sqlite3.connect(folder / "controlplane.db")) as copy,
        ):
            present.backup(copy)
        for path in _data(self._volumes / "content"):
            shutil.copytree(path, folder / "content" / path.name)
        row = {
            "id": asked["id"],
            "time": time.time(),
            "application": self.config["application"],
            "model": self.config["model"],
            "model-uuid": self.config["model_uuid"],
            "from": self._home,
            "instance": self.config["instance"],
            "size": 3 * 2**20,
            "uploaded": 2**20,
            "duration": 1.5,
            "files": 7,
            "shares": ["/export"],
            "server": "v0.29.0",
            "charm": self.config["charm_version"],
            "encrypted": self.config["encrypt"],
            "complete": True,
            "problem": None,
        }
        self.bucket.backups[self._home, asked["id"]] = (row, folder)
        return {
            "backup-id": asked["id"],
            "size": row["size"],
            "uploaded": row["uploaded"],
            "duration": row["duration"],
            "shares": row["shares"],
            "skipped": ["/scratch"],
            "deleted": [],
            "problem": "",
        }

    def _verify(self, asked: dict[str, Any]) -> dict[str, Any]:
        backup_id = asked["params"]["backup-id"]
        return {"backup-id": backup_id, "checked-objects": 9, "size": 3 * 2**20, "problems": []}

    def _delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        del self.bucket.backups[self._home, asked["params"]["backup-id"]]
        return {"deleted-objects": 4, "freed": 2**20}

    def _fetch(self, asked: dict[str, Any]) -> dict[str, Any]:
        params = asked["params"]
        home = params["from"] or self._home
        _, folder = self.bucket.backups[home, params["backup-id"]]
        metadata, content = (self._volumes / name / ".restoring" for name in _VOLUMES)
        for place in (metadata, content):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        shutil.copy(folder / "controlplane.db", metadata)
        with closing(sqlite3.connect(metadata / "controlplane.db")) as copy, copy:
            copy.execute("DELETE FROM users WHERE username = 'admin'")
        if (folder / "content").exists():
            shutil.copytree(folder / "content", content, dirs_exist_ok=True)
        return {"size": 3 * 2**20, "files": 7, "shares": params["shares"] or ["/export"]}

    def _settle(self, asked: dict[str, Any]) -> dict[str, Any]:
        del asked
        return {"shares": [{"name": "/export", "equal": True, "message": "equal to the backup"}]}

    def _finish(self, asked: dict[str, Any]) -> dict[str, Any]:
        del asked
        share = {"name": "/export", "bytes": 2**20, "status": "healthy", "message": ""}
        return {"shares": [share]}

    def _swap(self) -> tuple[int, str]:
        operation = self.operation
        assert operation is not None
        for name in _VOLUMES:
            root = self._volumes / name
            aside = root / f"aside-restore-{operation['id']}"
            if aside.exists():
                continue
            aside.mkdir()
            if (root / MARKER).exists():
                shutil.copy(root / MARKER, aside)
            if operation["params"]["shares"] is None:
                for path in _data(root):
                    path.rename(aside / path.name)
                for path in (root / ".restoring").iterdir():
                    path.rename(root / path.name)
        return 0, '{"error": null}\n'

    def _rollback(self) -> tuple[int, str]:
        operation = self.operation
        assert operation is not None
        for name in _VOLUMES:
            root = self._volumes / name
            aside = root / f"aside-restore-{operation['id']}"
            if not aside.exists():
                continue
            if operation["params"]["shares"] is None:
                for path in _data(root):
                    _remove(path)
            (root / MARKER).unlink(missing_ok=True)
            for path in aside.iterdir():
                path.rename(root / path.name)
            aside.rmdir()
        return 0, '{"error": null}\n'

    def _discard(self) -> tuple[int, str]:
        for name in _VOLUMES:
            for path in (self._volumes / name).iterdir():
                if path.name.startswith("aside-restore-") or path.name == ".restoring":
                    _remove(path)
        return 0, '{"error": null}\n'


class Process:
    """A command as Pebble runs it."""

    def __init__(self, words: list[str], code: int, output: str):
        self._words, self._code, self._output = words, code, output
        self.stdout = io.StringIO(output)

    def wait_output(self) -> tuple[str, str]:
        """What it printed."""
        if self._code:
            raise pebble.ExecError(self._words, self._code, self._output, "a line of a log")
        return self._output, ""


_VOLUMES = ("metadata", "content")


def _data(root: Path) -> list[Path]:
    return [
        path
        for path in sorted(root.iterdir())
        if path.name not in KEPT and not path.name.startswith((".dittofs-", "aside-"))
    ]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _failed(problem: Failure) -> tuple[int, str]:
    kind, text = problem
    return 1, json.dumps({"error": {"kind": kind, "text": text}}) + "\n"


# What charms that offer a bucket write; the secret is that of a provider of v1.
ACCESS, SECRET = "AKIAXEXAMPLE12345678", "wJalrXUtnFEMIxK7MDENGxbPxRfiCYEXAMPLEKEY"
KEYS = testing.Secret({"access-key": ACCESS, "secret-key": SECRET}, id=f"secret:{'s3keys':a<20}")
V1 = {
    "version": "1",
    "bucket": "backups",
    "endpoint": "https://s3.example.com",
    "path": "/files/",
    "region": "",
    "s3-uri-style": "path",
    "storage-class": "",
    "secret-extra": str(KEYS.id),
}
V0 = {
    "data": '{"bucket": "relation-9"}',
    "access-key": ACCESS,
    "secret-key": SECRET,
    "bucket": "backups",
    "endpoint": "http://10.1.2.3:9000",
    "region": "eu-west-1",
    "s3-uri-style": "host",
}


def relation(databag: dict[str, str], **fields: Any) -> testing.Relation:
    """The relation with a provider."""
    given = {"remote_app_name": "s3-integrator", "remote_units_data": {0: {}}} | fields
    return testing.Relation("s3-backup", remote_app_data=databag, **given)
