"""The charm in ops.testing; behind its calls the stand-in server, and real volume directories."""

import dataclasses
import functools
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ops import pebble, testing
from ops._private import harness

from charm import DittofsCharm
from tests.standin.core import StandIn
from tests.standin.transport import Border

CHARM_ROOT = Path(__file__).parents[2]
MODEL = testing.Model(name="files", uuid="4b9b8c1c-98f4-4d4a-8d3f-3f2a3b3ac001")
VOLUMES = ("metadata", "content")
SERVICE = "dittofs"


@functools.cache
def _yaml(name: str) -> dict[str, Any]:
    """What Juju reads, parsed once for all events of all tests."""
    return yaml.safe_load((CHARM_ROOT / name).read_text())


class Unit:
    """One unit of the charm, from event to event. The server lives while its service runs."""

    def __init__(self, border: "Server", root: Path, unit_id: int = 0):
        self.border = border
        self.root = root
        self.unit_id = unit_id
        for name in (*VOLUMES, "config"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.storages = [testing.Storage(name) for name in VOLUMES]
        self.database = root / "metadata" / "controlplane.db"
        self.logs: list[str] = []
        self.results: Mapping[str, Any] = {}
        self.state: testing.State = testing.State(
            leader=unit_id == 0,
            model=MODEL,
            relations=[testing.PeerRelation("peers")],
            storages=self.storages,
            containers=[self.container(), testing.Container("agent", can_connect=True)],
        )

    def container(self, can_connect: bool = True) -> testing.Container:
        """The dittofs container of a new pod: its volumes, an empty /config, no plan."""
        mounts = {
            name: testing.Mount(location=f"/data/{name}", source=self.root / name)
            for name in VOLUMES
        }
        mounts["config"] = testing.Mount(location="/config", source=self.root / "config")
        move = testing.Exec(["mv"], return_code=0)
        return testing.Container("dittofs", can_connect=can_connect, mounts=mounts, execs={move})

    def new_pod(self, can_connect: bool = True) -> None:
        """The pod is lost and comes back: volumes stay, everything else is new."""
        for path in (self.root / "config").iterdir():
            path.unlink()
        self.border.stop()
        self.change(containers=[self.container(can_connect), testing.Container("agent")])

    def change(self, **fields: Any) -> None:
        """Change what Juju says."""
        self.state = dataclasses.replace(self.state, **fields)

    def configure(self, **options: str) -> Any:
        """Set options and deliver the event."""
        config = {name.replace("_", "-"): value for name, value in options.items()}
        self.change(config={**self.state.config, **config})
        return self.run("config_changed")

    def run(self, event: str, *args: Any, **kwargs: Any) -> Any:
        """Deliver an event; return the status of the unit afterwards."""
        context = self._context()
        emitted = getattr(context.on, event)(*args, **kwargs)
        self._deliver(context, emitted)
        return self.status

    def act(self, action: str, **params: str) -> Mapping[str, Any]:
        """Run an action; return its results. Raises `testing.ActionFailed`."""
        context = self._context()
        try:
            self._deliver(context, context.on.action(action, params=params))
        finally:
            self.results = context.action_results or {}
        return self.results

    def deploy(self) -> Any:
        """All events of a first start, in Juju's order."""
        for storage in self.storages:
            self.run("storage_attached", storage)
        for event in ("install", "leader_elected", "config_changed", "start"):
            self.run(event)
        return self.run("pebble_ready", self.state.get_container("dittofs"))

    @property
    def status(self) -> Any:
        return self.state.unit_status

    @property
    def server(self) -> StandIn:
        assert self.border.server is not None, "the server does not run"
        return self.border.server

    @property
    def service(self) -> pebble.ServiceStatus | None:
        return self.state.get_container("dittofs").service_statuses.get(SERVICE)

    def marker(self, volume: str) -> dict[str, Any]:
        return json.loads((self.root / volume / ".dittofs-charm.json").read_text())

    def _context(self) -> testing.Context[DittofsCharm]:
        return testing.Context(
            DittofsCharm,
            meta=_yaml("metadata.yaml"),
            config=_yaml("config.yaml"),
            actions=_yaml("actions.yaml"),
            unit_id=self.unit_id,
        )

    def _deliver(self, context: testing.Context[DittofsCharm], event: Any) -> None:
        self.border.unit = self
        try:
            self.state = context.run(event, self.state)
        except testing.ActionFailed as failed:
            if isinstance(failed.state, testing.State):
                self.state = failed.state
            raise
        finally:
            self.logs += [line.message for line in context.juju_log]
        assert not self.state.deferred


class Server(Border):
    """The border that starts and stops the stand-in as Pebble starts and stops the service."""

    def __init__(self) -> None:
        super().__init__()
        self.unit: Unit | None = None
        self.starts = 0
        self.down = False
        self.now = [1000.0]
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

    def stop(self) -> None:
        """What Pebble does when the service shall stop."""
        if self.server is not None:
            self.server.database.close()
        self.server = None


def install(border: Server, patch: pytest.MonkeyPatch) -> None:
    """Put the border, and Pebble's start and stop of the service, where ops.testing has its own.

    Time passes only where somebody sleeps: waiting costs the tests nothing.
    """
    border.install(patch)
    client = harness._TestingPebbleClient  # noqa: SLF001  # ops.testing's own Pebble
    replan, stop = client.replan_services, client.stop_services

    def replan_services(self: Any, *args: Any, **kwargs: Any) -> None:
        replan(self, *args, **kwargs)
        if SERVICE in self.get_plan().services:
            border.start(self.get_plan().services[SERVICE].environment)

    def stop_services(self: Any, services: list[str], *args: Any, **kwargs: Any) -> None:
        stop(self, services, *args, **kwargs)
        border.stop()

    patch.setattr(client, "replan_services", replan_services)
    patch.setattr(client, "stop_services", stop_services)
    now = border.now
    patch.setattr("time.monotonic", lambda: now[0])
    patch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))


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
    container = dataclasses.replace(
        template.state.get_container("dittofs"), mounts=unit.container().mounts
    )
    agent = template.state.get_container("agent")
    unit.state = dataclasses.replace(template.state, containers=[container, agent])
    unit.storages = template.storages
    unit.border.unit = unit
    unit.border.start(container.plan.services[SERVICE].environment)
    return unit
