"""A Juju unit: its state from event to event, and the events in Juju's order, by ops.testing."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ops
import pytest
import yaml
from ops import testing
from scenario import mocking

from charm import DittofsCharm
from tests import hook_commands

CHARM_ROOT = Path(__file__).parents[1]
MODEL = testing.Model(name="files", uuid="4b9b8c1c-98f4-4d4a-8d3f-3f2a3b3ac001")
VOLUMES = ("metadata", "content")
SERVICE = "dittofs"
AGENT = "agent"

# ops.testing writes the charm's YAML anew for each event: in Python that takes half of the time.
yaml.safe_dump = functools.partial(yaml.dump, Dumper=yaml.CSafeDumper)


@functools.cache
def parsed(name: str) -> dict[str, Any]:
    """A file that Juju reads, parsed once for all events of all tests."""
    return yaml.safe_load((CHARM_ROOT / name).read_text())


class Unit:
    """One unit of the charm. Subclasses say what its containers are made of.

    `mounted` has the storages that are there: Juju lists one from the beginning, and does not know
    its place before the event that says so. `commands` has the hook commands of the last event.
    """

    def __init__(self, unit_id: int = 0):
        self.unit_id = unit_id
        self.storages = [testing.Storage(name) for name in VOLUMES]
        self.mounted: set[str] = set()
        self.commands: list[str] = []
        self.logs: list[str] = []
        self.told: list[str] = []
        self.state: testing.State = testing.State(
            leader=unit_id == 0,
            model=MODEL,
            relations=[testing.PeerRelation("peers")],
            storages=self.storages,
            containers=self.containers(can_connect=True),
        )

    def containers(self, can_connect: bool) -> list[testing.Container]:
        """The containers of a new pod."""
        return [testing.Container(name, can_connect=can_connect) for name in (SERVICE, AGENT)]

    def change(self, **fields: Any) -> None:
        """Change what Juju says."""
        self.state = dataclasses.replace(self.state, **fields)

    def configure(self, **options: str | int) -> Any:
        """Set options and deliver the event; return the status."""
        config = {name.replace("_", "-"): value for name, value in options.items()}
        self.change(config={**self.state.config, **config})
        return self.run("config_changed")

    def run(self, event: str, *args: Any, **kwargs: Any) -> Any:
        """Deliver an event; return the status of the unit afterwards."""
        context = self._context()
        self._deliver(context, getattr(context.on, event)(*args, **kwargs))
        return self.status

    def act(self, action: str, **params: str | bool) -> Mapping[str, Any]:
        """Run an action; return its results. Raises `testing.ActionFailed`."""
        context = self._context()
        self._deliver(context, context.on.action(action, params=params))
        return context.action_results or {}

    def reasons(self) -> list[str]:
        """What stands in the way as `status-detail` says it: status and whole text of each."""
        return json.loads(self.act("status-detail", format="json")["status"])["reasons"]

    def deploy(self) -> Any:
        """All events of a first start, in Juju's order."""
        self.mounted.clear()
        self.run("install")
        for relation in self.state.relations:
            self.run("relation_created", self.state.get_relation(relation.id))
        if self.state.leader:
            self.run("leader_elected")
        self.pebble_ready()
        self.attach()
        for event in ("config_changed", "start"):
            self.run(event)
        for relation in self.state.relations:
            for number in getattr(relation, "remote_units_data", ()):
                changed = self.state.get_relation(relation.id)
                self.run("relation_changed", changed, remote_unit=number)
        return self.status

    def attach(self) -> Any:
        """All storages that Juju lists are mounted."""
        for storage in self.state.storages:
            self.run("storage_attached", storage)
        return self.status

    def pebble_ready(self) -> Any:
        """Both containers are ready."""
        self.run("pebble_ready", self.state.get_container(AGENT))
        return self.run("pebble_ready", self.state.get_container(SERVICE))

    def remove(self) -> Any:
        """All events of a unit's end, in Juju's order."""
        for storage in list(self.storages):
            self.run("storage_detaching", storage)
            self.change(storages=[each for each in self.state.storages if each != storage])
        self.run("stop")
        return self.run("remove")

    def place(self, storage: str) -> Path:
        """Where a storage is mounted in the charm's container."""
        raise NotImplementedError

    @property
    def charm_dir(self) -> Path:
        """The charm's own folder, which lives as long as the pod."""
        raise NotImplementedError

    @property
    def status(self) -> Any:
        """The status of the unit after the last event."""
        return self.state.unit_status

    def _context(self) -> testing.Context[DittofsCharm]:
        return testing.Context(
            DittofsCharm,
            meta=parsed("metadata.yaml"),
            config=parsed("config.yaml"),
            actions=parsed("actions.yaml"),
            unit_id=self.unit_id,
        )

    def _deliver(self, context: testing.Context[DittofsCharm], event: Any) -> None:
        if event.storage is not None:
            self.mounted.add(event.storage.name)
        self.commands.clear()
        try:
            with self._mounting(), hook_commands.counted(self.commands):
                self.state = context.run(event, self.state)
        except testing.ActionFailed as failed:
            if isinstance(failed.state, testing.State):
                self.state = failed.state
            raise
        finally:
            self.logs += [line.message for line in context.juju_log]
            # What `juju debug-log` shows.
            self.told += [line.message for line in context.juju_log if line.level != "DEBUG"]
        assert not self.state.deferred

    @contextlib.contextmanager
    def _mounting(self) -> Iterator[None]:
        """Mount storages as Juju does, which fails to say where one is that is not mounted."""
        backend = mocking._MockModelBackend  # noqa: SLF001  # where ops.testing has hook commands

        def storage_get(model: Any, storage: str, attribute: str) -> str:
            assert attribute == "location"
            name = storage.partition("/")[0]
            if name not in self.mounted:
                place = f"{model.unit_name}:{storage}"
                raise ops.ModelError(f'mount point for storage attachment "{place}" missing')
            return str(self.place(name))

        self.charm_dir.mkdir(parents=True, exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "storage_get", storage_get)
            # That of ops.testing is gone after each event.
            patch.setattr(ops.CharmBase, "charm_dir", self.charm_dir)
            yield
