"""Put what was laid down into the place of the present data, and the way back.

The server must be down. Everything is a rename within a volume. A note on the metadata volume says
in which phase it is and has the names; it is written between two phases, when all of the phase is
on the disks. Within a phase every rename can be found done or not done, so each of `swap` and
`rollback` can be called again after a crash at any point. One that is called while another runs
waits for its end.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agent.archive import control_plane
from agent.archive.errors import ArchiveError
from agent.archive.request import Request
from agent.archive.settings import ASIDE, RESTORING, ArchiveSettings
from agent.archive.staging import (
    SHARES,
    Staged,
    StagedShare,
    Staging,
    read_json,
    remove,
    sync,
    volume_errors,
    write,
)

MARKER = ".dittofs-charm.json"
_PLAN = "plan.json"
_LOCK = "swap.lock"
_LEFT = "left"
_STORES = "stores"
_SIDE_FILES = ("", "-wal", "-shm")
_KEPT = frozenset({"lost+found", RESTORING, "deleted-stores", ".recovering"})
_KEPT_BEGINNINGS = (".dittofs-", ASIDE)

Phase = Literal["leaving", "arriving", "swapped", "clearing", "returning", "returned", "gone"]
# In these the data is not all in one place: nothing else may be begun.
_UNDERWAY = frozenset[Phase]({"leaving", "arriving", "clearing", "returning"})


@dataclass(frozen=True)
class _Volume:
    """What happens on a volume; paths are relative to its root.

    Attributes:
        leaving: what was there before and goes aside.
        arriving: what comes out of the staging.
        clearing: what the way back takes out of the way; None: all that is no volume's own.
        marked: whether it had a marker.
    """

    leaving: tuple[str, ...]
    arriving: tuple[str, ...]
    clearing: tuple[str, ...] | None
    marked: bool


@dataclass(frozen=True)
class _Plan:
    id: str
    phase: Phase
    metadata: _Volume
    content: _Volume


def swap(settings: ArchiveSettings, request: Request) -> None:
    """Put what was fetched into place, and what was there aside.

    Raises:
        ArchiveError: `refused`: it was not fetched, or is on its way back; `space` or `refused`
            of a volume. It can be called again.
    """
    with volume_errors(settings), _alone(settings):
        _Swap(settings).forward(request.id)


def rollback(settings: ArchiveSettings, request: Request) -> None:
    """Put back what was there before; nothing where nothing was swapped.

    Raises:
        ArchiveError: as of `swap`; it can be called again.
    """
    with volume_errors(settings), _alone(settings):
        _Swap(settings).back(request.id)


def discard(settings: ArchiveSettings, request: Request) -> None:
    """Remove what a restore has kept: what was there before, or what was laid down in vain.

    Raises:
        ArchiveError: `refused`: a swap or rollback has not come to its end.
    """
    del request
    with volume_errors(settings), _alone(settings):
        _Swap(settings).discard()


def make_way(settings: ArchiveSettings, request: Request) -> None:
    """Remove what an earlier restore has left that came to its end.

    Raises:
        ArchiveError: `busy`: there is one that has not, or this one is swapped in already.
    """
    with volume_errors(settings), _alone(settings):
        _Swap(settings).make_way(request.id)


@contextmanager
def _alone(settings: ArchiveSettings) -> Generator[None]:
    """Wait until nothing else is at it: a command goes on when the charm that ran it is killed."""
    settings.run.mkdir(parents=True, exist_ok=True)
    with (settings.run / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Swap:
    def __init__(self, settings: ArchiveSettings):
        self._settings = settings
        self._staging = Staging(settings)
        self._path = self._staging.notes / _PLAN

    def forward(self, operation: str) -> None:
        plan = self._read()
        if plan is None or plan.phase == "returned":
            plan = self._write(self._prepared(operation))
        if plan.id != operation or plan.phase not in {"leaving", "arriving", "swapped"}:
            raise ArchiveError("refused", "another restore, or its way back, is underway")
        if plan.phase == "leaving":
            for root, volume in self._volumes(plan):
                _put_aside(root, _aside(root, operation), volume)
            plan = self._write(replace(plan, phase="arriving"))
        if plan.phase == "arriving":
            for root, volume in self._volumes(plan):
                for path in volume.arriving:
                    _move(root / RESTORING / path, root / path)
                _sync_parents(root, volume.arriving)
                _sync_parents(root / RESTORING, volume.arriving)
            self._write(replace(plan, phase="swapped"))

    def back(self, operation: str) -> None:
        plan = self._read()
        if plan is None or plan.id != operation:
            return
        if plan.phase == "gone":
            raise ArchiveError("refused", "what was there before the restore is removed already")
        if plan.phase == "leaving":
            # Nothing has arrived: what is in its place is what was there before.
            plan = self._write(replace(plan, phase="returning"))
        if plan.phase in {"arriving", "swapped"}:
            plan = self._write(replace(plan, phase="clearing"))
        if plan.phase == "clearing":
            for root, volume in self._volumes(plan):
                _clear(root, volume)
            plan = self._write(replace(plan, phase="returning"))
        if plan.phase == "returning":
            for root, volume in self._volumes(plan):
                _take_back(root, _aside(root, operation), volume)
            self._staging.forget()
            self._write(replace(plan, phase="returned"))

    def discard(self) -> None:
        plan = self._read()
        if plan is not None:
            if plan.phase in _UNDERWAY:
                raise ArchiveError("refused", "the restore is neither done nor undone")
            self._write(replace(plan, phase="gone"))
            for root, _ in self._volumes(plan):
                remove(_aside(root, plan.id))
        self._staging.remove()
        remove(self._staging.notes)

    def make_way(self, operation: str) -> None:
        plan = self._read()
        if plan is None:
            return
        if plan.phase in _UNDERWAY or (plan.phase, plan.id) == ("swapped", operation):
            raise ArchiveError("busy", "a restore is neither done nor undone")
        self.discard()

    def _prepared(self, operation: str) -> _Plan:
        """The plan of a restore that is laid down completely."""
        staged = self._staging.of(operation)
        plan = self._replacing(staged) if staged.full else self._merging(staged)
        self._staging.notes.mkdir(mode=0o700, exist_ok=True)
        return plan

    def _replacing(self, staged: Staged) -> _Plan:
        settings = self._settings
        control_plane.replacing(
            self._staging.backup_database, self._staging.database, staged.shares
        )
        return _Plan(
            staged.id,
            "leaving",
            _Volume(
                leaving=_data(settings.metadata),
                arriving=(settings.database.name,),
                clearing=None,
                marked=(settings.metadata / MARKER).exists(),
            ),
            _Volume(
                leaving=_data(settings.content),
                arriving=(SHARES,),
                clearing=None,
                marked=(settings.content / MARKER).exists(),
            ),
        )

    def _merging(self, staged: Staged) -> _Plan:
        settings = self._settings
        control_plane.merged(
            settings.database,
            self._staging.backup_database,
            self._staging.database,
            staged.shares,
        )
        name = settings.database.name
        metadata = (*(f"{name}{side}" for side in _SIDE_FILES), *_stores(staged.shares))
        content = tuple(f"{SHARES}/{share.key}" for share in staged.shares)
        (settings.content / SHARES).mkdir(exist_ok=True)
        return _Plan(
            staged.id,
            "leaving",
            _Volume(
                leaving=tuple(path for path in metadata if (settings.metadata / path).exists()),
                arriving=(name,),
                clearing=metadata,
                marked=(settings.metadata / MARKER).exists(),
            ),
            _Volume(
                leaving=tuple(path for path in content if (settings.content / path).exists()),
                arriving=content,
                clearing=content,
                marked=(settings.content / MARKER).exists(),
            ),
        )

    def _volumes(self, plan: _Plan) -> Iterable[tuple[Path, _Volume]]:
        return (
            (self._settings.metadata, plan.metadata),
            (self._settings.content, plan.content),
        )

    def _read(self) -> _Plan | None:
        found = read_json(self._path)
        if found is None:
            return None
        return _Plan(
            str(found["id"]),
            found["phase"],
            _volume(found["metadata"]),
            _volume(found["content"]),
        )

    def _write(self, plan: _Plan) -> _Plan:
        write(self._path, json.dumps(asdict(plan), indent=1, sort_keys=True))
        return plan


def _volume(found: Mapping[str, Any]) -> _Volume:
    clearing = found["clearing"]
    return _Volume(
        leaving=tuple(found["leaving"]),
        arriving=tuple(found["arriving"]),
        clearing=None if clearing is None else tuple(clearing),
        marked=bool(found["marked"]),
    )


def _stores(shares: Iterable[StagedShare]) -> tuple[str, ...]:
    return tuple(f"{_STORES}/{share.store}" for share in shares)


def _aside(root: Path, operation: str) -> Path:
    return root / f"{ASIDE}restore-{operation}"


def _data(root: Path) -> tuple[str, ...]:
    """The names in the root of a volume that are replaced."""
    return tuple(
        sorted(
            name
            for name in os.listdir(root)  # noqa: PTH208  # names are what is wanted
            if name not in _KEPT and not name.startswith(_KEPT_BEGINNINGS)
        )
    )


def _put_aside(root: Path, aside: Path, volume: _Volume) -> None:
    aside.mkdir(mode=0o700, exist_ok=True)
    sync(root)
    if volume.marked:
        _copy(root / MARKER, aside / MARKER)
    for path in volume.leaving:
        _move(root / path, aside / path)
    _sync_parents(aside, volume.leaving)
    _sync_parents(root, volume.leaving)


def _clear(root: Path, volume: _Volume) -> None:
    """Take out of the way whatever has come since nothing of before is in its place."""
    left = root / RESTORING / _LEFT
    names = _data(root) if volume.clearing is None else volume.clearing
    for path in names:
        if os.path.lexists(root / path):
            _move(root / path, left / path)
    _sync_parents(root, names)


def _take_back(root: Path, aside: Path, volume: _Volume) -> None:
    for path in volume.leaving:
        _move(aside / path, root / path)
    if volume.marked:
        # While nothing is aside yet, the marker in place is the one of before.
        if (aside / MARKER).exists():
            _copy(aside / MARKER, root / MARKER)
    else:
        (root / MARKER).unlink(missing_ok=True)
    _sync_parents(root, volume.leaving)
    sync(root)


def _move(source: Path, target: Path) -> None:
    """Rename, unless that is done already."""
    if not os.path.lexists(source):
        if os.path.lexists(target):
            return
        raise ArchiveError("refused", f"{source.name} is neither where it was nor where it goes")
    if os.path.lexists(target):
        raise ArchiveError("refused", f"{target.name} is in the way")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    source.rename(target)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.new")
    shutil.copyfile(source, temporary)
    sync(temporary)
    temporary.chmod(0o644)
    temporary.replace(target)
    sync(target.parent)


def _sync_parents(root: Path, paths: Iterable[str]) -> None:
    """Let renames outlive a loss of power, and the folders that were made for them."""
    folders = {root}.union(*((root / path).parents for path in paths))
    for folder in sorted(folders):
        if folder.is_relative_to(root) and folder.exists():
            sync(folder)
