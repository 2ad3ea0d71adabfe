"""A charm that offers a bucket, as the unit sees it; behind it a real S3 server."""

from typing import Any

from ops import testing

from tests.functional.unit import Unit
from tests.s3 import S3Server


class BucketProvider:
    """The application `s3-integrator`: its bucket is in its databag, the keys in a secret."""

    def __init__(self, server: S3Server, name: str, endpoint: str | None = None):
        self.server = server
        self.name = name
        self.endpoint = endpoint or server.url
        server.make_bucket(name)

    def relate(self, unit: Unit, **fields: str) -> Any:
        """`juju integrate dittofs s3-integrator`; the status afterwards."""
        secret = testing.Secret(
            {"access-key": self.server.access_key, "secret-key": self.server.secret_key},
            label="from-s3-integrator",
        )
        relation = testing.Relation(
            "s3-backup",
            interface="s3",
            remote_app_name="s3-integrator",
            remote_app_data={
                "version": "1",
                "bucket": self.name,
                "endpoint": self.endpoint,
                "path": "files",
                "s3-uri-style": "path",
                "secret-extra": secret.id,
                **fields,
            },
        )
        unit.change(
            relations=[*unit.state.relations, relation], secrets=[*unit.state.secrets, secret]
        )
        unit.run("relation_created", relation)
        return unit.run("relation_changed", self._relation(unit), remote_unit=0)

    def part(self, unit: Unit) -> Any:
        """`juju remove-relation dittofs s3-integrator`; the status afterwards."""
        relation = self._relation(unit)
        unit.run("relation_broken", relation)
        unit.change(relations=[each for each in unit.state.relations if each.id != relation.id])
        return unit.run("update_status")

    def _relation(self, unit: Unit) -> testing.Relation:
        (relation,) = unit.state.get_relations("s3-backup")
        assert isinstance(relation, testing.Relation)
        return relation
