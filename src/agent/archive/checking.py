"""Whether a backup can be restored: every object it needs, read and compared with its name."""

import threading
from collections.abc import Callable
from typing import Any

from agent.archive import pieces
from agent.archive.bucket import open_bucket
from agent.archive.catalogue import Catalogue
from agent.archive.errors import ArchiveError
from agent.archive.ledger import Ledger
from agent.archive.manifest import Manifest, files_of, pieces_of
from agent.archive.progress import Progress
from agent.archive.request import Request
from agent.archive.sealing import sealer_for
from agent.archive.settings import LEDGER, ArchiveSettings

_SHOWN = 20
# What S3 says of the whole bucket, not of an object.
_NOT_THE_BACKUP = frozenset({"away", "credentials", "bucket", "settings", "cancelled"})


class _Check:
    """Reads pieces and notes what is wrong; for several threads."""

    def __init__(self, read: Callable[[str], bytes], total: int, progress: Progress):
        self._read = read
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self.problems: list[str] = []

    def piece(self, name: str) -> None:
        """Read a piece."""
        size, problem = 0, ""
        try:
            size = len(self._read(name))
        except ArchiveError as error:
            if error.kind in _NOT_THE_BACKUP:
                raise
            problem = str(error)
        with self._lock:
            self._done += size
            if problem:
                self.problems.append(problem)
            self._progress.say("reading", done=self._done, total=self._total)


def verify(settings: ArchiveSettings, request: Request, progress: Progress) -> dict[str, Any]:
    """Read all of a backup; with `deep` lay it down in a scratch place and compare that, too.

    Raises:
        ArchiveError: it could not be told. What is wrong with the backup is in the result.
    """
    bucket = open_bucket(settings)
    progress.say("reading the manifest")
    try:
        manifest = Catalogue(bucket, settings).manifest(request.backup_id, request.home)
    except ArchiveError as error:
        if error.kind != "damaged":
            raise
        return _result(request.backup_id, 0, 0, [str(error)])
    sealer = sealer_for(settings, manifest.head.key_id)
    ledger = Ledger(settings.notes / LEDGER)
    read = pieces.reader(bucket, request.home or settings.home, sealer, ledger)
    names = sorted(set(pieces_of((manifest.control_plane, *files_of(manifest.shares)))))
    check = _Check(read, manifest.head.size, progress)
    pieces.each(check.piece, names, progress)
    problems = check.problems + _incomplete(manifest)
    if request.params.get("deep") and not problems:
        from agent.archive import rehearsal  # noqa: PLC0415  # only a deep check needs SQLite

        problems += rehearsal.rehearse(settings, request, manifest, progress)
    return _result(request.backup_id, len(names) + 2, manifest.head.size, problems)


def _incomplete(manifest: Manifest) -> list[str]:
    """What a backup lacks although all its objects are right."""
    found: list[str] = []
    for share in manifest.shares:
        dump = f"snapshots/{share.snapshot}/metadata.dump"
        if dump not in {file.path for file in share.files}:
            found.append(f"{share.name} has no metadata")
        found += [
            f"{share.name}: {file.path} is not complete"
            for file in share.files
            if len(file.pieces) != pieces.count(file.size)
        ]
    return found


def _result(backup_id: str, objects: int, size: int, problems: list[str]) -> dict[str, Any]:
    shown = problems[:_SHOWN]
    if len(problems) > _SHOWN:
        shown.append(f"and {len(problems) - _SHOWN} more")
    return {"backup-id": backup_id, "checked-objects": objects, "size": size, "problems": shown}
