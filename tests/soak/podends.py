"""`make podends`: pods that end under load and lose their metadata volume, one after another.

    python -m tests.soak.podends [--rounds N] [--seed N]

In each round NFS clients write until server and agent, which are told to end at the same moment as
Kubernetes does it, take no more. Then the metadata volume is lost, a new pod gets it from MySQL,
and every file that a client was told is written has to be there. Exits non-zero otherwise.
"""

import argparse
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from random import Random

from agent.mysql import Database, Server
from tests import bed, servers
from tests.agent.rig import wait_until
from tests.databases import HOST, DatabaseServer, find_program
from tests.functional.mysql import Provider
from tests.functional.pod import Pod
from tests.functional.unit import Unit
from tests.nfs import missing
from tests.soak.clients import Clients, tree
from tests.soak.many import say
from tests.stores import content
from units import GIB

_CLIENTS = 4
_SHOWN, _LOG_SHOWN = 3, 4000
_MIRRORED = "nfs: /export; metadata in MySQL"


class Rounds:
    """A unit that is related to MySQL, and what was counted."""

    def __init__(self, root: Path, database: DatabaseServer, seed: int):
        self._random = Random(seed)  # noqa: S311  # the same each time
        self._seed = seed
        self._root = root
        self.pod = Pod(root / "pod")
        self.unit = Unit(self.pod)
        self._provider = Provider(database)
        self._clients: list[Clients] = []
        self.files = 0
        self.longest = 0.0
        self.wrong: list[str] = []

    def deploy(self) -> None:
        """Serve, and have the metadata in MySQL."""
        self.pod.start()
        self.unit.change(config={"protocols": "nfs"})
        self.unit.deploy()
        self._provider.relate(self.unit)
        self._serves()

    def run(self, number: int) -> None:
        """Do a round."""
        homes = [f"/round-{number}-{client}" for client in range(_CLIENTS)]
        clients = Clients(self._root / f"round-{number}", self._seed, homes)
        clients.start()
        try:
            # On a machine with other work to do it takes them seconds to begin.
            wait_until(lambda: clients.at_work)
            time.sleep(self._random.uniform(0, 4))
            clients.ending()
            began = time.monotonic()
            killed = self.pod.end()
            took = time.monotonic() - began
        finally:
            clients.end()
        differing = self._differing()
        log = "\n".join(
            line for line in self.unit.agent_log().splitlines() if "[pebble] GET" not in line
        )
        self.pod.volumes["metadata"].lose()
        self.unit.new_pod()
        self._serves()
        known = clients.known()
        self._clients.append(clients)
        wrong = known.differences(tree(*homes))
        self.files += len(known)
        self.longest = max(self.longest, took)
        if differing:
            # Without that it is the server that has lost what it acknowledged.
            wrong.insert(0, f"{differing} keys differ between the volume and MySQL")
        if killed:
            wrong.append(f"{killed} had to be killed")
        operations = sum(known.operations.values())
        say(
            f"podends: round {number}: {operations} operations, {len(known)} files, ended in "
            f"{took:.1f} s, {len(wrong)} wrong"
        )
        self._report(f"round {number}", wrong)
        if wrong:
            say(log[-_LOG_SHOWN:])

    def _report(self, where: str, wrong: list[str]) -> None:
        for each in wrong[:_SHOWN]:
            say(f"podends: WRONG: {where}: {each}")
        self.wrong += wrong[:_SHOWN]

    def _differing(self) -> int:
        """How many keys MySQL has otherwise than the volume, after the end of a pod."""
        store = content(self.pod.volumes["metadata"].path / "stores" / "export")
        provider = self._provider
        endpoints = ((HOST, provider.server.port),)
        server = Server(
            endpoints, provider.user, provider.password, provider.name, tls=False, ca=None
        )
        with closing(Database(server)) as database:
            database.connect()
            rows = database.rows(database.stores()["export"].copy)
            mirrored = {key: value for key, _, value in rows}
        return sum(store.get(key) != mirrored.get(key) for key in {*store, *mirrored})

    def check(self) -> None:
        """What was acknowledged in any round is there after all of them."""
        found = tree("/")
        for number, clients in enumerate(self._clients):
            wrong = clients.known().differences(found)
            self._report(f"at the end, round {number}", wrong)

    def _serves(self) -> None:
        status = self.unit.wait(seconds=120)
        if status.message != _MIRRORED:
            raise AssertionError(f"{status}\n{self.unit.log()[-2000:]}")


def main() -> int:
    """Run the rounds; 0 where nothing is missing."""
    parser = argparse.ArgumentParser(prog="podends")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    server = servers.server()
    if not server.real or missing():
        say(f"podends: needs the real server and {missing() or 'nothing else'}")
        return 2
    say(f"podends: {server}, {servers.pebble()}, {find_program()}, seed {asked.seed}")
    bed.enter_or_exit()
    with (
        tempfile.TemporaryDirectory() as directory,
        DatabaseServer(Path(directory) / "database", size=GIB) as database,
    ):
        rounds = Rounds(Path(directory), database, asked.seed)
        try:
            rounds.deploy()
            for number in range(asked.rounds):
                rounds.run(number)
            rounds.check()
        finally:
            rounds.pod.close()
    say(
        f"podends: {asked.rounds} rounds, {rounds.files} acknowledged files, longest end "
        f"{rounds.longest:.1f} s, {len(rounds.wrong)} wrong"
    )
    return 1 if rounds.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
