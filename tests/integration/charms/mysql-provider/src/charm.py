#!/usr/bin/env python3
"""MariaDB behind the provider of `mysql_client` that Canonical's database charms have."""

import secrets
import time

import ops
from charms.data_platform_libs.v0.data_interfaces import (  # pyright: ignore[reportMissingImports]  # fetched when the charm is packed
    DatabaseProvides,
)
from ops import pebble

_CONTAINER, _ENDPOINT, _PORT = "mariadb", "database", 3306
# The image's own entry point has a temporary server first, which takes orders and then ends.
_COMMAND = """/bin/sh -c '
[ -d /var/lib/mysql/mysql ] ||
    mariadb-install-db --user=mysql --skip-test-db --auth-root-authentication-method=socket
exec mariadbd --user=mysql --bind-address=0.0.0.0'"""
_LAYER: pebble.LayerDict = {
    "services": {
        "mariadb": {"override": "replace", "command": _COMMAND, "startup": "enabled"},
    },
}
_START_SECONDS = 90.0


class MysqlProvider(ops.CharmBase):
    """Gives each related application a database and a user of its own."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._container = self.unit.get_container(_CONTAINER)
        self._provider = DatabaseProvides(self, relation_name=_ENDPOINT)
        for event in (
            self.on.mariadb_pebble_ready,
            self.on.config_changed,
            self.on.update_status,
            self._provider.on.database_requested,
        ):
            framework.observe(event, self._reconcile)
        framework.observe(self.on.collect_unit_status, self._collect_status)

    def _reconcile(self, _: ops.EventBase) -> None:
        if not self._container.can_connect():
            return
        self._container.add_layer("mariadb", _LAYER, combine=True)
        self._container.replan()
        self._wait()
        self.unit.set_ports(_PORT)
        if self.unit.is_leader():
            for relation in self.model.relations[_ENDPOINT]:
                if relation.active:
                    self._give(relation.id)

    def _give(self, relation_id: int) -> None:
        """Answer what was asked for; a user is made once."""
        asked = self._provider.fetch_relation_field(relation_id, "database")
        if not asked:
            return
        database = str(self.config["database"] or asked)
        if not self._provider.fetch_my_relation_field(relation_id, "username"):
            user, password = f"relation_{relation_id}", secrets.token_hex(16)
            self._execute(
                f"CREATE DATABASE IF NOT EXISTS `{database}`;"
                f"CREATE OR REPLACE USER '{user}'@'%' IDENTIFIED BY '{password}';"
                f"GRANT ALL PRIVILEGES ON `{database}`.* TO '{user}'@'%';"
            )
            self._provider.set_database(relation_id, database)
            self._provider.set_credentials(relation_id, user, password)
        host = f"{self.app.name}.{self.model.name}.svc.cluster.local"
        self._provider.set_version(relation_id, self._execute("SELECT VERSION();").strip())
        self._provider.set_endpoints(relation_id, f"{host}:{_PORT}")

    def _wait(self) -> None:
        """Wait until the server answers: its first start makes its files."""
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._execute("SELECT 1;")
            except pebble.ExecError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)
            else:
                return

    def _execute(self, statements: str) -> str:
        """Run SQL as root; it goes in by standard input, where no list of processes shows it."""
        command = ["mariadb", "--protocol=socket", "--user=root", "--batch", "--skip-column-names"]
        return self._container.exec(command, stdin=statements, timeout=30).wait_output()[0]

    def _collect_status(self, event: ops.CollectStatusEvent) -> None:
        if not self._container.can_connect():
            event.add_status(ops.WaitingStatus("waiting for the container"))
        event.add_status(ops.ActiveStatus())


if __name__ == "__main__":
    ops.main(MysqlProvider)
