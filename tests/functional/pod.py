"""A pod: containers as mount namespaces in which Pebble runs, and volumes that outlive them.

A container has the paths of the real one (`/app/dfs`, `/config`, `/data`), the image's user 65532,
and nothing of the machine but `/usr` and Python, read-only. The network is the namespace of the
tests. A volume is a file system of its own, so it can be full.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import ops
from ops import pebble

from tests import namespaces, servers
from units import GIB, MIB

UID = 65532
# What Juju gives where nobody asks for more. Memory is used for what is written only.
VOLUME_SIZES = {"metadata": 2 * GIB, "content": 16 * GIB}
_START_TIMEOUT = 20.0


class Volume:
    """A file system of `size` bytes, mounted at `path`, that can be lost, filled and protected."""

    def __init__(self, path: Path, size: int):
        self.path = path
        path.mkdir(parents=True)
        namespaces.mount_tmpfs(path, size)

    def lose(self) -> None:
        """Everything on it is gone; the pod must be down."""
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def fill(self) -> Path:
        """Use up all space by one file; remove it to free the space again."""
        filler = self.path / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * MIB)
                file.flush()
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
        _write_python(root / "bin" / "python3")
        self.client = ops.pebble.Client(str(root / "pebble" / ".pebble.socket"))

    @property
    def log(self) -> str:
        """What the daemon and its services printed."""
        return (self.root / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with (self.root / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
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
        # The namespace's first process takes all others with it.
        for child in _children(self.daemon.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def server_ids(self) -> list[int]:
        """The process ids, as seen from outside, of the servers in the container."""
        return list(_servers(self.daemon.pid)) if self.daemon else []

    def ids_of(self, word: bytes) -> list[int]:
        """The process ids, as seen from outside, of processes with this word in their command."""
        return list(_processes(self.daemon.pid, word)) if self.daemon else []

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
            "--setenv", "HOME", "/app",
            "--chdir", "/app",
        ]
        # fmt: on
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
        for name in ("dittofs", "agent"):
            place = self.root / f"life-{self.lives}" / name
            self.containers[name] = Container(place, self.volumes, self.server)
            self.containers[name].start()

    def lose(self) -> None:
        """The node died: all processes are gone at once, the volumes stay."""
        for container in self.containers.values():
            container.stop()

    def close(self) -> None:
        """It is used no more."""
        self.lose()
        for volume in self.volumes.values():
            volume.unmount()


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
            if words[0] == b"/app/dfs" or b"tests.standin" in words:
                yield child
        yield from _servers(child)


def _processes(pid: int, word: bytes) -> Iterator[int]:
    for child in _children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if word in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                yield child
        yield from _processes(child, word)


def _write_wget(path: Path) -> None:
    """The image's wget, with what the container's check uses of it."""
    path.write_text(
        f"#!{sys.executable}\n"
        "import sys, urllib.request\n"
        "try:\n"
        "    urllib.request.urlopen(sys.argv[-1], timeout=5).read()\n"
        "except OSError:\n"
        "    sys.exit(4)\n"
    )
    path.chmod(0o755)


def _write_python(path: Path) -> None:
    """The image's python3: this one, without the packages of the tests."""
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    path.write_text(f'#!/bin/sh\nexec {base} -s "$@"\n')
    path.chmod(0o755)
