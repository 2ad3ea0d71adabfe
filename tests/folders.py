"""Temporary folders that are gone when the run is over, also what was mounted in them."""

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import namespaces


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A new folder that is gone afterwards; what was raised inside is what is raised."""
    folder = _make()
    try:
        yield folder
    finally:
        discard(folder)


@functools.cache
def of_this_run() -> Path:
    """The folder of this process, gone when it ends."""
    folder = _make()
    owner = os.getpid()

    def end() -> None:
        # Not where a process that was forked ends.
        if os.getpid() == owner:
            discard(folder)

    atexit.register(end)
    return folder


def discard(folder: Path) -> None:
    """Remove a folder. What is mounted there is let go, also while something still uses it.

    Nothing is raised: the cause of the mess is told, not its last consequence.
    """
    for place in namespaces.mounted_below(folder):
        with contextlib.suppress(namespaces.NamespaceError):
            namespaces.unmount(place)
    shutil.rmtree(folder, ignore_errors=True)


def _make() -> Path:
    # Short: the path of a socket below it is at most 107 bytes long.
    return Path(tempfile.mkdtemp(prefix="dittofs-"))
