"""Making a backup: snapshots first, then what they need, the manifest last.

Nothing of an earlier attempt is in the way: its snapshots are deleted, and what it put into the
bucket is found there and not sent again.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.archive import pieces, scanning
from agent.archive.bucket import Bucket, open_bucket
from agent.archive.catalogue import Catalogue, Freed
from agent.archive.errors import ArchiveError
from agent.archive.ledger import Ledger
from agent.archive.manifest import File, Head, Share, write_table
from agent.archive.progress import Progress
from agent.archive.pruning import Pruned, prune
from agent.archive.request import Request
from agent.archive.scanning import Cache, Source
from agent.archive.sealing import Sealer
from agent.archive.server import Server, ServerError, ShareInfo
from agent.archive.settings import LEDGER, ArchiveSettings
from agent.archive.space import wait_for_space
from agent.control_plane import ControlPlaneError, copied

PREFIX = "backup-"
_OURS = re.compile(PREFIX + r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CACHE = "cache.json"
_CHECK_PATIENCE = 10.0
# It begins with work for each file that was written since the last one, and there may be many.
_SNAPSHOT_SECONDS = 6 * 3600.0
_VOLATILE = frozenset({"memory"})
_CONTROL_PLANE_MODE = 0o600
_ZEROS = bytes(pieces.PIECE)

Snapshots = dict[str, str]


def create(settings: ArchiveSettings, request: Request, progress: Progress) -> dict[str, Any]:
    """Make a backup; return what is told of it.

    Raises:
        ArchiveError: it could not be made; nothing that looks like one is left.
    """
    began = time.time()
    progress.say("checking the bucket")
    check_bucket(settings)
    bucket = open_bucket(settings)
    catalogue = Catalogue(bucket, settings)
    head = catalogue.made(request.backup_id)
    if head:
        # Only the report of it was lost.
        return _result(head, [], Pruned([], Freed(0, 0, [])))
    with Server(settings.api) as server:
        kept, skipped = _chosen(server.shares())
        version = server.version() or "unknown"
        _delete_old(server, kept, progress)
        spared = wait_for_space(settings, progress)
        with _snapshots(server, kept, request, progress) as snapshots:
            made = _Upload(settings, bucket, request, spared)
            shares, control_plane = made.run(kept, snapshots)
    head = made.finish(request, version, began, shares, control_plane)
    progress.say("writing the manifest")
    catalogue.write(head, made.sealer)
    pruned = prune(settings, catalogue, head.id, datetime.now(UTC), progress)
    return _result(head, skipped, pruned)


def check_bucket(settings: ArchiveSettings) -> None:
    """Use every right once on a small object: what is wrong is told before the long work.

    Nothing is left behind: that the keys may delete is tried before there is anything to delete.
    """
    bucket = open_bucket(settings, _CHECK_PATIENCE)
    folder = f"{settings.home}/check/"
    for left in bucket.objects(folder):
        bucket.delete(left.key)
    key = f"{folder}{os.urandom(8).hex()}"
    bucket.delete(key)
    word = os.urandom(16)
    try:
        bucket.put(key, word)
        same = bucket.get(key) == word
    except ArchiveError:
        with contextlib.suppress(ArchiveError):
            bucket.delete(key)
        raise
    bucket.delete(key)
    if not same:
        raise ArchiveError(
            "bucket",
            "name another bucket at the provider: this one does not give back what is put into it",
        )


def _chosen(shares: Sequence[ShareInfo]) -> tuple[list[ShareInfo], list[str]]:
    """The shares to keep, and the names of those that a restart loses anyway."""
    kept = [each for each in shares if not {each.metadata_type, each.content_type} & _VOLATILE]
    return kept, [each.name for each in shares if each not in kept]


@contextmanager
def _snapshots(
    server: Server, shares: Sequence[ShareInfo], request: Request, progress: Progress
) -> Generator[Snapshots]:
    """A snapshot of each share, ready; they are deleted in the end."""
    # A snapshot begins with writing what is not written: there is no need to ask for it before.
    made: Snapshots = {}
    try:
        for share in shares:
            progress.say(f"taking the snapshot of {share.name}")
            made[share.name] = server.create_snapshot(share.name, f"{PREFIX}{request.id}")
        for name, snapshot in made.items():
            server.wait_snapshot(name, snapshot, progress, _SNAPSHOT_SECONDS)
        yield made
    finally:
        for name, snapshot in made.items():
            # What is left is deleted by `delete_left_over`.
            with contextlib.suppress(ArchiveError):
                server.delete_snapshot(name, snapshot)


def delete_left_over(settings: ArchiveSettings) -> None:
    """Delete the snapshots that no backup needs any more, while none is made.

    As long as there is one, the server frees nothing of what its share overwrites or removes.

    Raises:
        ServerError: the server is away, or refuses; one that is still being made it refuses.
    """
    with Server(settings.api) as server:
        kept, _ = _chosen(server.shares())
        for share, snapshot in _old(server, kept):
            server.delete_snapshot(share, snapshot)


def _delete_old(server: Server, shares: Sequence[ShareInfo], progress: Progress) -> None:
    for share, snapshot in _old(server, shares):
        progress.say(f"deleting an earlier snapshot of {share}")
        # One that is still being made cannot be deleted, and lets no other be made.
        with contextlib.suppress(ServerError):
            server.wait_snapshot(share, snapshot, progress, _SNAPSHOT_SECONDS)
        server.delete_snapshot(share, snapshot)


def _old(server: Server, shares: Sequence[ShareInfo]) -> list[tuple[str, str]]:
    """Share and id of the snapshots that backups made; others have snapshots of their own."""
    return [
        (share.name, snapshot.id)
        for share in shares
        for snapshot in server.snapshots(share.name)
        if _OURS.fullmatch(snapshot.name)
    ]


class _Upload:
    """What the snapshots need, on its way into the bucket."""

    def __init__(
        self, settings: ArchiveSettings, bucket: Bucket, request: Request, progress: Progress
    ):
        self._settings = settings
        self._progress = progress
        self.sealer = Sealer(settings.key, encrypt=settings.encrypt)
        # The control plane holds password hashes: it is encrypted whatever the rest is.
        self._always = Sealer(settings.key, encrypt=True)
        progress.say("looking at what is in the bucket")
        ledger = Ledger(settings.notes / LEDGER)
        self._writer = pieces.Writer(bucket, settings.home, ledger, request.backup_id)
        basis = f"{self.sealer.key_id}:{settings.encrypt}"
        self._cache = Cache(settings.notes / CACHE, basis)
        self._lock = threading.Lock()
        self._done = self._total = 0

    def run(self, shares: Sequence[ShareInfo], snapshots: Snapshots) -> tuple[list[Share], File]:
        """Upload everything; return what the table says of it."""
        control_plane = self._control_plane()
        found = [
            (share, scanning.share_folder(self._settings.content, snapshots[share.name]))
            for share in shares
        ]
        files = {
            folder: list(scanning.sources(folder, snapshots[share.name]))
            for share, folder in found
        }
        self._total = sum(source.size for some in files.values() for source in some)
        names = self._upload([source for some in files.values() for source in some])
        self._cache.save()
        return [
            Share(
                name=share.name,
                key=folder.name,
                snapshot=snapshots[share.name],
                files=tuple(_file(each, names[each.path]) for each in files[folder]),
                used_bytes=share.used_bytes,
                enabled=share.enabled,
            )
            for share, folder in found
        ], control_plane

    def finish(
        self,
        request: Request,
        version: str,
        began: float,
        shares: Sequence[Share],
        control_plane: File,
    ) -> Head:
        """Put the table into the bucket; return the head."""
        settings = self._settings
        files = [control_plane, *(file for share in shares for file in share.files)]
        table = self._writer.write(self.sealer, write_table(control_plane, shares))
        return Head(
            id=request.backup_id,
            time=began,
            application=settings.application,
            model=settings.model,
            model_uuid=settings.model_uuid,
            server=version,
            charm=settings.charm_version,
            encrypted=settings.encrypt,
            key_id=self.sealer.key_id,
            instance=settings.instance,
            shares=tuple(share.name for share in shares),
            files=len(files),
            size=sum(file.size for file in files),
            uploaded=self._writer.uploaded,
            duration=round(time.time() - began, 3),
            table=table,
        )

    def _upload(self, sources: Sequence[Source]) -> dict[Path, list[str | None]]:
        names: dict[Path, list[str | None]] = {}
        work: list[tuple[Source, int]] = []
        doubtful = set(self._writer.doubtful)
        unchanged = {source.path: self._cache.find(source) for source in sources}
        # What nobody has seen for long is read back by several threads, and then found quickly.
        asked = {name for some in unchanged.values() for name in some or () if name in doubtful}
        pieces.each(lambda name: self._writer.has(self.sealer, name), asked, self._progress)
        for source in sources:
            cached = unchanged[source.path]
            if cached is not None and all(
                self._writer.has(self.sealer, name) for name in cached if name
            ):
                names[source.path] = cached
                self._tell(source.size)
            else:
                names[source.path] = [None] * pieces.count(source.size)
                work += [(source, number) for number in range(pieces.count(source.size))]
        pieces.each(lambda item: self._piece(*item, names[item[0].path]), work, self._progress)
        for source in sources:
            self._cache.note(source, names[source.path])
        return names

    def _piece(self, source: Source, number: int, names: list[str | None]) -> None:
        data = scanning.read(source, number)
        # A piece of zeros costs nothing. To compare ends at the first difference.
        if data != _ZEROS[: len(data)]:
            names[number] = self._writer.write(self.sealer, data)
        self._tell(len(data))

    def _tell(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._progress.say("uploading", done=self._done, total=self._total)

    def _control_plane(self) -> File:
        """The server's users, shares and settings, with the rows of the snapshots."""
        try:
            plain = copied(self._settings.database, self._settings.run / "copy-for-backup")
        except ControlPlaneError as error:
            raise ArchiveError("api", str(error)) from None
        parts = [
            plain[begin : begin + pieces.PIECE] for begin in range(0, len(plain), pieces.PIECE)
        ]
        names = tuple(self._writer.write(self._always, part) for part in parts)
        return File(self._settings.database.name, len(plain), _CONTROL_PLANE_MODE, names)


def _file(source: Source, names: Sequence[str | None]) -> File:
    return File(source.relative, source.size, source.mode, tuple(names))


def _result(head: Head, skipped: Sequence[str], pruned: Pruned) -> dict[str, Any]:
    return {
        "backup-id": head.id,
        "size": head.size,
        "uploaded": head.uploaded,
        "duration": head.duration,
        "files": head.files,
        "shares": list(head.shares),
        "skipped": list(skipped),
        "deleted": list(pruned.backups),
        "freed": pruned.freed.size,
        "problem": "; ".join(pruned.freed.problems),
    }
