"""The agent's program as the charm sees it: a service that writes status.json, and commands.

What it does is tested with the real program elsewhere; here it does in an instant what it was told
to, so that the charm can be tested at every moment.
"""

import functools
import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

from ops import testing

import bundle
from sidecar import PYTHON
from tests.unit.archives import Archive

RUN = "tmp/dittofs-agent"
KEY = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="


class Guard:
    """The service that guards the volumes; what it does to quotas is tested with the real one.

    Attributes:
        starts: how often it was started.
        broken: it ends at once.
    """

    def __init__(self, run: Path):
        self._run = run
        self.starts = 0
        self.broken = False

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        return json.loads((self._run / "guard.json").read_text())

    def start(self, command: str) -> None:
        """What Pebble does with the service's command."""
        assert shlex.split(command) == [
            *(*PYTHON, "-m", "agent", "guard", "--config"),
            f"/{RUN}/guard.json",
        ]
        assert (self._run / "guard.json").stat().st_mode & 0o777 == 0o600
        self.starts += 1
        if not self.broken:
            self.say()

    def say(self, **fields: Any) -> None:
        """Write guard-status.json."""
        now = time.time()
        status = {
            "updated": now,
            "short": [],
            "full": False,
            "halted": [],
            "since": now - 60,
            "free": {"content": 2**30, "metadata": 2**30},
            "error": "",
            "error-since": None,
            "counting-since": None,
            "shares": {
                name: {"quota": share["quota"], "removed": 0, "limit": share["quota"], "used": 0}
                for name, share in self.config["shares"].items()
            },
        }
        (self._run / "guard-status.json").write_text(json.dumps(status | fields))


class Agent:
    """The agent of one pod; `volume` is the metadata volume, `run` the program's folder.

    Its other services, and the commands that belong to them, are in `archive` and `guard`.

    Attributes:
        commands: what the service was started with, each time.
        status: fields of status.json that differ from those of an agent that has caught up.
        copy: what it recovers, the folder of a metadata volume; None: it fails.
    """

    def __init__(self, run: Path, volume: Path):
        self.run, self.volume = run, volume
        self.commands: list[list[str]] = []
        self.status: dict[str, Any] = {}
        self.copy: Path | None = None
        self.failure = "the key is not the right one"
        self.failure_kind = "recovery"
        self.answers: dict[str, tuple[int, str]] = {}
        self.unpack: tuple[int, str] = (0, "")
        self.program = True
        self.archive = Archive(run, volume.parent)
        self.guard = Guard(run)
        run.mkdir(parents=True, exist_ok=True)
        self.new_container()

    def new_container(self) -> None:
        """Nothing of the old one is left.

        The program is there, as if it had been pushed: that takes longer than all else in a test.
        """
        for path in self.run.iterdir():
            path.unlink()
        self.archive.stop()
        if self.program:
            (self.run / "lib.digest").write_text(_digest())

    def bare(self) -> None:
        """The program is not there, neither in this container nor in the next."""
        self.program = False
        (self.run / "lib.digest").unlink(missing_ok=True)

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        return json.loads((self.run / "config.json").read_text())

    def start(self, command: str) -> None:
        """What Pebble does with the service's command."""
        words = shlex.split(command)[len(PYTHON) - 1 :]
        assert words[:3] == ["agent", "-m", "agent"]
        assert words[-2:] == ["--config", f"/{RUN}/config.json"]
        assert (self.run / "config.json").stat().st_mode & 0o777 == 0o600
        self.commands.append(words[3:-2])
        if words[3] == "recover":
            self.recover()
        else:
            self.say()

    def recover(self) -> None:
        """Bring the volume back, or fail."""
        if self.copy is None:
            self.say(state="failed", kind=self.failure_kind, message=self.failure)
            return
        for name in ("stores", "controlplane.db"):
            source = self.copy / name
            if source.is_dir():
                shutil.copytree(source, self.volume / name)
            elif source.exists():
                shutil.copy(source, self.volume / name)
        self.say(state="recovered", message="recovered")

    def say(self, **fields: Any) -> None:
        """Write status.json."""
        now = time.time()
        status = {
            "state": "mirroring",
            "kind": "",
            "message": "",
            "since": now - 60,
            "updated": now,
            "lag": 0.0,
            "behind-bytes": 0,
            "behind-transactions": 0,
            "mysql": {"version": "MySQL 8.0.41", "endpoint": "10.1.0.7:3306"},
            "mirror": None,
            "progress": None,
            "stores": [
                {"name": "export", "state": "mirroring", "rows": 7, "lag": 0.0, "message": ""}
            ],
            "control-plane": {"copied": now},
            "verified": None,
        }
        (self.run / "status.json").write_text(json.dumps(status | self.status | fields))

    def execs(self) -> set[testing.Exec]:
        """What the commands print; the program is "unpacked" by one of them."""
        code, output = self.unpack
        made = {testing.Exec([*PYTHON, "-c"], return_code=code, stdout=output)}
        for command, (code, output) in self.answers.items():
            prefix = [*PYTHON, "-m", "agent", command]
            made.add(testing.Exec(prefix, return_code=code, stdout=output))
        return made

    def hold(self, mirror: dict[str, Any] | None) -> None:
        """What `inspect` says of the database."""
        self.answers["inspect"] = (0, json.dumps({"mirror": mirror, "stores": {}, "error": None}))

    def refuse(self, kind: str, text: str) -> None:
        """The database cannot be asked."""
        error = {"kind": kind, "text": text}
        self.answers["inspect"] = (1, json.dumps({"mirror": None, "stores": {}, "error": error}))


@functools.cache
def _digest() -> str:
    return bundle.digest()


def row(marker: dict[str, Any], /, **fields: Any) -> dict[str, Any]:
    """A mirror in the database, as `inspect` prints it: the one of a marked volume."""
    return {
        "instance": marker["instance"],
        "generation": marker["generation"],
        "application": marker["application"],
        "model": "files",
        "model_uuid": marker["model_uuid"],
        "marker": json.dumps(marker),
        "epoch": 3,
        "updated": time.time() - 7200,
    } | fields


# Databags of providers, as they are on a real controller; the secrets are shortened.
USER = testing.Secret(
    {
        "username": "relation-12_8f2ae4",
        "password": "gmS2pVvYbLrk8F3qXw0ZtJ9d",
        "uris": "mysql://relation-12_8f2ae4:gmS2pVvYbLrk8F3qXw0ZtJ9d@mysql-k8s-primary:3306/dittofs",
    },
    id=f"secret:{'mysqluser':a<20}",
)
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
TLS = testing.Secret({"tls": "True", "tls-ca": CA}, id=f"secret:{'mysqltls':a<20}")
REQUEST = (
    '{"database": "dittofs", "requested-secrets": "[\\"password\\", \\"tls\\", \\"tls-ca\\", '
    '\\"uris\\", \\"username\\"]"}'
)
MYSQL_K8S = {
    "data": REQUEST,
    "database": "dittofs",
    "endpoints": "mysql-k8s-primary.files.svc.cluster.local:3306",
    "read-only-endpoints": "mysql-k8s-replicas.files.svc.cluster.local:3306",
    "secret-tls": str(TLS.id),
    "secret-user": str(USER.id),
    "version": "8.0.41-0ubuntu0.22.04.1",
}
ROUTER_K8S = {
    "data": REQUEST,
    "database": "dittofs",
    "endpoints": "mysql-router-k8s-service.files.svc.cluster.local:6446",
    "read-only-endpoints": "mysql-router-k8s-service.files.svc.cluster.local:6447",
    "secret-user": str(USER.id),
}
# What the provider side of dpcharmlibs-interfaces 1.2.2 (v1) makes of our request; the request in
# `data` is in its own words.
OF_V1 = {
    "data": (
        '{"resource": "dittofs", "salt": "BbO3YWa2eBrHp0KN", "requested-secrets": '
        '["password", "tls", "tls-ca", "uris", "username"]}'
    ),
    "database": "dittofs",
    "endpoints": "10.0.0.9:3306",
    "read-only-endpoints": "10.0.0.10:3306",
    "resource": "dittofs",
    "salt": "BbO3YWa2eBrHp0KN",
    "secret-tls": str(TLS.id),
    "secret-user": str(USER.id),
    "version": "8.0.41",
}
PLAIN = {
    "endpoints": "10.1.44.20:3306,10.1.44.21:3306",
    "username": "dittofs",
    "password": "a plain password of 1",
    "version": "10.11.6-MariaDB",
}


def relation(databag: dict[str, str] | None = None, **fields: Any) -> testing.Relation:
    """The relation with a provider."""
    given = {"remote_app_name": "mysql-k8s", "remote_units_data": {0: {}}} | fields
    return testing.Relation("mysql", remote_app_data=databag or {}, **given)
