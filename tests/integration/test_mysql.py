"""docs/how-to/mysql.md: MySQL has the metadata too, and gives back what is lost."""

import pytest

from tests.integration.application import LONG, MIRROR_KEY, SERVED, Application
from tests.integration.client import Client, Sample
from tests.integration.counterparts import deploy

MIRRORED = f"{SERVED}; metadata in MySQL"
_MYSQL, _PROVIDER, _SECOND = "dittofs:mysql", "mysql-provider:database", "second"


@pytest.fixture(scope="module")
def provider(mysql_charm, juju):
    """MariaDB behind the library of the MySQL charms."""
    return deploy(juju, mysql_charm)


@pytest.fixture
def mirrored(serving, provider):  # noqa: ARG001  # it has to be there
    """The application with its metadata in MySQL."""
    if not serving.juju.status().apps[serving.name].relations.get("mysql"):
        serving.juju.integrate(_MYSQL, _PROVIDER)
    serving.wait_for(MIRRORED)
    return serving


def verify(application) -> str:
    """What `verify-metadata` says."""
    return application.act("verify-metadata", wait=LONG)["equal"]


@pytest.mark.usefixtures("provider")
def test_related_its_metadata_is_in_mysql_and_no_client_notices(serving, files, times):
    files.put("/export", "a", Sample("related"))
    with files.watching("/export", "a") as watch, times.measured("related to the first copy"):
        serving.juju.integrate(_MYSQL, _PROVIDER)
        serving.wait_for(MIRRORED)
    assert watch.outages == []
    assert verify(serving) == "true"
    assert serving.detail()["mirror"]["state"] == "mirroring"


def test_the_relation_goes_and_comes_and_no_client_notices(mirrored, files):
    files.put("/export", "a", Sample("removed"))
    with files.watching("/export", "a") as watch:
        mirrored.juju.remove_relation(_MYSQL, _PROVIDER)
        mirrored.wait_for(SERVED)
        files.put("/export", "b", Sample("without MySQL"))
        mirrored.juju.integrate(_MYSQL, _PROVIDER)
        mirrored.wait_for(MIRRORED)
    assert watch.outages == []
    assert verify(mirrored) == "true"


def test_a_lost_metadata_volume_comes_back_by_itself(mirrored, files, cluster, times):
    files.put("/export", "a", Sample("kept in MySQL"))
    assert verify(mirrored) == "true"
    lost = cluster.claims("dittofs")["metadata"]
    with times.measured("recovery of the metadata volume, with the pod's end"):
        cluster.scale("dittofs", 0)
        cluster.delete_claims(lost.name)
        cluster.scale("dittofs", 1)
        files.wait_for("/export", "a", Sample("kept in MySQL"), seconds=600)
    mirrored.wait_for(MIRRORED)
    assert cluster.claims("dittofs")["metadata"].volume != lost.volume
    assert verify(mirrored) == "true"


def test_another_application_recovers_it_with_the_key(
    mirrored, files, cluster, charm, resources, times
):
    """The first application is gone; its content volume is brought to the second one."""
    juju = mirrored.juju
    files.put("/export", "a", Sample("of the lost one"))
    assert verify(mirrored) == "true"
    instance = mirrored.instance
    key = mirrored.reveal(mirrored.secret(*MIRROR_KEY), "key")
    old = cluster.claims("dittofs")
    cluster.keep(old["content"].volume)
    juju.remove_application("dittofs")
    juju.wait(lambda status: "dittofs" not in status.apps)
    cluster.delete_claims(*(claim.name for claim in old.values()))

    second = Application(juju, _SECOND)
    second.deploy(charm, resources)
    second.wait_for(SERVED)
    juju.config(_PROVIDER.partition(":")[0], {"database": "dittofs"})
    new = cluster.claims(_SECOND)
    cluster.scale(_SECOND, 0)
    cluster.delete_claims(*(claim.name for claim in new.values()))
    cluster.reserve(old["content"].volume, new["content"].name)
    juju.integrate(f"{_SECOND}:mysql", _PROVIDER)
    cluster.scale(_SECOND, 1)
    second.wait(lambda status: f"recover-metadata from={instance}" in status.message)

    old_key = second.grant("old-key", "key", key)
    params = {"from": instance, "confirm": instance, "recovery-key": old_key}
    with times.measured("recover-metadata"):
        assert second.act("recover-metadata", params, wait=LONG)["recovery"] == "complete"
    second.wait_for(MIRRORED)
    assert Client(juju, _SECOND).get("/export", "a") == Sample("of the lost one").found
    assert verify(second) == "true"
