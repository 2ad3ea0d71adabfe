"""A Juju unit whose containers are a pod of real processes."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from ops import pebble, testing
from scenario import mocking

from tests import bed, juju, namespaces
from tests.functional.border import handle_request
from tests.functional.pod import Pod
from tests.juju import AGENT, SERVICE

_statvfs = os.statvfs


class Unit(juju.Unit):
    """The charm in a pod. Nothing of it is simulated but Juju itself."""

    def __init__(self, pod: Pod, unit_id: int = 0):
        self.pod = pod
        super().__init__(unit_id)

    def place(self, storage: str) -> Path:
        """The volume of the pod."""
        return self.pod.volumes[storage].path

    @property
    def charm_dir(self) -> Path:
        """Another one for each pod."""
        return self.pod.root / f"life-{self.pod.lives}" / "charm"

    def new_pod(self) -> Any:
        """The pod was lost; a new one comes up on its volumes, and Juju's events follow."""
        self.pod.start()
        self.change(containers=self.containers(can_connect=True))
        for event in ("upgrade_charm", "config_changed", "start"):
            self.run(event)
        return self.pebble_ready()

    def wait(self, wanted: str = "active", seconds: float = 60.0) -> Any:
        """Deliver `update-status` until the unit has a status of this name; return it."""
        end = time.monotonic() + seconds
        while self.run("update_status").name != wanted:
            if time.monotonic() > end:
                raise AssertionError(f"still {self.status}\n{self.log()[-3000:]}")
            time.sleep(0.5)
        return self.status

    def log(self) -> str:
        """What the server's container printed."""
        return self.pod.containers[SERVICE].log

    def agent_log(self) -> str:
        """What the agent's container printed."""
        return self.pod.containers[AGENT].log

    @contextlib.contextmanager
    def pebble_calls(self) -> Iterator[list[tuple[str, str]]]:
        """Method and path of each request to both Pebbles in here that is no reading."""
        made: list[tuple[str, str]] = []
        ask = pebble.Client._request_raw  # noqa: SLF001  # where all its requests go through

        def request(client: Any, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
            if method != "GET":
                made.append((method, path))
            return ask(client, method, path, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pebble.Client, "_request_raw", request)
            yield made

    def agent_file(self, name: str) -> str:
        """A file of the agent's program."""
        client = self.pod.containers[AGENT].client
        with client.pull(f"/tmp/dittofs-agent/{name}") as file:  # noqa: S108  # the container's
            return file.read()

    def agent_ids(self) -> list[int]:
        """The process ids of the agent's service, as seen from outside."""
        return self.pod.containers[AGENT].ids_of(b"agent")

    def password(self) -> str:
        """The admin password, as `juju show-secret --reveal` shows it."""
        (secret,) = [each for each in self.state.secrets if "token-key" in each.tracked_content]
        return secret.tracked_content["admin-password"]

    def juju_status(self) -> str:
        """A table as `juju status` prints it."""
        status, version = self.status, self.state.workload_version or "-"
        ports = ",".join(
            str(port.port)
            for port in sorted(self.state.opened_ports, key=lambda each: each.port or 0)
        )
        leader = "*" if self.state.leader else ""
        return (
            f"App      Version  Status   Scale\n"
            f"dittofs  {version:<8} {status.name:<8} {self.unit_id + 1}\n\n"
            f"Unit        Workload  Ports                    Message\n"
            f"{f'dittofs/{self.unit_id}{leader}':<11} {status.name:<9} {ports:<24} "
            f"{status.message}"
        )

    def _deliver(self, context: testing.Context[Any], event: Any) -> None:
        with self._border():
            super()._deliver(context, event)

    @contextlib.contextmanager
    def _border(self) -> Iterator[None]:
        """Give the charm Pebble's real client."""

        def get_pebble(_: Any, socket_path: str) -> pebble.Client:
            return self.pod.containers[Path(socket_path).parent.name].client

        def statvfs(path: Any) -> os.statvfs_result:
            """Of a volume of the pod: the machine's own disk is not what the charm is to see."""
            found = (each for each in self.pod.volumes.values() if each.path == Path(path))
            volume = next(found, None)
            return _statvfs(path) if volume is None else volume.statvfs()

        backend = mocking._MockModelBackend  # noqa: SLF001  # where ops.testing makes its clients
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "get_pebble", get_pebble)
            if not bed.bed().contained:
                patch.setattr(httpx.HTTPTransport, "handle_request", handle_request)
            if not namespaces.entered():
                patch.setattr(os, "statvfs", statvfs)
            yield


@contextlib.contextmanager
def on_a_volume_of(root: Path, size: int) -> Iterator[Unit]:
    """A unit on a content volume of `size` bytes that is not deployed yet."""
    pod = Pod(root, sizes={"content": size})
    try:
        pod.start()
        unit = Unit(pod)
        unit.change(config={"protocols": "nfs"})
        yield unit
    finally:
        pod.close()


class HookKilled(BaseException):
    """The charm's process was killed."""


@contextlib.contextmanager
def killed_hook(seconds: float) -> Iterator[None]:
    """Kill the hook that runs in here after so many seconds, wherever it is."""

    def kill(*_: object) -> None:
        # An error of what cleans up may take this one's place; what is killed does nothing more.
        signal.setitimer(signal.ITIMER_REAL, 1, 1)
        raise HookKilled

    before = signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except HookKilled:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def details(results: Mapping[str, Any]) -> str:
    """What an action returned, as `juju run` prints it."""
    return "\n".join(f"{key}: {value}" for key, value in results.items())
