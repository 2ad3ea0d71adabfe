"""The agent container: the program in it, its settings, its service and what that says.

Program and settings are files that live as long as the container; so does the layer, which is
added after them and carries their digest. Where the plan has that layer, both are in place.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import ops
from ops import pebble
from pydantic import SecretStr

import bundle
import files
from errors import BlockedError, WaitingError
from relations.mysql import Database
from state import State
from volumes import Marker
from workload import pebble_errors

CONTAINER = SERVICE = "agent"
CHECK = "mirror"
PORT = 9091
RUN = "/tmp/dittofs-agent"  # noqa: S108  # the container's own, and any image has it
_LIB, _NOTE, _ARCHIVE = f"{RUN}/lib", f"{RUN}/lib.digest", f"{RUN}/lib.tar"
_CONFIG, _STATUS = f"{RUN}/config.json", f"{RUN}/status.json"
_DIGEST = "DITTOFS_CHARM_DIGEST"
_UNPACK = Path(__file__).parent.parent / "templates" / "unpack.py"
_UNPACK_TIMEOUT = 120.0
_OTHER_PYTHON, _UNUSABLE = 3, 4
_KILL_DELAY = 10
_CHANGE_TIMEOUT = _KILL_DELAY + 20


class Answer(NamedTuple):
    """How a command of the agent ended, and what it printed."""

    code: int
    text: str


@contextlib.contextmanager
def agent_errors() -> Generator[None]:
    """Translate what the Pebble of the agent's container raises into this charm's errors.

    Raises:
        WaitingError: it is away or did not do it in time.
    """
    with pebble_errors("the agent's container"):
        yield


def settings(state: State, marker: Marker | None, key: SecretStr | None = None) -> bytes:
    """The agent's settings; `key` in place of the application's own, no `marker` where none is.

    Raises:
        BlockedError: no database is related.
        WaitingError: the database or the key is not there yet.
    """
    if state.mysql is None:
        raise BlockedError(
            f"no database is related: juju integrate {state.application}:mysql <database>"
        )
    database = state.mysql.need_database()
    used = key or state.need_mirror_key()
    return json.dumps(
        {
            "instance": marker.instance if marker else "",
            "generation": marker.generation if marker else 0,
            "application": state.application,
            "model": state.model_name,
            "model_uuid": state.model_uuid,
            "marker": marker.model_dump_json() if marker else "",
            "mysql": _mysql(database),
            "control_plane_key": used.get_secret_value(),
            "max_lag": state.options.mirror_max_lag,
            "log_level": state.options.log_level,
        },
        sort_keys=True,
        indent=1,
    ).encode()


class Agent:
    """The agent as a Pebble service. Calls belong inside `agent_errors()`."""

    def __init__(self, container: ops.Container):
        self._container = container

    def ensure(self, settings: bytes, command: Sequence[str]) -> bool:
        """Make the service run this command with these settings; return whether it was started.

        Nothing is written and nothing restarted where nothing differs.

        Raises:
            BlockedError: the image cannot run the program.
        """
        plan = self._container.get_plan()
        program = bundle.digest()
        digest = hashlib.sha256(program.encode() + settings).hexdigest()
        layer = _layer(command, digest)
        same = (
            plan.services.get(SERVICE) == layer.services[SERVICE]
            and plan.checks.get(CHECK) == layer.checks[CHECK]
        )
        if same and self.running:
            return False
        self._put(program, settings)
        if not same:
            self._container.add_layer(SERVICE, layer, combine=True)
            # What the service said before says nothing of what it does next.
            self._container.remove_path(_STATUS, recursive=True)
        self._container.pebble.replan_services(timeout=_CHANGE_TIMEOUT)
        return True

    def restart(self) -> None:
        """Let the service try again what it gave up."""
        self._container.remove_path(_STATUS, recursive=True)
        self._container.pebble.restart_services([SERVICE], timeout=_CHANGE_TIMEOUT)

    def execute(self, settings: bytes, command: Sequence[str], timeout: float) -> Answer:
        """Run a command to its end, within `timeout` seconds.

        Raises:
            BlockedError: the image cannot run the program.
        """
        self._put(bundle.digest(), settings)
        return self._run(["-m", "agent", *command, "--config", _CONFIG], timeout)

    def stop(self) -> None:
        """End the service and its check. Nothing where they are not there."""
        service = self._container.get_plan().services.get(SERVICE)
        if service is None or service.startup == "disabled":
            return
        self._container.add_layer(SERVICE, _layer([], "", startup="disabled"), combine=True)
        self._container.pebble.stop_services([SERVICE], timeout=_CHANGE_TIMEOUT)

    @property
    def running(self) -> bool:
        """Whether Pebble says that the service runs now."""
        service = self._container.get_services(SERVICE).get(SERVICE)
        return service is not None and service.is_running()

    def status(self) -> bytes | None:
        """What the program says of itself, as JSON; None as long as it has said nothing."""
        return files.read(self._container, _STATUS)

    def _put(self, program: str, settings: bytes) -> None:
        if files.read(self._container, _NOTE) != program.encode():
            self._install(program)
        if files.read(self._container, _CONFIG) != settings:
            self._container.push(_CONFIG, settings, permissions=0o600, make_dirs=True)

    def _install(self, program: str) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        self._container.push(_ARCHIVE, bundle.pack(), permissions=0o600, make_dirs=True)
        script = _UNPACK.read_text(encoding="utf-8")
        try:
            answer = self._run(["-c", script, _ARCHIVE, _LIB, version], _UNPACK_TIMEOUT)
        except pebble.APIError as error:
            if "executable" not in error.message:
                raise
            raise _unfit("has no python3", version) from None
        said = " ".join(answer.text.split())
        if answer.code == _OTHER_PYTHON:
            raise _unfit(f"has Python {said}", version)
        if answer.code == _UNUSABLE:
            raise _unfit(f"cannot use the charm's packages ({said})", version)
        if answer.code:
            raise WaitingError(
                f"mysql: the agent's program could not be unpacked: {said[-200:] or 'no reason'}"
            )
        self._container.push(_NOTE, program, permissions=0o644)

    def _run(self, arguments: Sequence[str], timeout: float) -> Answer:
        """Run Python; its standard input is empty and closed."""
        process = self._container.exec(
            ["python3", *arguments], environment={"PYTHONPATH": _LIB}, timeout=timeout, stdin=""
        )
        try:
            output, errors = process.wait_output()
        except pebble.ExecError as error:  # pyright: ignore[reportUnknownVariableType]  # of what is in ops' own generic
            output, errors = str(error.stdout or ""), str(error.stderr or "")  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # the same
            return Answer(error.exit_code, output or errors)
        return Answer(0, output or errors or "")


def stop(container: ops.Container) -> None:
    """End the agent: there is nothing to mirror, or it is not known what.

    Raises:
        WaitingError: its container is away.
    """
    with agent_errors():
        Agent(container).stop()


def _mysql(database: Database) -> dict[str, object]:
    return {
        "endpoints": [list(each) for each in database.endpoints],
        "user": database.user.get_secret_value(),
        "password": database.password.get_secret_value(),
        "database": database.name,
        "tls": database.tls,
        "ca": database.ca,
    }


def _unfit(what: str, version: str) -> BlockedError:
    return BlockedError(
        f"the agent-image {what}: attach an image with glibc and Python {version}, such as this "
        "charm's default, by juju attach-resource"
    )


def _layer(
    command: Sequence[str], digest: str, startup: Literal["enabled", "disabled"] = "enabled"
) -> pebble.Layer:
    words = ["python3", "-m", "agent", *command, "--config", _CONFIG]
    return pebble.Layer(
        {
            "summary": "DittoFS agent",
            "services": {
                SERVICE: {
                    "override": "replace",
                    "summary": "DittoFS agent",
                    "command": " ".join(words),
                    "startup": startup,
                    "on-success": "restart",
                    "on-failure": "restart",
                    "backoff-delay": "1s",
                    "backoff-factor": 2,
                    "backoff-limit": "30s",
                    "kill-delay": f"{_KILL_DELAY}s",
                    # The program reads its files at its start: the digest makes replan see them.
                    "environment": {"PYTHONPATH": _LIB, _DIGEST: digest},
                }
            },
            "checks": {
                # No level: whether the mirror is well says nothing of whether the server serves.
                CHECK: {
                    "override": "replace",
                    "period": "5s",
                    "timeout": "3s",
                    "threshold": 2,
                    "startup": startup,
                    "http": {"url": f"http://localhost:{PORT}/health"},
                }
            },
        }
    )
