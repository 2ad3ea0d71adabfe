"""The storage backends a share can have: one small class each.

Nothing else in the charm knows their names, their REST configuration or what they cost. A backend
is chosen when a share is made; the server has no conversion. A further backend is one class more,
one word in `MetadataName` or `ContentName`, and one entry in the table at the end.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from units import MIB

MetadataName = Literal["badger", "memory"]
ContentName = Literal["volume", "memory"]
Kind = Literal["metadata", "local"]

METADATA_DIRECTORY = "/data/metadata/stores"
CONTENT_DIRECTORY = "/data/content"
VOLUME_STORE = "volume"

# Bytes, more than any volume has. A store that has `max_size` deletes segments that are uploaded,
# and takes each one for that which it has cleaned: without a remote store, the only copy.
NEVER_EVICTS = 10**18

# Measured on v0.29.0: an idle Badger store holds 88.5 MB of heap, whatever it stores.
_BADGER_HEAP = 85 * MIB


@dataclass(frozen=True)
class StoreSpec:
    """A store as the server's API takes it: `config` is what goes into its JSON."""

    kind: Kind
    name: str
    type: str
    config: Mapping[str, str | int] = field(default_factory=dict[str, str | int])


@dataclass(frozen=True)
class Caches:
    """The caches of one Badger store, in MiB, sized from the server's memory in bytes."""

    block_mib: int
    index_mib: int

    @classmethod
    def for_memory(cls, memory: int) -> "Caches":
        """A sixty-fourth and half of that of the memory, within bounds."""
        share = memory // MIB // 64
        return cls(block_mib=min(max(share, 16), 128), index_mib=min(max(share // 2, 16), 64))


class Backend:
    """What the charm has to know of every backend.

    Attributes:
        volatile: a restart of the server loses what it holds.
        needs_quota: a share on it must have one, since it has no bound of its own.
        on_volume: what it holds is on the content volume.
    """

    volatile: ClassVar[bool] = False
    needs_quota: ClassVar[bool] = False
    on_volume: ClassVar[bool] = False
    kind: ClassVar[Kind]
    type: ClassVar[str]

    def spec(self, key: str) -> StoreSpec:
        """The store for the share whose encoded name is `key`."""
        raise NotImplementedError

    def cost(self, memory: int, quota: int) -> int:
        """The server memory in bytes that one more share takes."""
        raise NotImplementedError


class Badger(Backend):
    """A Badger directory of its own for each share, on the metadata volume."""

    kind = "metadata"
    type = "badger"

    def spec(self, key: str) -> StoreSpec:
        """Caches are not part of it: they are in the server's configuration file."""
        return StoreSpec(self.kind, key, self.type, {"path": f"{METADATA_DIRECTORY}/{key}"})

    def cost(self, memory: int, quota: int) -> int:
        """Its memtable and full caches."""
        del quota
        caches = Caches.for_memory(memory)
        return _BADGER_HEAP + (caches.block_mib + caches.index_mib) * MIB


class MemoryMetadata(Backend):
    """The names in the server's memory: for tests and scratch space."""

    kind = "metadata"
    type = "memory"
    volatile = True

    def spec(self, key: str) -> StoreSpec:
        """One for each share, as with Badger: restoring a store touches one share only."""
        return StoreSpec(self.kind, key, self.type)

    def cost(self, memory: int, quota: int) -> int:
        """An allowance for some ten thousand files."""
        del memory, quota
        return 16 * MIB


class Volume(Backend):
    """The content volume: one local block store for all shares that use it."""

    kind = "local"
    type = "fs"
    on_volume = True

    def spec(self, key: str) -> StoreSpec:
        """The server keeps each share in a directory of its own below the path."""
        del key
        config: dict[str, str | int] = {"path": CONTENT_DIRECTORY, "max_size": NEVER_EVICTS}
        return StoreSpec(self.kind, VOLUME_STORE, self.type, config)

    def cost(self, memory: int, quota: int) -> int:
        """The read buffer is counted for every share alike."""
        del memory, quota
        return 0


class MemoryContent(Backend):
    """The content in the server's memory, bounded by the share's quota."""

    kind = "local"
    type = "memory"
    volatile = True
    needs_quota = True

    def spec(self, key: str) -> StoreSpec:
        """One for all shares: the server keeps them apart."""
        del key
        return StoreSpec(self.kind, "memory", self.type)

    def cost(self, memory: int, quota: int) -> int:
        """All it may hold."""
        del memory
        return quota


METADATA: dict[MetadataName, Backend] = {"badger": Badger(), "memory": MemoryMetadata()}
CONTENT: dict[ContentName, Backend] = {"volume": Volume(), "memory": MemoryContent()}


def volatile(metadata: str, content: str) -> bool:
    """Whether a share on these two backends loses its files at a restart of the server."""
    lost = [str(name) for name, made in METADATA.items() if made.volatile]
    gone = [str(name) for name, made in CONTENT.items() if made.volatile]
    return metadata in lost or content in gone


def on_volume(store_type: str, config: Mapping[str, Any]) -> bool:
    """Whether a local store of the server has its files on the content volume."""
    place = f"{config.get('path', '')}/"
    return store_type == Volume.type and place.startswith(f"{CONTENT_DIRECTORY}/")


def holds_only_copies(store_id: str, name: str, alone: Container[str]) -> bool:
    """Whether a local store has content that is nowhere else, or is to get it.

    Args:
        store_id: the server's id of the store.
        name: its name.
        alone: the ids, or names, of the local stores of all shares without a remote store.
    """
    return name == VOLUME_STORE or store_id in alone or name in alone


def may_evict(store_type: str, config: Mapping[str, Any]) -> bool:
    """Whether a local store of the server deletes content when it has so much of it."""
    size = config.get("max_size")
    # What is no number is no limit to the server, which then has one of its own.
    endless = isinstance(size, int | float) and size >= NEVER_EVICTS
    return store_type == Volume.type and not endless


def backend_name(kind: Kind, store_type: str) -> str:
    """The option's word for a store of the server, or the server's own word if it has none."""
    table = METADATA if kind == "metadata" else CONTENT
    return next((str(name) for name, made in table.items() if made.type == store_type), store_type)
