"""What the server has: shares, their stores, protocols; and which of them the charm made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import names
from api import Adapter, Api, NfsConfig, Share, Store
from options import ShareOptions
from stores import StoreSpec, backend_name, holds_only_copies, may_evict, on_volume


@dataclass(frozen=True)
class Present:
    """What the server has; `nfs` holds the settings of the shares that were asked for."""

    metadata: dict[str, Store]
    content: dict[str, Store]
    shares: dict[str, Share]
    adapters: dict[str, Adapter]
    nfs: dict[str, NfsConfig]

    @classmethod
    def ask(cls, api: Api, wanted: Sequence[ShareOptions]) -> "Present":
        """Read it from the server: four calls, and one for each wanted share that exists."""
        shares = {share.name: share for share in api.shares()}
        there = {share.name for each in wanted if (share := _named(shares, each.name))}
        return cls(
            metadata={store.id: store for store in api.stores("metadata")},
            content={store.id: store for store in api.stores("local")},
            shares=shares,
            adapters={adapter.type: adapter for adapter in api.adapters()},
            nfs={name: api.nfs_config(name) for name in sorted(there)},
        )

    def find(self, name: str) -> Share | None:
        """The share of this name; two spellings in Unicode of one text are one name."""
        return _named(self.shares, name)

    def backends(self, share: Share) -> tuple[str, str]:
        """The backends of a share in the words of the option: metadata, content."""
        metadata = self.metadata.get(share.metadata_store_id)
        content = self.content.get(share.local_block_store_id)
        return (
            backend_name("metadata", metadata.type) if metadata else "?",
            backend_name("local", content.type) if content else "?",
        )

    def on_volume(self, share: Share) -> bool:
        """Whether what it holds is on the content volume."""
        store = self.content.get(share.local_block_store_id)
        return store is not None and on_volume(store.type, store.config)

    def evicting(self) -> list[str]:
        """The names of the local stores that would delete the only copy of files."""
        alone = {
            share.local_block_store_id
            for share in self.shares.values()
            if not share.remote_block_store_id
        }
        return [
            store.name
            for store in self.content.values()
            if holds_only_copies(store.id, store.name, alone)
            and may_evict(store.type, store.config)
        ]

    def left_over(self, share: ShareOptions) -> str:
        """The metadata backend of a store without its share, or what is wanted where none is."""
        left = next((each for each in self.metadata.values() if each.name == share.key), None)
        return backend_name("metadata", left.type) if left else share.metadata

    def has_store(self, spec: StoreSpec) -> bool:
        """Whether a store of this name is there."""
        stores = self.metadata if spec.kind == "metadata" else self.content
        return any(store.name == spec.name for store in stores.values())

    def made_by_charm(self, share: Share) -> bool:
        """Whether it has the store that the charm gave it: others are left alone."""
        return self.true_name(share) is not None

    def true_name(self, share: Share) -> str | None:
        """The server's own name of a share that the charm made; None where it did not.

        An earlier charm asked for names that the server read differently: `/x%20y` is `/x y`, and
        `/caf%e9` is no UTF-8, so it is not what the API tells. See `names.as_read`.
        """
        store = self.metadata.get(share.metadata_store_id)
        asked = names.asked(store.name) if store else None
        for name in (asked, asked and names.as_read(asked)):
            if name and names.as_told(name) == names.as_told(share.name):
                return name
        return None

    @property
    def metrics_are_safe(self) -> bool:
        """Whether the server outlives its metrics page: not with a name that is no UTF-8."""
        return all(names.readable(name) for name in self.shares)


def opens(share: Share) -> bool:
    """Whether it is served; `unknown` with a reason is a share that is there in name only."""
    return share.status.status == "healthy" or (
        share.status.status == "unknown" and not share.status.message
    )


def _named(shares: Mapping[str, Share], name: str) -> Share | None:
    spelled = (each for each in shares.values() if names.canonical(each.name) == name)
    return shares.get(name) or next(spelled, None)
