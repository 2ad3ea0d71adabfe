"""What the content volume holds, and from where on nothing on it may grow.

The server appends to segments of 256 MiB, 16 of them side by side for each share. It cleans only
full ones, and one only when half of it is dead. So a share that holds L bytes takes up to

    4 GiB + 2 x L

of the volume; while a backup runs no segment is cleaned at all.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from errors import BlockedError
from units import GIB, MIB, format_size

# Segments that are being filled: never cleaned, whatever is in them.
OPEN_SEGMENTS = 4 * GIB
# A full segment is rewritten when half of it is dead.
_FACTOR = 2
# Beside that, all that the shares hold is overwritten once while a backup runs.
_FACTOR_WITH_BACKUPS = 3
# What a share without a quota has to have room for.
_LEAST_SHARE = 512 * MIB
# Of the volume, and at least what is overwritten between two cleanings, in whole GiB: bytes a
# second, for so many seconds.
OVERWRITTEN = 75 * 10**6
_RESERVE, _LEAST_RESERVE = 1 / 20, -(-OVERWRITTEN * 40 // GIB) * GIB
# With backups: more is overwritten while one runs than small shares hold.
_BACKUP_RESERVE = 4 * GIB
# What the server needs to clean: a segment that is half dead, for some shares at a time.
_HALT = 512 * MIB
# From here on the status warns, in percent.
_WARNING = 85
# What gives a volume room again. The server keeps a record of each file that was removed.
REMEDIES = {
    "metadata": "delete shares or enlarge the metadata volume",
    "content": "remove files or enlarge the content volume",
}


class Bounds(NamedTuple):
    """Free bytes of a volume.

    Below `freeze` no file may grow, from `resume` on they may again; below `halt` nothing may be
    written, until there is as much as `freeze`. Below `tight` a backup gives up.
    """

    freeze: int
    resume: int
    halt: int
    tight: int

    @classmethod
    def at(cls, freeze: int, halt: int | None = None, cleaned: int = 0) -> "Bounds":
        """With an edge between, so that it does not go back and forth.

        Args:
            freeze: see above.
            halt: see above; half of `freeze` where it is not given.
            cleaned: what is overwritten until the server has cleaned.
        """
        resume = freeze * 5 // 4
        return cls(freeze, resume, halt or freeze // 2, max(freeze + cleaned, resume))


@dataclass(frozen=True)
class Space:
    """A volume as the server's user finds it; bytes."""

    used: int
    free: int

    @classmethod
    def of(cls, path: Path) -> "Space":
        """Of the file system at `path`; blocks that are kept for root are nobody's."""
        info = os.statvfs(path)
        used = info.f_blocks - info.f_bfree
        return cls(used * info.f_frsize, info.f_bavail * info.f_frsize)

    @property
    def usable(self) -> int:
        """What was free before anything was written."""
        return self.used + self.free

    @property
    def metadata_bounds(self) -> Bounds:
        """Of a metadata volume: Badger needs room for tables that it merges, and maps its logs."""
        return Bounds.at(min(max(self.usable // 10, 256 * MIB), self.usable // 4))


@dataclass(frozen=True)
class Budget:
    """How a content volume is divided among the shares that the options want on it; bytes.

    Attributes:
        usable: what the server's user can use of the volume.
        reserve: what no share gets.
        room: what the files of these shares may hold together.
        needs: for each of them what it takes of the volume with all of its quota, or at least.
        bounds: what the volume has to have free.
        trial: whether the shares do not fit and are served all the same.
        problem: that they do not fit; no share is to be touched then.
    """

    usable: int
    reserve: int
    room: int
    needs: Mapping[str, int]
    bounds: Bounds
    trial: bool = False
    problem: BlockedError | None = None


def divide(
    space: Space,
    quotas: Mapping[str, int],
    others: Sequence[int] = (),
    *,
    backups: bool = False,
    small: bool = False,
) -> Budget:
    """Divide a content volume.

    Args:
        space: the volume.
        quotas: of the shares that the options want on it, by name; 0 for none.
        others: what each further share holds that is on the volume, or more.
        backups: whether backups are made.
        small: whether the shares are to be served also where they do not fit.
    """
    factor = _FACTOR_WITH_BACKUPS if backups else _FACTOR
    for_backups = _BACKUP_RESERVE if backups else 0
    reserve = max(int(space.usable * _RESERVE), _LEAST_RESERVE) + for_backups
    # The server counts removed files, so that what it tells may be more than there is.
    kept = min(sum(OPEN_SEGMENTS + factor * held for held in others), space.used)
    needs = {
        name: OPEN_SEGMENTS + factor * (quota or _LEAST_SHARE) for name, quota in quotas.items()
    }
    taken, fitting = kept, 0
    for need in needs.values():
        taken += need
        fitting += taken <= space.usable - reserve
    if fitting < len(quotas) and small:
        freeze = max(space.usable // 20, 64 * MIB)
        bounds = Bounds.at(min(freeze, space.usable // 4))
        return Budget(space.usable, freeze, 0, needs, bounds, trial=True)
    bounds = Bounds.at(max(space.usable // 50, GIB), _HALT, _LEAST_RESERVE)
    room = (space.usable - reserve - kept - OPEN_SEGMENTS * len(quotas)) // factor
    problem = None
    if fitting < len(quotas):
        taken += for_backups
        size = max(taken + _LEAST_RESERVE, int(taken / (1 - _RESERVE)))
        size = -(-size // GIB) * GIB
        beside = f" with {len(others)} that are not listed" if others else ""
        problem = BlockedError(
            f"use a content volume of {format_size(size)} or list fewer shares: {fitting} of "
            f"{len(quotas)} fit",
            more=f"this one has {format_size(space.usable)}{beside}; smaller quotas need less; "
            "for a trial set allow-small-content-volume=true",
        )
    return Budget(space.usable, reserve, max(room, 0), needs, bounds, problem=problem)


def nearly_full(volumes: Mapping[str, Space]) -> Iterator[BlockedError]:
    """Yield a line for each volume, by its name in the storage, of which little is left."""
    for name, space in volumes.items():
        if space.usable and space.used * 100 >= space.usable * _WARNING:
            yield BlockedError(
                f"{REMEDIES[name]}: it is {space.used * 100 // space.usable} % full, "
                f"{format_size(space.free)} are left"
            )
