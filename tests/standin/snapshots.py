"""The stand-in's snapshots: their states, and the restore with all that can come in between.

What is refused and in which words, what a killed server leaves, and what the next one makes of
it are the real server's; `tests/contract` shows it.
"""

import contextlib
import sqlite3
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.standin.answers import (
    Problem,
    Response,
    as_json,
    bad_request,
    broken,
    conflict,
    not_found,
)
from tests.standin.database import Database, Object
from tests.standin.stores import SnapshotDamagedError, SnapshotGoneError, Stores

_CREATING, _READY, _FAILED = "creating", "ready", "failed"
_ABANDONED = "abandoned: server restarted while snapshot was still creating"
_FAILURE = "snapshot operation failed"


class _Stopping(Exception):  # noqa: N818  # not an error
    """The server ends."""


@dataclass
class Snapshots:
    """All snapshots of all shares.

    Attributes:
        seconds: how long the making of one takes, and each half of a restore. With 0, one is
            ready as soon as it was asked for, and no threads are started.
    """

    database: Database
    stores: Stores
    seconds: float = 0.0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])
    _in_flight: set[str] = field(default_factory=set[str])
    _restoring: set[str] = field(default_factory=set[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def recover(self) -> None:
        """After a start: what was in flight has failed, and half a restore is rolled back."""
        for share in self.database.all("share"):
            for row in self.database.snapshots(share["name"]):
                if row["state"] == _CREATING:
                    self.database.change_snapshot(row["id"], state=_FAILED, error=_ABANDONED)
        for marker in self.database.markers():
            share = self.database.find("share", marker["share_name"])
            if share is not None:
                share = self.database.put("share", share | {"enabled": False})
                store = self._store(share)
                self.stores.empty(store["name"])
                try:
                    self.stores.restore_snapshot(
                        share, store["name"], marker["safety_snapshot_id"]
                    )
                except (SnapshotGoneError, SnapshotDamagedError):
                    continue
            self.database.remove_marker(marker["share_name"])

    def close(self) -> None:
        """End what is in flight; it has failed."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def create(self, body: Object, name: str) -> Response:
        """POST /shares/{name}/snapshots."""
        asked = _typed(body, {"name": str, "no_verify": bool, "retry_of": str})
        share = self._share(name)
        if self._content(share)["type"] != "fs":
            raise bad_request("snapshots require an fs-backed local store")
        identifier = self._row(share, asked)
        try:
            self.stores.begin_snapshot(share, identifier)
        except OSError:
            self.database.change_snapshot(identifier, state=_FAILED)
            raise broken("snapshot create failed") from None
        with self._lock:
            self._in_flight.add(identifier)
        if self.seconds:
            self._start(share, identifier)
        else:
            self._write(share, identifier)
        place = f"/api/v1/shares/{quote(share['name'], safe='')}/snapshots/{identifier}"
        answer = {"snapshot_id": identifier, "share": share["name"]}
        return as_json(answer, 202, {"Location": place})

    def _row(self, share: Object, asked: Object) -> str:
        """Write that one is being made; its id."""
        retried = asked.get("retry_of")
        try:
            if not retried:
                row = {
                    "id": str(uuid.uuid4()),
                    "name": asked.get("name", ""),
                    "share_name": share["name"],
                    "state": _CREATING,
                    "metadata_engine": self._store(share)["type"],
                }
                self.database.add_snapshot(row)
                return row["id"]
            found = self.database.snapshot(share["name"], retried)
            if found is None:
                raise not_found("retry target snapshot")
            if found["state"] != _FAILED:
                raise conflict("retry target is not in failed state")
            self.database.change_snapshot(retried, state=_CREATING, error="")
        except sqlite3.IntegrityError:
            # The index allows one in flight for each share.
            raise _wrong_state() from None
        return retried

    def _start(self, share: Object, identifier: str) -> None:
        thread = threading.Thread(target=self._write, args=(share, identifier))
        self._threads.append(thread)
        thread.start()

    def _write(self, share: Object, identifier: str) -> None:
        """Make the snapshot whose row is there, and write its end into the row."""
        try:
            self._wait()
            blocks, version = self.stores.write_snapshot(
                share, self._store(share)["name"], identifier
            )
            self.database.change_snapshot(
                identifier, state=_READY, manifest_count=blocks, journal_version=version
            )
        except (OSError, _Stopping) as error:
            text = f"snapshot create {identifier}: backup: snapshot backup failed: {error}"
            self.database.change_snapshot(identifier, state=_FAILED, error=text)
        finally:
            with self._lock:
                self._in_flight.discard(identifier)

    def _wait(self) -> None:
        if self._stopping.wait(self.seconds):
            raise _Stopping("metadata: snapshot aborted: context canceled")

    def list(self, name: str) -> Response:
        """GET /shares/{name}/snapshots: the newest first, of an unknown share none."""
        rows = self.database.snapshots(f"/{name.removeprefix('/')}")
        return as_json([_answer(row) for row in reversed(rows)])

    def get(self, name: str, identifier: str) -> Response:
        """GET /shares/{name}/snapshots/{id}."""
        row = self._snapshot(name, identifier)
        answer = _answer(row)
        share = self.database.find("share", row["share_name"])
        if share is not None:
            sizes = self.stores.snapshot_sizes(share, identifier)
            names = ("manifest_count", "dump_bytes")
            answer |= {name: size for name, size in zip(names, sizes, strict=True) if size}
        return as_json(answer)

    def delete(self, name: str, identifier: str) -> Response:
        """DELETE /shares/{name}/snapshots/{id}."""
        with self._lock:
            if identifier in self._in_flight:
                raise conflict("snapshot operation is in progress; retry once it completes")
        row = self._snapshot(name, identifier)
        for marker in self.database.markers():
            if identifier in {marker["target_snapshot_id"], marker["safety_snapshot_id"]}:
                raise conflict(
                    "snapshot is protected by an in-progress restore; retry once it completes"
                )
        share = self.database.find("share", row["share_name"])
        if share is not None:
            self.stores.remove_snapshot(share, identifier)
        self.database.remove_snapshot(identifier)
        return Response(204)

    def drop(self, share: Object) -> None:
        """Forget the snapshots of a share that goes."""
        for row in self.database.snapshots(share["name"]):
            self.database.remove_snapshot(row["id"])

    def restore(self, body: Object, name: str, identifier: str) -> Response:
        """POST /shares/{name}/snapshots/{id}/restore; the share stays disabled."""
        asked = _typed(body, {"allow_non_durable": bool})
        share = self._share(name)
        with self._one_restore(share):
            if share["enabled"]:
                raise conflict("share is enabled; disable before restore")
            row = self._snapshot(name, identifier)
            if row["state"] != _READY:
                raise _wrong_state()
            if not row["remote_durable"] and not asked.get("allow_non_durable"):
                raise Problem(
                    412,
                    "Precondition Failed",
                    "snapshot not remotely durable; pass allow_non_durable=true to force",
                )
            try:
                safety = self._replace(share, row)
            except SnapshotGoneError:
                raise broken("snapshot artifacts missing") from None
            except (SnapshotDamagedError, _Stopping):
                raise broken(_FAILURE) from None
        answer = {"snapshot_id": identifier, "safety_snapshot_id": safety, "share": share["name"]}
        return as_json(answer)

    def _replace(self, share: Object, row: Object) -> str:
        """Put a snapshot in the place of what is there, after a snapshot of that; its id.

        A server that ends between the marker and the end is rolled back at its next start.
        """
        store = self._store(share)["name"]
        self.stores.check_snapshot(share, row["id"])
        safety = self._safety(share)
        if not self.stores.has_dump(share, row["id"]):
            raise SnapshotGoneError
        marker = {
            "share_name": share["name"],
            "target_snapshot_id": row["id"],
            "safety_snapshot_id": safety,
        }
        self.database.put_marker(marker | {"step": "started"})
        if not row["journal_version"] and row["manifest_count"]:
            raise SnapshotDamagedError
        self.stores.empty(store)
        self.database.put_marker(marker | {"step": "meta_reset"})
        self._wait()
        self.stores.restore_snapshot(share, store, row["id"])
        self.database.remove_marker(share["name"])
        return safety

    def _safety(self, share: Object) -> str:
        try:
            safety = self._row(share, {})
            self.stores.begin_snapshot(share, safety)
        except (Problem, OSError):
            raise SnapshotDamagedError from None
        self._write(share, safety)
        found = self.database.snapshot(share["name"], safety)
        if found is None or found["state"] != _READY:
            raise SnapshotDamagedError
        return safety

    @contextlib.contextmanager
    def _one_restore(self, share: Object) -> Any:
        with self._lock:
            if share["name"] in self._restoring:
                raise broken("snapshot restore failed")
            self._restoring.add(share["name"])
        try:
            yield
        finally:
            with self._lock:
                self._restoring.discard(share["name"])

    def _share(self, name: str) -> Object:
        found = self.database.find("share", f"/{name.removeprefix('/')}")
        if found is None:
            raise not_found("share")
        return found

    def _snapshot(self, name: str, identifier: str) -> Object:
        found = self.database.snapshot(f"/{name.removeprefix('/')}", identifier)
        if found is None:
            raise not_found("snapshot")
        return found

    def _store(self, share: Object) -> Object:
        return self.database.find("metadata", share["metadata_store_id"]) or {}

    def _content(self, share: Object) -> Object:
        return self.database.find("local", share["local_block_store_id"]) or {}


def _wrong_state() -> Problem:
    return conflict("snapshot is not in a state that allows this operation")


def _typed(body: Object, types: dict[str, type]) -> Object:
    for name, kind in types.items():
        if not isinstance(body.get(name, kind()), kind):
            raise bad_request(f"invalid request body: {name} is not a {kind.__name__}")
    return {name: body[name] for name in types if name in body}


def _answer(row: Object) -> Object:
    """A row as clients see it, without what is empty."""
    answer = {
        "id": row["id"],
        "name": row["name"],
        "share": row["share_name"],
        "state": row["state"],
        "remote_durable": bool(row["remote_durable"]),
        "scheduled": bool(row["scheduled"]),
        "error": row["error"],
        "created_at": _time(row["created_at"]),
        "updated_at": _time(row["updated_at"]),
    }
    return {name: value for name, value in answer.items() if value not in ("", None)}


def _time(stored: str) -> str:
    return stored.replace(" ", "T").replace("+00:00", "Z")
