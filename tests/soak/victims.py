"""What can happen to a unit while it makes a backup, restores or deletes one.

Each is called in a thread of its own while a hook of the charm runs in the main thread, and
returns a word about what it did. What goes away for a while is back when it returns.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.functional.pod import Pod
from tests.juju import AGENT, SERVICE
from tests.s3 import FaultyProxy
from units import MIB

_PAGE = 4096
_COMMANDS = (b"backup", b"backup-list", b"backup-swap", b"backup-rollback", b"backup-discard")


@dataclass
class Scene:
    """What there is to strike at.

    Attributes:
        lost: what was lost with its Pebble, so that Juju has events to deliver: names of
            containers, or `pod`.
    """

    pod: Pod
    proxy: FaultyProxy
    random: Random
    lost: set[str] = field(default_factory=set[str])

    def pause(self, least: float, most: float) -> None:
        """Wait for a random time, in seconds."""
        time.sleep(self.random.uniform(least, most))


def kill_hook() -> None:
    """Kill the hook that runs in the main thread inside `killed_hook`."""
    os.kill(os.getpid(), signal.SIGALRM)


def _agent(scene: Scene) -> str:
    """Both the service and what the charm lets run just now."""
    container = scene.pod.containers[AGENT]
    return _kill([pid for word in _COMMANDS for pid in container.ids_of(word)])


def _agent_container(scene: Scene) -> str:
    container = scene.pod.containers[AGENT]
    container.stop()
    scene.pause(0, 1)
    container.start()
    scene.lost.add(AGENT)
    return ""


def _server(scene: Scene) -> str:
    return _kill(scene.pod.containers[SERVICE].server_ids())


def _hook(_: Scene) -> str:
    kill_hook()
    return ""


def _pod(scene: Scene) -> str:
    """The charm's container is one of the pod's."""
    kill_hook()
    scene.pod.lose()
    scene.lost.add("pod")
    return ""


def _pod_ends(scene: Scene) -> str:
    """All containers are told to end at the same time, the charm's as well."""
    kill_hook()
    killed = scene.pod.end()
    scene.lost.add("pod")
    return f"killed {killed}" if killed else ""


def _s3_away(scene: Scene) -> str:
    scene.proxy.refuse()
    scene.pause(0.5, 3)
    scene.proxy.heal()
    return ""


def _s3_storm(scene: Scene) -> str:
    scene.proxy.answer("SlowDown", rate=0.8)
    scene.pause(0.5, 3)
    return _healed(scene)


def _s3_cut(scene: Scene) -> str:
    scene.proxy.cut(rate=0.4)
    scene.proxy.lose_answer(rate=0.3)
    for _ in range(5):
        scene.proxy.cut_connections()
        scene.pause(0.1, 0.5)
    return _healed(scene)


def _s3_slow(scene: Scene) -> str:
    scene.proxy.delay = 0.2
    scene.proxy.limit = 4 * MIB
    scene.pause(1, 3)
    scene.proxy.heal()
    return ""


def _s3_refuses(scene: Scene) -> str:
    """It does so until the operation is over: whoever asked for it heals that."""
    code = scene.random.choice(("InvalidAccessKeyId", "AccessDenied", "SignatureDoesNotMatch"))
    scene.proxy.answer(code)
    return code


def _metadata_full(scene: Scene) -> str:
    return _fill(scene, "metadata")


def _content_full(scene: Scene) -> str:
    return _fill(scene, "content")


VICTIMS: Mapping[str, Callable[[Scene], str]] = {
    "agent": _agent,
    "agent's container": _agent_container,
    "server": _server,
    "hook": _hook,
    "pod": _pod,
    "pod ends": _pod_ends,
    "S3 away": _s3_away,
    "S3 503": _s3_storm,
    "S3 cut": _s3_cut,
    "S3 slow": _s3_slow,
    "S3 refuses": _s3_refuses,
    "metadata full": _metadata_full,
    "content full": _content_full,
}
PROCESSES = ("agent", "agent's container", "server", "hook", "pod", "pod ends")
S3 = ("S3 away", "S3 503", "S3 cut", "S3 slow", "S3 refuses")
FULL = ("metadata full", "content full")


def _kill(pids: list[int]) -> str:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return "" if pids else "not there"


def _healed(scene: Scene) -> str:
    found = sum(scene.proxy.faults.values())
    scene.proxy.heal()
    return f"{found} faults"


def _fill(scene: Scene, name: str) -> str:
    with _full(scene.pod.volumes[name].path):
        scene.pause(0.3, 3)
    return ""


@contextmanager
def _full(root: Path) -> Generator[None]:
    """Use up a volume, by a file that a swap leaves where it is."""
    filler = root / ".dittofs-filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (MIB, _PAGE):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        yield
    finally:
        filler.unlink()
