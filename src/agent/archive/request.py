"""What the charm wants to be done: one file on the metadata volume, without secrets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """One step of an operation; `id` and `step` name it."""

    id: str
    kind: str
    step: str
    params: Mapping[str, Any]

    @property
    def backup_id(self) -> str:
        """The backup that it is about."""
        return str(self.params.get("backup-id") or self.id)

    @property
    def home(self) -> str | None:
        """Where that backup is below the prefix; None for this application's own place."""
        return self.params.get("from")

    @property
    def shares(self) -> tuple[str, ...] | None:
        """The names of the shares to restore; None for all, with users and settings."""
        names = self.params.get("shares")
        return None if names is None else tuple(str(name) for name in names)


def read(path: Path) -> Request | None:
    """Read the file; None where there is none, or none that can be understood."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Request(
            id=str(found["id"]),
            kind=str(found["kind"]),
            step=str(found["step"]),
            params=dict(found["params"]),
        )
    except (OSError, KeyError, TypeError, ValueError):
        return None
