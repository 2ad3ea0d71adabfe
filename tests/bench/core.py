"""The charm's own figures: what a hook costs, and how long a first start takes.

CPU is what the process itself used, without the hook tools it calls: those are Juju's.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests import servers
from tests.bench.rows import Row, say
from tests.contract.server import Server
from tests.functional.files import ClientError, Files
from tests.functional.pod import Pod
from tests.functional.unit import Unit

ROOT = Path(__file__).parents[2]
ROUNDS = 15
_PEER = "peers:1"
_SECRET = "secret:aaaaaaaaaaaaaaaaaaaa"  # an id
# httpx has a command line where there is click, which comes with what only the tests need.
_REPORT = """
import atexit, resource, sys
sys.modules["click"] = None
def report():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open({report!r}, "w") as file:
        file.write(str(usage.ru_utime + usage.ru_stime))
atexit.register(report)
{program}
"""
_BOUND = 2.0


def measure() -> Iterator[Row]:
    """The rows of the table, in its order."""
    say(f"bench: {servers.server()} under {servers.pebble()}, {ROUNDS} rounds, medians")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        cpu = update_status(root / "update-status")
        yield Row(
            "CPU of an `update-status` with nothing to do",
            f"{cpu['charm']:.3f} s, {cpu['ratio']:.2f} x `import ops, pydantic`"
            f" ({cpu['imports']:.3f} s)",
            f"{_BOUND} x",
            cpu["ratio"] <= _BOUND,
        )
        yield Row(
            "calls of the API that change something in it",
            f"{cpu['changes']:.0f}",
            "0",
            not cpu["changes"],
        )
        first = first_write(root / "first-write")
        yield Row(
            "Pebble ready to the first write",
            f"{first['charm']:.2f} s, the server's own boot takes {first['boot']:.2f} s",
            "boot + 1 s",
            first["charm"] <= first["boot"] + 1,
        )


def update_status(root: Path) -> dict[str, float]:
    """CPU seconds of a hook process, of the bare imports, and the calls that changed something."""
    pod = Pod(root)
    try:
        pod.start()
        unit = Unit(pod)
        unit.deploy()
        hook = Hook(root, unit)
        # Once for the byte code, of both.
        hook.run()
        _python("import ops, pydantic", hook.cached)
        before = len(_changing(unit))
        charm, imports = [], []
        for _ in range(ROUNDS):
            charm.append(hook.run())
            imports.append(_python("import ops, pydantic", hook.cached))
        changes = len(_changing(unit)) - before
    finally:
        pod.close()
    ratio = statistics.median(charm) / statistics.median(imports)
    return {
        "charm": statistics.median(charm),
        "imports": statistics.median(imports),
        "ratio": ratio,
        "changes": changes,
    }


def first_write(root: Path) -> dict[str, float]:
    """Seconds from Pebble's readiness to a written file, and of the server's boot alone."""
    boots, charms = [], []
    files = Files(real=servers.server().real)
    for number in range(3):
        place = root / f"boot-{number}"
        place.mkdir(parents=True)
        server = Server(servers.server(), place)
        server.start()
        server.make_share()
        server.stop()
        begin = time.monotonic()
        server.launch()
        boots.append(_until(lambda: files.put("/export", "a", b"x")) - begin)
        server.stop()
        pod = Pod(root / f"charm-{number}")
        try:
            pod.start()
            charms.append(_deployment(Unit(pod), files))
        finally:
            pod.close()
    return {"boot": statistics.median(boots), "charm": statistics.median(charms)}


def _deployment(unit: Unit, files: Files) -> float:
    unit.change(containers=unit.containers(can_connect=False))
    # The leader has made the passwords before; nothing can be started without the volumes.
    unit.change(storages=[])
    unit.run("leader_elected")
    unit.change(storages=unit.storages, containers=unit.containers(can_connect=True))
    written: list[float] = []
    begin = time.monotonic()
    client = threading.Thread(
        target=lambda: written.append(_until(lambda: files.put("/export", "a", b"x")))
    )
    client.start()
    unit.pebble_ready()
    unit.attach()
    client.join()
    return written[0] - begin


def _until(work: Callable[[], None]) -> float:
    """Try until it works; the moment it did."""
    end = time.monotonic() + 60
    while True:
        try:
            work()
        except ClientError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return time.monotonic()


class Hook:
    """`update-status` as a process of its own, in a namespace with hook tools that answer."""

    def __init__(self, root: Path, unit: Unit):
        self._root = root / "hook"
        self._unit = unit
        (self._root / "tools").mkdir(parents=True)
        (self._root / "out").mkdir()
        # ops keeps a file beside the charm.
        for name in ("src", "lib", "templates"):
            shutil.copytree(ROOT / name, self._root / "charm" / name)
        for name in ("metadata.yaml", "config.yaml", "actions.yaml"):
            shutil.copy(ROOT / name, self._root / "charm")
        socket = unit.pod.containers["dittofs"].root / "pebble"
        (socket / "pebble.socket").symlink_to(".pebble.socket")
        tool = self._root / "tools" / "tool"
        tool.write_text(self._tool())
        tool.chmod(0o755)
        for name in _TOOLS:
            (self._root / "tools" / name).symlink_to("tool")

    @property
    def cached(self) -> dict[str, str]:
        """Environment that keeps byte code, as Juju's container does."""
        return {
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(self._root / "cache"),
        }

    def run(self) -> float:
        """Run the hook; its own CPU seconds."""
        pod = self._unit.pod
        # fmt: off
        command = [
            "bwrap", "--die-with-parent", "--tmpfs", "/", "--ro-bind", "/usr", "/usr",
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",  # noqa: S108  # its own
            "--bind", str(pod.containers["dittofs"].root / "pebble"), "/charm/containers/dittofs",
            "--bind", str(pod.containers["agent"].root / "pebble"), "/charm/containers/agent",
            "--ro-bind", str(pod.containers["dittofs"].root / "etc"), "/etc",
            "--bind", str(self._root), str(self._root),
        ]
        # fmt: on
        for name in ("bin", "lib", "lib64"):
            if (Path("/") / name).exists():
                command += ["--symlink", f"usr/{name}", f"/{name}"]
        for path in [*servers.python_binds(), *(each.path for each in pod.volumes.values())]:
            command += ["--ro-bind", str(path), str(path)]
        environment = {
            "PATH": f"{self._root}/tools:/usr/bin:/bin",
            "PYTHONPATH": f"{self._root}/charm/src:{self._root}/charm/lib",
            **self.cached,
            "JUJU_DISPATCH_PATH": "hooks/update-status",
            "JUJU_UNIT_NAME": "dittofs/0",
            "JUJU_MODEL_NAME": "files",
            "JUJU_MODEL_UUID": self._unit.state.model.uuid,
            "JUJU_CHARM_DIR": str(self._root / "charm"),
            "JUJU_VERSION": "3.6.12",
        }
        program = "import ops; from charm import DittofsCharm; ops.main(DittofsCharm)"
        return _python(program, environment, command, self._root / "out" / "cpu")

    def _tool(self) -> str:
        """A shell script that answers as Juju does, from the unit's state."""
        state = self._unit.state
        peers = next(iter(state.get_relations("peers")))
        app = json.dumps(dict(peers.local_app_data))
        own = json.dumps(dict(peers.local_unit_data))
        config = {"log-level": "info", "protocols": "nfs,smb", "memory": "2Gi"}
        config["shares"] = "- name: /export"
        ports = json.dumps(sorted(f"{port.port}/tcp" for port in state.opened_ports))
        cases = [
            ("is-leader*", "true"),
            ("config-get*", json.dumps(config)),
            ("relation-ids*peers*", json.dumps([_PEER])),
            ("relation-ids*", "[]"),
            ("relation-list*--app*", '"dittofs"'),
            ("relation-list*", "[]"),
            ("relation-get*--app*", app),
            ("relation-get*", own),
            *(
                (f"secret-get*{secret.id.rpartition(':')[2]}*", json.dumps(secret.latest_content))
                for secret in state.secrets
            ),
            ("storage-list*metadata*", '["metadata/0"]'),
            ("storage-list*content*", '["content/0"]'),
            *(
                (
                    f"storage-get*{name}*",
                    json.dumps({"kind": "filesystem", "location": str(each.path)}),
                )
                for name, each in self._unit.pod.volumes.items()
            ),
            ("opened-ports*", ports),
        ]
        lines = "\n".join(f"{pattern}) echo '{answer}' ;;" for pattern, answer in cases)
        quoted = lines.replace(" *", "*")
        # What ops would log of a failure is worth seeing.
        quoted += f'\njuju-log*) echo "$*" >> {self._root}/out/log ;;'
        return f'#!/bin/sh\ncase "$(basename "$0") $*" in\n{quoted}\nesac\n'


_TOOLS = (
    "juju-log",
    "is-leader",
    "config-get",
    "relation-ids",
    "relation-list",
    "relation-get",
    "relation-set",
    "secret-get",
    "secret-set",
    "storage-list",
    "storage-get",
    "opened-ports",
    "open-port",
    "close-port",
    "status-set",
    "status-get",
    "application-version-set",
)


def _changing(unit: Unit) -> list[str]:
    """The requests in the server's log that change something; a login does not."""
    return [
        line
        for line in unit.log().splitlines()
        if "API request completed" in line
        and '"method":"GET"' not in line
        and "/auth/login" not in line
    ]


def _python(
    program: str, environment: dict[str, str], prefix: Sequence[str] = (), out: Path | None = None
) -> float:
    """Run a program in a Python of its own; the CPU seconds it used itself."""
    with tempfile.TemporaryDirectory() as directory:
        report = out or Path(directory) / "cpu"
        subprocess.run(
            [*prefix, sys.executable, "-c", _REPORT.format(report=str(report), program=program)],
            env={**os.environ, **environment},
            check=True,
            timeout=60,
        )
        return float(report.read_text())
