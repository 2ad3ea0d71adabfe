"""Rules that hold for every event: nothing raises, nothing is written twice, any order will do."""

import dataclasses
import json
import os
import shutil
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops import testing

from tests.unit import agents, archives
from tests.unit.conftest import Server, Unit, install

PLAIN = [
    "install",
    "start",
    "config_changed",
    "upgrade_charm",
    "update_status",
    "leader_elected",
]


def events(unit: Unit) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every event that Juju may deliver now, with its arguments; those of no interest, too."""
    state = unit.state
    dittofs, agent = state.get_container("dittofs"), state.get_container("agent")
    found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {name: ((), {}) for name in PLAIN}
    found["pebble_ready dittofs"] = ((dittofs,), {})
    found["pebble_ready agent"] = ((agent,), {})
    for container, wanted in ((dittofs, "ready"), (agent, "mirror")):
        for check in container.check_infos:
            if check.name == wanted:
                found[f"pebble_check_recovered {wanted}"] = ((container, check), {})
    for relation in state.relations:
        name = {
            "peers": "",
            "filesystem": " client",
            "mysql": " mysql",
            "s3-backup": " s3",
        }[relation.endpoint]
        found[f"relation_created{name}"] = ((relation,), {})
        for event in ("joined", "changed", "departed"):
            found[f"relation_{event}{name}"] = ((relation,), {"remote_unit": 1})
        if name:
            found[f"relation_broken{name}"] = ((relation,), {})
    for notice in agent.notices:
        found["pebble_custom_notice agent"] = ((agent, notice), {})
    for storage in state.storages:
        found[f"storage_attached {storage.name}"] = ((storage,), {})
    return found


NAMES = [
    *PLAIN,
    "pebble_ready dittofs",
    "pebble_ready agent",
    "pebble_check_recovered ready",
    "pebble_check_recovered mirror",
    "relation_created",
    "relation_changed",
    "storage_attached metadata",
    "storage_attached content",
    "relation_created client",
    "relation_joined client",
    "relation_changed client",
    "relation_departed client",
    "relation_broken client",
    "relation_created mysql",
    "relation_joined mysql",
    "relation_changed mysql",
    "relation_departed mysql",
    "relation_broken mysql",
    "relation_created s3",
    "relation_joined s3",
    "relation_changed s3",
    "relation_departed s3",
    "relation_broken s3",
    "pebble_custom_notice agent",
]


def deliver(unit: Unit, name: str) -> None:
    """Deliver an event by name; one that cannot come in this state is passed over."""
    found = events(unit).get(name)
    if found is not None:
        unit.run(name.partition(" ")[0], *found[0], **found[1])


def client() -> testing.Relation:
    return testing.Relation("filesystem", remote_app_name="client", remote_units_data={1: {}})


def related(unit: Unit, databag: dict[str, str] | None = None) -> None:
    """All endpoints are related; no event says so yet. The agent has a notice."""
    mysql = agents.relation(agents.MYSQL_K8S if databag is None else databag)
    agent = dataclasses.replace(
        unit.state.get_container("agent"), notices=[testing.Notice(key="dittofs.charm/backup")]
    )
    unit.change(
        relations=[*unit.state.relations, client(), mysql, archives.relation(archives.V1)],
        secrets=[*unit.state.secrets, agents.USER, agents.TLS, archives.KEYS],
        containers=[unit.state.get_container("dittofs"), agent],
    )
    unit.agent.hold(None)


def before_storage(unit: Unit) -> None:
    unit.change(storages=[])


def before_mount(unit: Unit) -> None:
    unit.mounted.clear()


def before_pebble(unit: Unit) -> None:
    unit.new_pod(can_connect=False)


def before_leader(unit: Unit) -> None:
    unit.change(leader=False, secrets=[], relations=[testing.PeerRelation("peers")])


def config_wrong(unit: Unit) -> None:
    unit.change(config={"shares": "- {", "memory": "x", "protocols": "ftp", "log-level": "?"})


def secret_wrong(unit: Unit) -> None:
    unit.change(config={"admin-password": f"secret:{'gone':a<20}"})


def api_down(unit: Unit) -> None:
    unit.border.down = True
    unit.border.stop()


def server_gone(unit: Unit) -> None:
    unit.border.stop()


def volume_lost(unit: Unit) -> None:
    unit.border.stop()
    (unit.root / "content" / ".dittofs-charm.json").unlink()


def metadata_lost(unit: Unit) -> None:
    unit.border.stop()
    shutil.rmtree(unit.root / "metadata")
    (unit.root / "metadata").mkdir()
    unit.agent.hold(agents.row(unit.marker("content")))


def mysql_says_nothing(unit: Unit) -> None:
    others = [each for each in unit.state.relations if each.endpoint != "mysql"]
    unit.change(relations=[*others, agents.relation({})])


def mysql_secret_gone(unit: Unit) -> None:
    unit.change(secrets=[each for each in unit.state.secrets if each.id != agents.USER.id])


def mirror_blocked(unit: Unit) -> None:
    unit.agent.status = {"state": "blocked", "kind": "password", "message": "access denied"}


def agent_away(unit: Unit) -> None:
    unit.agent_away()


def agent_unfit(unit: Unit) -> None:
    unit.agent.bare()
    unit.agent.unpack = (3, "3.8")


def s3_says_nothing(unit: Unit) -> None:
    others = [each for each in unit.state.relations if each.endpoint != "s3-backup"]
    unit.change(relations=[*others, archives.relation({})])


def s3_secret_gone(unit: Unit) -> None:
    unit.change(secrets=[each for each in unit.state.secrets if each.id != archives.KEYS.id])


def backup_under_way(unit: Unit) -> None:
    unit.run("update_status")
    unit.border.pace = 100
    unit.agent.archive.script["create"] = archives.RUNNING
    unit.act("create-backup")


def restore_under_way(unit: Unit) -> None:
    unit.run("update_status")
    made = unit.act("create-backup")["backup-id"]
    unit.border.pace = 100
    unit.agent.archive.script["settle"] = archives.RUNNING
    unit.act("restore", **{"backup-id": made, "confirm": made})


def restore_without_s3(unit: Unit) -> None:
    restore_under_way(unit)
    others = [each for each in unit.state.relations if each.endpoint != "s3-backup"]
    unit.change(relations=others)


def operation_damaged(unit: Unit) -> None:
    (unit.root / "metadata" / ".dittofs-operation.json").write_text("{")


def no_peers(unit: Unit) -> None:
    unit.change(relations=[each for each in unit.state.relations if each.endpoint != "peers"])


STAGES = [
    before_storage,
    before_mount,
    before_pebble,
    before_leader,
    config_wrong,
    secret_wrong,
    api_down,
    server_gone,
    volume_lost,
    metadata_lost,
    mysql_says_nothing,
    mysql_secret_gone,
    mirror_blocked,
    agent_away,
    agent_unfit,
]
BACKUP_STAGES = [
    s3_says_nothing,
    s3_secret_gone,
    backup_under_way,
    restore_under_way,
    restore_without_s3,
    operation_damaged,
]
# What an event of one endpoint does to the other is shown at some of its events.
_RARE = (" mysql", " client", "_joined s3", "_departed s3", "_created s3")
# And what matters to a backup or restore, at these.
_TELLING = (
    "config_changed",
    "update_status",
    "upgrade_charm",
    "pebble_ready agent",
    "pebble_custom_notice agent",
    "relation_changed s3",
    "relation_broken s3",
)
MOMENTS = [
    *((stage, name) for stage in STAGES for name in NAMES if not name.endswith(_RARE[2:])),
    *((stage, name) for stage in BACKUP_STAGES for name in NAMES if name.endswith(_TELLING)),
]


@pytest.mark.parametrize(
    ("stage", "name"), MOMENTS, ids=lambda each: each if isinstance(each, str) else each.__name__
)
def test_no_event_raises_at_any_stage(deployed, stage, name):
    related(deployed)
    stage(deployed)
    deliver(deployed, name)
    assert deployed.status.name in {"active", "waiting", "blocked", "maintenance"}
    assert deployed.status.message


@pytest.mark.parametrize("name", [None, "update_status", "upgrade_charm"])
@pytest.mark.parametrize("stage", [*STAGES, *BACKUP_STAGES], ids=lambda stage: stage.__name__)
def test_teardown_ends_at_any_stage(deployed, stage, name):
    related(deployed)
    stage(deployed)
    if name:
        deliver(deployed, name)
    for storage in deployed.state.storages:
        deployed.run("storage_detaching", storage)
    deployed.run("stop")
    deployed.run("remove")


def test_without_the_peer_relation_nothing_raises(unit):
    no_peers(unit)
    for event in ("install", "config_changed", "update_status", "stop"):
        unit.run(event)


def written(unit: Unit) -> dict[str, int]:
    """Every file of the volumes and the configuration, with the time it was last written."""
    return {
        os.path.join(place, name): os.stat(os.path.join(place, name)).st_mtime_ns  # noqa: PTH116, PTH118  # many files, often
        for place, _, names in os.walk(unit.root)
        for name in names
        if not name.startswith("controlplane.db")
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_second_time_writes_nothing_restarts_nothing_and_changes_nothing(deployed, name):
    related(deployed)
    deployed.run("update_status")
    deliver(deployed, name)
    deployed.server.calls.clear()
    files, starts, state = written(deployed), deployed.border.starts, deployed.state
    mirrors = list(deployed.agent.commands)
    backups = list(deployed.agent.archive.starts)
    deliver(deployed, name)
    assert written(deployed) == files
    assert deployed.border.starts == starts
    assert deployed.agent.commands == mirrors
    assert deployed.agent.archive.starts == backups
    assert deployed.server.changes == []
    assert deployed.state.relations == state.relations
    assert deployed.state.secrets == state.secrets
    assert deployed.state.opened_ports == state.opened_ports
    secrets = [each for each in deployed.commands if each.startswith("secret-get ")]
    assert len(secrets) == len(set(secrets))


def picture(unit: Unit) -> dict[str, Any]:
    """Where a unit ended, without what is made at random or counted."""
    marker = unit.marker("metadata")
    return {
        "status": str(unit.status),
        "ports": sorted(port.port or 0 for port in unit.state.opened_ports),
        "shares": [
            {key: share[key] for key in ("name", "enabled", "default_permission", "squash")}
            for share in sorted(unit.server.database.all("share"), key=lambda each: each["name"])
        ],
        "adapters": [
            (each["name"], each["enabled"], each["port"])
            for each in sorted(
                unit.server.database.all("adapter"), key=lambda adapter: adapter["name"]
            )
        ],
        "marker": {key: marker[key] for key in ("application", "committed", "shares")},
        "config": (unit.root / "config" / "config.yaml").read_text(),
        "published": [
            relation.local_app_data for relation in unit.state.get_relations("filesystem")
        ],
        "asked": [relation.local_app_data for relation in unit.state.get_relations("mysql")],
        "mirror": {
            key: value
            for key, value in unit.agent.config.items()
            if key in {"application", "mysql", "max_lag", "log_level"}
        },
        "mirroring": str(unit.mirror),
        "asked for a bucket": [
            relation.local_app_data for relation in unit.state.get_relations("s3-backup")
        ],
        "backups": {
            key: value
            for key, value in unit.agent.archive.config.items()
            if key in {"application", "s3", "keep", "schedule", "log_level"}
        },
        "backing up": str(unit.backups),
    }


FINAL = {"shares": "- {name: /export, access: read}\n- {name: /b, squash: none}", "memory": "4Gi"}


def end(unit: Unit) -> dict[str, Any]:
    """The last configuration and one event more, whatever came before."""
    unit.change(config=FINAL)
    unit.run("config_changed")
    unit.run("update_status")
    return picture(unit)


@given(
    order=st.lists(
        st.sampled_from(
            [*NAMES, "new pod", "kill", "wrong config", "other config", "leader lost", "leader"]
        ),
        max_size=12,
    )
)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_order_of_events_ends_in_the_same_place(order, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        border = Server()
        install(border, patch)
        pictures = []
        for steps in ([], order):
            unit = Unit(border, tmp_path_factory.mktemp("unit"))
            related(unit)
            for step in steps:
                take(unit, step)
            unit.change(leader=True)
            unit.run("leader_elected")
            unit.attach()
            pictures.append(end(unit))
            border.stop()
        assert pictures[0] == pictures[1]


def take(unit: Unit, step: str) -> None:
    if step == "new pod":
        unit.new_pod()
    elif step == "kill":
        unit.border.stop()
        service = unit.state.get_container("dittofs").plan.services.get("dittofs")
        if service:
            unit.border.unit = unit
            unit.border.start(service.environment)
    elif step in {"wrong config", "other config"}:
        unit.change(config={"shares": "- {" if step == "wrong config" else "- name: /b"})
        unit.run("config_changed")
    elif step.startswith("leader"):
        unit.change(leader=step == "leader")
    else:
        deliver(unit, step)


def secrets_of(unit: Unit) -> set[str]:
    """Every value of a Juju secret that is one: not the provider's word on TLS."""
    return {
        value
        for secret in unit.state.secrets
        for key, value in secret.latest_content.items()
        if key not in {"tls", "tls-ca"}
    }


def backed_up_and_restored(unit: Unit) -> list[Any]:
    """The results of all actions of backups; the last restore stays under way."""
    made = unit.act("create-backup")
    given = {"backup-id": made["backup-id"]}
    confirmed = given | {"confirm": made["backup-id"]}
    results = [
        made,
        unit.act("list-backups"),
        unit.act("list-backups", output="json", all=True),
        unit.act("verify-backup", **given),
        unit.act("restore", **confirmed),
    ]
    unit.border.pace = 100
    unit.agent.archive.script["fetch"] = archives.RUNNING
    results.append(unit.act("restore", **confirmed))
    operation = unit.root / "metadata" / ".dittofs-operation.json"
    return [*results, operation.read_text()]


def test_no_secret_is_anywhere_but_in_the_environment_of_the_service(deployed, caplog):
    given_by_user = testing.Secret({"password": "correct horse"}, id=f"secret:{'user':a<20}")
    deployed.change(secrets=[*deployed.state.secrets, given_by_user])
    related(deployed)
    deployed.agent.answers["verify"] = (0, '{"result": "equal", "stores": [], "error": null}')
    deployed.configure(admin_password=str(given_by_user.id), shares="- {")
    deployed.configure(shares="- name: /export")
    results = [
        deployed.act("status-detail"),
        deployed.act("status-detail", format="json"),
        deployed.act("list-shares"),
        deployed.act("verify-metadata"),
        *backed_up_and_restored(deployed),
    ]
    deployed.new_pod()
    deployed.pebble_ready()
    deployed.border.stop()
    deployed.run("update_status")
    secrets = secrets_of(deployed)
    assert len(secrets) >= 10
    config = (deployed.root / "agent/config.json").read_text()
    assert agents.USER.tracked_content["password"] in config
    assert archives.SECRET in (deployed.root / "agent/backup.json").read_text()
    shown = [
        json.dumps(results),
        "\n".join(deployed.logs),
        caplog.text,
        str(deployed.status),
        *(str(relation) for relation in deployed.state.relations),
        str(deployed.agent.archive.commands),
        *(
            (deployed.root / place).read_text()
            for place in (
                "config/config.yaml",
                "config/serve.sh",
                "metadata/.dittofs-charm.json",
                "metadata/.dittofs-charm-ended.json",
            )
        ),
    ]
    plan = deployed.state.get_container("dittofs").plan.to_dict()
    shown.append(json.dumps(deployed.state.get_container("agent").plan.to_dict()))
    shown += [
        path.read_text()
        for path in (deployed.root / "agent").iterdir()
        if path.suffix in {".json", ".digest"}
        and path.name not in {"config.json", "backup.json", "guard.json"}
    ]
    environment = plan["services"]["dittofs"].pop("environment")  # pyright: ignore[reportTypedDictNotRequiredAccess]  # it is there
    shown.append(json.dumps(plan))
    for secret in secrets:
        assert not any(secret in text for text in shown)
    assert any(secret in environment.values() for secret in secrets)


def test_no_secret_is_in_the_repr_of_the_state(deployed, monkeypatch):
    import state as state_module  # noqa: PLC0415  # only here

    seen = []
    original = state_module.State.from_charm.__func__

    def note(cls, charm, **kwargs):
        made = original(cls, charm, **kwargs)
        seen.append(repr(made) + str(made) + made.model_dump_json())
        return made

    monkeypatch.setattr(state_module.State, "from_charm", classmethod(note))
    related(deployed)
    deployed.run("update_status")
    assert seen
    for secret in secrets_of(deployed):
        assert not any(secret in text for text in seen)
