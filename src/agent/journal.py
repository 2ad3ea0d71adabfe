"""Follow a store's logs from outside, while the server writes them.

The server's store (`badger.py` has the format) is read by position: the number of a log, an
offset in it, and a checksum of all that stands before. Nothing is assumed to have been seen that
was not: where a log went before its end was known, the store's tables tell what was missed, and
where they cannot, `GapError` says that both sides have to be compared in full.

What makes that sound, checked against the real Badger in `tests/badger`:

- The versions of a store's transactions are consecutive numbers, in the order of its logs.
- Log N is complete when log N+1 exists, and is removed after its table is in the MANIFEST. So a
  MANIFEST that is read after a log was seen gone has all that was in it.
- A table is made of a memtable, whole, at level 0. Compacting loses what was overwritten or
  deleted, also the last version; a server that starts then uses its number again.
- A clean stop turns the last log into a table, too; then numbers begin at 1 again.
- Dropping all data removes every log, and then every table in one set of the MANIFEST.
- A store that is made anew has a registry of keys of its own, also where nothing is encrypted.
- A log can lose its end only when the kernel goes down; a killed server loses nothing.
"""

import contextlib
from pathlib import Path

from agent.badger import HEADER_SIZE, INTERNAL, GoneError, log_paths, read_log
from agent.flushed import missed, newest
from agent.manifest import MANIFEST, Manifest, Mark, read_manifest
from agent.open_log import OpenLog, open_log
from agent.position import UNKNOWN, Batch, Changes, GapError, Position, boot_id, store_id
from agent.tables import max_version

__all__ = ["BATCH_BYTES", "Batch", "Changes", "GapError", "Journal", "Position"]

BATCH_BYTES = 4 * 2**20
_TRIES = 5
_TOO_FAST = "the tables change faster than they can be looked at"

_Stamp = tuple[int, int, int, int]
"""Tells a MANIFEST from one that was changed or replaced, without reading it."""


class Journal:
    """The changes of one store, in order, each once; not for several threads at once.

    Attributes:
        at_rest: no log was there, and what was followed is all that the tables have, by a
            MANIFEST that was read afterwards.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.at_rest = False
        self._log: OpenLog | None = None
        self._version = 0
        self._store = ""
        # The highest version that was seen in a table, and the MANIFEST that said so.
        self._flushed = 0
        self._tables = Mark()
        # Of that MANIFEST; None where it has to be looked at in any case.
        self._stamp: _Stamp | None = None
        # Whether the logs may have again what the tables have.
        self._again = False
        # Whether the next transaction has to follow directly on the one before.
        self._consecutive = False

    @property
    def position(self) -> Position:
        """How far it was followed."""
        log = self._log
        where = (log.number, log.offset, log.checksum) if log else (0, HEADER_SIZE, UNKNOWN)
        tables = (self._version, self._flushed, self._tables)
        return Position(*where, *tables, boot_id(), self._store)

    def close(self) -> None:
        """Let go of the files."""
        if self._log:
            self._log.close()
        self._log, self._stamp, self.at_rest = None, None, False

    def begin(self) -> None:
        """Start behind what the tables have now: `poll` gives what the logs have beyond it.

        Raises:
            GapError: the tables change too fast to tell.
            BadgerError: the store is not what this program understands.
        """
        for _ in range(_TRIES):
            self.close()
            stamp, self._store = self._stamp_now(), store_id(self.directory)
            manifest = read_manifest(self.directory)
            try:
                version = max_version(self.directory, manifest)
            except GoneError:
                continue
            self._version, self._flushed, self._tables = version, version, manifest.mark
            if self._open_oldest(stamp):
                # The last transactions in the tables may have been deletions that are compacted
                # away: the next one may have any higher number while the server runs.
                self._again, self._consecutive = True, self.at_rest
                return
        raise GapError(_TOO_FAST)

    def resume(self, position: Position) -> None:
        """Go on behind a position.

        Raises:
            GapError: what happened since cannot be told from the store; `poll` may find that, too.
        """
        self.close()
        self._version, self._flushed = position.version, position.flushed
        self._tables = position.tables
        self._again, self._consecutive = False, True
        self._store = position.store
        self._check_store()
        if not position.log:
            return
        log = open_log(self.directory / f"{position.log:05}.mem")
        if log and log.seek(position.offset, position.checksum):
            self._log = log
            return
        if log:
            log.close()
        if position.boot != boot_id():
            # The log may have lost what only the memory of another kernel had, and its versions
            # may have been used again: the tables prove nothing.
            raise GapError("the log that was followed went with another run of the node")

    def poll(self, limit: int = BATCH_BYTES) -> Batch | None:
        """The next whole transactions, of about `limit` bytes at most; None where there are none.

        Raises:
            GapError: something may have been missed.
            BadgerError: the store is not what this program understands.
        """
        while True:
            if self._log is None and (batch := self._enter()):
                return batch
            if (log := self._log) is None:
                return None
            if batch := self._read(log, limit):
                return batch
            if log.gone():
                self.close()
                continue
            following = self._log_after(log)
            if following is None:
                return None
            # The log is complete: what comes now is all of it.
            if batch := self._read(log, limit):
                following.close()
                return batch
            log.close()
            self._log = following

    def _enter(self) -> Batch | None:
        """No log is held: take what the tables have beyond the last one, then hold the next.

        Where there is none it is at rest.

        Raises:
            GapError: something may have been missed.
        """
        for _ in range(_TRIES):
            stamp = self._stamp_now()
            if stamp != self._stamp:
                try:
                    batch = self._bridge()
                except GoneError:
                    continue
                self._stamp = stamp
                if batch:
                    return batch
            if self._open_oldest(stamp):
                return None
        raise GapError(_TOO_FAST)

    def _open_oldest(self, stamp: _Stamp) -> bool:
        """Hold the oldest log, or be at rest; return whether the MANIFEST is what it was before.

        So what was not in its tables is in this log or in later ones.
        """
        logs = map(open_log, log_paths(self.directory))
        self._log = next(filter(None, logs), None)
        if self._stamp_now() != stamp:
            self.close()
            return False
        self._stamp, self.at_rest = stamp, self._log is None
        return True

    def _log_after(self, log: OpenLog) -> OpenLog | None:
        paths = (each for each in log_paths(self.directory) if int(each.stem) > log.number)
        return next(filter(None, map(open_log, paths)), None)

    def _read(self, log: OpenLog, limit: int) -> Batch | None:
        try:
            found = self._transactions(log, limit)
        except GapError:
            if log.replaced():
                return None
            raise
        # Whatever was dropped before that was written is seen now.
        self._look(log)
        return found

    def _transactions(self, log: OpenLog, limit: int) -> Batch | None:
        changes: Changes = {}
        count, end, version = 0, log.offset, self._version
        try:
            for entries, following, moved in read_log(log.path, log.offset):
                end = following
                if entries[0].version > version or not (moved or self._again):
                    version = self._next(version, entries[0].version, moved=moved)
                    count += 1
                    for entry in entries:
                        if not entry.key.startswith(INTERNAL):
                            value = None if entry.deleted else entry.value
                            changes[entry.key] = (entry.version, value)
                if end - log.offset >= limit:
                    break
        except GoneError:
            # What was read before is whole; whether all was read is found out next.
            pass
        if end == log.offset or log.replaced():
            return None
        size = end - log.offset
        log.advance(end)
        self._version = version
        return Batch(changes, count, size, self.position)

    def _next(self, before: int, version: int, *, moved: bool) -> int:
        """Return `version` if it may come after `before`."""
        if moved or version <= before or (self._consecutive and version != before + 1):
            raise GapError(f"version {version} comes after {before}")
        self._again, self._consecutive = False, True
        return version

    def _look(self, log: OpenLog) -> None:
        """See what became of the tables while a log is followed.

        Raises:
            GapError: something was missed.
        """
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        manifest = self._since()
        tops = newest(self.directory, manifest.flushed)
        if tops is None:
            # One is compacted already, and may have lost its last versions. But no table has more
            # than the logs had, and here all of that is read.
            if next(read_log(log.path, log.offset), None):
                return
            tops = self._newest_kept(manifest)
        flushed = max([self._flushed, *tops])
        # What is not read yet may be wanted from these tables, should the log go first.
        if flushed <= self._version and not log.gone():
            self._flushed, self._tables, self._stamp = flushed, manifest.mark, stamp

    def _newest_kept(self, manifest: Manifest) -> list[int]:
        """The last version in the tables; none where these have changed."""
        with contextlib.suppress(GoneError):
            return [max_version(self.directory, manifest)]
        return []

    def _bridge(self) -> Batch | None:
        """The logs went: what the tables have beyond what was followed, None where that is all.

        Raises:
            GapError: that cannot be told.
            GoneError: the tables have changed.
        """
        manifest = self._since()
        kept = max_version(self.directory, manifest)
        found = None
        if kept > self._version:
            found = missed(self.directory, manifest.flushed, self._flushed, self._version)
        if (found.version if found else self._kept(manifest)) != kept:
            raise GapError(f"followed up to version {self._version}, the tables have {kept}")
        count = kept - self._version
        self._version = self._flushed = kept
        self._tables = manifest.mark
        self._again = self._consecutive = True
        return Batch(found.changes, count, found.size, self.position) if found else None

    def _kept(self, manifest: Manifest) -> int:
        """The version that the tables have to have where all of it was followed; -1 for none.

        A version that was in a table and is not any more may have been used again, for something
        else: then a table was made although nothing had been left to be put into one.

        Raises:
            GapError: a table that was made is compacted already. Where the last transactions in it
                only deleted, nothing is left of them, not even their numbers.
        """
        tops = newest(self.directory, manifest.flushed)
        if tops is None:
            raise GapError("a table is compacted already that may have had more than was followed")
        if self._flushed == self._version:
            return self._version if not tops else -1
        return tops[-1] if tops else -1

    def _since(self) -> Manifest:
        """The MANIFEST, and what happened since it was looked at.

        Raises:
            GapError: that cannot be told, or all was dropped.
        """
        self._check_store()
        manifest = read_manifest(self.directory, self._tables)
        if not manifest.continues:
            raise GapError("the MANIFEST is another one")
        if manifest.dropped:
            raise GapError("all data was dropped")
        return manifest

    def _check_store(self) -> None:
        """See that it is the store that was followed.

        Raises:
            GapError: it is not.
        """
        if store_id(self.directory) != self._store:
            raise GapError("another store took its place")

    def _stamp_now(self) -> _Stamp:
        try:
            stat = (self.directory / MANIFEST).stat()
        except FileNotFoundError:
            return (0, 0, 0, 0)
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
