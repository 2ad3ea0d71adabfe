"""Lay a backup down beside the data that it is to replace; the server goes on serving.

It can be interrupted: what is right on the disk already is not fetched again.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agent.archive import control_plane, pieces, swapping
from agent.archive.bucket import open_bucket
from agent.archive.catalogue import Catalogue
from agent.archive.errors import ArchiveError
from agent.archive.ledger import Ledger
from agent.archive.manifest import File, Manifest, Share
from agent.archive.progress import Progress
from agent.archive.request import Request
from agent.archive.sealing import Sealer, sealer_for
from agent.archive.server import Server, ServerError
from agent.archive.settings import LEDGER, ArchiveSettings
from agent.archive.staging import Staged, StagedShare, Staging, sync, volume_errors

logger = logging.getLogger("agent.archive.laying")

_MEMORY = "memory"
_JOURNAL, _DUMP = "journal/", "metadata.dump"
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
# A metadata store beside what it stores: its logs are made large at once.
_STORE_OVERHEAD = 16 * 1024 * 1024


class _Target(NamedTuple):
    """A file that is laid down: where, what, and how its pieces are named."""

    path: Path
    file: File
    sealer: Sealer


@dataclass(frozen=True)
class _Piece:
    target: _Target
    number: int
    name: str

    @property
    def begin(self) -> int:
        return self.number * pieces.PIECE

    @property
    def size(self) -> int:
        return _size(self.target.file, self.number)


def fetch(settings: ArchiveSettings, request: Request, progress: Progress) -> dict[str, Any]:
    """Lay down all of a backup, or some shares of it; return `size`, `files` and `shares`.

    Raises:
        ArchiveError: it cannot be restored here (`newer`, `space`, `refused`, `missing`, `key`,
            `damaged`), or not now; what is served was not touched.
    """
    with volume_errors(settings):
        staging = Staging(settings)
        swapping.make_way(settings, request)
        staged = staging.read()
        if staged is None or staged.id != request.id:
            staged = lay_down(settings, request, staging, progress)
        return {
            "size": staged.size,
            "files": staged.files,
            "shares": [share.name for share in staged.shares],
        }


def lay_down(
    settings: ArchiveSettings, request: Request, staging: Staging, progress: Progress
) -> Staged:
    """Lay down all that is asked for, on the disks and complete.

    Raises:
        ArchiveError: as `fetch`.
    """
    progress.say("reading the manifest")
    bucket = open_bucket(settings)
    manifest = Catalogue(bucket, settings).manifest(request.backup_id, request.home)
    shares = _chosen(manifest, request.shares)
    _check_server(settings, manifest, request.shares)
    staging.begin(request.id)
    targets = list(_targets(settings, manifest, shares, staging))
    _check_space(settings, targets, shares, full=request.shares is None)
    read = pieces.reader(
        bucket,
        request.home or settings.home,
        sealer_for(settings, manifest.head.key_id, encrypt=manifest.head.encrypted),
        Ledger(settings.notes / LEDGER),
    )
    _Laying(read, targets, progress).run()
    staged = Staged(
        id=request.id,
        backup_id=request.backup_id,
        full=request.shares is None,
        size=sum(target.file.size for target in targets),
        files=len(targets),
        shares=tuple(_staged(share) for share in shares),
    )
    control_plane.check(staging.backup_database, staged.shares)
    progress.say("writing everything to the disks")
    pieces.each(sync, (target.path for target in targets), progress)
    staging.complete(staged)
    return staged


def _staged(share: Share) -> StagedShare:
    return StagedShare(share.name, share.key, share.snapshot, share.used_bytes, share.enabled)


def _chosen(manifest: Manifest, names: Sequence[str] | None) -> list[Share]:
    """The shares of the backup that are asked for."""
    there = {share.name: share for share in manifest.shares}
    missing = sorted(set(names or ()) - set(there))
    if missing:
        has = ", ".join(sorted(there)) or "no shares"
        text = f"the backup has no {', '.join(missing)}, it has {has}"
        raise ArchiveError("refused", f"name shares that the backup has: {text}")
    for share in manifest.shares:
        if "/" in share.key or share.key in {"", ".", ".."}:
            raise ArchiveError("damaged", f"the backup has no folder of {share.name}")
    return [share for share in manifest.shares if names is None or share.name in names]


def _check_server(
    settings: ArchiveSettings, manifest: Manifest, names: Sequence[str] | None
) -> None:
    """Ask the present server whether it can take the backup; pass where it does not answer."""
    with Server(settings.api) as server:
        present = _version(server.version())
        backed = _version(manifest.head.server)
        if present and backed and backed > present:
            raise ArchiveError(
                "newer",
                "refresh dittofs-image first: the backup is of server "
                f"{manifest.head.server}, the present one is older",
            )
        if names is None:
            return
        try:
            shares = {share.name: share for share in server.shares()}
        except ServerError as error:
            logger.info("the shares of the present server are not known: %s", error)
            return
    for name in names:
        share = shares.get(name)
        if share is None:
            raise ArchiveError(
                "refused", f"list the share in the option shares: there is no share {name} here"
            )
        if _MEMORY in {share.metadata_type, share.content_type}:
            raise ArchiveError(
                "refused", f"name other shares: the share {name} here is kept in memory only"
            )


def _version(text: str | None) -> tuple[int, ...] | None:
    """A version as numbers; None where it has none, like a build of somebody's own."""
    found = _VERSION.match(text or "")
    return tuple(int(part) for part in found.groups()) if found else None


def _targets(
    settings: ArchiveSettings, manifest: Manifest, shares: Iterable[Share], staging: Staging
) -> Iterator[_Target]:
    """All files to lay down, the control plane first."""
    key = manifest.head.key_id
    # Whatever the rest is, the control plane is encrypted.
    always = sealer_for(settings, key, encrypt=True)
    sealer = sealer_for(settings, key, encrypt=manifest.head.encrypted)
    yield _checked(staging.backup_database, manifest.control_plane, always)
    for share in shares:
        for file in share.files:
            yield _checked(staging.share(share.key) / file.path, file, sealer)


def _checked(path: Path, file: File, sealer: Sealer) -> _Target:
    if len(file.pieces) != pieces.count(file.size):
        raise ArchiveError("damaged", f"{file.path} is not complete in the backup")
    return _Target(path, file, sealer)


def _check_space(
    settings: ArchiveSettings, targets: Iterable[_Target], shares: Sequence[Share], *, full: bool
) -> None:
    """Return where both volumes have room for all of it, beside the data that it replaces."""
    needed = {"metadata": 0, "content": 0}
    for target in targets:
        volume = "content" if settings.content in target.path.parents else "metadata"
        needed[volume] += max(_stored(target.file) - _allocated(target.path), 0)
    for share in shares:
        # Bringing a share to its snapshot, the server writes all of its files once more.
        journal = sum(_stored(file) for file in share.files if file.path.startswith(_JOURNAL))
        needed["content"] += min(share.used_bytes, journal)
        dumps = sum(file.size for file in share.files if file.path.endswith(_DUMP))
        needed["metadata"] += 2 * dumps + _STORE_OVERHEAD
    # The control plane is laid down twice: as it was, and as it is put into place.
    needed["metadata"] += _allocated(settings.database) if not full else 0
    # The content volume first: a rehearsal has both on it.
    roots = {"content": settings.content, "metadata": settings.metadata}
    same = len({root.stat().st_dev for root in roots.values()}) == 1
    for volume, root in roots.items():
        info = os.statvfs(root)
        free = info.f_bavail * info.f_frsize
        wanted = sum(needed.values()) if same else needed[volume]
        if wanted > free:
            raise ArchiveError(
                "space",
                f"make room on the {volume} volume: it has {_shown(free)} free, the restore needs "
                f"{_shown(wanted)} beside the present data",
            )


def _stored(file: File) -> int:
    """The bytes of a file that are not in pieces of zeros."""
    return sum(_size(file, number) for number, name in enumerate(file.pieces) if name)


def _size(file: File, number: int) -> int:
    return min(pieces.PIECE, file.size - number * pieces.PIECE)


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _shown(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004  # a binary thousand
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


class _Laying:
    """Writes pieces to their places; for several threads."""

    def __init__(
        self, read: Callable[[str], bytes], targets: Sequence[_Target], progress: Progress
    ):
        self._read = read
        self._targets = targets
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self._total = sum(target.file.size for target in targets)
        self._begun: set[Path] = set()

    def run(self) -> None:
        """Write everything."""
        for target in self._targets:
            self._progress.check()
            self._make(target)
        pieces.each(self._piece, self._pieces(), self._progress)

    def _make(self, target: _Target) -> None:
        """Make a file of the right size that takes no room yet, or go on with one."""
        target.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(target.path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            if os.fstat(file).st_blocks:
                self._begun.add(target.path)
            os.ftruncate(file, target.file.size)
            os.fchmod(file, target.file.mode | 0o600)
        finally:
            os.close(file)

    def _pieces(self) -> Iterator[_Piece]:
        for target in self._targets:
            for number, name in enumerate(target.file.pieces):
                if name is None:
                    self._tell(_size(target.file, number))
                else:
                    yield _Piece(target, number, name)

    def _piece(self, piece: _Piece) -> None:
        if not self._right(piece):
            data = self._read(piece.name)
            if len(data) != piece.size:
                raise ArchiveError("damaged", f"{piece.target.file.path} is not complete")
            file = os.open(piece.target.path, os.O_WRONLY)
            try:
                _write(file, data, piece.begin)
            finally:
                os.close(file)
        self._tell(piece.size)

    def _right(self, piece: _Piece) -> bool:
        """Whether an interrupted restore has written the piece already."""
        if piece.target.path not in self._begun:
            return False
        with piece.target.path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), piece.size, piece.begin)
        return piece.target.sealer.name(data) == piece.name

    def _tell(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._progress.say("downloading", done=self._done, total=self._total)


def _write(file: int, data: bytes, begin: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, begin)
        rest, begin = rest[written:], begin + written
