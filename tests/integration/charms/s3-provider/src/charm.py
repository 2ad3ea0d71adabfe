#!/usr/bin/env python3
"""moto behind the provider of `s3` that Canonical's s3-integrator has."""

import http.client
import time

import ops
from object_storage import (  # pyright: ignore[reportMissingImports]  # installed when the charm is packed
    S3Provider,
)
from ops import pebble

_CONTAINER, _ENDPOINT, _PORT = "moto", "s3-credentials", 5000
_LAYER: pebble.LayerDict = {
    "services": {
        "moto": {
            "override": "replace",
            "command": f"moto_server -H 0.0.0.0 -p {_PORT}",
            "startup": "enabled",
        },
    },
}
_START_SECONDS = 60.0
_OK, _EXISTS = 200, 409
# moto takes any pair of keys.
_ACCESS_KEY, _SECRET_KEY = "integration", "integration-tests"


class S3ProviderCharm(ops.CharmBase):
    """Gives each related application the same bucket."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._container = self.unit.get_container(_CONTAINER)
        self._provider = S3Provider(self, relation_name=_ENDPOINT)
        for event in (
            self.on.moto_pebble_ready,
            self.on.config_changed,
            self.on.update_status,
            self._provider.on.storage_connection_info_requested,
        ):
            framework.observe(event, self._reconcile)
        framework.observe(self.on.collect_unit_status, self._collect_status)

    def _reconcile(self, _: ops.EventBase) -> None:
        if not self._container.can_connect():
            return
        self._container.add_layer("moto", _LAYER, combine=True)
        self._container.replan()
        if not self.config["endpoint"]:
            self._make_bucket()
        self.unit.set_ports(_PORT)
        if self.unit.is_leader():
            for relation in self.model.relations[_ENDPOINT]:
                if relation.active and self._provider.is_protocol_ready(relation):
                    self._provider.set_storage_connection_info(relation.id, self._info())

    def _info(self) -> dict[str, str]:
        own = f"http://{self.app.name}.{self.model.name}.svc.cluster.local:{_PORT}"
        return {
            "bucket": str(self.config["bucket"]),
            "endpoint": str(self.config["endpoint"] or own),
            "region": "us-east-1",
            "s3-uri-style": "path",
            "access-key": _ACCESS_KEY,
            "secret-key": _SECRET_KEY,
        }

    def _make_bucket(self) -> None:
        """Make the bucket where it is not there, as soon as the server answers."""
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                status = _put(f"/{self.config['bucket']}")
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)
            else:
                assert status in {_OK, _EXISTS}, f"moto makes no bucket: status {status}"
                return

    def _collect_status(self, event: ops.CollectStatusEvent) -> None:
        if not self._container.can_connect():
            event.add_status(ops.WaitingStatus("waiting for the container"))
        event.add_status(ops.ActiveStatus())


def _put(path: str) -> int:
    """The status of a PUT to the server in this pod, past any proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=10)
    try:
        connection.request("PUT", path)
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    ops.main(S3ProviderCharm)
