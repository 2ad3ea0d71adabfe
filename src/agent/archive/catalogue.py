"""The backups in a bucket: finding, reading and deleting them.

A backup is there when its manifest is, which is written last and deleted first. A piece is deleted
only when every manifest of its place was read and none needs it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from agent.archive import pieces
from agent.archive.bucket import Bucket
from agent.archive.errors import ArchiveError
from agent.archive.manifest import Head, Manifest, read_table
from agent.archive.progress import Progress
from agent.archive.sealing import Sealer, sealer_for
from agent.archive.settings import ArchiveSettings, Keep

_ID = "%Y-%m-%dT%H:%M:%SZ"
_SUFFIX = ".json"
_DAY = 86400


class Entry(NamedTuple):
    """A backup that is listed: its head, or what is wrong with it."""

    id: str
    home: str
    head: Head | None
    problem: str | None


class Freed(NamedTuple):
    """What was deleted: objects, and their size in bytes."""

    objects: int
    size: int


class Catalogue:
    """The backups below a prefix. Every method raises `ArchiveError`."""

    def __init__(self, bucket: Bucket, settings: ArchiveSettings):
        self._bucket = bucket
        self._settings = settings

    def entries(self, home: str | None = None) -> Iterator[Entry]:
        """The backups of a place, oldest first; of this application where none is named."""
        home = home or self._settings.home
        keys = [found.key for found in self._bucket.objects(_folder(home))]
        for key in sorted(keys):
            if key.endswith(_SUFFIX) and _is_id(_id(key)):
                yield self._entry(key, home)

    def everywhere(self) -> Iterator[Entry]:
        """The backups of all applications in all models."""
        homes = [
            f"{model}/{application}"
            for model in self._bucket.folders()
            for application in self._bucket.folders(f"{model}/")
        ]
        for home in sorted(homes):
            yield from self.entries(home)

    def manifest(self, backup_id: str, home: str | None = None) -> Manifest:
        """A backup with all its files, checked against its seal."""
        home = home or self._settings.home
        head, seal = self._head(backup_id, home)
        sealer = sealer_for(self._settings, head.key_id)
        if sealer.mac(head.signed()) != seal or head.id != backup_id:
            raise ArchiveError("damaged", f"the manifest of {backup_id} was tampered with")
        return read_table(head, pieces.reader(self._bucket, home, sealer)(head.table))

    def write(self, head: Head, sealer: Sealer) -> None:
        """Let a backup be there: all its pieces are."""
        self._bucket.put(_key(self._settings.home, head.id), head.as_json(sealer))

    def delete(self, backup_ids: list[str], progress: Progress) -> Freed:
        """Delete backups of this application, and the pieces that no other one needs."""
        keys = [_key(self._settings.home, backup_id) for backup_id in backup_ids]
        for key in keys:
            self._bucket.delete([key])
        swept = self._sweep(progress)
        return Freed(swept.objects + len(keys), swept.size)

    def outdated(self, keep: Keep, now: datetime) -> list[str]:
        """The backups that nobody wants to keep, oldest first; never the newest that is whole.

        Where a count and an age are given, a backup goes when it is beyond both.
        """
        if keep.count is None and keep.days is None:
            return []
        whole = [entry for entry in self.entries() if entry.head]
        return [
            entry.id
            for newer, entry in zip(range(len(whole) - 1, 0, -1), whole, strict=False)
            if (keep.count is None or newer >= keep.count)
            and (keep.days is None or _age(entry.id, now) > keep.days * _DAY)
        ]

    def exists(self, backup_id: str) -> bool:
        """Whether there is such a backup of this application."""
        return self._bucket.size(_key(self._settings.home, backup_id)) is not None

    def _sweep(self, progress: Progress) -> Freed:
        """Delete the pieces that no backup needs."""
        home = self._settings.home
        progress.say("looking for what no backup needs")
        # First what is there, then what is needed: what is written meanwhile is not in the list.
        found = {each.key: each.size for each in self._bucket.objects(pieces.folder(home))}
        for entry in self.entries():
            progress.check()
            for name in set(self.manifest(entry.id).pieces()):
                found.pop(pieces.key_of(home, name), None)
        size = sum(found.values())
        progress.say(f"deleting {len(found)} objects that no backup needs")
        self._bucket.delete(sorted(found))
        return Freed(len(found), size)

    def _entry(self, key: str, home: str) -> Entry:
        try:
            head, _ = self._head(_id(key), home)
        except ArchiveError as error:
            if error.kind not in {"damaged", "newer", "missing"}:
                raise
            return Entry(_id(key), home, None, str(error))
        return Entry(head.id, home, head, None)

    def _head(self, backup_id: str, home: str) -> tuple[Head, str]:
        if not _is_id(backup_id):
            raise ArchiveError("missing", f"{backup_id} is no id of a backup: see list-backups")
        try:
            data = self._bucket.get(_key(home, backup_id))
        except ArchiveError as error:
            if error.kind == "missing":
                text = f"there is no backup {backup_id} of {home}: see list-backups"
                raise ArchiveError("missing", text) from None
            raise
        return Head.parse(data)


def row(entry: Entry) -> dict[str, Any]:
    """A backup as `list-backups` shows it; sizes in bytes."""
    model_uuid, _, application = entry.home.partition("/")
    head = entry.head
    return {
        "id": entry.id,
        "time": head.time if head else _time(entry.id).timestamp(),
        "application": application,
        "model": head.model if head else "unknown",
        "model-uuid": model_uuid,
        "from": entry.home,
        "size": head.size if head else 0,
        "uploaded": head.uploaded if head else 0,
        "duration": head.duration if head else 0.0,
        "files": head.files if head else 0,
        "shares": list(head.shares) if head else [],
        "server": head.server if head else "unknown",
        "charm": head.charm if head else "unknown",
        "encrypted": head.encrypted if head else False,
        "complete": head is not None,
        "problem": entry.problem,
    }


def _folder(home: str) -> str:
    return f"{home}/backups/"


def _key(home: str, backup_id: str) -> str:
    return f"{home}/backups/{backup_id}{_SUFFIX}"


def _id(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(_SUFFIX)


def _is_id(text: str) -> bool:
    try:
        _time(text)
    except ValueError:
        return False
    return True


def _time(backup_id: str) -> datetime:
    return datetime.strptime(backup_id, _ID).replace(tzinfo=UTC)


def _age(backup_id: str, now: datetime) -> float:
    return (now - _time(backup_id)).total_seconds()
