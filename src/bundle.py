"""What the charm puts into the agent container: the agent's program and the packages it uses.

The packages are those of the charm's own environment, so both are pinned in one place.
"""

import contextlib
import functools
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tarfile
    from importlib import metadata

PROGRAM = Path(__file__).parent / "agent"
PACKAGES = (
    "PyMySQL",
    "cryptography",
    "google-crc32c",
    "zstandard",
    "cronsim",
    "certifi",
)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_CACHE = "__pycache__"
_METADATA = ".dist-info"


@functools.cache
def digest() -> str:
    """A digest that differs where the bundle differs.

    Cheap, because every event asks for it: the packages are not read, and the names of the folders
    that say which are installed, in which version, do without what reads them.
    """
    found = hashlib.sha256()
    for path in _program():
        found.update(f"{path.relative_to(PROGRAM)}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    found.update("\0".join(sorted(_installed())).encode())
    return found.hexdigest()


def pack() -> bytes:
    """All files as one tar archive: a folder to put into Python's path."""
    import tarfile  # noqa: PLC0415  # most events pack nothing

    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path in _program():
            _add(archive, path, f"{PROGRAM.name}/{path.relative_to(PROGRAM)}")
        for package in _packages():
            for file in package.files or ():
                # Scripts are outside the folder, and of no use.
                if ".." not in file.parts and _CACHE not in file.parts:
                    _add(archive, Path(str(package.locate_file(file))), str(file))
    return target.getvalue()


def _program() -> list[Path]:
    return sorted(PROGRAM.rglob("*.py"))


def _installed() -> Iterator[str]:
    for place in sys.path:
        with contextlib.suppress(OSError):
            yield from (each.name for each in Path(place).iterdir() if each.suffix == _METADATA)


def _packages() -> "Iterator[metadata.Distribution]":
    """The packages with those they need; what is not installed is not needed on this platform."""
    from importlib import metadata  # noqa: PLC0415  # most units have no agent

    seen: set[str] = set()
    names: list[str] = list(PACKAGES)
    while names:
        name = names.pop(0)
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in PACKAGES:
                raise
            continue
        yield package
        for requirement in package.requires or ():
            needed, _, marker = requirement.partition(";")
            found = _NAME.match(needed.strip())
            if found and "extra" not in marker:
                names.append(found[0])


def _add(archive: "tarfile.TarFile", path: Path, name: str) -> None:
    """Add a file without what differs from machine to machine."""
    content = path.read_bytes()
    info = archive.tarinfo(name)
    info.size = len(content)
    info.mode = 0o644
    archive.addfile(info, io.BytesIO(content))
