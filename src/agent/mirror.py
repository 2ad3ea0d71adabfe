"""The service: every store's changes reach MySQL, whole transactions only, in order.

Two threads. The reader follows the logs of all stores and never waits for the database, because
the server removes a log soon after it is full. The writer has the only connection that writes;
it takes turns between the stores, so that a long scan of one does not hold up the others.

When the pod ends the server ends beside it, and writes to the last. So the mirror goes on until
nobody has the stores and the control plane open any more and everything is in MySQL.
"""

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from agent.backlog import remove_left_over
from agent.badger import BadgerError
from agent.control_plane import ControlPlane, ControlPlaneError
from agent.journal import GapError
from agent.mysql import (
    AwayError,
    Database,
    DatabaseError,
    ForeignError,
    SupersededError,
)
from agent.mysql_statements import COMPARISONS
from agent.presence import present
from agent.process import Stop
from agent.report import Progress, Report
from agent.scan import scan
from agent.settings import Settings
from agent.store_mirror import FOLLOWED, StoreMirror
from agent.verification import last_verified

logger = logging.getLogger("agent.mirror")

_BUSY_WAIT = 0.02
# A server that ends removes a log some milliseconds after its last transaction.
_ENDING_WAIT = 0.004
_IDLE_WAIT = 0.25
_SLOWER = 1.3
_LOOK_EVERY = 1.0
_PING_EVERY = 5.0
_PURGE_EVERY = 1.0
_AWAY_WAITS = (0.2, 0.5, 1.0, 2.0)
_REFUSED_WAIT = 5.0
_STORE_WAIT = 5.0
_PURGE_ROWS = 5000


class Mirror:
    """Mirrors all stores of the metadata volume until `stop` says so."""

    def __init__(self, settings: Settings, report: Report, stop: Stop):
        self._settings = settings
        self._report = report
        self._stop = stop
        self._over = stop.now
        self._wake = threading.Event()
        self._stores: dict[str, StoreMirror] = {}
        self._scans: dict[str, tuple[Iterator[None], Progress]] = {}
        self._looked_at = self._pinged_at = self._purged_at = 0.0
        self._garbage = True
        self._complete = False
        self._uncopied = True
        self._copied: float | None = None
        self._verified_at = time.time()
        identity = settings.identity
        self._control_plane = ControlPlane(
            settings.database, settings.key, identity.instance, settings.run / "copy-for-mirror"
        )

    def run(self) -> None:
        """Work until the stop; every error of the database is outlived."""
        remove_left_over(self._settings.run)
        reader = threading.Thread(target=self._read, name="reader", daemon=True)
        reader.start()
        away = 0
        while not self._over.is_set():
            try:
                with closing(Database(self._settings.server)) as database:
                    self._attach(database)
                    away = 0
                    self._serve(database)
            except AwayError as error:
                self._failed("away", error)
                self._wait(_AWAY_WAITS[min(away, len(_AWAY_WAITS) - 1)])
                away += 1
            except DatabaseError as error:
                self._failed("blocked", error)
                # Another agent has the mirror now: nothing may be written ever again.
                superseded = isinstance(error, SupersededError)
                self._wait(math.inf if superseded else _REFUSED_WAIT)
                if self._stop.ending.is_set():
                    # What needs a person is not mended in the seconds that are left.
                    break
        self._end(reader)

    def _end(self, reader: threading.Thread) -> None:
        if not self._complete and not self._stop.ordered:
            left = sum(each.backlog.transactions for each in self._stores.values())
            logger.warning(
                "ended before it was seen that all is in MySQL: %s transactions wait; the next "
                "start goes on where this one was",
                left,
            )
        self._over.set()
        reader.join()
        for store in self._stores.values():
            store.close()
        self._control_plane.close()
        self._report.state("stopped")
        self._report.flush(now=True)

    def _read(self) -> None:
        """The reader's thread."""
        wait = _IDLE_WAIT
        ending = self._stop.ending
        while not self._over.is_set():
            # The end of the pod wakes it.
            time.sleep(_ENDING_WAIT) if ending.is_set() else ending.wait(wait)
            busy = False
            for store in list(self._stores.values()):
                busy = store.read() or busy
            if busy:
                self._wake.set()
            wait = _BUSY_WAIT if busy else min(wait * _SLOWER, _IDLE_WAIT)

    def _wait(self, seconds: float) -> None:
        """Wait, but keep the report fresh; the end of the pod shortens it."""
        end = time.monotonic() + seconds
        while not self._over.is_set() and (left := end - time.monotonic()) > 0:
            self._tell()
            if self._stop.ending.is_set():
                self._over.wait(min(left, _AWAY_WAITS[0]))
                return
            self._stop.ending.wait(min(left, 1.0))

    def _failed(self, state: str, error: DatabaseError) -> None:
        logger.warning("%s: %s", error.kind, error)
        self._report.errors[error.kind] += 1
        self._scans.clear()
        foreign = None
        if isinstance(error, ForeignError):
            foreign = {
                "instance": error.mirror.instance,
                "application": error.mirror.application,
                "model": error.mirror.model,
                "updated": error.mirror.updated,
            }
        self._report.state(state, error.kind, str(error), mirror=foreign, progress=None)
        self._tell()
        self._report.flush(now=True)

    def _attach(self, database: Database) -> None:
        """Become the one writer, and go on behind what the database has."""
        database.connect()
        database.claim(self._settings.identity)
        self._report.set(mysql={"version": database.version, "endpoint": database.endpoint})
        rows = database.stores()
        for store in self._stores.values():
            store.attach(rows.get(store.name))
        self._looked_at = 0.0
        self._garbage = True

    def _serve(self, database: Database) -> None:
        while not self._over.is_set():
            self._wake.clear()
            now = time.monotonic()
            if now - self._looked_at >= _LOOK_EVERY:
                self._looked_at = now
                self._look(database)
            busy = False
            for store in list(self._stores.values()):
                busy = self._step(store, database) or busy
            # Garbage is a copy of a whole store: where there is always something to write it goes,
            # too, only slower.
            if self._garbage and (not busy or now - self._purged_at >= _PURGE_EVERY):
                self._purged_at = now
                self._garbage = database.purge(_PURGE_ROWS)
                busy = busy or self._garbage
            self._summarize()
            self._tell()
            if busy:
                continue
            if not self._stop.ending.is_set():
                self._wake.wait(_IDLE_WAIT)
            elif self._finish(database):
                return
            else:
                self._wake.wait(_BUSY_WAIT)

    def _finish(self, database: Database) -> bool:
        """Whether no server is there any more and all that it wrote is in MySQL."""
        self._control_plane.close()
        if present(store_directories(self._settings.stores).values(), self._settings.database):
            return False
        # Nobody writes any more: what is not found now will never be there.
        self._look(database)
        if any(each.read() or each.backlog.transactions for each in self._stores.values()):
            return False
        stores = [each for each in self._stores.values() if each.state != "gone"]
        if any(each.state != "mirroring" or each.gap for each in stores) or self._uncopied:
            return False
        logger.info("the server has ended, and all that it wrote is in MySQL")
        self._complete = True
        self._over.set()
        return True

    def _look(self, database: Database) -> None:
        """What is not seen in the logs: stores that came and went, the control plane."""
        if time.monotonic() - self._pinged_at >= _PING_EVERY:
            self._pinged_at = time.monotonic()
            database.ping()
        self._forget_deleted(database)
        present = set(store_directories(self._settings.stores))
        missing = present - set(self._stores)
        rows = database.stores() if missing or not self._stores else {}
        for name in sorted(present | set(rows)):
            if name not in self._stores:
                store = StoreMirror(name, self._settings.stores / name, self._settings.run)
                store.attach(rows.get(name))
                self._stores[name] = store
        for name, store in self._stores.items():
            if name not in present:
                self._scans.pop(name, None)
                store.gone()
            elif store.state == "gone":
                store.state = "scanning"
                store.doubt("its directory is back")
        self._repair()
        self._copy_control_plane(database)

    def _copy_control_plane(self, database: Database) -> None:
        self._uncopied = True
        try:
            if self._control_plane.changed() and self._control_plane.copy(database):
                self._report.counters["control_plane_copies_total"] += 1
                self._copied = time.time()
            self._uncopied = False
        except ControlPlaneError as error:
            self._report.errors["control-plane"] += 1
            logger.warning("%s", error)

    def _repair(self) -> None:
        """Compare the stores in full in which `verify` found differences since the last look."""
        verified = last_verified(self._settings.run)
        self._report.set(verified=verified)
        if verified and verified["at"] > self._verified_at:
            self._verified_at = verified["at"]
            for name in verified["different"]:
                if store := self._stores.get(name):
                    store.doubt("verify found differences")

    def _forget_deleted(self, database: Database) -> None:
        """Take out of MySQL what `delete-share` took off the volume."""
        try:
            notes = list(self._settings.deleted.iterdir())
        except FileNotFoundError:
            return
        for note in notes:
            store = self._stores.pop(note.name, None)
            self._scans.pop(note.name, None)
            if store:
                store.close()
            if database.forget(note.name):
                logger.info("the deleted store %s left MySQL", note.name)
                self._garbage = True
            note.unlink(missing_ok=True)

    def _step(self, store: StoreMirror, database: Database) -> bool:
        """A bounded piece of work for a store; return whether there was some."""
        if time.monotonic() < store.retry_at:
            return False
        try:
            if store.name in self._scans:
                self._scan_on(store)
                return True
            # What was read of a store that is gone now is written, too.
            if store.state in FOLLOWED and (batch := store.write(database)):
                counters = self._report.counters
                counters["rows_total"] += len(batch.changes)
                counters["transactions_total"] += batch.transactions
                counters["batches_total"] += 1
                return True
            if store.doubtful and _has_store(store.directory):
                store.state, store.message = "scanning", store.gap
                # The others wait: each takes a connection.
                if len(self._scans) < COMPARISONS:
                    self._scan_begin(store, database)
                    return True
        except (GapError, BadgerError, OSError) as error:
            self._store_failed(store, error)
        except DatabaseError as error:
            if error.kind != "key":
                raise
            self._store_failed(store, error)
        return False

    def _scan_begin(self, store: StoreMirror, database: Database) -> None:
        logger.info("store %s: comparing in full: %s", store.name, store.gap)
        progress = Progress(f"scan {store.name}")
        self._scans[store.name] = (scan(store, database, progress), progress)
        self._report.counters["scans_total"] += 1

    def _scan_on(self, store: StoreMirror) -> None:
        running, progress = self._scans[store.name]
        try:
            next(running)
        except StopIteration:
            del self._scans[store.name]
            self._garbage = True
            store.rows = progress.rows
            logger.info("store %s: equal", store.name)

    def _store_failed(self, store: StoreMirror, error: Exception) -> None:
        self._scans.pop(store.name, None)
        self._report.errors["gap" if isinstance(error, GapError) else "store"] += 1
        store.state, store.message = "error", str(error)
        store.doubt(str(error))
        store.retry_at = time.monotonic() + _STORE_WAIT
        logger.warning("store %s: %s", store.name, error)

    def _summarize(self) -> None:
        states = {store.state for store in self._stores.values()}
        failed = [each for each in self._stores.values() if each.state == "error"]
        if failed:
            self._report.state("blocked", "store", f"store {failed[0].name}: {failed[0].message}")
        elif "scanning" in states:
            self._report.state("scanning")
        else:
            self._report.state("mirroring")

    def _tell(self) -> None:
        """Bring the report up to date."""
        stores = list(self._stores.values())
        counted = [each for each in stores if each.state != "gone"]
        running = [progress for _, progress in self._scans.values()]
        self._report.equal(min((each.equal_at for each in counted), default=time.monotonic()))
        self._report.set(
            behind_bytes=sum(each.backlog.size for each in stores),
            behind_transactions=sum(each.backlog.transactions for each in stores),
            progress=running[0].as_json() if running else None,
            stores=[
                {
                    "name": each.name,
                    "state": each.state,
                    "rows": each.rows,
                    "lag": round(each.lag, 3),
                    "message": each.message,
                }
                for each in stores
            ],
            control_plane={"copied": self._copied},
        )
        self._report.flush()


def store_directories(stores: Path) -> dict[str, Path]:
    """The stores on a volume: directories in which Badger has begun to write."""
    try:
        entries = list(stores.iterdir())
    except FileNotFoundError:
        return {}
    return {each.name: each for each in entries if each.is_dir() and _has_store(each)}


def _has_store(directory: Path) -> bool:
    try:
        names = {each.name for each in directory.iterdir()}
    except FileNotFoundError:
        return False
    return "MANIFEST" in names or any(name.endswith(".mem") for name in names)
