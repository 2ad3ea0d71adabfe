"""The dittofs container: the server's files, its Pebble layer, its life."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Generator
from pathlib import Path

import ops
from ops import pebble

import checks
import files
import layers
import releases
import said
from credentials import Credentials
from deadline import EVENT
from errors import BlockedError, WaitingError
from options import Options
from stores import Caches
from units import MIB
from volumes import DATABASE

logger = logging.getLogger(__name__)

CONTAINER = "dittofs"
SERVICE = "dittofs"
API_PORT, NFS_PORT, SMB_PORT, METRICS_PORT = 8080, 12049, 12445, 9090
API_URL = f"http://localhost:{API_PORT}"
METRICS_URL = f"http://localhost:{METRICS_PORT}/metrics"

_PROGRAM = "/app/dfs"
# What the program said it is, and which file that was. It goes with the container.
_NAME = "/config/server-name"
_NAME_TIMEOUT = 5.0
_CONFIG = "/config/config.yaml"
_SERVE = "/config/serve.sh"
_HANG = "hang"
_CHECK_HANG = "/config/check-hang.sh"
_PID = "/config/pid"
_EXIT_CODE = "/config/exit-code"
_LAST_WORDS = "/config/last-words"
# That the script gave it up.
_REFUSED = "/config/refused"
_OTHER_STATE = 78
# A pod has 30 s for its end, and the mirror is to be done with what the server wrote last. The
# server ends within 3 x shutdown_timeout + 5 s, in good order or not: what it has acknowledged is
# in its logs by then, so one that is killed loses nothing and only starts more slowly.
_SHUTDOWN_TIMEOUT = 3
_KILL_DELAY = 3 * _SHUTDOWN_TIMEOUT + 5 + 2
_STOP_TIMEOUT = _KILL_DELAY + 20
_POLL = 0.2
_CONFIG_TEMPLATE = "config.yaml.j2"
# In the environment of the service; the server does not know it.
_CONFIG_NOTE = "DITTOFS_CHARM_CONFIG_DIGEST"
_TEMPLATES = Path(__file__).parent.parent / "templates"
# What Kubernetes sends clients to.
_READY: pebble.CheckDict = {
    "override": "replace",
    "level": "ready",
    "period": "10s",
    "timeout": "5s",
    "threshold": 3,
    "startup": "enabled",
    "http": {"url": f"http://localhost:{API_PORT}/health/ready"},
}


@contextlib.contextmanager
def pebble_errors(container: str = "the container") -> Generator[None]:
    """Translate what Pebble raises into this charm's errors.

    Args:
        container: what the errors are to call the container.

    Raises:
        WaitingError: Pebble is away or did not do it in time.
    """
    try:
        yield
    except (pebble.ConnectionError, ConnectionError) as error:
        raise WaitingError(f"waiting for {container}") from error
    except pebble.ChangeError as error:
        raise WaitingError(f"Pebble failed: {error.err.splitlines()[-1]}") from error
    except (pebble.APIError, pebble.PathError) as error:
        raise WaitingError(f"{container} refused: {error.message}") from error
    except pebble.ExecError:
        raise WaitingError(f"a command failed in {container}") from None
    except (pebble.TimeoutError, TimeoutError) as error:
        raise WaitingError(f"{container} did not answer in time") from error


def memory_limit(memory: int) -> int:
    """The part of the memory budget that Go's heap may take, in bytes."""
    return memory // 10 * 9


class Workload:
    """The server as a Pebble service. Calls belong inside `pebble_errors()`."""

    def __init__(self, container: ops.Container):
        self._container = container

    @property
    def running(self) -> bool:
        """Whether Pebble says that the server runs now."""
        service = self._container.get_services(SERVICE).get(SERVICE)
        return service is not None and service.is_running()

    def name(self) -> str:
        """The version of the server in this container, in its own words.

        It is asked once: what it said is noted in the container, which a new image replaces.

        Raises:
            BlockedError: it does not say.
        """
        try:
            (info,) = self._container.list_files(_PROGRAM, itself=True)
            stamp = f"{info.size} {info.last_modified.isoformat()}"
            noted = (files.read(self._container, _NAME) or b"").decode(errors="replace")
            known, _, name = noted.partition("\n")
            if known == stamp and name:
                return name
            name = releases.told(*self._ask_name())
        except pebble.APIError as error:
            raise _nameless(error.message) from None
        except pebble.ChangeError as error:
            raise _nameless(error.err.splitlines()[-1].lstrip("- ")) from None
        except (pebble.TimeoutError, TimeoutError):
            raise _nameless(f"it takes longer than {_NAME_TIMEOUT:.0f} s") from None
        except pebble.ExecError as error:  # pyright: ignore[reportUnknownVariableType]  # of what is in ops' own generic
            raise _nameless(f"it ended with {error.exit_code}") from None
        self._container.push(_NAME, f"{stamp}\n{name}", permissions=0o644, make_dirs=True)
        logger.info("server: the program says it is %s", name)
        return name

    def _ask_name(self) -> list[str]:
        """What it prints; v0.29 does so to its standard error."""
        process = self._container.exec(
            # Any bytes are text in this encoding.
            [_PROGRAM, "version"],
            timeout=_NAME_TIMEOUT,
            stdin="",
            encoding="latin-1",
        )
        return [each or "" for each in process.wait_output()]

    def check_last_exit(self) -> None:
        """Return where it is worth starting the server.

        Raises:
            BlockedError: it refuses for good; the text has its last words.
        """
        code = self.last_exit()
        if code == _OTHER_STATE:
            raise BlockedError(
                "attach the dittofs-image that wrote the volumes; this one says: "
                f"{self._last_words()} (exit code {code})"
            )
        if code is not None and files.read(self._container, _REFUSED) is not None:
            raise BlockedError(
                "mend what the server refuses, then set log-level or memory to try again: "
                f"{self._last_words()}"
            )

    def changed(self, options: Options, credentials: Credentials) -> bool:
        """Whether it would be started otherwise than the last time in this container."""
        plan = self._container.get_plan()
        if SERVICE not in plan.services:
            return False
        layer = _layer(self._ensure_config(options, plan), options, credentials)
        return bool(layers.different(plan, layer))

    def check_worth_waiting(self) -> None:
        """`check_last_exit` for who waits for the API, outside `pebble_errors()`."""
        with pebble_errors():
            self.check_last_exit()

    def last_exit(self) -> int | None:
        """How the server ended the last time in this pod; None while it runs or never ran."""
        text = files.read(self._container, _EXIT_CODE)
        return int(text) if text and text.strip().isdigit() else None

    def check_alive(self) -> None:
        """Return where the server runs, or has not ended yet in this pod.

        Raises:
            BlockedError: it refuses for good.
            WaitingError: it ended otherwise, and Pebble starts it again.
        """
        if self.running:
            return
        self.check_last_exit()
        code = self.last_exit()
        if code is not None:
            raise WaitingError(f"the server ended with code {code}: {self._last_words()}")

    def forget_exit(self) -> None:
        """Let the server be tried again after what it complained about was changed."""
        self._container.remove_path(_EXIT_CODE, recursive=True)

    def _last_words(self) -> str:
        """What it said of its end, in one line."""
        words = (files.read(self._container, _LAST_WORDS) or b"").decode(errors="replace")
        lines = said.lines(words)
        errors = [line for line in lines if line.startswith("Error")]
        return (errors or lines or ["see its log"])[-1][:200]

    def ensure_check(self) -> None:
        """Let Kubernetes know that nobody serves here, until a server answers.

        A container without a check is ready, and gets its part of the application's clients.
        """
        if "ready" not in self._container.get_plan().checks:
            layer = pebble.Layer({"checks": {"ready": {**_READY, "threshold": 1}}})
            self._container.add_layer(SERVICE, layer, combine=True)

    def ensure(self, options: Options, credentials: Credentials) -> bool:
        """Make the server run with this configuration; return whether it was (re)started.

        Nothing is written and nothing restarted where nothing differs.
        """
        plan = self._container.get_plan()
        digest = self._ensure_config(options, plan)
        for path in (_SERVE, _CHECK_HANG):
            script = (_TEMPLATES / Path(path).name).read_text(encoding="utf-8")
            self._ensure_file(path, script, 0o644)
        layer = _layer(digest, options, credentials)
        different = layers.different(plan, layer)
        running = self.running
        if not different and running:
            return False
        why = f"changed: {', '.join(different)}" if running else "it does not run"
        logger.info("server: %s, %s", "restart" if running else "start", why)
        # Before the plan is changed: where the event ends in between, no server goes on with what
        # the plan had before. And one that is still there would answer in the new one's stead.
        self.stop()
        import control_plane  # noqa: PLC0415  # most events start no server

        # Whatever it was that wrote the file: an older charm, a backup, somebody else.
        control_plane.keep_only_copies(self._container)
        # Also where nothing differs, for a check that was stopped while it was made: see checks.
        self._container.add_layer(SERVICE, layer, combine=True)
        # Before the server, which an event that ends in between would leave without it.
        self._container.pebble.start_checks([_HANG])
        # A start is seen by the API's first answer: Pebble would only watch it for a second.
        self._container.pebble.restart_services([SERVICE], timeout=0)
        # Once more for the check, which may have been made until just now.
        self._container.add_layer(SERVICE, pebble.Layer({}), combine=True)
        return True

    def stop(self, why: str = "") -> None:
        """End the server in good order; return when it is down. Nothing where it does not run.

        One that an earlier event or a check has told to end is waited for as well.

        Args:
            why: for the log; empty where a restart is told there already.

        Raises:
            WaitingError: it needs longer than the event may take, and goes on.
        """
        service = self._container.get_services(SERVICE).get(SERVICE)
        if service is None:
            return
        # A service that waits for its next try is not running, and must be stopped all the same.
        if service.current != pebble.ServiceStatus.INACTIVE:
            if why:
                logger.info("server: stop, %s", why)
            # The check "ready" goes on: it tells Kubernetes that nobody is served.
            checks.stop(self._container.pebble, SERVICE, _HANG)
            self._container.pebble.stop_services([SERVICE], timeout=EVENT.left(_STOP_TIMEOUT))
        end = time.monotonic() + EVENT.left(_STOP_TIMEOUT)
        while self._ending():
            if time.monotonic() > end:
                raise WaitingError("the server is ending")
            time.sleep(_POLL)

    def _ending(self) -> bool:
        pid = (files.read(self._container, _PID) or b"").decode().strip()
        command = files.read(self._container, f"/proc/{pid}/cmdline") if pid.isdigit() else None
        return command is not None and _SERVE.encode() in command

    def _ensure_config(self, options: Options, plan: pebble.Plan) -> str:
        """Write the configuration where it differs; return what the layer notes of it.

        The note has two digests: of what the file is made from, and of the file. Where both still
        hold there is nothing to render.
        """
        values = _config_values(options)
        template = (_TEMPLATES / _CONFIG_TEMPLATE).read_bytes()
        made_from = _digest(template + repr(sorted(values.items())).encode())
        service = plan.services.get(SERVICE)
        noted = service.environment.get(_CONFIG_NOTE, "") if service else ""
        if noted == f"{made_from} {_digest(files.read(self._container, _CONFIG) or b'')}":
            return noted
        config = _render(values)
        self._ensure_file(_CONFIG, config, 0o600)
        return f"{made_from} {_digest(config.encode())}"

    def _ensure_file(self, path: str, content: str, mode: int) -> None:
        if files.read(self._container, path) != content.encode():
            self._container.push(path, content, permissions=mode, make_dirs=True)
            logger.info("server: wrote %s", path)


def _nameless(reason: str) -> BlockedError:
    line = said.line(reason)[:200]
    return BlockedError(
        f"attach another dittofs-image: its {_PROGRAM} does not say its version ({line})"
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _config_values(options: Options) -> dict[str, str | int]:
    caches = Caches.for_memory(options.memory)
    return {
        "log_level": options.log_level,
        "shutdown_timeout": _SHUTDOWN_TIMEOUT,
        "database": DATABASE,
        "api_port": API_PORT,
        "metrics_port": METRICS_PORT,
        "block_cache_mib": caches.block_mib,
        "index_cache_mib": caches.index_mib,
    }


def _render(values: dict[str, str | int]) -> str:
    # Most events need neither jinja2 nor its compiler.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  # see above

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # YAML, of values that were checked
    )
    return environment.get_template(_CONFIG_TEMPLATE).render(values)


def _layer(digest: str, options: Options, credentials: Credentials) -> pebble.Layer:
    return pebble.Layer(
        {
            "summary": "DittoFS server",
            "services": {
                SERVICE: {
                    "override": "replace",
                    "summary": "DittoFS server",
                    "command": f"/bin/sh {_SERVE}",
                    "startup": "enabled",
                    "on-success": "ignore",
                    "on-failure": "restart",
                    "backoff-delay": "1s",
                    "backoff-factor": 2,
                    "backoff-limit": "30s",
                    "kill-delay": f"{_KILL_DELAY}s",
                    "on-check-failure": {_HANG: "restart"},
                    "environment": {
                        "DITTOFS_CONTROLPLANE_SECRET": credentials.token_key.get_secret_value(),
                        "DITTOFS_ADMIN_INITIAL_PASSWORD": (
                            credentials.admin_password.get_secret_value()
                        ),
                        "GOMEMLIMIT": f"{memory_limit(options.memory) // MIB}MiB",
                        # The server reads its file only at its start: this tells with which.
                        _CONFIG_NOTE: digest,
                    },
                }
            },
            "checks": {
                "ready": _READY,
                # Down after 6 s, while the event that starts the server still waits: its recovery
                # is the next event. A server that is only slow stays ready.
                "answers": {
                    "override": "replace",
                    "period": "2s",
                    "timeout": "1500ms",
                    "threshold": 3,
                    "startup": "enabled",
                    "http": {"url": f"http://localhost:{API_PORT}/health/ready"},
                },
                _HANG: {
                    "override": "replace",
                    "period": "10s",
                    "timeout": "8s",
                    "threshold": 4,
                    "startup": "enabled",
                    "exec": {"command": f"/bin/sh {_CHECK_HANG}"},
                },
            },
        }
    )
