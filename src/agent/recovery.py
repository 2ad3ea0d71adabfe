"""Bring the metadata volume back from MySQL, before the server is started for the first time.

Everything is written beside its place and renamed there at the end, the control plane last: a
crash leaves an empty volume or a complete one.
"""

import logging
import os
import shutil
from pathlib import Path

from agent.ahead import ahead
from agent.control_plane import unseal
from agent.mysql import Database, MirrorRow, StoreRow
from agent.rebuild import StoreWriter
from agent.report import Progress, Report
from agent.settings import Settings

logger = logging.getLogger("agent.recovery")

PLACE = ".recovering"
_TELL_ROWS = 5000
# What a rebuilt store takes on the disk beyond its values: keys, versions, offsets, index.
_ROW_OVERHEAD = 160


class RecoveryError(Exception):
    """It cannot be done; the text says why and what to do."""


def recover(
    settings: Settings, database: Database, report: Report, instance: str | None = None
) -> MirrorRow:
    """Rebuild stores and control plane; return the mirror that they came from.

    Args:
        settings: volume, identity and key; the key is the one that the control plane was
            encrypted with.
        database: connected.
        report: is told the progress.
        instance: the mirror must be this one's; None: that of the settings' application.

    Raises:
        RecoveryError: the volume holds something, the mirror is not the right one or not
            complete, or there is no space.
        ControlPlaneError: the key is not the right one.
        DatabaseError: the database failed; the volume is as it was.
        OSError: the volume cannot be written; it is as it was.
    """
    _check_empty(settings)
    mirror = _check_mirror(database.inspect(), settings, instance)
    stores = database.stores()
    incomplete = sorted(name for name, row in stores.items() if not (row.copy and row.position))
    if incomplete:
        logger.warning("never completely mirrored, left out: %s", ", ".join(incomplete))
    whole = {name: row for name, row in stores.items() if name not in incomplete}
    kept = database.control_plane()
    if kept is None:
        raise RecoveryError("MySQL has no control plane: its first copy was never complete")
    control_plane = unseal(kept[0], settings.key, mirror.instance)
    totals = {name: database.summary(row.copy) for name, row in whole.items()}
    _check_space(settings, totals, len(control_plane))

    place = settings.metadata / PLACE
    shutil.rmtree(place, ignore_errors=True)
    (place / "stores").mkdir(parents=True, mode=0o700)
    for name, row in sorted(whole.items()):
        progress = Progress(f"recover {name}", total=totals[name][0])
        _rebuild(place / "stores" / name, row, database, report, progress)
    _write(place / settings.database.name, control_plane)
    _move(place, settings)
    return mirror


def _check_empty(settings: Settings) -> None:
    if settings.database.exists():
        raise RecoveryError("the metadata volume holds a control plane: it is not empty")
    if settings.stores.exists() and any(settings.stores.iterdir()):
        # Stores without a control plane are what a crash between the last two steps leaves.
        if not (settings.metadata / PLACE / settings.database.name).exists():
            raise RecoveryError("the metadata volume holds a store: it is not empty")
        shutil.rmtree(settings.stores)


def _check_mirror(mirror: MirrorRow | None, settings: Settings, instance: str | None) -> MirrorRow:
    if mirror is None:
        raise RecoveryError("MySQL holds no mirror")
    ours = settings.identity
    if instance is not None:
        if mirror.instance != instance:
            raise RecoveryError(f"MySQL holds the mirror of the instance {mirror.instance}")
    elif mirror.instance != ours.instance and (mirror.application, mirror.model_uuid) != (
        ours.application,
        ours.model_uuid,
    ):
        raise RecoveryError(
            f"MySQL holds the mirror of {mirror.application} in the model {mirror.model}"
        )
    return mirror


def _check_space(settings: Settings, totals: dict[str, tuple[int, int]], more: int) -> None:
    needed = more + sum(rows * _ROW_OVERHEAD + size for rows, size in totals.values())
    info = os.statvfs(settings.metadata)
    free = info.f_bavail * info.f_frsize
    if needed > free:
        raise RecoveryError(
            f"the metadata volume has {free // 2**20} MiB free, {needed // 2**20} MiB are needed"
        )


def _rebuild(
    directory: Path, row: StoreRow, database: Database, report: Report, progress: Progress
) -> None:
    directory.mkdir(mode=0o700)
    with StoreWriter(directory) as writer:
        for key, version, value in ahead(database.rows(row.copy)):
            writer.add(key, value, version)
            progress.rows += 1
            progress.bytes += len(key) + len(value)
            if progress.rows % _TELL_ROWS == 0:
                report.state("recovering", message=progress.what, progress=progress.as_json())
                report.flush()
    logger.info("store %s: %s rows, %s bytes", row.name, progress.rows, progress.bytes)


def _write(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(file, "wb") as target:
        target.write(data)
        target.flush()
        os.fsync(file)


def _move(place: Path, settings: Settings) -> None:
    if settings.stores.exists():
        settings.stores.rmdir()
    (place / "stores").rename(settings.stores)
    _sync(settings.metadata)
    (place / settings.database.name).rename(settings.database)
    _sync(settings.metadata)
    shutil.rmtree(place)


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
