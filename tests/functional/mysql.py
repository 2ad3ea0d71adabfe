"""A charm that offers a database, as the unit sees it; behind it a real server."""

import dataclasses
import json
import secrets

from ops import testing

from tests.databases import DatabaseServer
from tests.functional.unit import Unit
from tests.ports import HOST


class Provider:
    """The application `mysql`: endpoints in its databag, passwords in secrets."""

    def __init__(self, server: DatabaseServer, name: str = "dittofs"):
        self.server = server
        self.name = name
        self.user = f"relation_{secrets.token_hex(4)}"
        self.password = secrets.token_urlsafe(16)
        server.create(name, self.user, self.password)
        self._secret = testing.Secret(
            {"username": self.user, "password": self.password}, label="from-mysql"
        )

    def relate(self, unit: Unit) -> object:
        """`juju integrate dittofs mysql`; the status afterwards."""
        relation = testing.Relation(
            "mysql",
            interface="mysql_client",
            remote_app_name="mysql",
            remote_app_data={
                "data": json.dumps({"database": self.name}),
                "database": self.name,
                "endpoints": f"{HOST}:{self.server.port}",
                "secret-user": self._secret.id,
                "version": "8.0.41",
            },
        )
        unit.change(
            relations=[*unit.state.relations, relation],
            secrets=[*unit.state.secrets, self._secret],
        )
        unit.run("relation_created", relation)
        return unit.run("relation_changed", self._relation(unit), remote_unit=0)

    def rotate(self, unit: Unit) -> object:
        """The provider changes the password; the status afterwards."""
        self.password = secrets.token_urlsafe(16)
        self.server.create(self.name, self.user, self.password)
        kept = next(each for each in unit.state.secrets if each.id == self._secret.id)
        self._secret = dataclasses.replace(
            kept, latest_content={"username": self.user, "password": self.password}
        )
        others = [each for each in unit.state.secrets if each.id != self._secret.id]
        unit.change(secrets=[*others, self._secret])
        return unit.run("secret_changed", self._secret)

    def part(self, unit: Unit) -> object:
        """`juju remove-relation dittofs mysql`; the status afterwards."""
        relation = self._relation(unit)
        unit.run("relation_broken", relation)
        unit.change(relations=[each for each in unit.state.relations if each.id != relation.id])
        return unit.run("update_status")

    def _relation(self, unit: Unit) -> testing.Relation:
        (relation,) = unit.state.get_relations("mysql")
        assert isinstance(relation, testing.Relation)
        return relation
