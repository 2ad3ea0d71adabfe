"""What is removed leaves nothing behind: a relation, the application, the model."""

import json
import time

import pytest

from tests.integration import reading
from tests.integration.application import SERVED
from tests.integration.client import Sample

_NAMESPACE_SECONDS = 120


@pytest.fixture(scope="module")
def used(serving, files):
    """An application with a file and a related client."""
    files.put("/export", "a", Sample("removed"))
    serving.juju.integrate("dittofs:filesystem", "nfs-client:filesystem")
    serving.juju.wait(lambda status: _address(status).startswith("nfs://"))
    return serving


def _address(status) -> str:
    """The address that the client shows."""
    return status.apps["nfs-client"].units["nfs-client/0"].workload_status.message


def test_a_relation_is_removed_and_what_it_gave_is_taken_back(used, files):
    with files.watching("/export", "a") as watch:
        used.juju.remove_relation("dittofs:filesystem", "nfs-client:filesystem")
        used.juju.wait(lambda status: not _address(status))
        used.wait_for(SERVED)
    assert watch.outages == []


def test_a_removed_application_leaves_nothing(used, cluster, times):
    juju = used.juju
    with times.measured("application removed"):
        juju.remove_application("dittofs", destroy_storage=True)
        juju.wait(lambda status: "dittofs" not in status.apps, error=used.fails)
    juju.wait(lambda _: not cluster.left_of("dittofs"), timeout=300)
    assert reading.owned_secrets(juju.cli("secrets", "--format", "json"), "dittofs") == []
    stored = json.loads(juju.cli("storage", "--format", "json") or "{}")
    assert not stored.get("storage")


def test_a_destroyed_model_leaves_nothing(used, cluster, times):
    juju = used.juju
    name = juju.model
    with times.measured("model destroyed"):
        juju.destroy_model(name, destroy_storage=True)
    models = json.loads(juju.cli("models", "--format", "json", include_model=False))["models"]
    assert not [each for each in models if each["name"].rpartition("/")[2] == name]
    end = time.monotonic() + _NAMESPACE_SECONDS
    while cluster.exists():
        assert time.monotonic() < end, "the namespace is still there"
        time.sleep(2)
