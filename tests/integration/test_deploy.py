"""README, "Deploy": what `juju deploy dittofs` gives, without any configuration."""

import json
import time

import pytest

from tests.integration.application import SERVED

_UPDATE_STATUS = "JUJU_DISPATCH_PATH=hooks/update-status ./dispatch"
_NFS, _SMB, _API, _METRICS = 12049, 12445, 8080, 9090
_CHANGES = ("POST /v1/layers", "POST /v1/services")


def test_it_is_active_without_configuration_and_without_trust(application, times):
    times.note("deploy to active", application.wait_for(SERVED) - application.began)
    said = json.loads(application.juju.cli("config", "--format", "json", application.name))
    assert not said.get("application-config", {}).get("trust", {}).get("value")
    detail = application.detail()
    assert [share["status"] for share in detail["shares"]] == ["healthy"]
    assert detail["reasons"] == []


def test_both_containers_run_as_the_image_s_own_user(serving):
    for container in ("dittofs", "agent"):
        said = serving.shell(container, "id -u && id -g")
        assert said.split() == ["65532", "65532"]


def test_the_version_is_the_server_s(serving):
    version = serving.juju.status().apps["dittofs"].version
    assert version
    assert version.removeprefix("v") == serving.detail()["server"]["version"].removeprefix("v")


@pytest.mark.usefixtures("serving")
def test_the_application_takes_connections_on_its_ports(files):
    ports = (_NFS, _SMB, _API, _METRICS)
    assert files.reach(*ports) == dict.fromkeys(ports, True)


def test_an_idle_event_changes_nothing_and_restarts_nothing(serving, times):
    serving.wait_idle()
    before = [serving.processes("dittofs", "dfs"), serving.processes("agent", "python3*")]
    assert all(before)
    serving.juju.exec(_UPDATE_STATUS, unit=serving.unit)
    began = time.monotonic()
    serving.juju.exec(_UPDATE_STATUS, unit=serving.unit)
    times.note("idle event, with juju exec around it", time.monotonic() - began)
    after = [serving.processes("dittofs", "dfs"), serving.processes("agent", "python3*")]
    assert after == before
    assert serving.message == SERVED


def test_an_idle_event_asks_pebble_for_nothing_but_to_read(serving, cluster):
    serving.wait_idle()
    began = time.monotonic()
    serving.juju.exec(_UPDATE_STATUS, unit=serving.unit)
    seconds = int(time.monotonic() - began) + 1
    for container in ("dittofs", "agent"):
        said = cluster.logs("dittofs-0", container, seconds)
        assert not [line for line in said.splitlines() if any(each in line for each in _CHANGES)]
