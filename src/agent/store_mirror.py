"""One store on its way into the database: its journal, its backlog, and where both are."""

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agent.backlog import PREFIX, Backlog, FullError
from agent.badger import BadgerError
from agent.journal import BATCH_BYTES, Batch, GapError, Journal, Position
from agent.mysql import Database, StoreRow

FOLLOWED = frozenset({"mirroring", "gone"})
"""The states in which what waits comes directly behind what the database has."""


class StoreMirror:
    """The reader's thread calls `read` only; all else belongs to the writer's.

    Attributes:
        state: scanning, mirroring, gone or error; `message` says more.
        rows: in the database, as last counted.
        retry_at: when a store with an error is tried again, by the monotonic clock.
    """

    def __init__(self, name: str, directory: Path, run: Path):
        self.name = name
        self.directory = directory
        self.row: StoreRow | None = None
        self.state = "scanning"
        self.message = ""
        self.rows: int | None = None
        self.retry_at = 0.0
        self.backlog = Backlog(run / f"{PREFIX}{name.encode().hex()[:200]}")
        self._journal = Journal(directory)
        self._lock = threading.Lock()
        self._following = False
        self._gap = ""
        # When `read` began that came to the end of the logs last.
        self._looked_at = -math.inf
        self._equal_at = time.monotonic()
        self._in_flight = ""

    @property
    def gap(self) -> str:
        """Why it is not followed any more; empty while it is."""
        return self._gap

    @property
    def doubtful(self) -> bool:
        """Whether it is to be compared in full now."""
        waits = self.state in FOLLOWED and self.backlog.transactions
        return bool(self._gap) and self.state != "gone" and not waits

    @property
    def equal_at(self) -> float:
        """A time when the database was known to be equal to the store, by the monotonic clock.

        It stands still while that is not known: while a change waits, and while nobody looks.
        """
        if self.state == "mirroring" and not self._gap:
            # In this order: what is put meanwhile happened after the look.
            looked = self._looked_at
            oldest = self.backlog.oldest()
            equal = looked if oldest is None else min(oldest, looked)
            self._equal_at = max(self._equal_at, equal)
        return self._equal_at

    @property
    def lag(self) -> float:
        """Seconds since `equal_at`."""
        return time.monotonic() - self.equal_at

    @property
    def position(self) -> Position:
        """How far its logs were read."""
        with self._lock:
            return self._journal.position

    @property
    def at_rest(self) -> bool:
        """Whether all that the server wrote was read, by the last `read`.

        Then no log was there, and the tables have nothing beyond what is in the backlog or in the
        database. A server that starts may write more at any time.
        """
        with self._lock:
            return self._following and self._journal.at_rest

    def read(self) -> bool:
        """Take what is new in the logs into the backlog; return whether there was something.

        What keeps it from going on is in `gap` afterwards.
        """
        with self._lock:
            if not self._following:
                return False
            began = time.monotonic()
            try:
                batch = self._journal.poll()
                if batch:
                    self.backlog.put(batch, max(self._looked_at, self._equal_at))
            except (GapError, FullError, BadgerError, OSError) as error:
                self._following, self._gap = False, str(error)
                return False
            if batch is None or batch.size < BATCH_BYTES:
                # All that was there when it began.
                self._looked_at = began
            return batch is not None

    def read_all(self) -> Iterator[None]:
        """Read to the end of the logs, yielding between the steps.

        Raises:
            GapError: it is not followed any more.
        """
        while self.read():
            yield
        if self._gap:
            raise GapError(self._gap)

    def attach(self, row: StoreRow | None) -> None:
        """Go on behind what the database has; where that cannot be told, `gap` says so."""
        position = Position.from_text(row.position) if row and row.position else None
        if self.row and row and self._goes_on(row):
            self.row = row
            return
        self.row = row
        with self._lock:
            self.backlog.clear()
            self._looked_at = -math.inf
            self._following, self._gap, self.state = False, "", "scanning"
            if position is None:
                self._gap = "it is not in the database yet"
                return
            try:
                self._journal.resume(position)
            except (GapError, BadgerError, OSError) as error:
                self._gap = str(error)
            else:
                self._following = True
                self.state, self.message = "mirroring", ""

    def doubt(self, reason: str) -> None:
        """Compare in full as soon as what waits is written."""
        with self._lock:
            self._following, self._gap = False, reason

    def gone(self) -> None:
        """Its directory is not there: what was followed is written, and nothing is read."""
        with self._lock:
            self._following = False
            if self.state not in FOLLOWED:
                # It belongs to a copy that will not be finished.
                self.backlog.clear()
        self.state = "gone"
        self.message = "its directory is gone; MySQL keeps it until it is deleted"

    def begin(self) -> Position:
        """Follow what is not in the tables now; the position where all of that is.

        Raises:
            GapError, BadgerError: it cannot be told.
        """
        with self._lock:
            self.backlog.clear()
            self._looked_at = -math.inf
            self._journal.begin()
            self._following, self._gap = True, ""
            self.state = "scanning"
            return self._journal.position

    def finish(self, row: StoreRow) -> None:
        """The database is equal to the store, up to what is in the backlog."""
        self.row = row
        self.state, self.message = "mirroring", ""

    def write(self, database: Database) -> Batch | None:
        """Write some of the backlog; return what was written, None where nothing waits.

        Raises:
            DatabaseError: it did not work; nothing is lost.
        """
        batch = self.backlog.take()
        if batch is None or self.row is None:
            return None
        self._in_flight = batch.position.to_text()
        database.apply(self.row, batch.changes, self._in_flight)
        self._written()
        return batch

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._following = False
            self._journal.close()
            self.backlog.clear()

    def _goes_on(self, row: StoreRow) -> bool:
        """Whether the connection was lost and nothing else: the backlog is still right."""
        assert self.row is not None  # noqa: S101  # for the type checker
        if row.copy != self.row.copy or self.state not in FOLLOWED:
            return False
        if self._in_flight and row.position == self._in_flight:
            # The answer was lost, the transaction was not.
            self._written()
            return True
        return row.position == self.row.position

    def _written(self) -> None:
        assert self.row is not None  # noqa: S101  # for the type checker
        self.row = replace(self.row, position=self._in_flight)
        self.backlog.drop()
        self._in_flight = ""
