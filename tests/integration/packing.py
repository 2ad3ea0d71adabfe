"""Packs the charms of these tests, without charmcraft's build environments.

A charm's folder has a `charmcraft.yaml`, `src/` and a `requirements.txt`, and charmcraft could
pack it, too; that would take a container and minutes for each. What comes out here has the same
members: Juju's files, `dispatch`, `src/`, `lib/` and the packages in `venv/`. Packages are wheels
for the Python of the charm's base, of the versions that the project has pinned; libraries are
fetched for the build and never kept in the project.
"""

import os
import platform
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHARMS = Path(__file__).parent / "charms"
# A folder with lib/charms/…, or that is lib/charms/… itself, for where charmcraft cannot fetch.
LIBRARIES = "DATA_PLATFORM_LIBS"
# What charmcraft puts into files of their own, and what is none of Juju's business.
_FILES = {"config": "config.yaml", "actions": "actions.yaml"}
_BUILD = {"type", "base", "platforms", "parts", "charm-libs"}
_RENAMED = {"title": "display-name"}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_WHEELS = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
_PYTHON = "3.12"  # of the base
_DISPATCH = """#!/bin/sh
JUJU_DISPATCH_PATH="${JUJU_DISPATCH_PATH:-$0}" PYTHONPATH=src:lib:venv exec python3 src/charm.py
"""
_TIMEOUT = 300
_EXECUTABLE, _PLAIN = 0o755, 0o644
_LONGEST = 300


class PackingError(Exception):
    """A charm cannot be packed on this machine; the text says what is missing."""


def pack(folder: Path, target: Path, extra: Mapping[str, Path] | None = None) -> Path:
    """Pack the charm of a folder.

    Args:
        folder: with the charm.
        target: a folder for the packed charm.
        extra: files of the project that the charm needs, by their place in the charm.

    Returns:
        The packed charm.

    Raises:
        PackingError: something that is needed is not there.
    """
    project = read_project(folder)
    with tempfile.TemporaryDirectory() as name:
        build = Path(name)
        shutil.copytree(
            folder / "src", build / "src", ignore=shutil.ignore_patterns("__pycache__")
        )
        _write_juju_files(project, build)
        _fetch_libraries(folder, project, build)
        for place, source in (extra or {}).items():
            copy = build / place
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        _install(folder / "requirements.txt", build / "venv")
        packed = target / f"{project['name']}.charm"
        _compress(build, packed)
    return packed


def read_project(folder: Path) -> dict[str, Any]:
    """The `charmcraft.yaml` of a folder."""
    return yaml.safe_load((folder / "charmcraft.yaml").read_text(encoding="utf-8"))


def _write_juju_files(project: Mapping[str, Any], build: Path) -> None:
    """What Juju reads: metadata, options and actions, the base, and how an event is run."""
    metadata = {
        _RENAMED.get(key, key): value
        for key, value in project.items()
        if key not in _BUILD | _FILES.keys()
    }
    _write_yaml(build / "metadata.yaml", metadata)
    for key, name in _FILES.items():
        if key in project:
            _write_yaml(build / name, project[key])
    system, _, channel = project["base"].partition("@")
    base = {"name": system, "channel": channel, "architectures": [architecture()]}
    _write_yaml(build / "manifest.yaml", {"bases": [base]})
    dispatch = build / "dispatch"
    dispatch.write_text(_DISPATCH, encoding="utf-8")
    dispatch.chmod(_EXECUTABLE)


def architecture() -> str:
    """This machine's architecture as Juju calls it; the cluster is taken to have the same.

    Raises:
        PackingError: it is one that nobody knows here.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise PackingError(f"it is not known which wheels fit a {machine}")
    return _ARCHITECTURES[machine]


def _write_yaml(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _fetch_libraries(folder: Path, project: Mapping[str, Any], build: Path) -> None:
    """Put the libraries into the charm that its `charm-libs` names."""
    wanted = [_library(each) for each in project.get("charm-libs", [])]
    if not wanted:
        return
    given = os.environ.get(LIBRARIES)
    source = Path(given) if given else _fetched(folder, build / "fetched")
    for library in wanted:
        places = [source / library, source / Path(*library.parts[2:])]
        found = next((each for each in places if each.is_file()), None)
        if found is None:
            raise PackingError(f"{source} has no {library}; see ${LIBRARIES} in CONTRIBUTING.md")
        copy = build / library
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, copy)
    shutil.rmtree(build / "fetched", ignore_errors=True)


def _library(named: Mapping[str, str]) -> Path:
    """The place of a library in a charm."""
    charm, _, name = named["lib"].partition(".")
    major = named["version"].partition(".")[0]
    return Path("lib", "charms", charm.replace("-", "_"), f"v{major}", f"{name}.py")


def _fetched(folder: Path, copy: Path) -> Path:
    """A copy of the charm's folder into which charmcraft has fetched the libraries."""
    known = [
        ROOT / ".cache" / each / "bin/charmcraft" for each in ("charmcraft-system", "charmcraft")
    ]
    program = shutil.which("charmcraft") or next(
        (str(each) for each in known if each.exists()), None
    )
    if program is None:
        raise PackingError(
            f"there is no charmcraft to fetch the libraries: install it, or set ${LIBRARIES}"
        )
    shutil.copytree(folder, copy)
    _run([program, "fetch-libs"], f"charmcraft fetches no libraries, set ${LIBRARIES}", cwd=copy)
    return copy


def _install(requirements: Path, target: Path) -> None:
    """Install the packages; those that the charm itself has, too, in its versions."""
    uv = shutil.which("uv") or str(ROOT / ".cache/tools/bin/uv")
    if not Path(uv).exists():
        raise PackingError("there is no uv to install packages with: make setup")
    command = [
        *(uv, "pip", "install", "--quiet", "--target", str(target)),
        *("--python-version", _PYTHON, "--python-platform", _WHEELS[architecture()]),
        *("--only-binary", ":all:", "--constraints", str(ROOT / "requirements.txt")),
        *("--requirements", str(requirements)),
    ]
    _run(command, "the packages of a charm could not be installed", cwd=ROOT)
    # What keeps a second uv out.
    (target / ".lock").unlink(missing_ok=True)


def _run(command: list[str], problem: str, cwd: Path) -> None:
    try:
        subprocess.run(
            command, cwd=cwd, check=True, capture_output=True, text=True, timeout=_TIMEOUT
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise PackingError(f"{problem}: {said[-_LONGEST:]}") from error


def _compress(build: Path, packed: Path) -> None:
    """Write the charm: who may execute a file has to survive it."""
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(build.rglob("*")):
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            info = zipfile.ZipInfo(path.relative_to(build).as_posix())
            info.compress_type = zipfile.ZIP_DEFLATED
            executable = path.stat().st_mode & 0o111
            info.external_attr = (0o100000 | (_EXECUTABLE if executable else _PLAIN)) << 16
            archive.writestr(info, path.read_bytes())
