"""The configuration of backups: one JSON file that the charm writes, readable by nobody else."""

import base64
import binascii
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.archive.errors import ArchiveError

OPERATION = ".dittofs-operation.json"
NOTES = ".dittofs-backup"
# In the folder of notes: the objects that are right, and that there is something left to delete.
LEDGER, UNSWEPT = "objects", "unswept"
RESTORING = ".restoring"
ASIDE = "aside-"
_KEY_SIZE = 32


@dataclass(frozen=True)
class S3:
    """Where the bucket is; no `endpoint`: AWS. `prefix` has no slash at its ends.

    `path_style`: its name is in the path of a URL, else in front of the host. `proxy`: a URL.
    """

    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    endpoint: str | None = None
    region: str | None = None
    prefix: str = ""
    path_style: bool = True
    ca: str | None = None
    proxy: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Api:
    """The server's REST API, and its metrics, which tell its version."""

    url: str
    metrics: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Keep:
    """Which backups stay; None in both: all."""

    count: int | None = None
    days: int | None = None


@dataclass(frozen=True)
class ArchiveSettings:
    """What backups are made with.

    Attributes:
        s3: None where no bucket is related: what was fetched can still be restored.
        key: of this application, 32 bytes; the control plane is always encrypted with it.
        foreign_key: of the application whose backup is restored, 32 bytes.
        encrypt: whether everything else is encrypted, too.
        schedule: `hourly` and the like or a cron expression in UTC; empty for none.
        root: in front of the volumes' paths; `/` but in tests.
        run: for the program's own files, lost with the pod.
    """

    s3: S3 | None
    application: str
    model: str
    model_uuid: str
    charm_version: str
    instance: str
    api: Api
    key: bytes = field(repr=False)
    foreign_key: bytes | None = field(repr=False)
    encrypt: bool
    keep: Keep
    schedule: str
    log_level: int
    root: Path
    run: Path

    @property
    def metadata(self) -> Path:
        """The metadata volume."""
        return self.root / "data/metadata"

    @property
    def content(self) -> Path:
        """The content volume."""
        return self.root / "data/content"

    @property
    def database(self) -> Path:
        """The server's control plane."""
        return self.metadata / "controlplane.db"

    @property
    def notes(self) -> Path:
        """The program's own files that a lost pod must not take with it."""
        return self.metadata / NOTES

    @property
    def home(self) -> str:
        """Where this application's backups are, below the prefix."""
        return f"{self.model_uuid}/{self.application}"


def load(path: Path, root: Path = Path("/")) -> ArchiveSettings:
    """Read the file.

    Raises:
        ArchiveError: `settings`: it is not there, or not complete.
    """
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")), root, path.parent)
    except OSError as error:
        raise ArchiveError("settings", f"{path.name}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        text = f"{path.name} is not complete: {type(error).__name__}"
        raise ArchiveError("settings", text) from None


def _parse(found: Mapping[str, Any], root: Path, run: Path) -> ArchiveSettings:
    foreign = found["foreign_key"]
    return ArchiveSettings(
        s3=_s3(found["s3"]) if found["s3"] else None,
        application=str(found["application"]),
        model=str(found["model"]),
        model_uuid=str(found["model_uuid"]),
        charm_version=str(found["charm_version"]),
        instance=str(found["instance"]),
        api=Api(
            **{name: str(found["api"][name]) for name in ("url", "metrics", "user", "password")}
        ),
        key=_key(found["key"]),
        foreign_key=_key(foreign) if foreign else None,
        encrypt=bool(found["encrypt"]),
        keep=Keep(count=found["keep"]["count"], days=found["keep"]["days"]),
        schedule=str(found["schedule"]),
        log_level=logging.getLevelNamesMapping()[str(found["log_level"]).upper()],
        root=root,
        run=run,
    )


def _s3(found: Mapping[str, Any]) -> S3:
    return S3(
        bucket=str(found["bucket"]),
        access_key=str(found["access_key"]),
        secret_key=str(found["secret_key"]),
        endpoint=found["endpoint"],
        region=found["region"],
        prefix=str(found["prefix"]).strip("/"),
        path_style=bool(found["path_style"]),
        ca=found["ca"],
        proxy=found.get("proxy"),
    )


def _key(text: str) -> bytes:
    key = base64.b64decode(text, validate=True)
    if len(key) != _KEY_SIZE:
        raise ValueError("a key needs 32 bytes")
    return key
