"""The charms that the charm is related to in these tests, and the client in the cluster."""

import os
from pathlib import Path
from typing import Any

import jubilant

from tests.integration import client, packing

# What the client's charm has from the project.
_CLIENT_FILES = {
    place: packing.ROOT / source
    for place, source in (
        ("lib/charms/dittofs/v0/filesystem_info.py", "lib/charms/dittofs/v0/filesystem_info.py"),
        ("lib/tests/limits/nfs3.py", "tests/limits/nfs3.py"),
    )
}


def pack(name: str, target: Path) -> Path:
    """Pack one of the charms; see `packing.pack`."""
    extra = _CLIENT_FILES if name == client.NAME else {}
    return packing.pack(packing.CHARMS / name, target, extra)


def images(metadata: dict[str, Any]) -> dict[str, str]:
    """The images that a charm names, or in their place those of the environment.

    The image of the resource `dittofs-image` is that of `$DITTOFS_IMAGE`, where it is set.
    """
    return {
        name: os.environ.get(name.upper().replace("-", "_")) or resource["upstream-source"]
        for name, resource in metadata.get("resources", {}).items()
    }


def deploy(
    juju: jubilant.Juju, charm: Path, config: dict[str, jubilant.ConfigValue] | None = None
) -> str:
    """Deploy one of the charms and wait until it is active; its name."""
    name = charm.stem
    resources = images(packing.read_project(packing.CHARMS / name))
    juju.deploy(charm, name, resources=resources, config=config)
    juju.wait(
        lambda status: jubilant.all_active(status, name),
        error=lambda status: jubilant.any_error(status, name),
    )
    return name
