"""The life of a unit: events in, status out, and what the server was told."""

import gc

import pytest
from ops import pebble, testing

from tests.juju import MODEL
from tests.standin.core import Call
from tests.unit.conftest import Unit
from units import TIB


def active(message: str = "nfs, smb: /export") -> testing.ActiveStatus:
    return testing.ActiveStatus(message)


def shares(unit: Unit) -> dict[str, bool]:
    """Name of each share of the server, and whether it is served."""
    return {share["name"]: share["enabled"] for share in unit.server.database.all("share")}


def test_a_deployment_without_configuration_serves(deployed):
    assert deployed.service == pebble.ServiceStatus.ACTIVE
    assert deployed.state.workload_version == "v0.29.0"
    assert {port.port for port in deployed.state.opened_ports} == {8080, 9090, 12049, 12445}
    assert shares(deployed) == {"/export": True}
    assert deployed.marker("metadata") == deployed.marker("content")
    assert deployed.marker("metadata")["shares"] == {"/export": "badger/volume"}


def test_an_action_that_waits_collects_what_it_drops(deployed):
    """The charm looks for no cycles while it is imported, and only then."""
    assert deployed.status == active()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 10_000


def test_the_server_is_started_once_for_all_events_of_a_deployment(deployed):
    assert deployed.border.starts == 1


def test_the_configuration_has_no_secret_and_is_for_the_server_alone(deployed):
    path = deployed.root / "config" / "config.yaml"
    text = path.read_text()
    environment = deployed.state.get_container("dittofs").plan.services["dittofs"].environment
    assert path.stat().st_mode & 0o777 == 0o600
    assert environment["DITTOFS_CONTROLPLANE_SECRET"] not in text
    assert environment["DITTOFS_ADMIN_INITIAL_PASSWORD"] not in text
    assert "level: INFO" in text
    assert "block_cache_mb: 32" in text


def test_the_layer_gives_the_server_time_to_stop_and_to_start(deployed):
    plan = deployed.state.get_container("dittofs").plan
    service = plan.services["dittofs"]
    assert service.to_dict()["kill-delay"] == "16s"
    assert service.on_failure == "restart"
    assert service.environment["GOMEMLIMIT"] == "1843MiB"
    assert plan.checks["ready"].level == pebble.CheckLevel.READY
    assert plan.checks["hang"].level == pebble.CheckLevel.UNSET
    assert service.on_check_failure == {"hang": "restart"}


def test_log_level_and_memory_restart_the_server_and_nothing_else_does(deployed):
    deployed.configure(log_level="debug")
    assert deployed.border.starts == 2
    assert "level: DEBUG" in (deployed.root / "config" / "config.yaml").read_text()
    deployed.configure(memory="4Gi")
    assert deployed.border.starts == 3
    deployed.configure(protocols="nfs", shares="- {name: /export, access: read}")
    assert deployed.border.starts == 3


def test_shares_are_changed_live_with_the_fewest_calls(deployed):
    deployed.server.calls.clear()
    deployed.configure(shares="- {name: /export, access: read, quota: 1GiB}\n- name: /new")
    assert [(call.method, call.path) for call in deployed.server.changes] == [
        ("PUT", "/shares/export"),
        ("POST", "/store/metadata"),
        ("POST", "/shares"),
    ]
    assert deployed.server.changes[0].body == {"default_permission": "read"}
    # The guard gives the server what it is to enforce.
    assert deployed.agent.guard.config["shares"]["/export"]["quota"] == 2**30
    assert deployed.status == active("nfs, smb: /export, /new")


def test_a_share_that_leaves_is_disabled_and_kept_and_comes_back(deployed):
    deployed.configure(shares="- name: /other")
    assert shares(deployed) == {"/export": False, "/other": True}
    deployed.configure(shares="- name: /other\n- name: /export")
    assert shares(deployed) == {"/export": True, "/other": True}


@pytest.mark.parametrize("name", ["/a:b", "/a/b", "/.."])
def test_a_share_of_somebody_else_with_a_name_the_charm_would_not_give_is_left_alone(
    deployed, name
):
    database = deployed.server.database
    database.put("share", {**database.find("share", "/export"), "name": name, "id": "theirs"})
    deployed.server.calls.clear()
    assert deployed.run("update_status") == active()
    assert deployed.server.changes == []
    assert name in deployed.act("list-shares")["shares"]


def test_protocols_are_put_and_never_deleted(deployed):
    deployed.server.calls.clear()
    status = deployed.configure(protocols="nfs")
    assert status == active("nfs: /export")
    assert deployed.server.changes == [
        Call("PUT", "/adapters/smb", {"enabled": False, "port": 12445})
    ]
    assert 12445 not in {port.port for port in deployed.state.opened_ports}
    assert deployed.configure(protocols="") == active(
        "no protocol is served: see the option protocols"
    )


def test_no_share_is_said(deployed):
    assert deployed.configure(shares="[]") == active("no share is served: see the option shares")


def test_volatile_shares_and_many_shares_in_the_status(deployed):
    status = deployed.configure(shares="- {name: /s, metadata: memory}", memory="8Gi")
    assert status == active("nfs, smb: /s (volatile)")
    text = "\n".join(f"- name: /s{number}" for number in range(9))
    assert deployed.configure(shares=text).message == (
        "nfs, smb: /s0, /s1, /s2, /s3, /s4 and 4 more"
    )


def test_a_memory_share_keeps_its_kind_over_a_restart_of_the_charm(deployed):
    deployed.configure(shares="- {name: /s, metadata: memory, content: memory, quota: 1MiB}")
    assert deployed.run("update_status") == active("nfs, smb: /s (volatile)")


def test_a_lost_pod_comes_back_on_its_volumes(deployed):
    deployed.configure(shares="- name: /export\n- name: /more")
    instance = deployed.marker("metadata")["instance"]
    deployed.new_pod(can_connect=False)
    assert deployed.run("upgrade_charm") == testing.WaitingStatus("waiting for the container")
    deployed.new_pod()
    assert deployed.run("pebble_ready", deployed.state.get_container("dittofs")) == active(
        "nfs, smb: /export, /more"
    )
    assert deployed.marker("content")["instance"] == instance
    assert deployed.marker("content")["generation"] == 2


@pytest.mark.parametrize("option", [{"log_level": "debug"}, {"shares": "- name: /x"}])
def test_a_configuration_that_changes_while_the_pod_is_lost_is_used(deployed, option):
    deployed.new_pod(can_connect=False)
    deployed.configure(**option)
    deployed.new_pod()
    deployed.run("pebble_ready", deployed.state.get_container("dittofs"))
    text = (deployed.root / "config" / "config.yaml").read_text()
    if "log_level" in option:
        assert "level: DEBUG" in text
    else:
        assert shares(deployed) == {"/export": False, "/x": True}


def test_other_units_are_blocked_and_never_start_a_server(border, tmp_path):
    other = Unit(border, tmp_path / "unit-1", unit_id=1)
    status = other.deploy()
    assert status == testing.BlockedStatus(
        "only unit 0 can serve; run: juju scale-application dittofs 1"
    )
    check = other.state.get_container("dittofs").plan.checks["ready"]
    assert (check.level, check.threshold) == (pebble.CheckLevel.READY, 1)
    other.change(leader=True)
    other.run("leader_elected")
    assert other.status == status
    assert border.starts == 0
    assert list((other.root / "metadata").iterdir()) == []
    for event in ("stop", "remove"):
        other.run(event)
    with pytest.raises(testing.ActionFailed, match="only unit 0 serves: run it on dittofs/0"):
        other.act("list-shares")


def test_serving_does_not_depend_on_being_leader(deployed):
    deployed.change(leader=False)
    assert deployed.configure(shares="- name: /a") == active("nfs, smb: /a")
    deployed.new_pod()
    assert deployed.run("update_status") == active("nfs, smb: /a")


def test_the_first_start_waits_for_the_leader_to_make_the_passwords(unit):
    unit.change(leader=False)
    assert unit.deploy() == testing.WaitingStatus("waiting for the leader to make the passwords")
    assert unit.border.starts == 0
    unit.change(leader=True)
    assert unit.run("leader_elected") == active()


def test_the_first_start_waits_for_both_volumes(unit):
    """Juju lists them from the beginning, and cannot say where one is that is not mounted."""
    for event in ("install", "leader_elected"):
        assert unit.run(event) == testing.WaitingStatus("waiting for the storage to be attached")
    assert unit.pebble_ready() == unit.status
    assert unit.run("storage_attached", unit.storages[0]) == unit.status
    assert unit.border.starts == 0
    assert unit.run("storage_attached", unit.storages[1]) == active()


def test_a_server_serves_on_where_juju_cannot_say_for_a_moment_where_a_volume_is(deployed):
    deployed.mounted.clear()
    assert deployed.run("config_changed").name == "waiting"
    assert deployed.service == pebble.ServiceStatus.ACTIVE
    deployed.attach()
    assert deployed.run("update_status") == active()
    assert deployed.border.starts == 1


def test_teardown_drains_and_stops_and_nothing_starts_it_again(deployed):
    calls = deployed.server.calls
    deployed.run("storage_detaching", deployed.storages[0])
    assert calls[-1].path == "/system/drain-uploads"
    assert deployed.service == pebble.ServiceStatus.INACTIVE
    deployed.change(storages=deployed.storages[1:])
    deployed.run("update_status")
    assert deployed.service == pebble.ServiceStatus.INACTIVE
    deployed.run("storage_detaching", deployed.storages[1])
    deployed.change(storages=[])
    deployed.run("config_changed")
    assert deployed.run("stop") == testing.MaintenanceStatus("stopped")
    deployed.run("remove")
    assert deployed.border.starts == 1


@pytest.mark.parametrize("fault", ["no server", "no container", "no secret"])
def test_teardown_ends_whatever_is_broken(deployed, fault):
    if fault == "no server":
        deployed.border.stop()
    elif fault == "no container":
        deployed.new_pod(can_connect=False)
    else:
        deployed.change(secrets=[])
    for storage in deployed.storages:
        deployed.run("storage_detaching", storage)
    assert deployed.run("stop") == testing.MaintenanceStatus("stopped")
    deployed.run("remove")
    if fault != "no container":
        assert deployed.service == pebble.ServiceStatus.INACTIVE


def test_a_server_that_died_is_waited_for(deployed):
    deployed.border.stop()
    assert deployed.run("update_status") == testing.WaitingStatus("the server does not answer yet")
    environment = deployed.state.get_container("dittofs").plan.services["dittofs"].environment
    deployed.border.start(environment)
    info = testing.CheckInfo("ready", status=pebble.CheckStatus.UP)
    container = deployed.state.get_container("dittofs")
    assert deployed.run("pebble_check_recovered", container, info) == active()


def test_a_server_that_takes_minutes_to_start_is_waited_for(unit):
    unit.border.down = True
    before = unit.border.now[0]
    unit.deploy()
    assert unit.status == testing.WaitingStatus("the server does not answer yet")
    assert unit.border.now[0] - before < 120
    unit.border.down = False
    unit.border.start(unit.state.get_container("dittofs").plan.services["dittofs"].environment)
    assert unit.run("update_status") == active()


def test_a_port_that_is_taken_is_said_and_a_later_event_finds_it_mended(unit):
    unit.border.options = {"listen": lambda protocol, _port: protocol != "smb"}
    unit.deploy()
    assert unit.status.message.startswith("smb does not listen on port 12445 yet (unknown")
    unit.server.bound["smb"] = True
    assert unit.run("update_status") == active()


def test_200_shares(deployed):
    deployed.border.spaces["content"] = (0, 2 * TIB)
    text = "\n".join(f"- name: /share {number:03}" for number in range(200))
    assert deployed.configure(shares=text, memory="80Gi").message.endswith("and 195 more")
    assert len(deployed.server.database.all("share")) == 201


def filesystem(uuid: str = MODEL.uuid, relation_id: int = 7) -> testing.Relation:
    return testing.Relation(
        "filesystem", id=relation_id, remote_app_name="client", remote_model_uuid=uuid
    )


def published(unit: Unit, relation_id: int = 7) -> str | None:
    return unit.state.get_relation(relation_id).local_app_data.get("endpoint")


def test_the_first_share_is_published_to_every_client(deployed):
    peers = deployed.state.get_relations("peers")
    deployed.change(relations=[*peers, filesystem(), filesystem(relation_id=8)])
    deployed.run("relation_created", deployed.state.get_relation(7))
    address = "nfs://(dittofs-0.dittofs-endpoints.files.svc.cluster.local:12049)"
    assert published(deployed) == published(deployed, 8) == f"{address}/export"
    deployed.configure(shares="- name: /größe 1\n- name: /export")
    assert published(deployed) == f"{address}/gr%C3%B6%C3%9Fe%201"
    deployed.configure(protocols="smb")
    assert published(deployed) is None


def test_a_client_in_another_model_is_held_back_and_said(deployed):
    peers = deployed.state.get_relations("peers")
    deployed.change(relations=[*peers, filesystem("another-model")])
    status = deployed.run("relation_created", deployed.state.get_relation(7))
    assert status.name == "blocked"
    assert status.message == (
        "filesystem: remove the relation with client: it is in another model"
    )
    (reason,) = deployed.reasons()
    assert reason == (
        f"blocked: {status.message}; no address of this server is known there: deploy both in one "
        "model"
    )
    assert published(deployed) is None
    deployed.change(relations=peers)
    assert deployed.run("update_status") == active()


def test_a_leader_that_does_not_serve_publishes_what_unit_0_serves(border, tmp_path):
    other = Unit(border, tmp_path / "unit-1", unit_id=1)
    peers = testing.PeerRelation("peers", peers_data={0: {"served-share": "/export"}})
    other.change(relations=[peers, filesystem()], leader=True)
    other.run("relation_changed", peers)
    assert str(published(other)).endswith(":12049)/export")
