"""A client in the cluster: the program of the charm `nfs-client`, run by `juju ssh`."""

import hashlib
import json
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import jubilant
from pydantic import SecretStr

NAME = "nfs-client"
_UNIT = f"{NAME}/0"
_FOLDER = f"/var/lib/juju/agents/unit-{NAME}-0/charm"
_PROGRAM = f"cd {_FOLDER} && PYTHONPATH=lib:venv python3 src/files.py"
_SCRATCH = "/tmp/watch"  # noqa: S108  # of the client's container
_LONGEST = 600
_STARTED = 60


class Sample(NamedTuple):
    """The content of a file, made from a seed wherever it is needed."""

    seed: str
    size: int = 300_000

    @property
    def found(self) -> dict[str, Any]:
        """What a client tells that reads it."""
        data = hashlib.shake_256(self.seed.encode()).digest(self.size)
        return {"size": self.size, "sha256": hashlib.sha256(data).hexdigest()}


class ClientError(Exception):
    """A client could not do it; the text is what the server or the network said."""


class Watch:
    """What a client saw that has read a file all the time; known when the watching has ended."""

    def __init__(self) -> None:
        self.reads = 0
        self.outages: list[float] = []
        self.served_at_the_end = False

    @property
    def longest(self) -> float:
        """The longest outage in seconds, 0 where there was none."""
        return max(self.outages, default=0.0)


class Client:
    """Writes and reads files of an application's shares. Methods raise `ClientError`."""

    def __init__(self, juju: jubilant.Juju, host: str = "dittofs"):
        self._juju = juju
        self._host = host

    def put(self, share: str, name: str, sample: Sample) -> None:
        """Write a file, and make it safe."""
        self._run("put", self._host, share, name, sample.seed, str(sample.size))

    def get(self, share: str, name: str) -> dict[str, Any]:
        """Read a file; the same as `found` of the sample that was put."""
        return self._run("get", self._host, share, name)

    def remove(self, share: str, name: str) -> None:
        """Remove a file."""
        self._run("remove", self._host, share, name)

    def wait_for(self, share: str, name: str, sample: Sample, seconds: float = 60) -> None:
        """Read a file until it is as it was put: a share may need a moment to be served."""
        end = time.monotonic() + seconds
        while True:
            try:
                found = self.get(share, name)
            except ClientError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)
            else:
                assert found == sample.found
                return

    def reach(self, *ports: int) -> dict[int, bool]:
        """Which ports of the application take a connection."""
        found = self._run("reach", self._host, *map(str, ports))
        return {int(port): reached for port, reached in found.items()}

    def accepts(self, password: SecretStr) -> bool:
        """Whether the server lets admin in; the password is on no command line."""
        return self._run("login", self._host, secret=password)["accepted"]

    @contextmanager
    def watching(self, share: str, name: str) -> Iterator[Watch]:
        """Have a client read a file all the time, until the block ends."""
        place = f"{_SCRATCH}-{time.monotonic_ns()}"
        watch = Watch()
        with ThreadPoolExecutor(1) as threads:
            arguments = ("watch", self._host, share, name, place, str(_LONGEST))
            running = threads.submit(self._run, *arguments)
            try:
                self._await_start(place, running)
                yield watch
            finally:
                self._shell(f"touch {place}.stop")
            found = running.result()
        watch.reads, watch.outages = found["reads"], found["outages"]
        watch.served_at_the_end = found["served-at-the-end"]

    def _await_start(self, place: str, running: Future[dict[str, Any]]) -> None:
        for _ in range(_STARTED):
            if self._shell(f"ls {place}.started 2>/dev/null || true").strip():
                return
            if running.done():
                break
            time.sleep(1)
        raise ClientError(f"{self._host} could not be watched: no file was read")

    def _run(self, *arguments: str, secret: SecretStr | None = None) -> dict[str, Any]:
        said = self._shell(f"{_PROGRAM} {shlex.join(arguments)}", secret)
        # A login may be greeted before the program prints.
        found = json.loads(said.strip().rpartition("\n")[2])
        if "error" in found:
            raise ClientError(found["error"])
        return found

    def _shell(self, command: str, secret: SecretStr | None = None) -> str:
        stdin = f"{secret.get_secret_value()}\n" if secret else None
        try:
            return self._juju.cli("ssh", _UNIT, command, stdin=stdin)
        except jubilant.CLIError as error:
            # Not from that error: pytest shows what its function was given.
            raise ClientError(f"juju ssh ended with {error.returncode}: {error.stderr}") from None
