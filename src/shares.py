"""Wanted against present: a plan of the fewest calls, and its execution."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import budget
from api import Adapter, Api, NfsConfig, Share, ShareFields, Store
from budget import Budget, Space
from errors import BlockedError, CharmError, WaitingError
from options import Options, ShareOptions, share_key
from stores import (
    CONTENT,
    METADATA,
    StoreSpec,
    backend_name,
    holds_only_copies,
    may_evict,
    on_volume,
)
from units import MIB, format_size
from workload import NFS_PORT, SMB_PORT, memory_limit

PORTS = {"nfs": NFS_PORT, "smb": SMB_PORT}

# What the server takes for itself, before any share.
_BASE_MEMORY = 256 * MIB
_READ_BUFFER = 32 * MIB
_SETTLE_TIME = 6.0


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
        return cls(
            metadata={store.id: store for store in api.stores("metadata")},
            content={store.id: store for store in api.stores("local")},
            shares=shares,
            adapters={adapter.type: adapter for adapter in api.adapters()},
            nfs={each.name: api.nfs_config(each.name) for each in wanted if each.name in shares},
        )

    def backends(self, share: Share) -> tuple[str, str]:
        """The backends of a share in the words of the option: metadata, content."""
        metadata = self.metadata.get(share.metadata_store_id)
        content = self.content.get(share.local_block_store_id)
        return (
            backend_name("metadata", metadata.type) if metadata else "?",
            backend_name("local", content.type) if content else "?",
        )

    def has_store(self, spec: StoreSpec) -> bool:
        """Whether a store of this name is there."""
        stores = self.metadata if spec.kind == "metadata" else self.content
        return any(store.name == spec.name for store in stores.values())

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

    def made_by_charm(self, share: Share) -> bool:
        """Whether it has the store that the charm would give it: others are left alone."""
        store = self.metadata.get(share.metadata_store_id)
        return store is not None and store.name == share_key(share.name)


@dataclass(frozen=True)
class CreateStore:
    """Make a store."""

    spec: StoreSpec

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.create_store(self.spec)


@dataclass(frozen=True)
class CreateShare:
    """Make a share on its two stores."""

    share: ShareOptions
    metadata: str
    content: str

    def apply(self, api: Api) -> None:
        """Call the server; it answers 201 also where the share could not be opened."""
        made = api.create_share(
            self.share.name, self.metadata, self.content, _fields(self.share), _READ_BUFFER
        )
        if made.status.status not in {"healthy", "unknown"}:
            raise WaitingError(f"share {self.share.name} does not open: {made.status.message}")


@dataclass(frozen=True)
class ChangeShare:
    """Change the live fields of a share."""

    name: str
    body: dict[str, object] = field(hash=False)

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.change_share(self.name, self.body)


@dataclass(frozen=True)
class SetSquash:
    """Change how NFS maps users."""

    name: str
    squash: str

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.set_squash(self.name, self.squash)


@dataclass(frozen=True)
class EnableShare:
    """Serve a share or no longer serve it."""

    name: str
    enabled: bool

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.enable_share(self.name, self.enabled)


@dataclass(frozen=True)
class SetAdapter:
    """Serve a protocol on its port, or not."""

    protocol: str
    enabled: bool
    port: int

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.set_adapter(self.protocol, self.enabled, self.port)


Step = CreateStore | CreateShare | ChangeShare | SetSquash | EnableShare | SetAdapter


@dataclass(frozen=True)
class Plan:
    """The calls to make, in order, and what stands in the way of the rest."""

    steps: tuple[Step, ...]
    problems: tuple[BlockedError, ...]


def _too_little_memory(options: Options) -> Iterator[BlockedError]:
    """Yield a line with the number that fits where the shares do not fit the server's memory."""
    room = memory_limit(options.memory) - _BASE_MEMORY
    fitting, used = 0, 0
    shares = options.shares or ()
    for share in shares:
        used += _cost(options.memory, share)
        fitting += used <= room
    if used > room:
        yield BlockedError(
            f"memory {format_size(options.memory)} holds {fitting} of the {len(shares)} shares: "
            f"raise the option memory, or list fewer shares"
        )


def plan(options: Options, present: Present, divided: Budget) -> Plan:
    """Compare what the options want with what the server has.

    Args:
        options: shares or protocols that are None are left as they are.
        present: what the server has.
        divided: the content volume, as `divide` returned it.
    """
    steps: list[Step] = []
    problems: list[BlockedError] = []
    if options.shares is not None:
        problems += _too_little_memory(options)
        problems += [divided.problem] if divided.problem else []
        if not problems:
            steps += _share_steps(options.shares, present)
        problems += _changed_backends(options.shares, present)
    if options.protocols is not None:
        steps += _adapter_steps(options.protocols, present)
    return Plan(tuple(steps), tuple(problems))


def divide(options: Options, present: Present, space: Space, *, backups: bool) -> Budget:
    """Divide a content volume among the shares that are listed for it.

    Args:
        options: says which; what is not listed only takes what it holds.
        present: what the server has.
        space: the volume.
        backups: whether backups are made.
    """
    quotas = {
        share.name: share.quota
        for share in options.shares or ()
        if CONTENT[share.content].on_volume
    }
    others = [
        share.used_bytes
        for share in present.shares.values()
        if share.name not in quotas and present.on_volume(share)
    ]
    small = options.allow_small_content_volume
    return budget.divide(space, quotas, others, backups=backups, small=small)


def guarded(options: Options, present: Present) -> tuple[ShareOptions, ...]:
    """The shares of the options that are on the content volume."""
    return tuple(
        share
        for share in options.shares or ()
        if (found := present.shares.get(share.name)) and present.on_volume(found)
    )


def execute(api: Api, steps: Sequence[Step]) -> Iterator[CharmError]:
    """Make the calls; one that fails does not keep the others from being made, but is yielded."""
    for step in steps:
        try:
            step.apply(api)
        except CharmError as error:
            yield error


def settle(api: Api, options: Options, steps: Sequence[Step], before: Present) -> Present:
    """Ask again after the steps were made.

    The server tells the status of an adapter that is up to 5 s old. Where an adapter was changed,
    this waits for one that was taken later, and lets a listener that was not up then be.
    """
    changed = {step.protocol for step in steps if isinstance(step, SetAdapter) and step.enabled}
    end = time.monotonic() + _SETTLE_TIME
    while True:
        present = Present.ask(api, options.shares or ())
        waiting = any(
            adapter.status.status != "healthy" or adapter.status == earlier.status
            for name, adapter in present.adapters.items()
            if name in changed and (earlier := before.adapters.get(name))
        )
        if not waiting or time.monotonic() >= end:
            return present
        time.sleep(0.1)


def unhealthy(options: Options, present: Present) -> Iterator[CharmError]:
    """Yield a line for each wanted share or protocol that the server says is not well."""
    for share in options.shares or ():
        found = present.shares.get(share.name)
        if found and found.enabled and found.status.status in {"unhealthy", "degraded"}:
            yield WaitingError(f"share {share.name} is {_said(found)}")
    for protocol in options.protocols or ():
        adapter = present.adapters.get(protocol)
        # A port that is taken is found here only: the server lists the adapter as running.
        if adapter is None or adapter.status.status != "healthy":
            text = _said(adapter) if adapter else "missing"
            yield WaitingError(
                f"{protocol} does not listen on port {PORTS[protocol]} yet ({text})"
            )


def _said(item: Share | Adapter) -> str:
    return f"{item.status.status}: {item.status.message}".rstrip(": ")


def _share_steps(wanted: Sequence[ShareOptions], present: Present) -> Iterator[Step]:
    # A store that two shares use is made once.
    made: set[StoreSpec | str] = set()
    for share in wanted:
        found = present.shares.get(share.name)
        content = CONTENT[share.content].spec(share.key)
        if found is None:
            metadata = METADATA[share.metadata].spec(share.key)
            for spec in (metadata, content):
                if not present.has_store(spec) and spec.name + spec.kind not in made:
                    made.add(spec.name + spec.kind)
                    yield CreateStore(spec)
            yield CreateShare(share, metadata.name, content.name)
            if _squash(share) != NfsConfig().squash:
                yield SetSquash(share.name, _squash(share))
        elif present.backends(found) == (share.metadata, share.content):
            yield from _live_steps(share, found, present)
    names = {share.name for share in wanted}
    for share in present.shares.values():
        if share.name not in names and share.enabled and present.made_by_charm(share):
            yield EnableShare(share.name, enabled=False)


def _live_steps(share: ShareOptions, found: Share, present: Present) -> Iterator[Step]:
    fields = _fields(share)
    has = ShareFields.of(found)
    if present.on_volume(found):
        # The guard has these: see space_guard.py.
        fields = fields.model_copy(update={"quota": has.quota, "read_only": has.read_only})
    body = fields.changes(has)
    if body:
        yield ChangeShare(share.name, body)
    if present.nfs[share.name].squash != _squash(share):
        yield SetSquash(share.name, _squash(share))
    if not found.enabled:
        yield EnableShare(share.name, enabled=True)


def _adapter_steps(protocols: Sequence[str], present: Present) -> Iterator[Step]:
    for protocol, port in PORTS.items():
        adapter = present.adapters.get(protocol)
        wanted = protocol in protocols
        if adapter is None or adapter.enabled != wanted or (wanted and adapter.port != port):
            yield SetAdapter(protocol, wanted, port)


def _changed_backends(wanted: Sequence[ShareOptions], present: Present) -> Iterator[BlockedError]:
    for number, share in enumerate(wanted, start=1):
        found = present.shares.get(share.name)
        if found is None:
            continue
        for what, has, wants in zip(
            ("metadata", "content"),
            present.backends(found),
            (share.metadata, share.content),
            strict=True,
        ):
            if has != wants:
                yield BlockedError(
                    f"shares: entry {number}: {share.name} has {what} {has} and cannot become "
                    f"{wants}: set it back to {has}, or use another name"
                )


def _fields(share: ShareOptions) -> ShareFields:
    return ShareFields(
        read_only=share.read_only,
        default_permission=share.access,
        quota=share.quota,
        trash_enabled=share.trash_days > 0,
        trash_retention_days=share.trash_days,
    )


def _squash(share: ShareOptions) -> str:
    return share.squash.replace("-", "_")


def _cost(memory: int, share: ShareOptions) -> int:
    return (
        _READ_BUFFER
        + METADATA[share.metadata].cost(memory, share.quota)
        + CONTENT[share.content].cost(memory, share.quota)
    )
