"""The mirror beside a server that serves: settings, service, statuses."""

import dataclasses
import io
import json
import shutil
import sys
import tarfile
import time

import pytest
from ops import pebble, testing
from scenario import mocking

import bundle
from tests.unit import agents
from tests.unit.conftest import AGENT

SERVED = "nfs, smb: /export"
MIRRORED = testing.ActiveStatus(f"{SERVED}; metadata in MySQL")
UNFIT = (
    "blocked: attach an agent-image with glibc and Python "
    f"{sys.version_info.major}.{sys.version_info.minor}: this one "
)


@pytest.fixture
def mirrored(deployed):
    """A unit that serves and mirrors."""
    assert deployed.relate() == MIRRORED
    return deployed


def plan(unit):
    return unit.state.get_container(AGENT).plan


def beside(unit) -> str:
    """The status that the mirror makes of a unit that serves on."""
    status = unit.run("update_status")
    assert unit.service == pebble.ServiceStatus.ACTIVE
    assert unit.server.database.find("share", "/export")["enabled"]
    return f"{status.name}: {status.message}"


def test_a_database_is_enough_for_the_metadata_to_be_mirrored(mirrored):
    assert mirrored.agent.commands == [["mirror"]]
    assert mirrored.mirror == pebble.ServiceStatus.ACTIVE
    assert 9091 in {port.port for port in mirrored.state.opened_ports}
    config, marker = mirrored.agent.config, mirrored.marker("metadata")
    assert config["instance"] == marker["instance"]
    assert config["generation"] == marker["generation"] == 1
    assert json.loads(config["marker"]) == marker
    assert (config["application"], config["model"]) == ("dittofs", "files")
    assert config["model_uuid"] == marker["model_uuid"]
    assert config["mysql"] == {
        "endpoints": [["mysql-k8s-primary.files.svc.cluster.local", 3306]],
        "user": "relation-12_8f2ae4",
        "password": "gmS2pVvYbLrk8F3qXw0ZtJ9d",
        "database": "dittofs",
        "tls": True,
        "ca": agents.CA,
    }
    assert (config["max_lag"], config["log_level"]) == (60, "info")


def test_the_server_is_not_restarted_for_it(mirrored):
    assert mirrored.border.starts == 1


def test_the_service_is_restarted_when_it_ends_and_watched(mirrored):
    service, check = plan(mirrored).services[AGENT], plan(mirrored).checks["mirror"]
    assert service.on_failure == "restart"
    assert service.to_dict()["kill-delay"] == "24s"
    assert check.level == pebble.CheckLevel.UNSET
    assert check.http == {"url": "http://localhost:9091/health"}


def test_an_option_and_another_password_restart_the_agent_and_nothing_else_does(mirrored):
    mirrored.configure(mirror_max_lag=5)
    assert mirrored.agent.config["max_lag"] == 5
    assert mirrored.agent.commands == [["mirror"]] * 2
    content = {**agents.USER.tracked_content, "password": "another"}
    rotated = dataclasses.replace(
        agents.USER, tracked_content=agents.USER.tracked_content, latest_content=content
    )
    others = [each for each in mirrored.state.secrets if each.id != agents.USER.id]
    mirrored.change(secrets=[*others, rotated])
    assert mirrored.run("secret_changed", rotated) == MIRRORED
    assert mirrored.agent.config["mysql"]["password"] == "another"
    assert mirrored.agent.commands == [["mirror"]] * 3
    mirrored.run("update_status")
    mirrored.configure(protocols="nfs")
    assert mirrored.agent.commands == [["mirror"]] * 3
    assert mirrored.border.starts == 1


def test_a_share_is_noted_in_the_mirror_too(mirrored):
    mirrored.configure(shares="- name: /export\n- name: /more")
    assert set(json.loads(mirrored.agent.config["marker"])["shares"]) == {"/export", "/more"}


def test_a_new_pod_gets_the_program_again_and_a_higher_generation(mirrored):
    mirrored.agent.bare()
    mirrored.new_pod()
    assert mirrored.pebble_ready() == MIRRORED
    assert mirrored.agent.config["generation"] == 2
    assert (mirrored.root / AGENT / "lib.digest").read_text() == bundle.digest()
    assert mirrored.agent.commands == [["mirror"]] * 2


def test_the_program_is_pushed_once(deployed):
    archive = deployed.root / AGENT / "lib.tar"
    deployed.agent.bare()
    deployed.relate()
    archive.unlink()
    deployed.configure(mirror_max_lag=7)
    assert not archive.exists()
    (deployed.root / AGENT / "lib.digest").write_text("of another charm")
    deployed.configure(mirror_max_lag=8)
    assert archive.exists()


def test_the_bundle_is_a_folder_for_pythons_path():
    with tarfile.open(fileobj=io.BytesIO(bundle.pack())) as archive:
        names = archive.getnames()
    for name in (
        "agent/__init__.py",
        "agent/badger.py",
        "pymysql/__init__.py",
        "google_crc32c/__init__.py",
        "cryptography/__init__.py",
        "cffi/__init__.py",
    ):
        assert name in names
    assert any(name.startswith("_cffi_backend.") for name in names)
    assert any(name.startswith("google_crc32c/_crc32c") for name in names)
    assert not any(".." in name or "__pycache__" in name for name in names)
    assert not any(name.startswith(("ops/", "pydantic/")) for name in names)
    assert bundle.pack() == bundle.pack()


def test_the_mirror_ends_with_the_relation_and_begins_again_with_it(mirrored):
    assert mirrored.unrelate() == testing.ActiveStatus(SERVED)
    assert mirrored.mirror == pebble.ServiceStatus.INACTIVE
    assert plan(mirrored).services[AGENT].startup == "disabled"
    assert plan(mirrored).checks["mirror"].startup == pebble.CheckStartup.DISABLED
    assert 9091 not in {port.port for port in mirrored.state.opened_ports}
    assert beside(mirrored) == f"active: {SERVED}"
    key = mirrored.agent.config["control_plane_key"]
    assert mirrored.relate(agents.PLAIN) == MIRRORED
    assert mirrored.agent.config["control_plane_key"] == key
    assert mirrored.border.starts == 1


def test_a_new_pod_after_the_relation_is_gone_has_no_agent(mirrored):
    mirrored.unrelate()
    mirrored.new_pod()
    assert mirrored.pebble_ready() == testing.ActiveStatus(SERVED)
    assert AGENT not in plan(mirrored).services


def test_the_agents_container_is_waited_for_once(deployed):
    deployed.agent_away()
    assert beside(deployed) == "waiting: waiting for the agent's container"
    deployed.relate()
    assert beside(deployed) == "waiting: waiting for the agent's container"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"lag": 59.0}, f"active: {MIRRORED.message}"),
        (
            {"lag": 61.4},
            "waiting: mysql: 61 s behind the server, more than mirror-max-lag (60 s)",
        ),
        (
            {"lag": 7300.0},
            "waiting: mysql: 2 hours behind the server, more than mirror-max-lag (60 s)",
        ),
        ({"state": "starting"}, "waiting: mysql: the mirror is starting"),
        ({"state": "scanning"}, "waiting: mysql: the metadata is being copied to MySQL"),
        (
            {
                "state": "scanning",
                "progress": {
                    "what": "scan export",
                    "rows": 12000,
                    "bytes": 1,
                    "total": 60000,
                    "rate": 9000,
                    "eta": 5,
                },
            },
            (
                "waiting: mysql: the metadata is being copied to MySQL: scan export, 12000 of "
                "60000 (20 %) rows, 5 s left"
            ),
        ),
        (
            {
                "state": "scanning",
                "progress": {"what": "scan export", "rows": 5, "total": None, "eta": None},
            },
            "waiting: mysql: the metadata is being copied to MySQL: scan export, 5 rows",
        ),
        (
            {"state": "away", "kind": "away", "since": 1764000000, "message": "refused"},
            (
                "waiting: mysql: away since 2025-11-24 16:00 UTC: refused",
                "the server serves on, and what it writes is copied later",
            ),
        ),
        (
            {"state": "blocked", "kind": "rights", "message": "no CREATE: GRANT CREATE ON …"},
            (
                "blocked: mysql: no CREATE: GRANT CREATE ON …",
                "the server serves on",
            ),
        ),
        (
            {"state": "blocked", "kind": "superseded", "message": "a newer one owns it"},
            (
                "blocked: mysql: the mirror cannot go on: a newer one owns it",
                "the server serves on",
            ),
        ),
        (
            {
                "state": "blocked",
                "kind": "store",
                "message": "store b: no",
                "stores": [{"name": "b", "state": "error", "message": "no"}],
            },
            "waiting: mysql: /b is not mirrored, which is tried again: no",
        ),
        (
            {"stores": [{"name": "a%20b", "state": "gone"}]},
            (
                (
                    "blocked: mysql: bring the metadata volume back or run delete-share: /a b "
                    "vanished from it"
                ),
                "the metadata in MySQL is kept",
            ),
        ),
        (
            {"stores": [{"name": f"s{number}", "state": "gone"} for number in range(5)]},
            (
                (
                    "blocked: mysql: bring the metadata volume back or run delete-share: "
                    "/s0, /s1, /s2 and 2 more vanished from it"
                ),
                "the metadata in MySQL is kept",
            ),
        ),
        ({"state": "stopped"}, "waiting: mysql: the mirror is stopped"),
        ({"state": "dancing", "message": "x"}, "waiting: mysql: the mirror is dancing: x"),
        (
            {"updated": 1764000000},
            "waiting: mysql: the mirror has said nothing since 2025-11-24 16:00 UTC",
        ),
    ],
)
def test_what_the_agent_says_is_in_the_status_and_the_server_serves_on(mirrored, said, status):
    short, *besides = [status] if isinstance(status, str) else status
    mirrored.agent.say(**said)
    assert beside(mirrored) == short
    if not short.startswith("active"):
        assert mirrored.reasons() == ["; ".join([short, *besides])]
    mirrored.agent.say()
    assert beside(mirrored) == f"active: {MIRRORED.message}"


def test_a_database_of_somebody_else_is_said_with_whose_it_is(mirrored):
    holder = {
        "instance": "0b5e",
        "application": "files",
        "model": "lost",
        "updated": time.time() - 3 * 86400,
    }
    mirrored.agent.say(state="blocked", kind="foreign", message="foreign", mirror=holder)
    text = (
        "blocked: mysql: relate a fresh database or remove the relation: it has another's metadata"
    )
    assert beside(mirrored) == text
    (reason,) = mirrored.reasons()
    assert reason == (
        f"{text}; this database holds the metadata of instance 0b5e (files in the model lost, "
        "last written 3 days ago), and is left untouched; its tables dittofs_* can be dropped "
        "where nobody needs them; the server serves on"
    )
    mirrored.agent.say(state="blocked", kind="foreign", message="foreign")
    assert "holds the metadata of another instance, and" in str(mirrored.reasons())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"lag": "much"}', "null"])
def test_a_status_that_makes_no_sense_is_a_start(mirrored, text):
    (mirrored.root / AGENT / "status.json").write_text(text)
    assert beside(mirrored) == "waiting: mysql: the mirror is starting"


def test_the_first_status_is_waited_for_in_bounded_time(deployed):
    deployed.agent.status = {"state": "scanning"}
    before = deployed.border.now[0]
    assert deployed.relate().name == "waiting"
    assert 5 < deployed.border.now[0] - before < 40


def test_the_check_of_the_agent_wakes_the_charm(mirrored):
    check = testing.CheckInfo(
        "mirror", status=pebble.CheckStatus.DOWN, level=pebble.CheckLevel.UNSET, threshold=2
    )
    agent = mirrored.state.get_container(AGENT)
    agent = dataclasses.replace(agent, check_infos={check})
    mirrored.change(containers=[mirrored.state.get_container("dittofs"), agent])
    mirrored.agent.say(state="away", message="refused")
    assert mirrored.run("pebble_check_failed", agent, check).name == "waiting"
    mirrored.agent.say()
    check = dataclasses.replace(check, status=pebble.CheckStatus.UP)
    agent = dataclasses.replace(mirrored.state.get_container(AGENT), check_infos={check})
    mirrored.change(containers=[mirrored.state.get_container("dittofs"), agent])
    assert mirrored.run("pebble_check_recovered", agent, check) == MIRRORED


@pytest.mark.parametrize(
    ("unpacked", "text", "why"),
    [
        ((3, "3.9"), "has Python 3.9", ""),
        ((4, "no module named x"), "cannot use the charm's packages", "no module named x; "),
    ],
)
def test_an_image_that_cannot_run_the_agent_is_said(deployed, unpacked, text, why):
    deployed.agent.bare()
    deployed.agent.unpack = unpacked
    assert deployed.relate().name == "blocked"
    assert beside(deployed) == UNFIT + text
    assert deployed.reasons() == [
        f"{UNFIT}{text}; {why}this charm's default is one; the command is juju attach-resource"
    ]
    assert deployed.agent.commands == []
    deployed.agent.unpack = (0, "")
    assert deployed.run("update_status") == MIRRORED


def test_an_unpacking_that_fails_is_tried_again(deployed):
    deployed.agent.bare()
    deployed.agent.unpack = (1, "No space left on device")
    deployed.relate()
    assert beside(deployed) == (
        "waiting: the agent's program could not be unpacked: No space left on device"
    )
    deployed.agent.unpack = (0, "")
    assert deployed.run("update_status") == MIRRORED


def test_an_image_without_python_is_said(deployed):
    deployed.agent.bare()
    deployed.agent.unpack = (127, "env: python3: No such file or directory")
    deployed.relate()
    assert beside(deployed) == f"{UNFIT}has no python3"


def test_an_image_without_a_shell_is_said(deployed, monkeypatch):
    deployed.agent.bare()
    message = 'cannot find executable "/bin/sh"'
    error = pebble.APIError({}, 400, "Bad Request", message)

    def run(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(mocking._MockPebbleClient, "exec", run)  # noqa: SLF001  # ops.testing's own Pebble
    deployed.relate()
    assert beside(deployed) == f"{UNFIT}has no /bin/sh"


def test_what_the_agent_does_not_say_any_more_is_not_true_for_ever(mirrored):
    mirrored.agent.say(lag=50.0, updated=time.time() - 4)
    assert mirrored.run("update_status") == MIRRORED
    mirrored.agent.say(lag=50.0, updated=time.time() - 20)
    assert mirrored.run("update_status").message.startswith("mysql: 65 s behind the server")


@pytest.fixture
def asked_of_pebble(monkeypatch):
    """The signals and stops that the charm asks for, in order."""
    asked = []
    client = mocking._MockPebbleClient  # noqa: SLF001  # ops.testing's own Pebble
    send_signal, stop, restart = client.send_signal, client.stop_services, client.restart_services

    def signals(self, number, services):
        asked.append(f"{number} {services[0]}")
        return send_signal(self, number, services)

    def stops(self, services, timeout=30.0, delay=0.1):
        asked.append(f"stop {services[0]}")
        return stop(self, services, timeout, delay)

    def restarts(self, services, timeout=30.0, delay=0.1):
        asked.append(f"restart {services[0]}")
        return restart(self, services, timeout, delay)

    monkeypatch.setattr(client, "send_signal", signals)
    monkeypatch.setattr(client, "stop_services", stops)
    monkeypatch.setattr(client, "restart_services", restarts)
    return asked


def test_teardown_lets_the_mirror_work_off_what_the_server_wrote_last(mirrored, asked_of_pebble):
    mirrored.run("storage_detaching", mirrored.storages[0])
    assert asked_of_pebble == ["stop guard", "stop dittofs", "stop agent"]
    assert mirrored.mirror == pebble.ServiceStatus.INACTIVE
    assert mirrored.service == pebble.ServiceStatus.INACTIVE


def test_teardown_waits_for_a_mirror_that_cannot_for_seconds_only(mirrored, monkeypatch):
    waited = []

    def stops(_, services, timeout=30.0, delay=0.1):
        del delay
        if services == [AGENT]:
            waited.append(timeout)
            raise pebble.TimeoutError("timed out")

    monkeypatch.setattr(mocking._MockPebbleClient, "stop_services", stops)  # noqa: SLF001  # see above
    mirrored.run("stop")
    assert waited == [6.0]


def test_a_mirror_that_is_stopped_or_started_anew_beside_a_server_does_not_wait_for_its_end(
    mirrored, asked_of_pebble
):
    mirrored.configure(mirror_max_lag=7)
    assert asked_of_pebble == ["SIGINT agent", "stop agent", "restart agent"]
    asked_of_pebble.clear()
    mirrored.unrelate()
    assert asked_of_pebble == ["SIGINT agent", "stop agent"]


def test_a_mirror_that_waits_for_its_next_try_is_stopped_before_its_plan_is_changed(
    mirrored, asked_of_pebble
):
    """Else Pebble may start it in between."""
    agent = mirrored.state.get_container(AGENT)
    waits = {**agent.service_statuses, AGENT: pebble.ServiceStatus.ERROR}
    mirrored.change(
        containers=[
            mirrored.state.get_container("dittofs"),
            dataclasses.replace(agent, service_statuses=waits),
        ]
    )
    mirrored.configure(mirror_max_lag=7)
    assert asked_of_pebble[:3] == ["SIGINT agent", "stop agent", "restart agent"]


def test_volumes_that_are_not_right_are_not_mirrored(mirrored):
    (mirrored.root / "content" / ".dittofs-charm.json").unlink()
    assert mirrored.run("update_status").name == "blocked"
    assert mirrored.mirror == pebble.ServiceStatus.INACTIVE


def test_an_agent_that_is_away_hides_nothing_that_is_wrong_with_the_volumes(mirrored):
    (mirrored.root / "content" / ".dittofs-charm.json").unlink()
    agent = dataclasses.replace(mirrored.state.get_container(AGENT), can_connect=False)
    mirrored.change(containers=[mirrored.state.get_container("dittofs"), agent])
    assert mirrored.run("update_status").name == "blocked"
    mirrored.change(storages=[])
    status = mirrored.run("config_changed")
    assert status == testing.WaitingStatus("waiting for the storage to be attached")


def test_storage_that_goes_is_not_mirrored(mirrored):
    mirrored.change(storages=[])
    mirrored.run("config_changed")
    assert mirrored.mirror == pebble.ServiceStatus.INACTIVE


def test_a_server_that_does_not_answer_is_mirrored(mirrored):
    mirrored.border.stop()
    mirrored.agent.say(lag=99.0)
    assert mirrored.run("update_status").message == (
        "the server does not answer yet (+1 more: status-detail)"
    )
    assert mirrored.mirror == pebble.ServiceStatus.ACTIVE


def test_no_other_unit_runs_an_agent(border, tmp_path):
    from tests.unit.conftest import Unit  # noqa: PLC0415  # only here

    other = Unit(border, tmp_path / "unit-1", unit_id=1)
    other.deploy()
    other.relate()
    assert other.agent.commands == []
    assert AGENT not in plan(other).services


def test_the_detail_shows_the_mirror(mirrored):
    mirrored.agent.say(verified={"at": 1764000000, "equal": True})
    found = json.loads(mirrored.act("status-detail", format="json")["status"])
    assert found["mirror"]["state"] == "mirroring"
    assert found["mirror"]["mysql"] == "MySQL 8.0.41"
    assert found["mirror"]["verified"] == "2025-11-24 16:00 UTC: equal"
    assert found["mirrored"] == [
        {
            "share": "/export",
            "state": "mirroring",
            "rows": 7,
            "seconds-behind": 0.0,
            "message": "none",
        }
    ]
    assert "Mirror:" in mirrored.act("status-detail")["status"]
    mirrored.new_pod(can_connect=False)
    found = json.loads(mirrored.act("status-detail", format="json")["status"])
    assert found["mirror"] == {"state": "unknown", "reason": "waiting for the agent's container"}


def test_the_detail_without_a_database(deployed):
    found = json.loads(deployed.act("status-detail", format="json")["status"])
    assert found["mirror"] == {"state": "no database is related"}


def test_a_share_that_is_deleted_leaves_mysql(mirrored):
    mirrored.configure(shares="- name: /export\n- name: /a b")
    mirrored.configure(shares="- name: /export")
    mirrored.act("delete-share", name="/a b", confirm="/a b")
    assert (mirrored.root / "metadata/deleted-stores/a%20b").read_bytes() == b""
    assert mirrored.status == MIRRORED


def test_a_store_that_vanished_can_be_let_go(mirrored):
    gone = {"name": "old", "state": "gone"}
    mirrored.agent.say(stores=[gone])
    assert mirrored.run("update_status").name == "blocked"
    assert mirrored.act("delete-share", name="/old", confirm="/old")["deleted"] == "/old"
    assert (mirrored.root / "metadata/deleted-stores/old").exists()
    with pytest.raises(testing.ActionFailed, match="there is no share /never"):
        mirrored.act("delete-share", name="/never", confirm="/never")


def test_a_command_has_settings_of_its_own(deployed):
    """Whenever Pebble starts the service again, it reads the settings that are the service's."""
    deployed.relate()
    config = deployed.root / "agent/config.json"
    before = config.read_bytes()
    for path in (deployed.root / "metadata").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    deployed.agent.refuse("away", "no route to the database")
    assert "no route to the database" in deployed.run("update_status").message
    assert deployed.mirror == pebble.ServiceStatus.ACTIVE
    assert config.read_bytes() == before
    assert not list((deployed.root / "agent").glob("*-command.json"))


def test_settings_that_are_not_those_of_the_plan_are_mended_and_the_service_restarted(deployed):
    """An event that died between its file and its layer left another file than the plan says."""
    deployed.relate()
    config = deployed.root / "agent/config.json"
    before, starts = config.read_bytes(), len(deployed.agent.commands)
    config.write_bytes(before.replace(b"control_plane_key", b"another_key"))
    deployed.run("update_status")
    assert config.read_bytes() == before
    assert len(deployed.agent.commands) == starts + 1
    deployed.run("update_status")
    assert len(deployed.agent.commands) == starts + 1
