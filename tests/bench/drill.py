"""A disaster drill: a large backup under load, and all of it in a new instance of the real server.

    python -m tests.bench.drill [--gib 2] [--files 10000]

Files of random content are written, then a backup is made while other clients write, then files
are changed, removed and made. Both volumes are lost. Every file that was there when the backup
began has to be the same, byte for byte. Exits non-zero where one is not.
"""

import argparse
import hashlib
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import bed, nfs, servers
from tests.archive.rig import Params, Unit
from tests.bench.backups import make_share, nfs_port
from tests.bench.process import peak_memory
from tests.bench.rows import say
from tests.s3 import S3Server
from units import GIB, MIB

_SHARE = "/export"
_ID = "2026-01-01T00:00:00Z"
_STEPS = ("fetch", "settle", "finish")
_WRITERS = 4
_FOLDERS = 20
# As the option `memory` of 2Gi gives it.
_HEAP = "1843MiB"
_PATIENCE = 1800.0

Digests = dict[str, str]


def sizes(total: int, files: int, seed: int) -> list[int]:
    """Sizes of files, of which a few are large, in bytes; together about `total`."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    shares = [chance.paretovariate(1.5) for _ in range(files)]
    whole = sum(shares)
    return [int(total * share / whole) for share in shares]


class TimedUnit(Unit):
    """One that is patient, and notes of each step what it took."""

    taken: dict[str, str]

    def perform(self, kind: str, identifier: str, *, step: str = "", **params: Any) -> Params:
        """Let the running agent do something, and give what it says of it in the end."""
        begin = time.monotonic()
        self.ask(kind, step or kind, identifier, **params)
        said = self.wait(identifier, step or kind, _PATIENCE)
        assert self.process
        assert self.server.process
        agent, server = (peak_memory(each.pid) for each in (self.process, self.server.process))
        self.taken[step or kind] = (
            f"{step or kind} {time.monotonic() - begin:.1f} s"
            f" (agent {agent:.0f} MiB, server {server:.0f} MiB at most)"
        )
        return said


class Drill:
    """The steps, on a unit without containers.

    Args:
        unit: its server is started.
        capacity: how many bytes its share may hold.
    """

    def __init__(self, unit: TimedUnit, capacity: int):
        self.unit = unit
        unit.taken = {}
        unit.server.environment["GOMEMLIMIT"] = _HEAP
        unit.server.start()
        make_share(unit, capacity)
        self.port = nfs_port(unit)

    def fill(self, total: int, files: int) -> Digests:
        """Write the files; digests by path."""
        wanted = [
            (f"/d{number % _FOLDERS}/f{number}", size)
            for number, size in enumerate(sizes(total, files, seed=5))
        ]
        digests: Digests = {}
        with nfs.Client(_SHARE, self.port) as client:
            for number in range(_FOLDERS):
                client.mkdir(f"/d{number}")

        def write(part: list[tuple[str, int]]) -> None:
            with nfs.Client(_SHARE, self.port) as client:
                for path, size in part:
                    data = os.urandom(size)
                    client.create(path, data)
                    digests[path] = hashlib.sha256(data).hexdigest()

        _together([lambda part=wanted[each::_WRITERS]: write(part) for each in range(_WRITERS)])
        return digests

    @contextmanager
    def load(self) -> Iterator[list[int]]:
        """Clients that make files of their own all the time; how many each has made."""
        stop, made = threading.Event(), [0] * _WRITERS

        def write(writer: int) -> None:
            with nfs.Client(_SHARE, self.port) as client:
                client.mkdir(f"/load{writer}")
                while not stop.is_set():
                    client.create(f"/load{writer}/f{made[writer]}", os.urandom(20_000))
                    made[writer] += 1

        thread = threading.Thread(
            target=_together, args=([lambda each=each: write(each) for each in range(_WRITERS)],)
        )
        thread.start()
        time.sleep(1)
        try:
            yield made
        finally:
            stop.set()
            thread.join()

    def change(self, digests: Digests) -> None:
        """Overwrite, remove and make files, so that the present is not what was backed up."""
        with nfs.Client(_SHARE, self.port) as client:
            for number, path in enumerate(sorted(digests)):
                if number % 10 == 0:
                    client.create(path, b"changed since")
                elif number % 10 == 1:
                    client.unlink(path)
            for number in range(100):
                client.create(f"/new{number}", b"made since")

    def different(self, digests: Digests) -> list[str]:
        """The paths that are not what they were."""
        wrong: list[str] = []

        def read(part: list[str]) -> None:
            with nfs.Client(_SHARE, self.port) as client:
                wrong.extend(
                    path
                    for path in part
                    if hashlib.sha256(client.read(path)).hexdigest() != digests[path]
                )

        paths = sorted(digests)
        _together([lambda part=paths[each::_WRITERS]: read(part) for each in range(_WRITERS)])
        return wrong


def _together(work: list[Any]) -> None:
    """Call functions in threads; an error of one is not passed over."""
    errors: list[BaseException] = []

    def call(function: Any) -> None:
        try:
            function()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,)) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def run(unit: TimedUnit, total: int, files: int) -> int:
    """The drill; 0 where all files came back."""
    # The server writes a share anew beside what it has when it restores it.
    drill = Drill(unit, 4 * total + GIB)
    digests = drill.fill(total, files)
    say(f"drill: {len(digests)} files written, {total / GIB:.1f} GiB")
    unit.start()
    with drill.load() as made:
        before = sum(made)
        result = unit.back_up(_ID)
        during = sum(made) - before
    say(
        f"drill: {unit.taken['create']}: {result['size'] / MIB:.0f} MiB, "
        f"{during} files were made meanwhile"
    )
    drill.change(digests)
    unit.lose()
    say("drill: files changed, both volumes lost")
    unit.server.new_password()
    unit.server.start()
    unit.start()
    began = time.monotonic()
    unit.restore(_ID)
    seconds = time.monotonic() - began
    say(f"drill: restored in {seconds:.1f} s: {', '.join(unit.taken[each] for each in _STEPS)}")
    wrong = drill.different(digests)
    say(f"drill: {len(digests) - len(wrong)} of {len(digests)} files identical")
    return 1 if wrong else 0


def main() -> int:
    """Drill where there is a real server."""
    parser = argparse.ArgumentParser(prog="drill")
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--files", type=int, default=10_000)
    asked = parser.parse_args()
    program = servers.server()
    say(f"drill: {program}")
    if not program.real or nfs.missing():
        say("drill: needs the real server and libnfs")
        return 1
    bed.enter_or_exit()
    with tempfile.TemporaryDirectory() as directory, S3Server(Path(directory)) as s3:
        bucket = s3.make_bucket("drill")
        with TimedUnit(program, Path(directory) / "unit", s3.settings(bucket)) as unit:
            return run(unit, int(asked.gib * GIB), asked.files)


if __name__ == "__main__":
    sys.exit(main())
