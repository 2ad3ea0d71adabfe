"""An application of the charm on a real Juju: what a person would type, and what comes of it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jubilant
from jubilant.secrettypes import SecretURI
from pydantic import SecretStr

from tests.integration import reading

SERVED = "nfs, smb: /export"
LOST = "bring the old volumes back, or run start-without volume=both: both volumes are empty"
ADMIN = "DittoFS: the password of the user admin"
MIRROR_KEY = ("DittoFS: the key of the users and settings that are kept in MySQL", "mirror-key")
BACKUP_KEY = ("DittoFS: the key of the backups in S3", "backup-key")
# Of all actions that may take long; the charm itself lets go of them after ten minutes.
LONG = 30 * 60.0
_SHORT = 60.0  # how long `juju run` waits where nothing else is said
_PIDS = """for each in /proc/[0-9]*; do
    case "$(cat $each/comm 2>/dev/null)" in {name}) echo ${{each#/proc/}} ;; esac
done"""


class Application:
    """One application with one unit that serves.

    Attributes:
        unit: its name.
        began: when it was deployed, of `time.monotonic`.
    """

    def __init__(self, juju: jubilant.Juju, name: str = "dittofs"):
        self.juju = juju
        self.name = name
        self.unit = f"{name}/0"
        self.began = 0.0

    def deploy(self, charm: Path, resources: dict[str, str]) -> None:
        """Deploy it as `juju deploy` does it, and do not wait; `began` is when that was."""
        self.began = time.monotonic()
        self.juju.deploy(charm, self.name, resources=resources)

    def status(self, number: int = 0) -> jubilant.statustypes.StatusInfo:
        """The status of a unit; an empty one where there is no such unit."""
        return self._status_in(self.juju.status(), number)

    def _status_in(
        self, status: jubilant.Status, number: int = 0
    ) -> jubilant.statustypes.StatusInfo:
        application = status.apps.get(self.name)
        unit = application.units.get(f"{self.name}/{number}") if application else None
        return unit.workload_status if unit else jubilant.statustypes.StatusInfo()

    @property
    def message(self) -> str:
        """What the unit says, as a whole: `juju status` cuts it only in its table."""
        return self.status().message

    def wait(
        self,
        ready: Callable[[jubilant.statustypes.StatusInfo], bool],
        *,
        number: int = 0,
        timeout: float | None = None,
    ) -> float:
        """Wait until a unit's status is as wanted, three times in a row, and no hook fails.

        Returns:
            The moment at which it began to be so, of `time.monotonic`.
        """
        since: float | None = None

        def holds(status: jubilant.Status) -> bool:
            nonlocal since
            if not ready(self._status_in(status, number)):
                since = None
                return False
            since = since or time.monotonic()
            return True

        self.juju.wait(holds, error=self.fails, timeout=timeout)
        assert since is not None
        return since

    def fails(self, status: jubilant.Status) -> bool:
        """Whether a hook of the application has failed."""
        return jubilant.any_error(status, self.name)

    def wait_for(self, message: str, *, number: int = 0, timeout: float | None = None) -> float:
        """Wait until a unit says this; see `wait`."""
        return self.wait(lambda status: status.message == message, number=number, timeout=timeout)

    def wait_idle(self) -> None:
        """Wait until no hook runs or is to be run."""
        self.juju.wait(
            lambda status: jubilant.all_agents_idle(status, self.name), error=self.fails
        )

    def set_options(self, **options: jubilant.ConfigValue) -> None:
        """Set options; `_` stands for `-`."""
        values = {name.replace("_", "-"): value for name, value in options.items()}
        self.juju.config(self.name, values)

    def scale(self, units: int) -> None:
        """Tell Juju how many units there shall be."""
        self.juju.cli("scale-application", self.name, str(units))

    def act(
        self, action: str, params: dict[str, Any] | None = None, *, wait: float = _SHORT
    ) -> dict[str, str]:
        """Run an action and return its results.

        Raises:
            jubilant.TaskError: it failed.
        """
        return reading.as_text(self.juju.run(self.unit, action, params, wait=wait).results)

    def refused(self, action: str, params: dict[str, Any] | None = None) -> str:
        """Run an action that fails, and return what it says."""
        try:
            results = self.act(action, params, wait=LONG)
        except jubilant.TaskError as error:
            return error.task.message
        raise AssertionError(f"{action} did not fail: {results}")

    def detail(self) -> dict[str, Any]:
        """All that `status-detail` shows."""
        return json.loads(self.act("status-detail", {"format": "json"})["status"])

    @property
    def instance(self) -> str:
        """The instance of the volumes."""
        (found,) = {volume["instance"] for volume in self.detail()["volumes"]}
        return found

    def shell(self, container: str, command: str) -> str:
        """Run a command in a container of unit 0 and return what it prints."""
        return self.juju.ssh(self.unit, command, container=container)

    def processes(self, container: str, name: str) -> list[int]:
        """The ids of a container's processes of this name, a pattern of the shell."""
        said = self.shell(container, _PIDS.format(name=name))
        return [int(line) for line in said.split()]

    def signal(self, container: str, name: str, signal: str) -> None:
        """Send a signal to all of a container's processes of this name."""
        found = self.processes(container, name)
        assert found, f"no {name} runs in the container {container}"
        self.shell(container, f"kill -{signal} {' '.join(map(str, found))}")

    def secret(self, description: str, label: str = "") -> SecretURI:
        """The id of a secret of the model, see `reading.find_secret`."""
        found = reading.find_secret(
            self.juju.cli("secrets", "--format", "json"), description, label
        )
        return SecretURI(found)

    def reveal(self, secret: SecretURI, key: str) -> SecretStr:
        """A value out of a secret; what a test shows that fails has it masked."""
        said = self.juju.cli("show-secret", secret, "--reveal", "--format", "json")
        return SecretStr(reading.revealed(said)[key])

    def grant(self, name: str, key: str, value: SecretStr) -> str:
        """Make a secret of a user and grant it to the application; its id, for an action."""
        secret = self.juju.add_secret(name, {key: value.get_secret_value()})
        self.juju.grant_secret(secret, self.name)
        # jubilant's own type of it cannot be written into the file of an action's parameters.
        return str(secret)
