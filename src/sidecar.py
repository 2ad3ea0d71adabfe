"""The agent container: the program in it, its services, their settings and what they say.

Program and settings are files that live as long as the container; so do the layers, which are
added after them and carry their digest. Where the plan has a service's layer, its files are in
place.
"""

import contextlib
import hashlib
import logging
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import ops
from ops import pebble

import bundle
import checks
import files
import layers
from deadline import EVENT
from errors import BlockedError, CharmError, WaitingError
from workload import pebble_errors

logger = logging.getLogger(__name__)

CONTAINER = "agent"
RUN = "/tmp/dittofs-agent"  # noqa: S108  # the container's own, and any image has it
_LIB, _NOTE, _ARCHIVE = f"{RUN}/lib", f"{RUN}/lib.digest", f"{RUN}/lib.tar"
_DIGEST = "DITTOFS_CHARM_DIGEST"
_UNPACK = Path(__file__).parent.parent / "templates" / "unpack.py"
_UNPACK_TIMEOUT = 120.0
_OTHER_PYTHON, _UNUSABLE, _NO_PYTHON = 3, 4, 127
# Nothing is inherited but what finds programs, and the Pebble that the charm is woken by.
PYTHON = (
    "/bin/sh",
    "-c",
    (
        'exec env -i PATH="$PATH" PEBBLE="$PEBBLE" PEBBLE_SOCKET="$PEBBLE_SOCKET" '
        f'PYTHONPATH={_LIB} python3 "$@"'
    ),
    "agent",
)
# The mirror needs 20 s at most: the server's kill-delay, and some for what it wrote last.
_KILL_DELAY = 24
_CHANGE_TIMEOUT = _KILL_DELAY + 20


class Containers(NamedTuple):
    """The two containers of the pod, each with both volumes."""

    dittofs: ops.Container
    agent: ops.Container


class Service(NamedTuple):
    """A service of the program.

    Attributes:
        name: what Pebble calls it.
        config: its settings.
        status: what it says of itself.
        port: of its metrics; 0 for none.
        check: what Pebble calls the check of its health, where it has one.
        remembers: what it said before its start still holds after it.
        follows: SIGTERM lets it wait for the server's end first, SIGINT ends it at once.
    """

    name: str
    config: str
    status: str
    port: int
    check: str | None
    remembers: bool
    follows: bool

    @property
    def command_config(self) -> str:
        """The settings of a command that runs beside the service."""
        return f"{self.config.removesuffix('.json')}-command.json"


MIRROR = Service(
    name="agent",
    config=f"{RUN}/config.json",
    status=f"{RUN}/status.json",
    port=9091,
    check="mirror",
    remembers=False,
    follows=True,
)
BACKUP = Service(
    name="backup",
    config=f"{RUN}/backup.json",
    status=f"{RUN}/backup-status.json",
    port=9092,
    check=None,
    remembers=True,
    follows=False,
)

GUARD = Service(
    name="guard",
    config=f"{RUN}/guard.json",
    status=f"{RUN}/guard-status.json",
    port=0,
    check=None,
    remembers=False,
    follows=False,
)


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


class Agent:
    """One service of the program. Calls belong inside `agent_errors()`."""

    def __init__(self, container: ops.Container, service: Service = MIRROR):
        self._container = container
        self._service = service

    def ensure(self, settings: bytes, command: Sequence[str]) -> bool:
        """Make the service run this command with these settings; return whether it was started.

        Nothing is written and nothing restarted where nothing differs.

        Raises:
            BlockedError: the image cannot run the program.
        """
        service = self._service
        plan = self._container.get_plan()
        program = bundle.digest()
        digest = _digest(program, settings)
        layer = _layer(service, command, digest)
        different = layers.different(plan, layer)
        # The layer has the digest of what the file is to hold, which is not what it holds.
        right = files.read(self._container, service.config) == settings
        running = self.running
        if not different and right and running:
            return False
        changed = [*different, *([] if right else ["its settings"])]
        why = f"changed: {', '.join(changed)}" if running else "it does not run"
        word = "restart" if running else "start"
        logger.info("agent: %s the service %s (%s), %s", word, service.name, command[0], why)
        self._put(program, service.config, settings)
        # Before the plan is changed: where the event ends in between, no service goes on with what
        # the plan had before, nor one that waits for its next try.
        _end(self._container, service)
        if different:
            self._container.add_layer(service.name, layer, combine=True)
            if not service.remembers:
                self._container.remove_path(service.status, recursive=True)
        self._start()
        return True

    def ensure_from(
        self, source: str, make: Callable[[], bytes], command: Sequence[str], *, idle: bool
    ) -> bool:
        """`ensure`, with settings that are made only where others than those in place may be due.

        Args:
            source: a digest of what they are made from, but of what is in secrets.
            make: makes them.
            command: as for `ensure`.
            idle: whether no secret has changed since the last event.
        """
        kept = self._kept(source) if idle else None
        try:
            settings = make() if kept is None else kept
        except CharmError:
            self.note_source("")
            raise
        started = self.ensure(settings, command)
        self.note_source(source)
        return started

    def _kept(self, source: str) -> bytes | None:
        """The settings in place, where they were made from this and the service has them."""
        if files.read(self._container, self._source) != source.encode():
            return None
        settings = files.read(self._container, self._service.config) or b""
        service = self._container.get_plan().services.get(self._service.name)
        noted = service.environment.get(_DIGEST) if service else None
        return settings if noted == _digest(bundle.digest(), settings) else None

    @property
    def _source(self) -> str:
        return f"{self._service.config}.source"

    def note_source(self, source: str) -> None:
        """Note what the settings in place are made from; "" where they are not what is due."""
        if (files.read(self._container, self._source) or b"") != source.encode():
            self._container.push(self._source, source, permissions=0o600, make_dirs=True)

    def restart(self, why: str) -> None:
        """Let the service begin anew: what it said does not hold any more."""
        logger.info("agent: restart the service %s, %s", self._service.name, why)
        _end(self._container, self._service)
        self._container.remove_path(self._service.status, recursive=True)
        self._start()

    def execute(self, settings: bytes, command: Sequence[str], timeout: float) -> Answer:
        """Run a command to its end, within `timeout` seconds, with settings of its own.

        Those of the service stay: it reads them again whenever Pebble starts it.

        Raises:
            BlockedError: the image cannot run the program.
        """
        config = self._service.command_config
        self._put(bundle.digest(), config, settings)
        try:
            return self._run(["-m", "agent", *command, "--config", config], timeout)
        finally:
            self._container.remove_path(config, recursive=True)

    def stop(self) -> None:
        """End the service and its check. Nothing where they are not there."""
        _stop(self._container, self._service)

    def finish(self, seconds: float) -> None:
        """End the service when its work is done, as at the end of a pod; wait so long for that.

        Raises:
            pebble.TimeoutError: it is not done yet, and goes on.
        """
        if _disable(self._container, self._service):
            self._container.pebble.stop_services([self._service.name], timeout=seconds)

    @property
    def running(self) -> bool:
        """Whether Pebble says that the service runs now."""
        name = self._service.name
        service = self._container.get_services(name).get(name)
        return service is not None and service.is_running()

    def status(self) -> bytes | None:
        """What the service says of itself, as JSON; None as long as it has said nothing."""
        return files.read(self._container, self._service.status)

    def _start(self) -> None:
        """Start it; no replan, which starts others that ran once as well."""
        timeout = EVENT.left(_CHANGE_TIMEOUT)
        self._container.pebble.restart_services([self._service.name], timeout=timeout)

    def _put(self, program: str, config: str, settings: bytes) -> None:
        if files.read(self._container, _NOTE) != program.encode():
            self._install(program)
        if files.read(self._container, config) != settings:
            self._container.push(config, settings, permissions=0o600, make_dirs=True)

    def _install(self, program: str) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        self._container.push(_ARCHIVE, bundle.pack(), permissions=0o600, make_dirs=True)
        script = _UNPACK.read_text(encoding="utf-8")
        try:
            answer = self._run(["-c", script, _ARCHIVE, _LIB, version], _UNPACK_TIMEOUT)
        except pebble.APIError as error:
            if "executable" not in error.message:
                raise
            raise _unfit("has no /bin/sh", version) from None
        said = " ".join(answer.text.split())
        if answer.code == _NO_PYTHON:
            raise _unfit("has no python3", version)
        if answer.code == _OTHER_PYTHON:
            raise _unfit(f"has Python {said}", version)
        if answer.code == _UNUSABLE:
            raise _unfit("cannot use the charm's packages", version, said)
        if answer.code:
            raise WaitingError(
                f"the agent's program could not be unpacked: {said[-200:] or 'no reason'}"
            )
        self._container.push(_NOTE, program, permissions=0o644)
        logger.info("agent: unpacked its program")

    def _run(self, arguments: Sequence[str], timeout: float) -> Answer:
        """Run Python; its standard input is empty and closed."""
        process = self._container.exec([*PYTHON, *arguments], timeout=timeout, stdin="")
        try:
            output, errors = process.wait_output()
        except pebble.ExecError as error:  # pyright: ignore[reportUnknownVariableType]  # of what is in ops' own generic
            output, errors = str(error.stdout or ""), str(error.stderr or "")  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # the same
            return Answer(error.exit_code, output or errors)
        return Answer(0, output or errors or "")


def stop(container: ops.Container, *services: Service) -> None:
    """End services: there is nothing for them to do, or it is not known what.

    Raises:
        WaitingError: their container is away.
    """
    with agent_errors():
        _stop(container, *services)


def _stop(container: ops.Container, *services: Service) -> None:
    for service in services:
        if _disable(container, service):
            logger.info("agent: stop the service %s", service.name)
            _end(container, service)


def _end(container: ops.Container, service: Service) -> None:
    """Let a service end at once; nothing where it has ended."""
    found = container.get_services(service.name).get(service.name)
    if found and found.current != pebble.ServiceStatus.INACTIVE:
        _hurry(container, service)
        container.pebble.stop_services([service.name], timeout=EVENT.left(_CHANGE_TIMEOUT))


def _disable(container: ops.Container, service: Service) -> bool:
    """Take it out of what is to run, and its check; return whether it has not ended yet."""
    found = container.get_services(service.name).get(service.name)
    if found is None:
        return False
    if found.startup != pebble.ServiceStartup.DISABLED:
        layer = _layer(service, [], "", startup="disabled")
        container.add_layer(service.name, layer, combine=True)
    # The plan alone stops no check that is being made.
    if service.check:
        check = container.get_checks(service.check).get(service.check)
        if check and check.status != pebble.CheckStatus.INACTIVE:
            checks.stop(container.pebble, service.name, service.check)
    return found.current != pebble.ServiceStatus.INACTIVE


def _hurry(container: ops.Container, service: Service) -> None:
    """Let what is about to be stopped end at once: this is not the end of the pod.

    Where the event dies before it stops the service, Pebble starts that again.
    """
    if service.follows:
        with contextlib.suppress(pebble.APIError):  # it does not run
            container.pebble.send_signal("SIGINT", [service.name])


def _digest(program: str, settings: bytes) -> str:
    return hashlib.sha256(program.encode() + settings).hexdigest()


def _unfit(what: str, version: str, said: str = "") -> BlockedError:
    return BlockedError(
        f"attach an agent-image with glibc and Python {version}: this one {what}",
        more=f"{said and f'{said}; '}this charm's default is one; the command is juju "
        "attach-resource",
    )


def _layer(
    service: Service,
    command: Sequence[str],
    digest: str,
    startup: Literal["enabled", "disabled"] = "enabled",
) -> pebble.Layer:
    # What a database says may be among the words.
    words = shlex.join([*PYTHON, "-m", "agent", *command, "--config", service.config])
    checks: dict[str, pebble.CheckDict] = {}
    if service.check:
        # No level: whether the mirror is well says nothing of whether the server serves.
        checks[service.check] = {
            "override": "replace",
            "period": "5s",
            "timeout": "3s",
            "threshold": 2,
            "startup": startup,
            "http": {"url": f"http://localhost:{service.port}/health"},
        }
    return pebble.Layer(
        {
            "summary": "DittoFS agent",
            "services": {
                service.name: {
                    "override": "replace",
                    "summary": "DittoFS agent",
                    "command": words,
                    "startup": startup,
                    "on-success": "restart",
                    "on-failure": "restart",
                    "backoff-delay": "1s",
                    "backoff-factor": 2,
                    "backoff-limit": "30s",
                    "kill-delay": f"{_KILL_DELAY}s",
                    # The program reads its files at its start: the digest tells with which.
                    "environment": {_DIGEST: digest},
                }
            },
            "checks": checks,
        }
    )
