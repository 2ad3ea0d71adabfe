"""A mirror of one store that does nothing by itself: a test says when it reads and writes."""

import contextlib
from collections.abc import Iterator

from agent.badger import BadgerError
from agent.journal import GapError
from agent.mysql import Database, Identity, Server
from agent.report import Progress
from agent.scan import scan
from agent.store_mirror import StoreMirror
from agent.verification import StoreReport, verify_all
from tests.agent.rig import Agent
from tests.databases import HOST
from tests.stores import content


class Steps:
    """The writer's and the reader's part of the mirror, step by step."""

    def __init__(self, agent: Agent, store, stack: contextlib.ExitStack):
        self.agent = agent
        self.store = store
        endpoints = ((HOST, agent.database.port),)
        server = Server(endpoints, agent.user, agent.password, agent.name, tls=False, ca=None)
        self.database = stack.enter_context(contextlib.closing(Database(server)))
        self.database.connect()
        identity = Identity("instance-1", 1, "dittofs", "files", "uuid-of-files", "{}")
        self.database.claim(identity)
        self.reader = stack.enter_context(contextlib.closing(Database(server)))
        self.reader.connect()
        self.mirror = StoreMirror("export", store, agent.run)
        stack.callback(self.mirror.close)

    def start(self) -> None:
        """Go on behind what the database has, as an agent that starts."""
        self.mirror.close()
        self.mirror = StoreMirror("export", self.store, self.agent.run)
        self.mirror.attach(self.database.stores().get("export"))

    def read(self) -> None:
        """Read all that the logs and tables have beyond what was read."""
        while self.mirror.read():
            pass

    def write(self) -> None:
        """Write all that was read."""
        while self.mirror.write(self.database):
            pass

    def catch_up(self) -> None:
        """Read and write, and compare in full where that is wanted."""
        for _ in range(3):
            self.read()
            self.write()
            if not self.mirror.gap:
                return
            with contextlib.suppress(GapError, BadgerError):
                for _ in self.scanning():
                    pass
        raise AssertionError(self.mirror.gap)

    def scanning(self) -> Iterator[None]:
        """The steps of a comparison in full."""
        return scan(self.mirror, self.database, Progress("scan"))

    def verify(self, patience: float = 0.5) -> StoreReport:
        """What `verify` says of the store."""
        (report,) = verify_all({"export": self.store}, self.reader, patience)
        return report

    def mirrored(self) -> dict[bytes, bytes]:
        """Key to value, as the database has them now."""
        return self.agent.mirrored()

    def assert_equal(self) -> None:
        """Both sides are equal, by what they hold and by what `verify` says."""
        assert self.mirrored() == content(self.store)
        report = self.verify()
        assert (report.result, report.moving) == ("equal", 0), report
