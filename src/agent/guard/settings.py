"""The configuration of the guard: one JSON file that the charm writes, readable by nobody else."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.archive.settings import Api
from agent.settings import SettingsError

# What the guard says of itself, beside its settings.
STATUS = "guard-status.json"


@dataclass(frozen=True)
class Bounds:
    """Free bytes of a volume.

    Attributes:
        freeze: below it no file may grow.
        resume: from it on they may again.
        halt: below it nothing may be written, until `freeze` is reached again.
        tight: below it a backup gives up, see `agent.archive.space`.
    """

    freeze: int
    resume: int
    halt: int
    tight: int


@dataclass(frozen=True)
class GuardedShare:
    """A share with its content on the volume.

    Attributes:
        quota: what the option asks for, in bytes; 0 for none.
        store: the directory of its metadata below `GuardSettings.stores`.
        read_only: what the option says.
    """

    quota: int
    store: str
    read_only: bool = False


@dataclass(frozen=True)
class GuardSettings:
    """What the guard works with.

    Attributes:
        api: the server's REST API.
        volumes: the bounds of each volume, `content` and `metadata`.
        room: what all shares together may hold, in bytes; 0 for no bound.
        shares: those to guard, by name.
        root: in front of the volumes' paths; `/` but in tests.
        run: for the program's own files, lost with the pod.
    """

    api: Api
    volumes: Mapping[str, Bounds]
    room: int
    shares: Mapping[str, GuardedShare]
    log_level: int
    root: Path
    run: Path

    def volume(self, name: str) -> Path:
        """Where a volume is mounted."""
        return self.root / "data" / name

    @property
    def stores(self) -> Path:
        """One Badger directory for each share."""
        return self.volume("metadata") / "stores"


def load(path: Path, root: Path = Path("/")) -> GuardSettings:
    """Read the file.

    Raises:
        SettingsError: it is not there, or not complete.
    """
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")), root, path.parent)
    except OSError as error:
        raise SettingsError(f"{path.name}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{path.name} is not complete: {type(error).__name__}") from None


def _parse(found: Mapping[str, Any], root: Path, run: Path) -> GuardSettings:
    api: Mapping[str, Any] = found["api"]
    return GuardSettings(
        api=Api(**{name: str(api[name]) for name in ("url", "metrics", "user", "password")}),
        volumes={
            name: Bounds(*(int(bounds[edge]) for edge in ("freeze", "resume", "halt", "tight")))
            for name, bounds in found["volumes"].items()
        },
        room=int(found["room"]),
        shares={
            str(name): GuardedShare(
                int(share["quota"]), str(share["store"]), read_only=bool(share["read_only"])
            )
            for name, share in found["shares"].items()
        },
        log_level=logging.getLevelNamesMapping()[str(found["log_level"]).upper()],
        root=root,
        run=run,
    )
