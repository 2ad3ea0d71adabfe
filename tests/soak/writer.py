"""A store's writer as a process of its own: random transactions, and a record of each.

    python -m tests.soak.writer STORE RECORD SEED RATE

A transaction is in the record (a JSON line: version, and its changes in hexadecimal) before it is
in the store; what a crash kept from the store is written over by the next line of that version.
SIGTERM ends it in good order, as the server's end does: everything is in tables afterwards.
"""

import contextlib
import json
import signal
import sys
import time
from pathlib import Path
from random import Random

from agent.log_writer import LogWriter
from tests.stores import flush

_KEYS = 3000
_LOG_SIZE = 2 * 2**20
_SIZES = (0, 1, 40, 40, 200, 200, 200, 2000, 20_000)


def main() -> int:
    """Write until SIGTERM."""
    store, record, seed, rate = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    random = Random(int(seed))  # noqa: S311  # the same each time
    pause = 1 / float(rate)
    store.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(LogWriter(store, _LOG_SIZE)) as writer, record.open("a") as lines:
        due = time.monotonic()
        while not ended:
            changes = transaction(random)
            written = {
                key.hex(): None if value is None else value.hex() for key, value in changes.items()
            }
            lines.write(json.dumps([writer.version + 1, written]) + "\n")
            lines.flush()
            writer.write(changes, sync=False)
            due = max(due + pause, time.monotonic() - 1)
            time.sleep(max(due - time.monotonic(), 0))
    flush(store)
    return 0


def transaction(random: Random) -> dict[bytes, bytes | None]:
    """What a file operation changes: a few keys, some of them removed."""
    changes: dict[bytes, bytes | None] = {}
    for _ in range(random.randint(1, 6)):
        key = b"f:%d\xff/%d" % (random.randrange(_KEYS) % 7, random.randrange(_KEYS))
        if random.random() < 0.2:
            changes[key] = None
        elif random.random() < 0.001:
            changes[key] = random.randbytes(700_000)
        else:
            changes[key] = random.randbytes(random.choice(_SIZES))
    return changes


class Record:
    """What the writer did, to be asked for the state after a version."""

    def __init__(self, path: Path):
        self._path = path

    def state(self, version: int) -> dict[bytes, bytes]:
        """Key to value after the transaction with this version."""
        lines: dict[int, dict[str, str | None]] = {}
        with self._path.open() as file:
            for line in file:
                # A crash may have torn the last line; it is in no store then.
                with contextlib.suppress(ValueError):
                    number, changes = json.loads(line)
                    lines[number] = changes
        state: dict[bytes, bytes] = {}
        for number in sorted(lines):
            if number > version:
                break
            for key, value in lines[number].items():
                if value is None:
                    state.pop(bytes.fromhex(key), None)
                else:
                    state[bytes.fromhex(key)] = bytes.fromhex(value)
        return state


if __name__ == "__main__":
    sys.exit(main())
