"""Creates files as fast as it can, as a process of its own.

    python -m tests.bench.creator client SHARE DIRECTORY [PORT]
    python -m tests.bench.creator writer STORE CREATIONS_PER_SECOND ACKNOWLEDGED

The first is an NFS client that creates files of 4 KiB. The second writes into a store what the
server would, at a fixed rate, and notes now and then in a file when it wrote a key. Both say
`ready`, begin when a line comes, end when another one comes or the input ends, and say how many
files that were and in how many seconds.
"""

import select
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TextIO

from agent.log_writer import LogWriter
from tests.bench import store
from tests.bench.rows import say
from tests.nfs import Client

_DATA = bytes(range(256)) * 16
_LOOK_EVERY = 20


def main() -> int:
    """Work until told to stop."""
    kind, where, how, *more = sys.argv[1:]
    if kind == "client":
        with Client(where, *map(int, more)) as client:
            client.mkdir(how)
            say("ready")
            _work(lambda number: client.create(f"{how}/file-{number:07}", _DATA))
    else:
        with closing(LogWriter(Path(where))) as writer, Path(more[0]).open("w") as noted:
            say("ready")
            _work(_creations(writer, float(how), noted))
    return 0


def _creations(writer: LogWriter, rate: float, noted: TextIO) -> Callable[[int], None]:
    random = Random(1)  # noqa: S311  # no secret
    directory = random.randbytes(16)
    start: list[float] = []

    def create(number: int) -> None:
        start[:] = start or [time.monotonic()]
        time.sleep(max(start[0] + number / rate - time.monotonic(), 0))
        changes: dict[bytes, bytes | None] = {}
        for changes in store.creation(number, directory, random.randbytes(16)):
            writer.write(changes, sync=False)
        if number % _LOOK_EVERY == 0:
            noted.write(f"{time.monotonic()} {next(iter(changes)).hex()}\n")
            noted.flush()

    return create


def _work(create: Callable[[int], None]) -> None:
    sys.stdin.readline()
    begin = time.monotonic()
    count = 0
    while count % _LOOK_EVERY or not select.select([sys.stdin], [], [], 0)[0]:
        create(count)
        count += 1
    say(f"{count} {time.monotonic() - begin}")


if __name__ == "__main__":
    sys.exit(main())
