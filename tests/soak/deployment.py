"""A deployment with two shares and a bucket, whose every file and backup is known."""

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, Self, TypeVar

import httpx

from tests import bed
from tests.functional.bucket import BucketProvider
from tests.functional.files import ClientError, Files
from tests.functional.pod import Pod
from tests.functional.unit import Unit
from tests.juju import AGENT
from tests.s3 import FaultyProxy, S3Server
from tests.soak.moments import read
from tests.soak.victims import Scene
from units import GIB, MIB

SHARES = ("/export", "/b")
KEEP = 3
_NAMES = ("a", "b", "c", "d", "e")
_BIG, _BIG_SIZE = "big", 5 * MIB
_PATIENCE, _SERVES_AGAIN = 120.0, 30.0
# What stays to be seen until the next backup or restore.
_EXPLAINED = "s3-backup: "
_OWN = {
    "metadata": {".dittofs-backup", ".dittofs-charm-ended.json", ".dittofs-charm.json"},
    "content": {".dittofs-charm.json"},
}
_DATA = {
    "metadata": {"controlplane.db", "controlplane.db-shm", "controlplane.db-wal", "stores"},
    "content": {"shares"},
}

State = Mapping[str, Mapping[str, bytes]]
Result = TypeVar("Result")


class ViolationError(Exception):
    """Something is not as it has to be."""


class Site:
    """It serves when it is made; a context manager that ends it.

    Args:
        root: a folder for it.
        s3: the S3 server, which is reached by a proxy.
        bucket: the name of a new bucket.

    Attributes:
        present: what the shares have to hold, by share and name of the file.
        backups: the backups that are listed, by their ids, and what each has to hold.
    """

    def __init__(self, root: Path, s3: S3Server, bucket: str, random: Random):
        self.random = random
        self.s3 = s3
        self.bucket = bucket
        self.proxy = FaultyProxy(s3.port)
        # It is filled by a file, and its files are in memory.
        self.pod = Pod(root / "pod", sizes={"content": 2 * GIB})
        self.scene = Scene(self.pod, self.proxy, random)
        self.unit = Unit(self.pod)
        self.files = Files(real=self.pod.server.real)
        # The same threads for all: what bubblewrap runs ends with the thread that started it.
        self.hands = ThreadPoolExecutor(2)
        self.present: State = {share: {} for share in SHARES}
        self.backups: dict[str, State] = {}
        self.note = self.pod.volumes["metadata"].path / ".dittofs-operation.json"
        try:
            self._deploy()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything."""
        self.proxy.close()
        self.pod.close()
        self.hands.shutdown()

    def use(self, random: Random) -> None:
        """Take chance from here."""
        self.random = self.scene.random = random

    def change(self) -> None:
        """Write other files, so that no backup holds what the shares do."""
        following = {share: dict(files) for share, files in self.present.items()}
        for share, files in following.items():
            for name in self.random.sample(_NAMES, 2):
                if name in files and self.random.random() < 0.2:
                    del files[name]
                    patiently(lambda share=share, name=name: self.files.remove(share, name))
                else:
                    files[name] = os.urandom(self.random.randrange(1, 40_000))
            files["a"] = os.urandom(1000)
            if _BIG not in files or (share == SHARES[0] and self.random.random() < 0.2):
                files[_BIG] = os.urandom(_BIG_SIZE if share == SHARES[0] else 1)
            for name, data in files.items():
                if data is not self.present[share].get(name):
                    patiently(lambda s=share, n=name, d=data: self.files.put(s, n, d))
        self.present = following

    def back_up(self) -> str:
        """Make a backup, which has to work; its id."""
        backup_id = self.unit.act("create-backup")["backup-id"]
        self.check_list(new={backup_id: self.present})
        require(backup_id in self.backups, f"backup {backup_id} is not listed")
        left = list(self.pod.volumes["content"].path.glob("shares/*/snapshots/*"))
        require(not left, f"snapshots are left after a backup: {left}")
        return backup_id

    def heal(self) -> None:
        """Bring back what was lost, and deliver Juju's events until the operation is over."""
        self.proxy.heal()
        if "pod" in self.scene.lost:
            self.unit.new_pod()
        elif AGENT in self.scene.lost:
            self.unit.run("pebble_ready", self.unit.state.get_container(AGENT))
        self.scene.lost.clear()
        end = time.monotonic() + _PATIENCE
        while True:
            status = self.unit.run("update_status")
            explained = status.message.startswith(_EXPLAINED)
            if not self.note.exists() and (status.name == "active" or explained):
                return
            require(time.monotonic() < end, f"no end of it: {status}")
            time.sleep(0.2)

    def ended(self, kind: str, since: float) -> Mapping[str, Any]:
        """What became of the operation that began then; empty where none did."""
        found = read(self.note.with_name(".dittofs-charm-ended.json"))
        return found if found.get("at", 0) > since and found["kind"] == kind else {}

    def check(self) -> None:
        """Everything has to be as it is known to be.

        Raises:
            ViolationError: something is not.
        """
        status = self.unit.run("update_status")
        served = f"nfs: {', '.join(SHARES)}"
        require(status.name == "active" and status.message.startswith(served), str(status))
        self.check_files()
        self._check_password()
        self._check_volumes()
        self.check_list()
        for backup_id in self.backups:
            self.unit.act("verify-backup", **{"backup-id": backup_id})

    def check_files(self) -> None:
        """Every file is what it has to be, and none is there that has not to be."""
        names = {*_NAMES, _BIG}
        for share, files in self.present.items():
            for name, data in files.items():
                found = patiently(lambda s=share, n=name: self.files.get(s, n))
                require(found == data, f"{share}/{name} is not what it has to be")
            for name in names - set(files):
                try:
                    self.files.get(share, name)
                except ClientError:
                    continue
                raise ViolationError(f"{share}/{name} is there")

    def check_list(self, new: Mapping[str, State] | None = None, gone: str = "") -> None:
        """The backups that are listed are whole and known, and none is missing.

        Args:
            new: what one that may be there and is not known has to hold, by its id.
            gone: one that may be deleted.
        """
        rows = self.listed()
        for backup_id, row in rows.items():
            require(row["complete"], f"backup {backup_id} is listed: {row['problem']}")
        possible = {**self.backups, **(new or {})}
        require(set(rows) <= set(possible), f"{sorted(rows)} are listed, not {sorted(possible)}")
        needed = sorted({*self.backups, *rows} - {gone})
        if not set(rows) <= set(self.backups):
            needed = needed[-KEEP:]
        require(set(needed) <= set(rows), f"{sorted(rows)} are listed, not all of {needed}")
        self.backups = {backup_id: possible[backup_id] for backup_id in sorted(rows)}

    def listed(self) -> dict[str, Mapping[str, Any]]:
        """What list-backups shows, by id."""
        results = self.unit.act("list-backups", output="json")
        return {row["id"]: row for row in json.loads(results["backups"])}

    def check_restores(self) -> None:
        """Really restore every backup."""
        for backup_id, state in self.backups.items():
            self.unit.act("restore", **{"backup-id": backup_id, "confirm": backup_id})
            self.present = state
            self.check_files()
        self.heal()

    def report(self) -> str:
        """All there is to find out why."""
        parts = [f"status: {self.unit.status}", f"backups: {sorted(self.backups)}"]
        for name, volume in self.pod.volumes.items():
            parts.append(f"{name}: {sorted(path.name for path in volume.path.iterdir())}")
        notes = (
            ".dittofs-operation.json",
            ".dittofs-charm-ended.json",
            ".dittofs-backup/status.json",
            ".dittofs-restore/plan.json",
            ".dittofs-restore/settled.json",
        )
        parts += [f"{name}: {read(self.note.parent / name)}" for name in notes]
        for name, container in self.pod.containers.items():
            lines = [
                line
                for line in container.log.splitlines()
                if " /v1/" not in line and '"type":"security"' not in line
            ]
            parts.append("\n".join([f"-- {name}", *lines[-60:]]))
        return "\n".join([*parts, "-- charm", *self.unit.logs[-30:]])

    def _deploy(self) -> None:
        self.pod.start()
        shares = "\n".join(f"- name: {share}" for share in SHARES)
        config: dict[str, Any] = {
            "protocols": "nfs",
            "shares": shares,
            "backup-keep": str(KEEP),
            "allow-small-content-volume": True,
        }
        self.unit.change(config=config)
        self.unit.deploy()
        BucketProvider(self.s3, self.bucket, self.proxy.url).relate(self.unit)
        self.unit.wait()
        for _ in range(KEEP):
            self.change()
            self.back_up()

    def _check_password(self) -> None:
        body = {"username": "admin", "password": self.unit.password()}
        url = f"http://127.0.0.1:{bed.port(bed.API)}/api/v1/auth/login"
        answer = httpx.post(url, json=body, timeout=30)
        require(answer.is_success, f"admin cannot log in: {answer.status_code}")
        detail = str(self.unit.act("status-detail")["status"])
        require("/export" in detail, detail)

    def _check_volumes(self) -> None:
        for name, volume in self.pod.volumes.items():
            found = {path.name for path in volume.path.iterdir()}
            strange = found - _OWN[name] - _DATA[name]
            require(not strange, f"{sorted(strange)} is left on the {name} volume")


def require(truth: object, text: str) -> None:
    """Return where something is as it has to be."""
    if not truth:
        raise ViolationError(text)


def patiently(work: Callable[[], Result]) -> Result:
    """Do something that a server which was just started may refuse."""
    end = time.monotonic() + _SERVES_AGAIN
    while True:
        try:
            return work()
        except ClientError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
