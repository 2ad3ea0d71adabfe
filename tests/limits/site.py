"""The charm with its mirror and its backups, on a content volume of a limited size."""

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ops import testing

from tests.databases import DatabaseServer
from tests.functional.bucket import BucketProvider
from tests.functional.mysql import Provider
from tests.functional.pod import Pod
from tests.functional.unit import Unit
from tests.juju import AGENT, SERVICE
from tests.limits import http, nfs3, volume
from tests.limits.nfs3 import LostError, RefusedError
from tests.limits.writers import Connection
from tests.s3 import S3Server
from tests.servers import Program

SHARE = "/export"
_GIB = 2**30
_PATIENCE = 300.0
_GAVE_UP = "the last backup failed"
_AGENTS = (b"mirror", b"backup", b"guard")


class Site:
    """It serves after `deploy`.

    Args:
        root: a folder for it.
        size: of the content volume, in bytes.
        config: options beside those that it needs.
    """

    def __init__(
        self,
        root: Path,
        size: int,
        config: Mapping[str, str | bool],
        server: Program | None = None,
    ):
        self._stack = contextlib.ExitStack()
        self.pod = Pod(root / "pod", server)
        self._stack.callback(self.pod.close)
        self.unit = Unit(self.pod)
        self._root = root
        self._config = config
        self.backups: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.file_system = volume.limit(self.pod, "content", size)

    def close(self) -> None:
        """Stop everything."""
        self._stack.close()

    @property
    def content(self) -> Path:
        """The content volume."""
        return self.pod.volumes["content"].path

    def connect(self) -> Connection:
        """A new client."""
        return nfs3.Client(SHARE) if self.pod.server.real else http.Client(SHARE)

    def serves(self) -> bool:
        """Whether a client can connect now."""
        with contextlib.suppress(LostError, RefusedError), self.connect():
            return True
        return False

    def event(self) -> Any:
        """Juju's regular event; the status."""
        return self.unit.run("update_status")

    def settle(self) -> Any:
        """Deliver events until nothing is under way; the status.

        It may say what is full, or that the last backup gave up, which says nothing of the next.
        """
        note = self.pod.volumes["metadata"].path / ".dittofs-operation.json"
        end = time.monotonic() + _PATIENCE
        while True:
            status = self.event()
            over = status.name in {"active", "blocked"} or _GAVE_UP in status.message
            if not note.exists() and over:
                return status
            assert time.monotonic() < end, f"no end of it: {status}"
            time.sleep(0.5)

    def back_up(self) -> None:
        """Make a backup and verify it, while clients write."""
        try:
            made = self.unit.act("create-backup")["backup-id"]
            self.backups["made"] += 1
            self.unit.act("verify-backup", **{"backup-id": made})
            self.backups["verified"] += 1
        except testing.ActionFailed as failed:
            # Something was killed, or another operation is not over: it says so and begins anew.
            self.backups[f"failed: {str(failed)[:100]}"] += 1

    def check_backups(self) -> list[str]:
        """Verify every backup that is listed; what is wrong with them."""
        results = self.unit.act("list-backups", output="json")
        wrong: list[str] = []
        for row in json.loads(results["backups"]):
            try:
                self.unit.act("verify-backup", **{"backup-id": row["id"]})
                self.backups["verified at the end"] += 1
            except testing.ActionFailed as failed:
                wrong.append(f"backup {row['id']}: {failed}")
        return wrong

    def kill(self, what: str) -> None:
        """Kill the server, the programs of the agent, or the whole pod with -9."""
        self.kills[what] += 1
        if what == "server":
            _kill(self.pod.containers[SERVICE].server_ids())
        elif what == "agent":
            container = self.pod.containers[AGENT]
            _kill([pid for word in _AGENTS for pid in container.ids_of(word)])
        else:
            self.pod.lose()
            self.unit.new_pod()

    def restart(self) -> None:
        """Restart the server in good order."""
        self.pod.containers[SERVICE].client.restart_services(["dittofs"])

    def same_as_mysql(self) -> str:
        """Compare the metadata with the mirror; empty where they are equal."""
        try:
            self.unit.act("verify-metadata")
        except testing.ActionFailed as failed:
            return str(failed)
        return ""

    def deploy(self) -> None:
        """Deploy it."""
        self.pod.start()
        config = {"protocols": "nfs", "backup-keep": "1", **self._config}
        self.unit.change(config=config)
        self.unit.deploy()

    def relate(self) -> None:
        """Begin to mirror and to make backups."""
        database = self._stack.enter_context(DatabaseServer(self._root / "database"))
        s3 = self._stack.enter_context(S3Server(self._root / "s3"))
        Provider(database).relate(self.unit)
        BucketProvider(s3, "limits").relate(self.unit)
        self.unit.wait()


@contextlib.contextmanager
def deployed(
    root: Path,
    size: int,
    config: Mapping[str, str | bool],
    server: Program | None = None,
) -> Iterator[Site]:
    """A site that serves; it ends with the context."""
    site = Site(root, size, config, server)
    try:
        site.deploy()
        yield site
    finally:
        site.close()


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
