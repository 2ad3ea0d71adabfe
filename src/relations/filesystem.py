"""The endpoint `filesystem`: the NFS address of the first share, for charms that mount it."""

from collections.abc import Iterator

import ops

from charms.dittofs.v0.filesystem_info import FilesystemProvider, NfsInfo
from errors import BlockedError, CharmError
from state import FILESYSTEM, State
from workload import NFS_PORT


def publish(provider: FilesystemProvider, model: ops.Model, state: State) -> Iterator[CharmError]:
    """Tell each related application where the share is, and yield what holds it back.

    Only the leader may write the application's databag; the address is that of the unit that
    serves, not of the application: a unit that does not serve is behind the application's too.
    """
    info = None
    if state.served_share is not None:
        host = f"{state.application}-0.{state.application}-endpoints.{state.model_name}"
        info = NfsInfo(
            hostname=f"{host}.svc.cluster.local", port=NFS_PORT, path=state.served_share
        )
    for client in state.filesystem_clients:
        relation = model.get_relation(FILESYSTEM, client.relation_id)
        if relation is not None and state.leader:
            provider.publish(relation, None if client.foreign else info)
        if client.foreign:
            yield BlockedError(
                f"filesystem: remove the relation with {client.application}: it is in another "
                "model",
                more="no address of this server is known there: deploy both in one model",
            )
