"""What Badger does to the files of a store, one step at a time, at random.

Each step is what another process can see between two of its own system calls.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random

from agent.badger import HEADER_SIZE, Entry, log_paths, read_log
from agent.log_writer import encode_entry, encode_transaction
from agent.manifest import MANIFEST, MANIFEST_HEADER, read_manifest
from agent.tables import max_version, read_store
from tests import stores

_KEYS = [b"key%d" % number for number in range(12)]


class Badger:
    """A server that runs, or does not.

    Attributes:
        states: what the store held after each version; more than one where all was dropped, or
            where the number was used again.

    Args:
        store: its directory.
        random: what decides.
        drops: how likely it is that all data is dropped.
    """

    def __init__(self, store: Path, random: Random, drops: float = 0.02):
        self.store = store
        self.random = random
        self.drops = drops
        self.running = False
        self.version = 0
        self.state: dict[bytes, bytes] = {}
        self.states: dict[int, list[dict[bytes, bytes]]] = {}
        self._note()
        self._steps: Iterator[object] = iter(())
        self._at_work = False

    def step(self) -> None:
        """Do one more thing; nothing where it is at one."""
        if self._at_work:
            return
        self._at_work = True
        if next(self._steps, None) is None:
            self._steps = self._choose()
            next(self._steps, None)
        self._at_work = False

    def stop(self) -> None:
        """Finish what is under way, start where it does not run, and end in good order."""
        for _ in self._steps:
            pass
        starting = () if self.running else self._starting()
        for _ in itertools.chain(starting, self._stopping()):
            pass

    def _choose(self) -> Iterator[object]:
        if not self.running:
            return self._starting()
        if self.random.random() < self.drops:
            return self._dropping()
        writing = [self._write, self._write, self._write, self._burst, self._move]
        tables = [self._rotate, self._flush, self._compact]
        return self.random.choice([*writing, *tables, self._stopping, self._kill])()

    def _starting(self) -> Iterator[object]:
        manifest = self.store / MANIFEST
        if not manifest.exists():
            manifest.write_bytes(MANIFEST_HEADER)
            yield "manifest"
        for path in log_paths(self.store):
            # Badger does not open a store with such a log: somebody has to remove it.
            if path.stat().st_size == 0:
                path.unlink()
        logs = log_paths(self.store)
        # All that is not in a log has to be in a table: the last version there counts.
        in_logs = [each.entries[0].version for path in logs for each in read_log(path)]
        kept = max([max_version(self.store, read_manifest(self.store)), *in_logs])
        self.running, self.version = True, kept
        self._note()
        stores.begin_log(self.store, int(logs[-1].stem) + 1 if logs else 1)
        yield "log"
        for path in logs:
            yield from self._flushed(path)

    def _stopping(self) -> Iterator[object]:
        for path in log_paths(self.store):
            yield from self._flushed(path)
        self.running = False

    def _kill(self) -> Iterator[object]:
        self.running = False
        yield "killed"

    def _write(self) -> Iterator[object]:
        changes: dict[bytes, bytes | None] = {}
        for _ in range(self.random.choice([1, 1, 2, 4])):
            gone = self.random.random() < 0.4
            changes[self.random.choice(_KEYS)] = None if gone else self.random.randbytes(6)
        self._append(encode_transaction(changes, self.version + 1))
        self.version += 1
        for key, value in changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        self._note()
        yield "written"

    def _burst(self) -> Iterator[object]:
        """Many transactions between two looks, and the end."""
        for _ in range(5):
            yield from self._write()
        if self.random.random() < 0.5:
            yield from self._stopping()

    def _move(self) -> Iterator[object]:
        """Badger moves a value: it is written again with the version that it had."""
        kept = read_store(self.store)
        if kept:
            key = self.random.choice(sorted(kept))
            version, value = kept[key]
            self._append(encode_entry(Entry(key, value, version)))
        yield "moved"

    def _rotate(self) -> Iterator[object]:
        *_, last = log_paths(self.store)
        if last.stat().st_size > HEADER_SIZE:
            stores.begin_log(self.store, int(last.stem) + 1)
        yield "rotated"

    def _flush(self) -> Iterator[object]:
        """All but the log that is written."""
        for path in log_paths(self.store)[:-1]:
            yield from self._flushed(path)

    def _flushed(self, path: Path) -> Iterator[object]:
        if self.running and stores.make_table(self.store, path):
            yield "table"
        if self.running:
            path.write_bytes(b"")
            yield "truncated"
        # It may have been killed between any two steps.
        if self.running:
            path.unlink()
            yield "removed"

    def _compact(self) -> Iterator[object]:
        if read_manifest(self.store).live:
            stores.compact(self.store)
        yield "compacted"

    def _dropping(self) -> Iterator[object]:
        self.state = {}
        yield from stores.drop(self.store)
        self._note()

    def _note(self) -> None:
        self.states.setdefault(self.version, []).append(dict(self.state))

    def _append(self, data: bytes) -> None:
        *_, last = log_paths(self.store)
        with last.open("ab") as file:
            file.write(data)
