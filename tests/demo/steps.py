"""The steps of the demo: what a user would type, and what Juju would show."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from ops import testing

from tests import folders
from tests.bed import SMB, port
from tests.functional.bucket import BucketProvider
from tests.functional.files import ClientError, Files
from tests.functional.mysql import Provider
from tests.functional.pod import Pod
from tests.functional.unit import Unit, details

CONTENT = b"a line that must not be lost\n" * 1000


class StepError(Exception):
    """What a step shows is not what it should be."""


class Demo:
    """The steps, in order; each a method that returns what Juju would show."""

    def __init__(
        self,
        pod: Pod,
        provider: Provider | None,
        bucket: BucketProvider,
        *,
        traceback: bool = False,
    ):
        self.pod = pod
        self.provider = provider
        self.bucket = bucket
        self.traceback = traceback
        self.backup = ""
        self.unit = Unit(pod)
        self.files = Files(real=pod.server.real)
        self.passed = 0
        self.failed = 0

    def step(self, typed: str, work: Callable[[], str]) -> None:
        """Print what is typed, do it, print what it shows, and count."""
        show(f"\n$ {typed}")
        begin = time.monotonic()
        try:
            shown = work()
        except Exception as why:  # noqa: BLE001  # whatever it is, the other steps are shown too
            self.failed += 1
            show(f"FAILED: {type(why).__name__}: {why}")
            if self.traceback:
                traceback.print_exc()
            return
        self.passed += 1
        show("\n".join(f"    {line}" for line in shown.splitlines()))
        show(f"    ({time.monotonic() - begin:.1f} s)")

    def run(self) -> None:
        """All steps."""
        for typed, work in self._steps():
            self.step(typed, work)

    def _steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        unit = self.unit
        yield "juju deploy dittofs && juju status", self._deploy
        yield "nfs-cp notes nfs://…/export/notes && nfs-cat nfs://…/export/notes", self._nfs
        if self.pod.server.real and shutil.which("smbclient"):
            yield "smbclient //…/export -c 'put notes notes-smb; get notes-smb'", self._smb
        yield "juju config dittofs shares='- name: /export … - name: /projects …'", self._shares
        yield "juju run dittofs/0 status-detail", self._detail
        yield "juju config dittofs shares='- name: a:b' && juju status", self._wrong
        if self.provider is not None:
            yield "juju integrate dittofs mysql && juju status", self._relate
            yield "mysql -e 'SELECT … FROM dittofs_entries'", self._rows
            yield "juju run dittofs/0 verify-metadata", self._verify
            yield (
                "kubectl delete pvc <metadata> && kubectl delete pod dittofs-0",
                self._lose_metadata,
            )
        yield "juju integrate dittofs s3-integrator && juju status", self._relate_s3
        yield "juju run dittofs/0 create-backup    # while a client writes", self._back_up
        yield "juju run dittofs/0 list-backups", self._list_backups
        yield "juju run dittofs/0 verify-backup backup-id=… deep=true", self._verify_backup
        yield "rm /export/notes && juju run dittofs/0 restore backup-id=… confirm=…", self._restore
        yield "kill -9 <the server>", self._kill
        yield "kubectl delete pod dittofs-0", self._lose_pod
        yield (
            (
                "juju deploy dittofs -m disaster && juju integrate dittofs s3-integrator && "
                "juju run dittofs/0 restore backup-id=… from=… recovery-key=… confirm=…"
            ),
            self._restore_elsewhere,
        )
        yield "juju scale-application dittofs 2 && juju status", self._scale
        if self.provider is not None:
            yield "juju remove-relation dittofs mysql && juju status", self._part
        yield "kubectl delete pvc <content> && kubectl delete pod dittofs-0", self._lose_content
        yield (
            "juju run dittofs/0 start-without volume=content confirm=content",
            lambda: (
                details(unit.act("start-without", volume="content", confirm="content"))
                + f"\n{self._status('active')}"
            ),
        )
        yield "juju remove-application dittofs", self._remove

    def _status(self, wanted: str) -> str:
        """The table of `juju status`, which must have this status."""
        if self.unit.status.name != wanted:
            raise StepError(f"the unit should be {wanted}:\n{self.unit.juju_status()}")
        return self.unit.juju_status()

    def _deploy(self) -> str:
        self.unit.deploy()
        return self._status("active")

    def _expect_file(self, share: str = "/export", name: str = "notes") -> str:
        """Read the file as soon as the server serves again."""
        end = time.monotonic() + 60
        while True:
            try:
                content = self.files.get(share, name)
                break
            except ClientError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        if content != CONTENT:
            raise StepError(f"{share}/{name} is not what was written")
        return f"{share}/{name}: {len(content)} bytes, byte for byte what was written"

    def _nfs(self) -> str:
        self.files.put("/export", "notes", CONTENT)
        return self._expect_file() + ("" if self.pod.server.real else " (over HTTP: a stand-in)")

    def _smb(self) -> str:
        with folders.temporary() as directory:
            source, target = directory / "notes", directory / "back"
            source.write_bytes(CONTENT)
            subprocess.run(
                [
                    *("smbclient", "//127.0.0.1/export", "-p", str(port(SMB)), "-U", "admin"),
                    *("-c", f"put {source} notes-smb; get notes-smb {target}"),
                ],
                # Never in the command line, where everybody could read it.
                env=os.environ | {"PASSWD": self.unit.password()},
                check=True,
                capture_output=True,
                timeout=60,
            )
            if target.read_bytes() != CONTENT:
                raise StepError("notes-smb is not what was written")
        return "notes-smb: the same bytes came back over SMB"

    def _shares(self) -> str:
        self.unit.configure(
            shares="- name: /export\n- {name: /projects, quota: 100MB, trash-days: 14}\n"
            "- {name: /scratch, metadata: memory, content: memory, quota: 64MB}"
        )
        return self._status("active")

    def _detail(self) -> str:
        return str(self.unit.act("status-detail")["status"])

    def _wrong(self) -> str:
        before = self.unit.state.config["shares"]
        self.unit.configure(shares="- name: a:b")
        shown = self._status("blocked") + "\n" + self._expect_file()
        self.unit.configure(shares=str(before))
        return shown + "\n$ juju config dittofs shares=<as before>\n" + self._status("active")

    def _relate(self) -> str:
        assert self.provider is not None
        for number in range(20):
            self.files.put("/projects", f"file-{number}", f"{number} ".encode() * 500)
        self.provider.relate(self.unit)
        self.unit.wait()
        lag = json.loads(self.unit.agent_file("status.json"))["lag"]
        return f"{self._status('active')}\n{lag} s behind"

    def _rows(self) -> str:
        assert self.provider is not None
        rows = self.provider.server.execute(
            "SELECT s.name, COUNT(*), SUM(e.size) FROM dittofs_stores s "
            "JOIN dittofs_entries e USING (copy) GROUP BY s.name ORDER BY s.name",
            database=self.provider.name,
        )
        if not rows:
            raise StepError("there is nothing in MySQL")
        return "\n".join(
            f"{name.decode():10} {count:5} rows {size:8} bytes" for name, count, size in rows
        )

    def _verify(self) -> str:
        return details(self.unit.act("verify-metadata"))

    def _part(self) -> str:
        assert self.provider is not None
        self.provider.part(self.unit)
        return f"{self._status('active')}\n{self._rows()}"

    def _tree(self) -> dict[str, str]:
        names = [f"file-{number}" for number in range(20)]
        return {
            name: hashlib.sha256(self.files.get("/projects", name)).hexdigest() for name in names
        }

    def _lose_metadata(self) -> str:
        before = self._tree()
        self.unit.wait()
        self.pod.lose()
        self.pod.volumes["metadata"].lose()
        self.unit.new_pod()
        self.unit.wait()
        shown = self._expect_file()
        if self._tree() != before:
            raise StepError("the tree is not the same as before")
        return (
            f"{shown}\nthe {len(before)} files of /projects are the same as before\n"
            f"{self._status('active')}"
        )

    def _relate_s3(self) -> str:
        self.bucket.relate(self.unit)
        self.unit.wait()
        return self._status("active")

    def _back_up(self) -> str:
        stop, written = threading.Event(), list[str]()

        def write() -> None:
            while not stop.is_set():
                self.files.put("/export", f"under-load-{len(written)}", os.urandom(10_000))
                written.append("one more")

        client = threading.Thread(target=write)
        client.start()
        try:
            results = self.unit.act("create-backup")
        finally:
            stop.set()
            client.join()
        self.backup = str(results["backup-id"])
        return f"{details(results)}\n{len(written)} files were written meanwhile"

    def _list_backups(self) -> str:
        shown = str(self.unit.act("list-backups")["backups"])
        if self.backup not in shown:
            raise StepError(f"{self.backup} is not listed:\n{shown}")
        return shown

    def _verify_backup(self) -> str:
        return details(self.unit.act("verify-backup", **{"backup-id": self.backup, "deep": True}))

    def _restore(self) -> str:
        self.files.remove("/export", "notes")
        with contextlib.suppress(ClientError):
            self.files.get("/export", "notes")
            raise StepError("a file that was removed was read")
        return self._restored(self.unit)

    def _restored(self, unit: Unit, **more: str) -> str:
        asked = {"backup-id": self.backup, "confirm": self.backup, **more}
        shown = details(unit.act("restore", **asked))
        unit.wait()
        return f"{shown}\n{self._expect_file()}\n{unit.juju_status()}"

    def _restore_elsewhere(self) -> str:
        """In the place of the first unit, whose ports it needs; that one comes back afterwards."""
        (key,) = [
            each.tracked_content["key"]
            for each in self.unit.state.secrets
            if each.label == "backup-key"
        ]
        self.pod.lose()
        pod = Pod(self.pod.root / "disaster")
        try:
            pod.start()
            other = Unit(pod)
            other.change(config=self.unit.state.config, model=testing.Model("disaster"))
            other.deploy()
            self.bucket.relate(other)
            (row,) = json.loads(other.act("list-backups", output="json", all=True)["backups"])
            secret = testing.Secret({"key": key})
            other.change(secrets=[*other.state.secrets, secret])
            return self._restored(other, **{"from": row["from"], "recovery-key": secret.id})
        finally:
            pod.close()
            self.unit.new_pod()
            self.unit.wait()

    def _kill(self) -> str:
        (pid,) = self.pod.containers["dittofs"].server_ids()
        os.kill(pid, signal.SIGKILL)
        shown = self._expect_file()
        self.unit.wait()
        return f"{shown}\n{self._status('active')}"

    def _lose_pod(self) -> str:
        self.pod.lose()
        self.unit.new_pod()
        return f"{self._expect_file()}\n{self._status('active')}"

    def _scale(self) -> str:
        other = Unit(self.pod, unit_id=1)
        other.deploy()
        if other.status.name != "blocked":
            raise StepError(f"unit 1 should be blocked: {other.status}")
        return f"{other.juju_status()}\n{self._expect_file()}"

    def _lose_content(self) -> str:
        self.pod.lose()
        self.pod.volumes["content"].lose()
        self.unit.new_pod()
        with contextlib.suppress(ClientError):
            self.files.get("/export", "notes")
            raise StepError("a file whose content is lost was served")
        return self._status("blocked")

    def _remove(self) -> str:
        self.unit.remove()
        left = self.pod.containers["dittofs"].server_ids()
        if left:
            raise StepError(f"processes are left: {left}")
        return "drained and stopped; no process is left, the volumes keep what they have"


def show(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
