"""The backups in a bucket: finding, reading and deleting them.

A backup is there when its manifest is, which is written last and deleted first. It belongs to the
instance that made it: an application that was removed and deployed again finds the backups of the
lost one in its place, and does not take them for its own.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from agent.archive import pieces
from agent.archive.bucket import Bucket, Object
from agent.archive.errors import ArchiveError
from agent.archive.ledger import Ledger
from agent.archive.manifest import Head, Manifest, read_table
from agent.archive.progress import Progress
from agent.archive.sealing import Sealer, key_id, sealer_for
from agent.archive.settings import ArchiveSettings

_ID = "%Y-%m-%dT%H:%M:%SZ"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_SUFFIX = ".json"
# What claims to be a manifest and is larger is none.
_LARGEST = 16 * 1024 * 1024
# What is wrong with one manifest, and says nothing of the others.
_ITS_OWN = pieces.UNREADABLE | {"newer", "credentials"}


class Entry(NamedTuple):
    """A backup that is listed.

    Attributes:
        head: what is told of it, None where that cannot be read.
        problem: why it does not restore.
        kind: the kind of that error.
        own: whether this instance made it, which its seal proves.
        modified: when its manifest was written, by S3's clock.
    """

    id: str
    home: str
    head: Head | None
    problem: str | None
    own: bool
    modified: datetime
    kind: str = ""


class Freed(NamedTuple):
    """What was deleted: objects, and their size in bytes; `problems`: what could not be."""

    objects: int
    size: int
    problems: list[str]


class Catalogue:
    """The backups below a prefix. Every method raises `ArchiveError`."""

    def __init__(self, bucket: Bucket, settings: ArchiveSettings):
        self._bucket = bucket
        self._settings = settings
        self._sealer = Sealer(settings.key, encrypt=False)

    def entries(self, home: str | None = None) -> Iterator[Entry]:
        """The backups of a place, oldest first; of this application where none is named."""
        home = home or self._settings.home
        folder = f"{home}/backups/"
        found = sorted(self._bucket.objects(folder), key=lambda each: each.key)
        for each in found:
            backup_id = each.key.removeprefix(folder).removesuffix(_SUFFIX)
            if each.key == _key(home, backup_id) and is_id(backup_id):
                yield self._entry(each, backup_id, home)

    def everywhere(self) -> Iterator[Entry]:
        """The backups of all applications in all models."""
        with ThreadPoolExecutor(pieces.WORKERS) as pool:
            homes = [
                f"{model}/{application}"
                for model, applications in pool.map(self._applications, self._bucket.folders())
                for application in applications
            ]
            for entries in pool.map(self._all_of, sorted(homes)):
                yield from entries

    def manifest(self, backup_id: str, home: str | None = None) -> Manifest:
        """A backup with all its files, checked against its seal."""
        home = home or self._settings.home
        head, seal = self._head(backup_id, home)
        sealer = sealer_for(self._settings, head.key_id)
        if sealer.mac(head.signed()) != seal or head.id != backup_id:
            raise _tampered(backup_id)
        return read_table(head, pieces.reader(self._bucket, home, sealer)(head.table))

    def write(self, head: Head, sealer: Sealer) -> None:
        """Let a backup be there: all its pieces are."""
        self._bucket.put(_key(self._settings.home, head.id), head.as_json(sealer))

    def made(self, backup_id: str) -> Head | None:
        """A backup that this instance has made already, None where there is none.

        Raises:
            ArchiveError: `refused`: there is one of this name that is another's.
        """
        key = _key(self._settings.home, backup_id)
        found = self._bucket.find(key) if is_id(backup_id) else None
        if found is None:
            return None
        entry = self._entry(found, backup_id, self._settings.home)
        if entry.head is None or not entry.own:
            raise ArchiveError(
                "refused",
                "run create-backup again or set another path at the provider: "
                f"{key} is in the bucket already, and of somebody else",
            )
        return entry.head

    def remove(self, backup_id: str) -> None:
        """Let a backup of this application's place not be there any more."""
        if not is_id(backup_id):
            raise _unknown(backup_id)
        self._bucket.delete(_key(self._settings.home, backup_id))

    def sweep(self, ledger: Ledger, progress: Progress) -> Freed:
        """Delete the pieces that no backup of the place needs, whosever they are.

        What a backup needs whose table cannot be read is not known. It needs nothing that was sent
        for a later one: only that can go. So a damaged one costs no more than what is older.
        """
        home, problems = self._settings.home, list[str]()
        progress.say("looking for what no backup needs")
        # First what is there, then what is needed: what is written meanwhile is not in the list.
        listed = self._bucket.objects(pieces.folder(home))
        found = {each.key.rpartition("/")[2]: each for each in listed}
        for entry in self.entries():
            progress.check()
            try:
                for name in set(self.manifest(entry.id).pieces()):
                    found.pop(name, None)
            except ArchiveError as error:
                if error.kind not in _ITS_OWN | {"key"}:
                    raise
                # The clock of another application may have been another one: S3's counts, too.
                oldest = entry.modified if error.kind == "key" else _LONG_AGO
                found = {
                    name: each
                    for name, each in found.items()
                    if ledger.is_younger(name, entry.id) and each.modified > oldest
                }
                if error.kind != "key":
                    problems.append(unreadable(entry.id, entry.problem or str(error), error.kind))
        progress.say(f"deleting {len(found)} objects that no backup needs")
        freed = self._delete(list(found.values()), progress)
        return freed._replace(problems=problems + freed.problems)

    def _delete(self, objects: Sequence[Object], progress: Progress) -> Freed:
        lock = threading.Lock()
        gone: list[int] = []
        problems: dict[str, int] = {}

        def delete(each: Object) -> None:
            try:
                self._bucket.delete(each.key)
            except ArchiveError as error:
                if error.kind == "away":
                    raise
                with lock:
                    problems[str(error)] = problems.get(str(error), 0) + 1
            else:
                with lock:
                    gone.append(each.size)

        try:
            pieces.each(delete, objects, progress)
        except ArchiveError as error:
            if error.kind == "cancelled":
                raise
            problems[str(error)] = len(objects) - len(gone)
        told = [
            f"{text}; {count} objects could not be deleted" for text, count in problems.items()
        ]
        return Freed(len(gone), sum(gone), told)

    def _all_of(self, home: str) -> list[Entry]:
        return list(self.entries(home))

    def _applications(self, model: str) -> tuple[str, list[str]]:
        return model, self._bucket.folders(f"{model}/")

    def _entry(self, found: Object, backup_id: str, home: str) -> Entry:
        def told(head: Head | None, error: ArchiveError | None, *, own: bool = False) -> Entry:
            problem, kind = (str(error), error.kind) if error else (None, "")
            return Entry(backup_id, home, head, problem, own, found.modified, kind)

        try:
            head, seal = self._head(backup_id, home, found.size)
        except ArchiveError as error:
            if error.kind not in _ITS_OWN:
                raise
            return told(None, error)
        ours = head.key_id == key_id(self._settings.key)
        if head.id != backup_id or (ours and self._sealer.mac(head.signed()) != seal):
            return told(None, _tampered(backup_id))
        own = ours and home == self._settings.home and head.instance == self._settings.instance
        return told(head, None, own=own and bool(head.instance))

    def _head(self, backup_id: str, home: str, size: int = 0) -> tuple[Head, str]:
        if not is_id(backup_id):
            raise _unknown(backup_id)
        if size > _LARGEST:
            raise ArchiveError("damaged", "the manifest is damaged")
        try:
            data = self._bucket.get(_key(home, backup_id))
        except ArchiveError as error:
            if error.kind == "missing":
                text = f"there is no backup {backup_id} of {home}"
                raise ArchiveError("missing", f"see list-backups: {text}") from None
            raise
        return Head.parse(data)


def row(entry: Entry) -> dict[str, Any]:
    """A backup as `list-backups` shows it; sizes in bytes."""
    model_uuid, _, application = entry.home.partition("/")
    head = entry.head
    return {
        "id": entry.id,
        "time": head.time if head else moment(entry.id).timestamp(),
        "application": application,
        "model": head.model if head else "unknown",
        "model-uuid": model_uuid,
        "from": entry.home,
        "instance": head.instance if head else "unknown",
        "own": entry.own,
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


def unreadable(backup_id: str, problem: str, kind: str) -> str:
    """What to do about a backup that cannot be read, and why.

    Who may not read it, or has too old a charm, is not told to delete what may be whole.
    """
    if kind in pieces.UNREADABLE:
        return f"mend or delete backup {backup_id}: it cannot be read ({problem})"
    return f"{problem}; backup {backup_id} cannot be read"


def is_id(text: str) -> bool:
    """Whether a text is the id of a backup, as it is written."""
    try:
        return moment(text).strftime(_ID) == text
    except ValueError:
        return False


def moment(backup_id: str) -> datetime:
    """When a backup was asked for."""
    return datetime.strptime(backup_id, _ID).replace(tzinfo=UTC)


def _key(home: str, backup_id: str) -> str:
    return f"{home}/backups/{backup_id}{_SUFFIX}"


def _tampered(backup_id: str) -> ArchiveError:
    return ArchiveError("damaged", f"the manifest of {backup_id} was tampered with")


def _unknown(text: str) -> ArchiveError:
    return ArchiveError("missing", f"see list-backups: {text} is no id of a backup")
