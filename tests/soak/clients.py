"""NFS clients that work until they are ended, each a process that is started again and again."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from tests.databases import ROOT
from tests.nfs import Client, NfsError
from tests.soak.ledger import Known, Ledger

_AGAIN_SECONDS = 0.1
_CONNECT_SECONDS = 60.0


class Clients:
    """Processes of `tests.soak.client` on the share `export`, and what they were told.

    Args:
        place: a folder for their ledgers.
        seed: of what they do.
        homes: the directory of each on the share.
        command: the program and its first arguments.
    """

    def __init__(
        self,
        place: Path,
        seed: int,
        homes: Sequence[str],
        command: Sequence[str] = (sys.executable, "-m", "tests.soak.client"),
    ):
        self._place = place
        self._seed = seed
        self._command = command
        self._lives = dict.fromkeys(homes, 0)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._threads: list[threading.Thread] = []
        place.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Let them work."""
        self._stop.clear()
        self._threads = [threading.Thread(target=self._work, args=(home,)) for home in self._lives]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Kill them; none is left, also none that was being started just now."""
        with self._lock:
            self._stop.set()
            for process in self._processes.values():
                process.kill()
        for thread in self._threads:
            thread.join()

    @property
    def at_work(self) -> bool:
        """Whether each of them was told that a file is written."""
        return all(
            (path := self._notes(home)).exists() and Known([path]).operations.get("create")
            for home in self._lives
        )

    def known(self) -> Known:
        """What the share has to hold; none of them may be at work."""
        return Known(path for home in self._lives if (path := self._notes(home)).exists())

    def lost(self, seconds: float) -> None:
        """What they were told for so long may be lost."""
        self._note(lambda ledger: ledger.lost(seconds))

    def ending(self) -> None:
        """The server is about to be told to end while they work."""
        self._note(Ledger.ending)

    def _note(self, write: Callable[[Ledger], None]) -> None:
        for home in self._lives:
            with closing(Ledger(self._notes(home))) as ledger:
                write(ledger)

    def _notes(self, home: str) -> Path:
        return self._place / f"{home.strip('/')}.ledger"

    def _work(self, home: str) -> None:
        while self._spawn(home):
            self._processes[home].wait()
            self._stop.wait(_AGAIN_SECONDS)

    def _spawn(self, home: str) -> bool:
        """Start one, where it is not over: one that is started now is seen by `end`."""
        with self._lock, (self._place / "clients.log").open("ab") as log:
            if self._stop.is_set():
                return False
            self._lives[home] += 1
            seed = f"{self._seed} {home} {self._lives[home]}"
            self._processes[home] = subprocess.Popen(
                [*self._command, home, seed, str(self._notes(home))],
                env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            return True


def tree(*roots: str) -> dict[str, str]:
    """Every path below directories of the share, with a digest of what the server reads there."""
    found: dict[str, str] = {}
    with _connected() as client:
        for root in roots:
            try:
                paths = list(client.walk(root))
            except NfsError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue
            found |= {path: hashlib.sha256(client.read(path)).hexdigest() for path in paths}
    return found


def _connected() -> Client:
    """A connection; a server on a busy machine may take none in its first seconds."""
    end = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            return Client("/export")
        except NfsError:
            if time.monotonic() > end:
                raise
            time.sleep(_AGAIN_SECONDS)
