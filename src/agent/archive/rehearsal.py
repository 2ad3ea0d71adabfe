"""A restore into a scratch place on the content volume, compared there and removed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agent.archive import laying, pieces, scanning
from agent.archive.errors import ArchiveError
from agent.archive.manifest import File, Manifest
from agent.archive.progress import Progress
from agent.archive.request import Request
from agent.archive.sealing import Sealer, sealer_for
from agent.archive.settings import ArchiveSettings
from agent.archive.staging import Staging, remove, volume_errors

_SCRATCH = ".dittofs-rehearsal"
_WRONG = frozenset({"damaged", "refused"})


def rehearse(
    settings: ArchiveSettings, request: Request, manifest: Manifest, progress: Progress
) -> list[str]:
    """Lay a backup down and compare what is on the disk; return what is wrong with it.

    Raises:
        ArchiveError: it could not be told, such as `space`.
    """
    place = settings.content / _SCRATCH
    scratch = replace(settings, root=place)
    staging = Staging(scratch)
    whole = replace(request, params={**request.params, "shares": None})
    with volume_errors(settings):
        # Of an earlier one that was interrupted.
        remove(place)
        for volume in (scratch.metadata, scratch.content):
            volume.mkdir(mode=0o700, parents=True)
        try:
            laying.lay_down(scratch, whole, staging, progress)
            return list(_differences(settings, manifest, staging, progress))
        except ArchiveError as error:
            if error.kind not in _WRONG:
                raise
            return [str(error)]
        finally:
            remove(place)


def _differences(
    settings: ArchiveSettings, manifest: Manifest, staging: Staging, progress: Progress
) -> Iterator[str]:
    progress.say("comparing what was laid down")
    key = manifest.head.key_id
    always = sealer_for(settings, key, encrypt=True)
    sealer = sealer_for(settings, key, encrypt=manifest.head.encrypted)
    files = [(staging.backup_database, manifest.control_plane, always)]
    files += [
        (staging.share(share.key) / file.path, file, sealer)
        for share in manifest.shares
        for file in share.files
    ]
    for path, file, naming in files:
        progress.check()
        if not _same(path, file, naming):
            yield f"{file.path} is not the same on the disk"


def _same(path: Path, file: File, sealer: Sealer) -> bool:
    source = scanning.source(path, file.path)
    if source.size != file.size:
        return False
    for number, name in enumerate(file.pieces):
        data = scanning.read(source, number)
        if (data.count(0) != len(data)) if name is None else sealer.name(data) != name:
            return False
    return len(file.pieces) == pieces.count(file.size)
