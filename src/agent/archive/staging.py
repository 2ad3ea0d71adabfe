"""What a restore has laid down beside the data of both volumes, and its notes.

Everything is below `.restoring` on both volumes, so that renames put it into its place.
`staged.json` on the metadata volume is written last: what it describes is complete. Notes that
outlive the staging are in `.dittofs-restore`.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agent.archive.errors import ArchiveError
from agent.archive.settings import RESTORING, ArchiveSettings

BACKUP_DATABASE = "controlplane.backup"
SHARES = "shares"
_STAGED, _OWNER = "staged.json", "operation"
_NOTES = ".dittofs-restore"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class StagedShare:
    """A share of the backup, as `manifest.Share` has it, without its files."""

    name: str
    key: str
    snapshot: str
    used_bytes: int
    enabled: bool

    @property
    def store(self) -> str:
        """The folder of its metadata store, as the charm names it."""
        return quote(self.name.removeprefix("/"), safe="")


@dataclass(frozen=True)
class Staged:
    """What was laid down.

    Attributes:
        id: of the operation.
        full: everything is replaced, users and settings too; else only the shares.
        size: in bytes.
    """

    id: str
    backup_id: str
    full: bool
    size: int
    files: int
    shares: tuple[StagedShare, ...]


class Staging:
    """Where a restore works on the two volumes."""

    def __init__(self, settings: ArchiveSettings):
        self._settings = settings
        self.metadata = settings.metadata / RESTORING
        self.content = settings.content / RESTORING
        self.notes = settings.metadata / _NOTES

    @property
    def database(self) -> Path:
        """The control plane that takes the place of the present one."""
        return self.metadata / self._settings.database.name

    @property
    def backup_database(self) -> Path:
        """The control plane of the backup, as it was."""
        return self.metadata / BACKUP_DATABASE

    def share(self, key: str) -> Path:
        """The folder of a share."""
        return self.content / SHARES / key

    def begin(self, operation: str) -> None:
        """Make the folders; what another operation left goes."""
        if self._owner() != operation:
            self.remove()
        for place in (self.content, self.metadata):
            place.mkdir(mode=0o700, exist_ok=True)
        # The server itself makes the folder that this one becomes as one that others may read.
        (self.content / SHARES).mkdir(mode=0o755, exist_ok=True)
        write(self.metadata / _OWNER, operation)

    def complete(self, staged: Staged) -> None:
        """Note that all of it is there, and on the disks."""
        for root in (self.content, self.metadata):
            for directory, _, _ in os.walk(root):
                sync(Path(directory))
            sync(root.parent)
        write(self.metadata / _STAGED, json.dumps(asdict(staged), indent=1, sort_keys=True))

    def read(self) -> Staged | None:
        """What is there completely; None where that is nothing."""
        found = read_json(self.metadata / _STAGED)
        if found is None:
            return None
        values = dict(found)
        values["shares"] = tuple(StagedShare(**share) for share in found["shares"])
        return Staged(**values)

    def of(self, operation: str) -> Staged:
        """What this operation has laid down.

        Raises:
            ArchiveError: `refused`: not all of it is there.
        """
        staged = self.read()
        if staged is None or staged.id != operation:
            raise ArchiveError(
                "refused", "run restore again: what is to be restored is not there completely"
            )
        return staged

    def forget(self) -> None:
        """Nothing is complete any more."""
        (self.metadata / _STAGED).unlink(missing_ok=True)
        sync(self.metadata)

    def remove(self) -> None:
        """Remove all that was laid down; the note of whose it is goes last."""
        remove(self.content)
        remove(self.metadata)

    def _owner(self) -> str | None:
        try:
            return (self.metadata / _OWNER).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


def write(path: Path, text: str) -> None:
    """Replace a file by one that a crash leaves whole: this one or the one before."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def read_json(path: Path) -> Mapping[str, Any] | None:
    """What `write` wrote; None where there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def remove(path: Path) -> None:
    """Remove a folder with all that is in it; nothing where there is none."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def sync(path: Path) -> None:
    """Let what is in a file or a folder outlive a loss of power."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def volume_errors(settings: ArchiveSettings) -> Generator[None]:
    """Turn what a volume refuses into an `ArchiveError`: `space` or `refused`."""
    try:
        yield
    except OSError as error:
        name = Path(str(error.filename)).name if error.filename else "a volume"
        text = f"{error.strerror}: {name}"
        if error.errno not in _FULL:
            raise ArchiveError("refused", f"check both volumes: {text}") from None
        raise ArchiveError("space", f"make room on {_fullest(settings)}: {text}") from None


def _fullest(settings: ArchiveSettings) -> str:
    """Where the least is free: a write that fails names no file."""
    roots = {
        "the metadata volume": settings.metadata,
        "the content volume": settings.content,
        "the node's disk": settings.run,
    }
    free = {name: shutil.disk_usage(root).free for name, root in roots.items() if root.is_dir()}
    return min(free, key=free.__getitem__, default="both volumes")
