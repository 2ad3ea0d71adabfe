"""A pod: containers as mount namespaces in which Pebble runs, and volumes that outlive them.

A container has the paths of the real one (`/app/dfs`, `/config`, `/data`), the image's user 65532,
and nothing of the machine but `/usr` and Python, read-only. The network is the namespace of the
tests. A volume is a file system of its own, so it can be full. In the plain bed a container is a
folder and a volume, too, see `tests/functional/border.py`.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ops import pebble

from tests import bed, namespaces, servers
from tests.functional.border import Client, border
from tests.juju import AGENT, SERVICE
from units import GIB, MIB

UID = 65532
# Enough for several shares and their backups. Memory is used for what is written only.
VOLUME_SIZES = {"metadata": 2 * GIB, "content": 64 * GIB}
_START_TIMEOUT = 20.0
# Kubernetes gives each container such variables for every Service of its namespace, here for
# applications called dittofs-metrics, dittofs-controlplane and python; the rest is an image's.
INJECTED = {
    "DITTOFS_METRICS_SERVICE_HOST": "10.152.183.7",
    "DITTOFS_METRICS_PORT": "tcp://10.152.183.7:65535",
    "DITTOFS_CONTROLPLANE_PORT": "tcp://10.152.183.8:65535",
    "PYTHON_PORT": "tcp://10.152.183.9:65535",
    "PYTHONWARNINGS": "error",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}
# Juju's, which no charm can change: what Kubernetes gives a pod from SIGTERM to SIGKILL.
_GRACE_SECONDS = 30.0


class Volume:
    """A file system of `size` bytes, mounted at `path`, that can be lost, filled and protected.

    Without namespaces it is a folder that can only be lost.
    """

    def __init__(self, path: Path, size: int):
        self.path = path
        self.size = size
        path.mkdir(parents=True)
        if namespaces.entered():
            namespaces.mount_tmpfs(path, size)

    def statvfs(self) -> os.statvfs_result:
        """What a file system of this size would say of a folder that has no limit."""
        block = 4096
        used = sum(_blocks(path) for path in self.path.rglob("*")) * 512 // block
        total = self.size // block
        free = max(total - used, 0)
        return os.statvfs_result((block, block, total, free, free, 0, 0, 0, 0, 255))

    def lose(self) -> None:
        """Everything on it is gone; the pod must be down."""
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def fill(self) -> Path:
        """Use up all space by one file; remove it to free the space again."""
        assert self.path.is_mount(), "that would fill the machine's own disk"
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * MIB)
        return filler

    def protect(self, protected: bool = True) -> None:
        """Make it read-only or writable again; the pod must be down."""
        end = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                namespaces.remount(self.path, read_only=protected)
            except namespaces.NamespaceError:
                # What was killed a moment ago may still have a file open.
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return

    def unmount(self) -> None:
        """It is used no more."""
        if namespaces.entered():
            namespaces.unmount(self.path)


class Container:
    """One container with its Pebble daemon."""

    def __init__(self, root: Path, volumes: dict[str, Volume], server: servers.Program):
        self.root = root
        self.volumes = volumes
        self.server = server
        self.daemon: subprocess.Popen[bytes] | None = None
        for name in ("config", "pebble", "bin", "etc"):
            (root / name).mkdir(parents=True)
        (root / "etc" / "passwd").write_text(f"dittofs:x:{UID}:{UID}::/app:/bin/sh\n")
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
        (root / "etc" / "group").write_text(f"dittofs:x:{UID}:\n")
        _write_wget(root / "bin" / "wget")
        _write_python(root / "bin" / "python3", self._more_of_the_agent())
        self.client = self._client(str(root / "pebble" / ".pebble.socket"))

    @property
    def log(self) -> str:
        """What the daemon and its services printed."""
        return (self.root / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with (self.root / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                self._command(),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + _START_TIMEOUT
        while True:
            with contextlib.suppress(pebble.Error, OSError):
                self.client.get_system_info()
                return
            if time.monotonic() > end or self.daemon.poll() is not None:
                raise RuntimeError(f"Pebble does not start:\n{self.log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill the daemon and everything it started: the pod is gone, without a word."""
        if self.daemon is None:
            return
        self._kill(self.daemon)
        self.daemon = None

    def terminate(self) -> None:
        """Send SIGTERM to the daemon, as Kubernetes does to a container's first process."""
        assert self.daemon is not None
        (namespace,) = _children(self.daemon.pid)
        # What ended in the container may be a child of the namespace's first process as well.
        os.kill(min(_children(namespace)), signal.SIGTERM)

    def ended(self, seconds: float) -> bool:
        """Whether the daemon ends within so many seconds."""
        assert self.daemon is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.daemon.wait(seconds)
            self.daemon = None
        return self.daemon is None

    def server_ids(self) -> list[int]:
        """The process ids, as seen from outside, of the servers in the container."""
        return list(_servers(self.daemon.pid)) if self.daemon else []

    def ids_of(self, word: bytes) -> list[int]:
        """The process ids, as seen from outside, of processes with this word in their command."""
        return list(_processes(self.daemon.pid, word)) if self.daemon else []

    def _client(self, socket: str) -> pebble.Client:
        return pebble.Client(socket)

    def _kill(self, daemon: subprocess.Popen[bytes]) -> None:
        # The namespace's first process takes all others with it.
        _kill(_children(daemon.pid))
        daemon.kill()
        daemon.wait()

    def _more_of_the_agent(self) -> str:
        """Shell that puts more words behind those of the agent's command."""
        return ""

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _command(self) -> list[str]:
        # fmt: off
        command = [
            "bwrap", "--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc",
            "--uid", str(UID), "--gid", str(UID), "--clearenv",
            "--tmpfs", "/", "--ro-bind", "/usr", "/usr",
            "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",  # noqa: S108  # its own
            "--ro-bind", str(self.root / "etc"), "/etc",
            "--bind", str(self.root / "config"), "/config",
            "--bind", str(self.root / "pebble"), "/var/lib/pebble/default",
            "--ro-bind", str(self.root / "bin"), "/opt/bin",
            "--ro-bind", str(servers.pebble().path), "/charm/bin/pebble",
            "--ro-bind", str(self.server.path), "/app/dfs",
            "--setenv", "PATH", "/opt/bin:/usr/local/bin:/usr/bin:/bin",
            "--setenv", "PEBBLE", "/var/lib/pebble/default",
            "--setenv", "PEBBLE_VERBOSE", "1",
            "--setenv", "HOME", "/app",
            "--chdir", "/app",
        ]
        # fmt: on
        for name, value in INJECTED.items():
            command += ["--setenv", name, value]
        for name in ("bin", "sbin", "lib", "lib64"):
            source = Path("/") / name
            if source.is_symlink():
                command += ["--symlink", f"usr/{name}", f"/{name}"]
            elif source.is_dir():
                command += ["--ro-bind", str(source), str(source)]
        for path in servers.python_binds():
            command += ["--ro-bind", str(path), str(path)]
        for name, volume in self.volumes.items():
            command += ["--bind", str(volume.path), f"/data/{name}"]
        return [*command, "--", "/charm/bin/pebble", "run", "--create-dirs"]


def _blocks(path: Path) -> int:
    """The blocks of 512 bytes that a file uses; 0 for one that went meanwhile."""
    try:
        return path.lstat().st_blocks
    except FileNotFoundError:
        return 0


_MARK = "DITTOFS_TEST_CONTAINER"


class Folder(Container):
    """A container of the plain bed: its paths are below the border's `root`."""

    def start(self) -> None:
        """Put its folders where the border has them; what it had in /tmp is gone."""
        shutil.rmtree(self.root / "tmp", ignore_errors=True)
        for name in ("app", "tmp"):
            (self.root / name).mkdir(exist_ok=True)
        for name, volume in self.volumes.items():
            border().link(f"/data/{name}", volume.path)
        if self.root.name == AGENT:
            border().link("/tmp/dittofs-agent", self.root / "tmp")  # noqa: S108  # the container's
        else:
            border().link("/config", self.root / "config")
            border().link("/app/dfs", self.server.path)
        super().start()

    def terminate(self) -> None:
        """Send SIGTERM to the daemon, which is this process's child."""
        assert self.daemon is not None
        self.daemon.terminate()

    def _client(self, socket: str) -> pebble.Client:
        return Client(socket, border())

    def _kill(self, daemon: subprocess.Popen[bytes]) -> None:
        found = [*_processes(daemon.pid)]
        daemon.kill()
        daemon.wait()
        # Also what was started meanwhile, and what has lost its parent.
        while found:
            _kill(found)
            time.sleep(0.01)
            found = _marked(str(self.root))

    def _more_of_the_agent(self) -> str:
        root, ports = border().root, border().ports
        return (
            # The agent's environment is its own, and this is of the bed.
            f"export TMPDIR={shlex.quote(str(self.root / 'tmp'))}"
            f" {_MARK}={shlex.quote(str(self.root))}\n"
            'case "$1 $2 $3" in\n'
            f'"-m agent backup") set -- "$@" --root {root} --port {ports[bed.BACKUP]} ;;\n'
            f'"-m agent "*) set -- "$@" --root {root} --port {ports[bed.MIRROR]} ;;\n'
            "esac\n"
        )

    def _environment(self) -> dict[str, str]:
        return {
            **INJECTED,
            "PATH": f"{self.root}/bin:/usr/local/bin:/usr/bin:/bin",
            "PEBBLE": f"{self.root}/pebble",
            "HOME": f"{self.root}/app",
            "TMPDIR": str(self.root / "tmp"),
            _MARK: str(self.root),
        }

    def _command(self) -> list[str]:
        command = [str(servers.pebble().path), "run", "--create-dirs"]
        # The end of the tests ends it in good order.
        dies = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        return [*dies, *command]


class Pod:
    """The containers of one unit on its volumes; `sizes` in bytes for those of another size."""

    def __init__(
        self,
        root: Path,
        server: servers.Program | None = None,
        sizes: Mapping[str, int] | None = None,
    ):
        self.root = root
        self.server = server or servers.server()
        self.volumes = {
            name: Volume(root / name, size)
            for name, size in {**VOLUME_SIZES, **(sizes or {})}.items()
        }
        self.containers: dict[str, Container] = {}
        self.lives = 0

    def start(self) -> None:
        """A new pod on the volumes: containers as the image has them."""
        self.lives += 1
        kind = Container if bed.bed().contained else Folder
        for name in (SERVICE, AGENT):
            place = self.root / f"life-{self.lives}" / name
            self.containers[name] = kind(place, self.volumes, self.server)
            self.containers[name].start()

    def end(self) -> list[str]:
        """Kubernetes ends the pod: all containers at once; the names of those it had to kill."""
        until = time.monotonic() + _GRACE_SECONDS
        for container in self.containers.values():
            container.terminate()
        killed = [
            name
            for name, container in self.containers.items()
            if not container.ended(max(until - time.monotonic(), 0.01))
        ]
        self.lose()
        return killed

    def lose(self) -> None:
        """The node died: all processes are gone at once, the volumes stay."""
        for container in self.containers.values():
            container.stop()

    def close(self) -> None:
        """It is used no more."""
        self.lose()
        for volume in self.volumes.values():
            volume.unmount()


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> list[int]:
    """The processes that a container of the plain bed has started."""
    wanted = f"{_MARK}={mark}".encode()
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    # Each thread has children of its own.
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in path.read_text().split()]
    return found


def _servers(pid: int) -> Iterator[int]:
    for child in _children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"/app/dfs") or b"tests.standin" in words:
                yield child
        yield from _servers(child)


def _processes(pid: int, word: bytes | None = None) -> Iterator[int]:
    for child in _children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if word is None or word in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                yield child
        yield from _processes(child, word)


def _write_wget(path: Path) -> None:
    """The image's wget, with what the container's check uses of it."""
    script = (
        "import sys, urllib.request\n"
        "try:\n"
        "    urllib.request.urlopen(sys.argv[-1], timeout=5).read()\n"
        "except OSError:\n"
        "    sys.exit(4)\n"
    )
    # The kernel takes no path with a space in the first line of a script.
    path.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{script}' \"$@\"\n")
    path.chmod(0o755)


def _write_python(path: Path, more: str) -> None:
    """The image's python3: this one, without the packages of the tests."""
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    path.write_text(f'#!/bin/sh\n{more}exec {shlex.quote(str(base))} -s "$@"\n')
    path.chmod(0o755)
