"""Which server and which Pebble this machine has: the real ones, or the stand-ins."""

import functools
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests import folders

ROOT = Path(__file__).parents[1]
_PULL_TIMEOUT = 60


@dataclass(frozen=True)
class Program:
    """A program to put into a container: where it is, and how it may be called."""

    path: Path
    version: str
    real: bool

    def __str__(self) -> str:
        return f"{self.version} ({'real' if self.real else 'stand-in'})"


@functools.cache
def server() -> Program:
    """The DittoFS server.

    In this order: `$DITTOFS` (a path, or the word `standin`), `dfs` on PATH, the image of
    metadata.yaml where skopeo can pull it, the stand-in.
    """
    chosen = os.environ.get("DITTOFS", "")
    if chosen != "standin":
        path = shutil.which(chosen or "dfs") or _pulled()
        if path:
            said = _output([path, "version"]).splitlines()
            return Program(Path(path), f"DittoFS {said[0].split()[-1]}", real=True)
    return standin()


def standin(**environment: str) -> Program:
    """The stand-in server, as a program; `environment` such as `STANDIN_VERSION="v0.31.1"`."""
    path = _launcher("tests.standin", environment)
    version = environment.get("STANDIN_VERSION", "v0.29.0")
    return Program(path, f"DittoFS stand-in {version}", real=False)


@functools.cache
def pebble() -> Program:
    """Pebble: `$PEBBLE` (a path, or the word `standin`), `pebble` on PATH, or the stand-in.

    Debian has another program of this name, so the one on PATH is asked what it is.
    """
    chosen = os.environ.get("PEBBLE_PROGRAM", "")
    path = None if chosen == "standin" else shutil.which(chosen or "pebble")
    version = _output([path, "version", "--client"]).strip() if path else ""
    if path and version.startswith("v"):
        return Program(Path(path), f"Pebble {version}", real=True)
    return Program(_launcher("tests.functional.supervisor"), "Pebble stand-in", real=False)


def python_binds() -> list[Path]:
    """What a container needs to run the stand-ins: this Python and this project, read-only."""
    found = {Path(sys.base_prefix), Path(sys.prefix), ROOT}
    return sorted(path for path in found if not path.is_relative_to("/usr"))


def _launcher(module: str, environment: Mapping[str, str] | None = None) -> Path:
    """A shell script that runs a module of the tests with this Python."""
    settings = [f"{name}={value}" for name, value in sorted((environment or {}).items())]
    path = folders.of_this_run() / "-".join([module, *settings])
    places = shlex.quote(f"{ROOT}/src:{ROOT}")
    text = (
        "#!/bin/sh\n"
        + "".join(f"export {shlex.quote(setting)}\n" for setting in settings)
        + f"PYTHONPATH={places} PYTHONDONTWRITEBYTECODE=1 "
        f'exec {shlex.quote(sys.executable)} -m {module} "$@"\n'
    )
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def _pulled() -> str | None:
    """The server out of the image that the charm deploys, None where it cannot be had."""
    skopeo = shutil.which("skopeo")
    if not skopeo:
        return None
    metadata = yaml.safe_load((ROOT / "metadata.yaml").read_text(encoding="utf-8"))
    image = metadata["resources"]["dittofs-image"]["upstream-source"]
    target = folders.of_this_run() / "image"
    command = [skopeo, "copy", "--quiet", f"docker://docker.io/{image}", f"dir:{target}"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_PULL_TIMEOUT)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    for blob in target.iterdir():
        if tarfile.is_tarfile(blob):
            with tarfile.open(blob) as layer:
                if "app/dfs" in layer.getnames():
                    layer.extract("app/dfs", target, filter="data")
                    return str(target / "app" / "dfs")
    return None


def _output(command: list[str]) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=10,
        check=False,
    )
    return done.stdout
