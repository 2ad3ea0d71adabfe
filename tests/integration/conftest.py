"""The packed charm on a real Juju; skipped where there is none.

    make pack && make integration

`$CHARM` is the packed charm (default: the one in the project's folder). A model is made for the
run and destroyed afterwards; `$KEEP_MODEL` keeps it.
"""

import os
import shutil
from pathlib import Path

import jubilant
import pytest
import yaml

ROOT = Path(__file__).parents[2]
_TIMEOUT = 15 * 60


@pytest.fixture(scope="session")
def juju():
    """A model of its own on the current controller."""
    if not shutil.which("juju"):
        pytest.skip("there is no juju on this machine")
    with jubilant.temp_model(keep=bool(os.environ.get("KEEP_MODEL"))) as made:
        made.wait_timeout = _TIMEOUT
        yield made


@pytest.fixture(scope="session")
def charm() -> Path:
    """The packed charm."""
    chosen = os.environ.get("CHARM")
    found = [Path(chosen)] if chosen else sorted(ROOT.glob("*.charm"))
    if not found:
        pytest.skip("there is no packed charm: make pack")
    return found[0].absolute()


@pytest.fixture(scope="session")
def deployed(juju, charm):
    """The application, deployed without any configuration, and active."""
    metadata = yaml.safe_load((ROOT / "metadata.yaml").read_text(encoding="utf-8"))
    resources = {
        name: resource["upstream-source"] for name, resource in metadata["resources"].items()
    }
    juju.deploy(charm, "dittofs", resources=resources)
    juju.wait(lambda status: jubilant.all_active(status, "dittofs"), error=jubilant.any_error)
    return juju
