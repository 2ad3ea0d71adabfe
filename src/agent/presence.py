"""Whether a server is there, as its locks on the volume tell: the containers share no processes.

The kernel lets go of a lock when its process ends, in whatever way.
"""

import fcntl
import os
import struct
from collections.abc import Iterable
from pathlib import Path

# Each connection to a SQLite database in WAL mode keeps this byte of its -shm file locked.
_SQLITE_BYTE = 128
_FLOCK = "hhqqi4x"


def present(stores: Iterable[Path], database: Path) -> bool:
    """Whether a server has one of the stores open, or the control plane.

    No connection of this process to the control plane may be open: the lock that is looked for
    would be lost with the file that is opened here.
    """
    return any(_writes(store) for store in stores) or _connected(database)


def _writes(store: Path) -> bool:
    """Whether Badger has a directory open: it keeps that locked.

    The lock is shared and held for an instant. A server that starts in just that would find it,
    and be started again.
    """
    try:
        directory = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(directory)
    return False


def _connected(database: Path) -> bool:
    """Whether another process has the database open; the lock is only asked for, never taken."""
    try:
        file = os.open(f"{database}-shm", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _SQLITE_BYTE, 1, 0)
        kind, *_ = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    finally:
        os.close(file)
    return kind != fcntl.F_UNLCK
