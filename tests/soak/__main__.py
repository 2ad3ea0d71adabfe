"""`make soak`: writers under load, while everything is killed, stopped and cut off at random.

    python -m tests.soak [--seconds N] [--seed N ...] [--at-once N] [--load standin|server]

At random moments MySQL is compared with what was written (the stand-in's writer keeps a record):
it has to be a state that the store had. When a pod ends both sides have to be equal. At the end
they have to be, and a volume that is recovered from MySQL has to hold what the store holds, and
every file that a client of the real server was told is there. Exits non-zero otherwise.

A seed decides what is done, in which order, and what the clients do; when that happens to what the
processes are at is up to the machine. Several seeds are runs of their own, with a line for each.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from agent.journal import Position
from agent.mysql import DatabaseError
from tests import bed, folders, servers
from tests.agent.rig import Agent, wait_until
from tests.databases import DatabaseServer, TcpProxy, find_program
from tests.nfs import missing
from tests.soak.load import Load, ServerLoad, StandInLoad
from tests.soak.many import many, say
from tests.stores import content

_GIB = 2**30
_SHOWN = 3
# Of what was acknowledged in so many seconds before a node died nothing is expected.
_NODE_LOSES = 8.0
_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class Soak:
    """The rig, and the faults that can happen to it."""

    def __init__(self, root: Path, seed: int, which: str):
        self.random = Random(seed)  # noqa: S311  # the same each time
        self.root = root
        self.database = DatabaseServer(root / "database", size=2 * _GIB)
        self.database.start()
        self.proxy = TcpProxy(self.database.port)
        # What the passwords are changes nothing that happens.
        password = secrets.token_urlsafe(12)
        self.agent = Agent(
            root / "unit", self.database, port=self.proxy.port, password=password, max_lag=5
        )
        self.database.create("dittofs", "dittofs", password)
        self.load: Load = (
            ServerLoad(self.agent, root, seed)
            if which == "server"
            else StandInLoad(self.agent, root, seed, 300)
        )
        self.faults: Counter[str] = Counter()
        self.checks = 0
        self.differences: list[str] = []

    def run(self, seconds: float) -> None:
        """Do it for that long, then compare everything."""
        self.load.start()
        self.agent.start()
        self.agent.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.differences:
            time.sleep(self.random.uniform(0.1, 2.0))
            name, fault = self.random.choice(_FAULTS)
            fault(self)
            self.faults[name] += 1
            self.check_prefix()
            say(
                f"soak: {max(end - time.monotonic(), 0):.0f} s left, {name}, "
                f"{self.checks} states compared, {self.agent.status['state']}"
            )
        self.load.stop()
        self.compare()

    def check_prefix(self) -> None:
        """MySQL has a state that the store had."""
        if self.load.record is None:
            return
        with contextlib.suppress(DatabaseError, KeyError), self.agent.connection() as database:
            with database.snapshot("export") as (text, rows):
                state = {key: value for key, _, value in rows}
            position = Position.from_text(text)
            if position is None:
                return
            self.checks += 1
            if state != self.load.record.state(position.version):
                self.differences.append(f"no state of the store at version {position.version}")

    def compare(self) -> None:
        """Both sides are equal, and so is what can be recovered."""
        self.agent.equal(180)
        store = self.agent.stores / "export"
        before = content(store)
        tree: dict[str, str] = {}
        if isinstance(self.load, ServerLoad):
            tree = self.load.tree()
            known = self.load.clients.known()
            wrong = known.differences(tree)
            say(f"soak: {len(known)} files were acknowledged and are known, {len(wrong)} differ")
            self.differences += wrong[:_SHOWN]
            # The server has written again.
            self.agent.equal(180)
            before = content(store)
        self.agent.stop()
        keep = self.root / "kept"
        store.parent.rename(keep)
        (self.agent.metadata / "controlplane.db").unlink(missing_ok=True)
        self.recover()
        after = content(store)
        different = sum(before.get(key) != after.get(key) for key in {*before, *after})
        if different:
            self.differences.append(f"{different} of {len(before)} keys differ after recovery")
        say(f"soak: {len(before)} keys recovered, {different} differences")
        if isinstance(self.load, ServerLoad):
            found = self.load.tree()
            wrong = [path for path in {*tree, *found} if tree.get(path) != found.get(path)]
            say(f"soak: {len(tree)} files read from the recovered server, {len(wrong)} differ")
            if wrong:
                self.differences.append(f"{len(wrong)} files differ: {wrong[:3]}")

    def recover(self) -> None:
        """Bring the metadata volume back."""
        code, answer = self.agent.call("recover")
        if code:
            raise AssertionError(answer)

    def close(self) -> None:
        """Stop everything."""
        with contextlib.suppress(AssertionError, OSError, AttributeError):
            self.load.kill()
        self.agent.__exit__()
        self.proxy.close()
        self.database.close()

    # -- the faults --

    def kill_agent(self) -> None:
        self.agent.stop(signal.SIGKILL)
        self.start_agent()

    def start_agent(self) -> None:
        """Start it, now and then on another day: nothing may depend on the clock."""
        # What the one before said is not true of this one.
        (self.agent.run / "status.json").unlink(missing_ok=True)
        self.agent.environment = {}
        if Path(_FAKETIME).exists() and self.random.random() < 0.3:
            self.faults["clock"] += 1
            days = self.random.choice(("-400d", "-2h", "+2h", "+400d"))
            self.agent.environment = {
                "LD_PRELOAD": _FAKETIME,
                "FAKETIME": days,
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        self.agent.start()

    def pause_agent(self) -> None:
        assert self.agent.process is not None
        os.kill(self.agent.process.pid, signal.SIGSTOP)
        time.sleep(self.random.uniform(0.2, 3))
        os.kill(self.agent.process.pid, signal.SIGCONT)

    def kill_database(self) -> None:
        self.database.kill()
        time.sleep(self.random.uniform(0, 3))
        self.database.start()

    def pause_database(self) -> None:
        self.database.signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.5, 4))
        self.database.signal(signal.SIGCONT)

    def read_only(self) -> None:
        self.database.set_global("read_only", 1)
        time.sleep(self.random.uniform(0.5, 3))
        self.database.set_global("read_only", 0)

    def cut(self) -> None:
        for _ in range(5):
            self.proxy.cut()
            time.sleep(self.random.uniform(0, 0.3))

    def fill_disk(self) -> None:
        self.database.fill_disk(left=64 * 1024)
        time.sleep(self.random.uniform(1, 4))
        self.database.free_disk()
        if not self.database.running:
            # Some servers end when they cannot write; whoever runs them starts them again.
            self.faults["MySQL ended by a full disk"] += 1
            self.database.start()

    def kill_writer(self) -> None:
        self.load.kill()
        time.sleep(self.random.uniform(0, 0.5))
        self.load.start()

    def stop_writer(self) -> None:
        self.load.stop()
        time.sleep(self.random.uniform(0, 1))
        self.load.start()

    def lose_pod(self) -> None:
        self.agent.stop(signal.SIGKILL)
        self.load.kill()
        self.agent.generation += 1
        self.load.start()
        time.sleep(self.random.uniform(0, 1))
        self.start_agent()

    def lose_volume(self) -> None:
        """The node with the pod and its metadata volume; that comes back as MySQL has it."""
        if not self._caught_up():
            return
        self.agent.stop(signal.SIGKILL)
        self.load.kill()
        self.load.lost(_NODE_LOSES)
        self._replace_volume()
        self._serve_again()

    def end_pod(self) -> None:
        """Server and agent are told to end at once, under load; the metadata volume is lost."""
        if not self._caught_up():
            return
        assert self.agent.process is not None
        self.agent.process.send_signal(signal.SIGTERM)
        self.load.end()
        self.agent.ended()
        store = self.agent.stores / "export"
        wanted, found = content(store), self.agent.mirrored()
        missing = sum(wanted.get(key) != found.get(key) for key in {*wanted, *found})
        if missing:
            self.differences.append(
                f"{missing} keys differ after a pod's end; the agent: {self.agent.log[-2000:]}"
            )
        self._replace_volume()
        self.differences += self.load.differences()[:_SHOWN]
        self._serve_again()

    def _caught_up(self) -> bool:
        """Whether the mirror is well, after some time for it."""

        def well() -> bool:
            status = self.agent.status
            return status["state"] == "mirroring" and status["lag"] < _NODE_LOSES / 4

        with contextlib.suppress(AssertionError):
            wait_until(well, 30)
        return well()

    def _replace_volume(self) -> None:
        self.agent.generation += 1
        shutil.rmtree(self.agent.stores)
        for path in self.agent.metadata.glob("controlplane.db*"):
            path.unlink()
        self.recover()

    def _serve_again(self) -> None:
        self.load.start()
        self.start_agent()


_FAULTS: tuple[tuple[str, Callable[[Soak], None]], ...] = (
    ("agent -9", Soak.kill_agent),
    ("agent paused", Soak.pause_agent),
    ("MySQL -9", Soak.kill_database),
    ("MySQL paused", Soak.pause_database),
    ("MySQL read-only", Soak.read_only),
    ("connections cut", Soak.cut),
    ("MySQL's disk full", Soak.fill_disk),
    ("writer -9", Soak.kill_writer),
    ("writer stopped", Soak.stop_writer),
    ("pod lost", Soak.lose_pod),
    ("volume lost", Soak.lose_volume),
    ("pod ended, volume lost", Soak.end_pod),
)


def main() -> int:
    """Run one soak, or one for each seed; 0 where nothing differs."""
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, nargs="*", default=[])
    parser.add_argument("--at-once", type=int, default=1, help="seeds")
    parser.add_argument("--load", choices=["standin", "server"])
    asked = parser.parse_args()
    if len(asked.seed) > 1:
        return many(asked.seed, asked.at_once, asked.seconds, asked.load)
    (seed,) = asked.seed or [int(time.time())]
    server = servers.server()
    which = asked.load or ("server" if server.real and not missing() else "standin")
    what = str(server) if which == "server" else "the stand-in's writer"
    say(f"soak: {what}, {find_program()}, {asked.seconds:.0f} s, seed {seed}")
    bed.enter_or_exit()
    with folders.temporary() as directory:
        soak = Soak(directory, seed, which)
        try:
            soak.run(asked.seconds)
        except AssertionError as error:
            soak.differences.append(str(error))
        finally:
            soak.close()
            summary = soak.load.summary()
    faults = ", ".join(f"{count} x {name}" for name, count in sorted(soak.faults.items()))
    say(f"soak: {summary}")
    say(f"soak: faults: {faults}")
    for each in soak.differences:
        say(f"soak: DIFFERENT: {each}")
    rounds = sum(soak.faults.values())
    say(f"soak: {rounds} faults, {soak.checks} states, {len(soak.differences)} differences")
    return 1 if soak.differences else 0


if __name__ == "__main__":
    sys.exit(main())
