"""The charm in ops.testing; behind its calls the stand-in server, and real volume directories."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ops import pebble, testing
from ops._private import harness
from scenario import mocking

from sidecar import PYTHON
from tests import juju
from tests.functional.services import DURATIONS, written
from tests.juju import AGENT, SERVICE, VOLUMES
from tests.standin.core import StandIn
from tests.standin.transport import Border
from tests.unit import agents, archives
from units import GIB

CONFIG, APP = "config", "app"
BLOCK = 4096


class Unit(juju.Unit):
    """A unit whose server is the stand-in in this process; it lives while its service runs."""

    def __init__(self, border: "Server", root: Path, unit_id: int = 0):
        self.border = border
        self.root = root
        for name in (*VOLUMES, CONFIG):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.database = root / "metadata" / "controlplane.db"
        self.agent = agents.Agent(root / AGENT, root / "metadata")
        self.asked_for_name = 0
        self.image("v0.29.0")
        super().__init__(unit_id)

    def place(self, storage: str) -> Path:
        """The folder of the volume."""
        return self.root / storage

    @property
    def charm_dir(self) -> Path:
        """Beside the volumes."""
        return self.root / "charm"

    def admin_secrets(self, owner: str) -> list[testing.Secret]:
        """Those of the application or the unit with the password that admin has: one at most."""
        return [
            each
            for each in self.state.secrets
            if each.owner == owner and "password" in each.latest_content
        ]

    def image(self, name: str, **execution: Any) -> None:
        """Let the image have a server that calls itself so, or answers otherwise."""
        (self.root / APP).mkdir(exist_ok=True)
        # Another image has another file; two may be written within one tick of the clock.
        (self.root / APP / "dfs").write_text(f"{name} {execution}")
        answer: dict[str, Any] = {"stderr": f"dfs {name}\n  Commit:     5c30c801\n"} | execution
        self.asked = testing.Exec(["/app/dfs", "version"], **answer)

    def containers(self, can_connect: bool) -> list[testing.Container]:
        """The containers of a new pod: with the volumes, without a plan."""
        volumes = {name: f"/data/{name}" for name in VOLUMES}
        return [
            testing.Container(
                SERVICE,
                can_connect=can_connect,
                mounts=self._mounts(volumes | {CONFIG: f"/{CONFIG}", APP: f"/{APP}"}),
                execs=self._execs(SERVICE),
            ),
            testing.Container(
                AGENT,
                can_connect=can_connect,
                mounts=self._mounts(volumes | {AGENT: f"/{agents.RUN}"}),
                execs=self._execs(AGENT),
            ),
        ]

    def _execs(self, container: str) -> set[testing.Exec]:
        return (
            self.agent.execs()
            if container == AGENT
            else {testing.Exec(["mv"], return_code=0), self.asked}
        )

    def _mounts(self, places: Mapping[str, str]) -> dict[str, testing.Mount]:
        return {
            name: testing.Mount(location=place, source=self.root / name)
            for name, place in places.items()
        }

    def new_pod(self, can_connect: bool = True) -> None:
        """The pod is lost and comes back: volumes stay, everything else is new."""
        for path in (self.root / CONFIG).iterdir():
            path.unlink()
        self.agent.new_container()
        self.border.stop()
        self.change(containers=self.containers(can_connect))

    def relate(self, databag: dict[str, str] | None = None, **fields: Any) -> Any:
        """Relate MySQL, or change what it says; return the status."""
        others = [each for each in self.state.relations if each.endpoint != "mysql"]
        mysql = agents.relation(agents.MYSQL_K8S if databag is None else databag, **fields)
        secrets = {each.id: each for each in self.state.secrets}
        known = {each.id: each for each in (agents.USER, agents.TLS)}
        self.change(relations=[*others, mysql], secrets=list((known | secrets).values()))
        self.run("relation_created", mysql)
        return self.run("relation_changed", self.state.get_relation(mysql.id), remote_unit=0)

    def unrelate(self) -> Any:
        """Remove the relation with MySQL; return the status."""
        (mysql,) = self.state.get_relations("mysql")
        self.run("relation_broken", mysql)
        self.change(relations=[each for each in self.state.relations if each.endpoint != "mysql"])
        return self.status

    def relate_s3(self, databag: dict[str, str] | None = None, **fields: Any) -> Any:
        """Relate S3, or change what it says; return the status."""
        others = [each for each in self.state.relations if each.endpoint != "s3-backup"]
        given = archives.V1 if databag is None else databag
        s3 = archives.relation(given, **fields)
        known = [each for each in self.state.secrets if each.id != archives.KEYS.id]
        self.change(relations=[*others, s3], secrets=[*known, archives.KEYS])
        self.run("relation_created", s3)
        return self.run("relation_changed", self.state.get_relation(s3.id), remote_unit=0)

    def unrelate_s3(self) -> Any:
        """Remove the relation with S3; return the status."""
        (s3,) = self.state.get_relations("s3-backup")
        self.run("relation_broken", s3)
        self.change(
            relations=[each for each in self.state.relations if each.endpoint != "s3-backup"]
        )
        return self.status

    def agent_away(self) -> None:
        """Pebble of the agent's container does not answer."""
        agent = dataclasses.replace(self.state.get_container(AGENT), can_connect=False)
        self.change(containers=[self.state.get_container(SERVICE), agent])

    def notice(self) -> Any:
        """The agent does what it is asked to, and wakes the charm; return the status."""
        self.agent.archive.poll()
        notice = testing.Notice(key="dittofs.charm/backup")
        agent = dataclasses.replace(self.state.get_container(AGENT), notices=[notice])
        self.change(containers=[self.state.get_container(SERVICE), agent])
        return self.run("pebble_custom_notice", agent, notice)

    @property
    def server(self) -> StandIn:
        """The server that runs."""
        assert self.border.server is not None, "the server does not run"
        return self.border.server

    @property
    def service(self) -> pebble.ServiceStatus | None:
        """What Pebble says of the service."""
        return self.state.get_container(SERVICE).service_statuses.get(SERVICE)

    @property
    def mirror(self) -> pebble.ServiceStatus | None:
        """What Pebble says of the agent's service."""
        return self.state.get_container(AGENT).service_statuses.get(AGENT)

    @property
    def guard(self) -> pebble.ServiceStatus | None:
        """What Pebble says of the agent's service that guards the volumes."""
        return self.state.get_container(AGENT).service_statuses.get("guard")

    @property
    def backups(self) -> pebble.ServiceStatus | None:
        """What Pebble says of the agent's service of backups."""
        return self.state.get_container(AGENT).service_statuses.get("backup")

    def marker(self, volume: str) -> dict[str, Any]:
        """The charm's marker on a volume."""
        return json.loads((self.root / volume / ".dittofs-charm.json").read_text())

    def start_agent(self, name: str, command: str) -> None:
        """What Pebble does with a service of the agent's container."""
        services = {AGENT: self.agent, "guard": self.agent.guard, "backup": self.agent.archive}
        services[name].start(command)

    def _deliver(self, context: testing.Context[Any], event: Any) -> None:
        self.border.unit = self
        # What commands print may have been changed meanwhile.
        containers = [
            dataclasses.replace(each, execs=self._execs(each.name))
            for each in self.state.containers
        ]
        self.change(containers=containers)
        try:
            super()._deliver(context, _of_now(event, self.state))
        finally:
            ran = context.exec_history.get(SERVICE, [])
            self.asked_for_name += sum(each.command[0] == "/app/dfs" for each in ran)


def _of_now(event: Any, state: testing.State) -> Any:
    """An event with the container as it is in the state; ops.testing compares them."""
    if event.container is None:
        return event
    return dataclasses.replace(event, container=state.get_container(event.container.name))


class Server(Border):
    """The border that starts and stops the stand-in as Pebble starts and stops the service."""

    def __init__(self) -> None:
        super().__init__()
        self.unit: Unit | None = None
        self.starts = 0
        self.environments: dict[str, Mapping[str, str]] = {}
        self.down = False
        self.last_words = ""
        self.now = [1000.0]
        self.pace = 1.0
        self.spaces: dict[str, tuple[int, int]] = dict.fromkeys(VOLUMES, (GIB, 99 * GIB))
        self.options: dict[str, Any] = {}

    def start(self, environment: Mapping[str, str]) -> None:
        """What Pebble does with the service's command."""
        self.stop()
        assert self.unit is not None
        self.starts += 1
        if not self.down:
            self.server = StandIn.start(
                self.unit.database,
                environment["DITTOFS_CONTROLPLANE_SECRET"],
                environment["DITTOFS_ADMIN_INITIAL_PASSWORD"],
                **self.options,
            )

    def statvfs(self, path: Any) -> Any:
        """What the volume at a place in the charm container has, as `spaces` says: used, free."""
        # ops.testing calls the folder of a storage by its name and number.
        (name,) = [each for each in VOLUMES if Path(path).name.startswith(each)]
        used, free = (size // BLOCK for size in self.spaces[name])
        return SimpleNamespace(f_frsize=BLOCK, f_blocks=used + free, f_bfree=free, f_bavail=free)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now[0] += seconds * self.pace
        if self.unit is not None:
            self.unit.agent.archive.poll()

    def crash(self) -> None:
        """The server ends at once; the script that runs it keeps what it said."""
        assert self.unit is not None
        (self.unit.root / CONFIG / "exit-code").write_text("1\n")
        (self.unit.root / CONFIG / "last-words").write_text(self.last_words)

    def stop(self) -> None:
        """What Pebble does when the service shall stop."""
        if self.server is not None:
            self.server.database.close()
        self.server = None


def install(border: Server, patch: pytest.MonkeyPatch) -> None:
    """Put the border, and Pebble's start and stop of the service, where ops.testing has its own.

    Time passes only where somebody sleeps: waiting costs the tests nothing. While the charm sleeps
    the agent works.
    """
    border.install(patch)
    client = harness._TestingPebbleClient  # noqa: SLF001  # ops.testing's own Pebble
    restart, stop = client.restart_services, client.stop_services

    def stop_services(self: Any, services: list[str], *args: Any, **kwargs: Any) -> None:
        stop(self, services, *args, **kwargs)
        if SERVICE in services:
            border.stop()
        if "backup" in services:
            assert border.unit is not None
            border.unit.agent.archive.stop()

    def restart_services(self: Any, services: list[str], *args: Any, **kwargs: Any) -> None:
        restart(self, services, *args, **kwargs)
        assert border.unit is not None
        for name in services:
            service = self.get_plan().services[name]
            border.environments[name] = service.environment
            if name != SERVICE:
                border.unit.start_agent(name, service.command)
            elif border.last_words:
                border.crash()
                self._service_status[SERVICE] = pebble.ServiceStatus.ERROR
            else:
                border.start(service.environment)

    patch.setattr(client, "restart_services", restart_services)
    patch.setattr(client, "stop_services", stop_services)
    now = border.now
    patch.setattr("time.monotonic", lambda: now[0])
    patch.setattr("time.sleep", border.sleep)
    patch.setattr("budget.os", SimpleNamespace(statvfs=border.statvfs))
    _install_commands(border, patch)
    _install_layers(patch)


def _install_layers(patch: pytest.MonkeyPatch) -> None:
    """Let layers be kept as Pebble keeps them: with durations in its own words."""
    client = harness._TestingPebbleClient  # noqa: SLF001  # ops.testing's own Pebble
    add = client.add_layer

    def add_layer(self: Any, label: str, layer: Any, **kwargs: Any) -> None:
        given = pebble.Layer(layer if isinstance(layer, str) else layer.to_dict())
        for entry in (*given.services.values(), *given.checks.values()):
            for key in DURATIONS & set(entry.to_dict()):
                name = key.replace("-", "_")
                setattr(entry, name, written(getattr(entry, name)))
        add(self, label, given, **kwargs)

    patch.setattr(client, "add_layer", add_layer)


def _install_commands(border: Server, patch: pytest.MonkeyPatch) -> None:
    """Let commands of the agent that belong to backups be run."""
    client = mocking._MockPebbleClient  # noqa: SLF001  # where ops.testing has Pebble's
    execute = client.exec

    def run_command(self: Any, command: list[str], **kwargs: Any) -> Any:
        words = command[len(PYTHON) :]
        if words[:2] != ["-m", "agent"] or not words[2].startswith("backup-"):
            return execute(self, command, **kwargs)
        assert border.unit is not None
        return archives.Process(command, *border.unit.agent.archive.command(words[2:]))

    patch.setattr(client, "exec", run_command)


@pytest.fixture
def border(monkeypatch):
    """The border of one test."""
    made = Server()
    install(made, monkeypatch)
    yield made
    made.stop()


@pytest.fixture
def unit(border, tmp_path, caplog):
    """A unit that is not deployed yet."""
    caplog.set_level(logging.DEBUG)
    return Unit(border, tmp_path / "unit-0")


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A unit that was deployed once for all tests that begin with one."""
    with pytest.MonkeyPatch.context() as patch:
        border = Server()
        install(border, patch)
        made = Unit(border, tmp_path_factory.mktemp("template"))
        assert made.deploy() == testing.ActiveStatus("nfs, smb: /export")
        border.stop()
    return made


@pytest.fixture
def deployed(unit, template):
    """A unit that serves: the template's volumes and state, and a server of its own on them."""
    shutil.copytree(template.root, unit.root, dirs_exist_ok=True)
    places = unit.charm_dir / ".volumes.json"
    places.write_text(places.read_text().replace(str(template.root), str(unit.root)))
    container, agent = (
        dataclasses.replace(
            template.state.get_container(name), mounts=unit.state.get_container(name).mounts
        )
        for name in (SERVICE, AGENT)
    )
    unit.state = dataclasses.replace(template.state, containers=[container, agent])
    unit.storages, unit.mounted = template.storages, set(template.mounted)
    unit.border.unit = unit
    unit.border.start(container.plan.services[SERVICE].environment)
    # What the guard said there is of some minutes ago.
    unit.agent.guard.say()
    return unit
