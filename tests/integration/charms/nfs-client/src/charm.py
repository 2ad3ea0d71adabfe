#!/usr/bin/env python3
"""A client in the cluster: it does nothing by itself, and shows the address that it was given."""

import ops

from charms.dittofs.v0.filesystem_info import FilesystemRequirer


class NfsClient(ops.CharmBase):
    """The status is the address of the related share, empty without one."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._filesystem = FilesystemRequirer(self, "filesystem")
        framework.observe(self.on.collect_unit_status, self._collect_status)

    def _collect_status(self, event: ops.CollectStatusEvent) -> None:
        relation = self.model.get_relation("filesystem")
        info = self._filesystem.get(relation) if relation else None
        event.add_status(ops.ActiveStatus(str(info or "")))


if __name__ == "__main__":
    ops.main(NfsClient)
