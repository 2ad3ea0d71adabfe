"""The configuration of the agent: one JSON file that the charm writes, readable by nobody else."""

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.mysql import Identity, Server

_KEY_SIZE = 32


class SettingsError(Exception):
    """The file cannot be used; the text says why, without any of its values."""


@dataclass(frozen=True)
class Settings:
    """What the agent works with.

    Attributes:
        identity: whose metadata it is, as it is noted in the database.
        server: the database.
        key: encrypts the control plane, 32 bytes.
        max_lag: seconds that the mirror may be behind and still be called well.
        root: in front of the volumes' paths; `/` but in tests.
        run: for the program's own files, lost with the pod.
    """

    identity: Identity
    server: Server
    key: bytes = field(repr=False)
    max_lag: int
    log_level: int
    root: Path
    run: Path

    @property
    def metadata(self) -> Path:
        """The metadata volume."""
        return self.root / "data/metadata"

    @property
    def stores(self) -> Path:
        """One store in a directory for each share."""
        return self.metadata / "stores"

    @property
    def deleted(self) -> Path:
        """One empty file for each store that has to leave the database."""
        return self.metadata / "deleted-stores"

    @property
    def database(self) -> Path:
        """The server's control plane."""
        return self.metadata / "controlplane.db"


def load(path: Path, root: Path = Path("/")) -> Settings:
    """Read the file.

    Raises:
        SettingsError: it is not there, or not complete.
    """
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")), root, path.parent)
    except OSError as error:
        raise SettingsError(f"{path.name}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{path.name} is not complete: {type(error).__name__}") from None


def _parse(found: Mapping[str, Any], root: Path, run: Path) -> Settings:
    mysql = found["mysql"]
    key = base64.b64decode(found["control_plane_key"], validate=True)
    if len(key) != _KEY_SIZE:
        raise ValueError("the key needs 32 bytes")
    return Settings(
        identity=Identity(
            instance=str(found["instance"]),
            generation=int(found["generation"]),
            application=str(found["application"]),
            model=str(found["model"]),
            model_uuid=str(found["model_uuid"]),
            marker=str(found["marker"]),
        ),
        server=Server(
            endpoints=tuple((str(host), int(port)) for host, port in mysql["endpoints"]),
            user=str(mysql["user"]),
            password=str(mysql["password"]),
            database=str(mysql["database"]),
            tls=bool(mysql["tls"]),
            ca=mysql["ca"],
        ),
        key=key,
        max_lag=int(found["max_lag"]),
        log_level=logging.getLevelNamesMapping()[str(found["log_level"]).upper()],
        root=root,
        run=run,
    )
