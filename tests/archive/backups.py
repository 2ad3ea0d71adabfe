"""A backup that was made without a server: what a test wants to be in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.archive.bucket import Bucket, open_bucket
from agent.archive.catalogue import Catalogue
from agent.archive.ledger import Ledger
from agent.archive.manifest import File, Head, Share, write_table
from agent.archive.pieces import PIECE, Writer
from agent.archive.sealing import Sealer
from agent.archive.settings import ArchiveSettings
from tests.archive.volumes import SHARES, make_database

ID = "2026-01-01T00:00:00Z"
SEGMENT = "journal/0000000000000001.seg"
# Zeros at both ends and in the middle, and a piece that is there twice.
_BLOCK = bytes(range(256)) * 4096
BIG = bytes(PIECE) + 4 * _BLOCK + bytes(PIECE) + 4 * _BLOCK + b"the end" + bytes(1000)


def content_of(snapshot: str) -> dict[str, bytes]:
    """The files of a share, with what newer servers have beside their segments."""
    return {
        **golden_content_of(snapshot),
        "journal/cold.log": b"cold of " + snapshot.encode(),
        "journal/format": b"2\n",
    }


def golden_content_of(snapshot: str) -> dict[str, bytes]:
    """The files of a share in the golden backup."""
    return {
        SEGMENT: BIG,
        "journal/0000000000000002.seg": snapshot.encode() * 100,
        "journal/0000000000000003.seg": b"",
        f"snapshots/{snapshot}/metadata.dump": b"dump of " + snapshot.encode(),
        f"snapshots/{snapshot}/manifest.hashes": b"hashes of " + snapshot.encode(),
    }


class Backup:
    """Puts a backup into the bucket; its shares are those of `volumes`."""

    def __init__(self, settings: ArchiveSettings, scratch: Path):
        self.settings = settings
        self.database = scratch / "backup.db"
        snapshots = {share.snapshot: share.name for share in SHARES}
        make_database(self.database, "backup", snapshots | {"stray": "/export"})
        self._bucket: Bucket = open_bucket(settings, 10)
        self._sealer = Sealer(settings.key, encrypt=settings.encrypt)
        self._writer = Writer(self._bucket, settings.home, Ledger(None), ID)

    def make(self, **head: Any) -> Head:
        """Write it; `head` replaces fields."""
        shares = [
            Share(
                name=share.name,
                key=share.key,
                snapshot=share.snapshot,
                files=self._files(content_of(share.snapshot)),
                used_bytes=share.used_bytes,
                enabled=share.enabled,
            )
            for share in SHARES
        ]
        return self.write(self.control_plane(), shares, **head)

    def control_plane(self) -> File:
        """Write the control plane's pieces."""
        always = Sealer(self.settings.key, encrypt=True)
        return self._file(always, "controlplane.db", self.database.read_bytes(), 0o600)

    def write(self, control_plane: File, shares: list[Share], **head: Any) -> Head:
        """Write what is told of it."""
        settings = self.settings
        files = [control_plane, *(file for share in shares for file in share.files)]
        values: dict[str, Any] = {
            "id": ID,
            "time": 1767225600.0,
            "application": settings.application,
            "model": settings.model,
            "model_uuid": settings.model_uuid,
            "server": "v0.29.0",
            "charm": settings.charm_version,
            "encrypted": settings.encrypt,
            "key_id": self._sealer.key_id,
            "instance": settings.instance,
            "shares": tuple(share.name for share in shares),
            "files": len(files),
            "size": sum(file.size for file in files),
            "uploaded": self._writer.uploaded,
            "duration": 1.0,
            "table": self._writer.write(self._sealer, write_table(control_plane, shares)),
        }
        made = Head(**values | head)
        Catalogue(self._bucket, settings).write(made, self._sealer)
        return made

    def _files(self, contents: Mapping[str, bytes]) -> tuple[File, ...]:
        return tuple(
            self._file(self._sealer, path, data, 0o640) for path, data in contents.items()
        )

    def _file(self, sealer: Sealer, path: str, data: bytes, mode: int) -> File:
        parts = [data[begin : begin + PIECE] for begin in range(0, len(data), PIECE)]
        names = tuple(
            self._writer.write(sealer, part) if part.strip(b"\0") else None for part in parts
        )
        return File(path, len(data), mode, names)
