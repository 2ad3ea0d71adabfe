"""What is not to be kept goes: the backups first, then what no other one needs.

Each step has a result of its own. What was left undone is noted on the volume before it is begun,
and done after the next backup.
"""

import contextlib
from datetime import datetime, timedelta
from typing import NamedTuple

from agent.archive.catalogue import Catalogue, Entry, Freed, moment, unreadable
from agent.archive.errors import ArchiveError
from agent.archive.ledger import Ledger
from agent.archive.progress import Progress
from agent.archive.settings import LEDGER, UNSWEPT, ArchiveSettings, Keep

_DAY = 86400
_SHOWN = 3
# By how much two clocks may differ that nobody complains of.
_SKEW = timedelta(hours=1)


class Pruned(NamedTuple):
    """What went: ids of backups, objects beside them, and what there is to say of it."""

    backups: list[str]
    freed: Freed


def prune(
    settings: ArchiveSettings, catalogue: Catalogue, made: str, now: datetime, progress: Progress
) -> Pruned:
    """Delete what is not to be kept after the backup `made`; that one is made in any case.

    Raises:
        ArchiveError: `cancelled`.
    """
    deleted: list[str] = []
    problems: list[str] = []
    try:
        entries = list(catalogue.entries())
        problems += [
            unreadable(entry.id, entry.problem, entry.kind) for entry in entries if entry.problem
        ]
        for backup_id in outdated(entries, settings.keep, made, now):
            progress.check()
            _note(settings)
            try:
                catalogue.remove(backup_id)
            except ArchiveError as error:
                problems.append(f"{error}; backup {backup_id} could not be deleted")
                if error.kind == "away":
                    break
            else:
                deleted.append(backup_id)
    except ArchiveError as error:
        if error.kind == "cancelled":
            raise
        problems.append(f"{error}; old backups could not be deleted")
    freed = Freed(0, 0, [])
    if (settings.notes / UNSWEPT).exists():
        freed = sweep(settings, catalogue, progress)
    return Pruned(deleted, freed._replace(problems=_shown(problems + freed.problems)))


def delete(
    settings: ArchiveSettings, catalogue: Catalogue, backup_id: str, progress: Progress
) -> Freed:
    """Delete one backup, and what no other one needs; the backup itself counts as an object.

    Raises:
        ArchiveError: it is still there.
    """
    _note(settings)
    catalogue.remove(backup_id)
    freed = sweep(settings, catalogue, progress)
    return freed._replace(objects=freed.objects + 1, problems=_shown(freed.problems))


def sweep(settings: ArchiveSettings, catalogue: Catalogue, progress: Progress) -> Freed:
    """Delete what no backup needs, as far as that goes.

    Raises:
        ArchiveError: `cancelled`.
    """
    try:
        freed = catalogue.sweep(Ledger(settings.notes / LEDGER), progress)
    except ArchiveError as error:
        if error.kind == "cancelled":
            raise
        freed = Freed(0, 0, [f"{error}; what no backup needs could not be deleted"])
    if not freed.problems:
        with contextlib.suppress(OSError):
            (settings.notes / UNSWEPT).unlink(missing_ok=True)
    return freed


def outdated(entries: list[Entry], keep: Keep, made: str, now: datetime) -> list[str]:
    """The backups of this instance that nobody wants to keep, oldest first; never `made`.

    Where a count and an age are given, a backup goes when it is beyond both. A clock that was
    wrong deletes nothing: now is not later than S3 says, and what is dated later is not counted.
    """
    if keep.count is None and keep.days is None:
        return []
    now = min(now, max((entry.modified for entry in entries), default=now) + _SKEW)
    before = [
        entry.id
        for entry in entries
        if entry.own and entry.id != made and moment(entry.id) <= now + _SKEW
    ]
    return [
        backup_id
        for newer, backup_id in zip(range(len(before), 0, -1), before, strict=True)
        if (keep.count is None or newer >= keep.count)
        and (keep.days is None or (now - moment(backup_id)).total_seconds() > keep.days * _DAY)
    ]


def _note(settings: ArchiveSettings) -> None:
    with contextlib.suppress(OSError):
        settings.notes.mkdir(exist_ok=True)
        (settings.notes / UNSWEPT).touch()


def _shown(problems: list[str]) -> list[str]:
    """Each once, and not more than fit into a status."""
    found = list(dict.fromkeys(problems))
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more
