"""Wanted against present: a plan of the fewest calls, and its execution."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import names
from api import Adapter, Api, NfsConfig, Share, ShareFields, Store
from errors import BlockedError, CharmError, WaitingError
from options import Options, ShareOptions
from stores import CONTENT, METADATA, StoreSpec, backend_name
from units import MIB, format_size
from workload import NFS_PORT, SMB_PORT, memory_limit

PORTS = {"nfs": NFS_PORT, "smb": SMB_PORT}

# What the server takes for itself, before any share.
_BASE_MEMORY = 256 * MIB
_READ_BUFFER = 32 * MIB
_SETTLE_TIME = 6.0
# Of the content volume, for the server's own files beside the content.
_SMALLEST_RESERVE = 64 * MIB


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
        there = {share.name for each in wanted if (share := _find(shares, each.name))}
        return cls(
            metadata={store.id: store for store in api.stores("metadata")},
            content={store.id: store for store in api.stores("local")},
            shares=shares,
            adapters={adapter.type: adapter for adapter in api.adapters()},
            nfs={name: api.nfs_config(name) for name in sorted(there)},
        )

    def find(self, name: str) -> Share | None:
        """The share of this name; two spellings in Unicode of one text are one name."""
        return _find(self.shares, name)

    def backends(self, share: Share) -> tuple[str, str]:
        """The backends of a share in the words of the option: metadata, content."""
        metadata = self.metadata.get(share.metadata_store_id)
        content = self.content.get(share.local_block_store_id)
        return (
            backend_name("metadata", metadata.type) if metadata else "?",
            backend_name("local", content.type) if content else "?",
        )

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


@dataclass(frozen=True)
class CreateStore:
    """Make a store."""

    spec: StoreSpec

    def apply(self, api: Api) -> None:
        """Call the server; what it answers is what was asked for."""
        made, spec = api.create_store(self.spec), self.spec
        if (made.name, made.type) != (spec.name, spec.type) or any(
            made.config.get(key) != value for key, value in spec.config.items()
        ):
            raise WaitingError(f"the server made the store {made.name} otherwise than asked")


@dataclass(frozen=True)
class ConfigureStore:
    """Change a store; the server uses it from its next start on."""

    spec: StoreSpec

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.configure_store(self.spec)


@dataclass(frozen=True)
class CreateShare:
    """Make a share on its two stores."""

    share: ShareOptions
    metadata: str
    content: str

    def apply(self, api: Api) -> None:
        """Call the server; it answers 201 also where the share could not be opened."""
        name, fields = self.share.name, _fields(self.share)
        made = api.create_share(name, self.metadata, self.content, fields, _READ_BUFFER)
        if made.name != name:
            api.enable_share(made.name, enabled=False)
            raise BlockedError(
                f"the server made the share {made.name} where {name} was asked for, so it is "
                "closed: use another name"
            )
        if not _opens(made):
            raise WaitingError(f"share {name} does not open: {made.status.message}")
        other = fields.changes(ShareFields.of(made))
        if other:
            raise WaitingError(f"share {name} was made with another {', '.join(sorted(other))}")


@dataclass(frozen=True)
class TakeOutShare:
    """Take a share out of the server because of its name; its files stay on the volumes."""

    name: str

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.delete_share(self.name)


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


Step = (
    CreateStore
    | ConfigureStore
    | CreateShare
    | TakeOutShare
    | ChangeShare
    | SetSquash
    | EnableShare
    | SetAdapter
)


@dataclass(frozen=True)
class Plan:
    """The calls to make, in order, and what stands in the way of the rest."""

    steps: tuple[Step, ...]
    problems: tuple[BlockedError, ...]


def content_capacity(total: int) -> int:
    """The bytes that a share may use of a content volume of `total` bytes, in whole MiB."""
    reserve = max(total // 20, _SMALLEST_RESERVE)
    return max(total - reserve, 0) // MIB * MIB


def check_memory(options: Options) -> None:
    """Return where the shares fit the server's memory.

    Raises:
        BlockedError: they do not; the text has the number that fits.
    """
    room = memory_limit(options.memory) - _BASE_MEMORY
    fitting, used = 0, 0
    shares = options.shares or ()
    for share in shares:
        used += _cost(options.memory, share)
        fitting += used <= room
    if used > room:
        raise BlockedError(
            f"memory {format_size(options.memory)} holds {fitting} of the {len(shares)} shares: "
            f"raise the option memory, or list fewer shares"
        )


def plan(options: Options, present: Present, capacity: int) -> Plan:
    """Compare what the options want with what the server has.

    Args:
        options: shares or protocols that are None are left as they are.
        present: what the server has.
        capacity: what a share may use of the content volume, in bytes.
    """
    steps: list[Step] = []
    problems: list[BlockedError] = []
    if options.shares is not None:
        steps += _unreadable_steps(present)
        try:
            check_memory(options)
            steps += _share_steps(options.shares, present, capacity)
        except BlockedError as error:
            problems.append(error)
        problems += _changed_backends(options.shares, present)
    if options.protocols is not None:
        steps += _adapter_steps(options.protocols, present)
    return Plan(tuple(steps), tuple(problems))


def execute(api: Api, steps: Sequence[Step]) -> Iterator[CharmError]:
    """Make the calls; one that fails does not keep the others from being made, but is yielded."""
    for step in steps:
        try:
            step.apply(api)
        except CharmError as error:
            yield error


def undone(options: Options, present: Present, capacity: int) -> Iterator[CharmError]:
    """Yield a line for each step that is to be made still: the server took it and did not do it.

    Arguments are those of `plan`.
    """
    for step in plan(options, present, capacity).steps:
        yield WaitingError(f"the server said yes and has not done it: {step}")


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
        found = present.find(share.name)
        if found and found.enabled and not _opens(found):
            yield WaitingError(f"share {found.name} is {_said(found)}")
    for protocol in options.protocols or ():
        adapter = present.adapters.get(protocol)
        # A port that is taken is found here only: the server lists the adapter as running.
        if adapter is None or adapter.status.status != "healthy":
            text = _said(adapter) if adapter else "missing"
            yield WaitingError(
                f"{protocol} does not listen on port {PORTS[protocol]} yet ({text})"
            )


def _find(shares: Mapping[str, Share], name: str) -> Share | None:
    spelled = (each for each in shares.values() if names.canonical(each.name) == name)
    return shares.get(name) or next(spelled, None)


def _opens(share: Share) -> bool:
    """Whether it is served; `unknown` with a reason is a share that is there in name only."""
    return share.status.status == "healthy" or (
        share.status.status == "unknown" and not share.status.message
    )


def _said(item: Share | Adapter) -> str:
    return f"{item.status.status}: {item.status.message}".rstrip(": ")


def _share_steps(
    wanted: Sequence[ShareOptions], present: Present, capacity: int
) -> Iterator[Step]:
    # A store that two shares use is made once.
    made: set[StoreSpec | str] = set()
    for share in wanted:
        found = present.find(share.name)
        content = CONTENT[share.content].spec(share.key, capacity)
        if found is None:
            if present.left_over(share) != share.metadata:
                continue
            metadata = METADATA[share.metadata].spec(share.key, capacity)
            for spec in (metadata, content):
                if not present.has_store(spec) and spec.name + spec.kind not in made:
                    made.add(spec.name + spec.kind)
                    yield CreateStore(spec)
            yield CreateShare(share, metadata.name, content.name)
            if _squash(share) != NfsConfig().squash:
                yield SetSquash(share.name, _squash(share))
        elif present.backends(found) == (share.metadata, share.content):
            yield from _live_steps(share, found, present)
    yield from _resize_steps(present, capacity)
    yield from _closing_steps(wanted, present)


def _unreadable_steps(present: Present) -> Iterator[Step]:
    """The server dies of its metrics page while it has such a name, closed or not."""
    for share in present.shares.values():
        if not names.readable(share.name) and (name := present.true_name(share)):
            yield TakeOutShare(name)


def _closing_steps(wanted: Sequence[ShareOptions], present: Present) -> Iterator[Step]:
    listed = [present.find(share.name) for share in wanted]
    for share in present.shares.values():
        closed = not share.enabled or not names.readable(share.name)
        if share not in listed and not closed and present.made_by_charm(share):
            yield EnableShare(share.name, enabled=False)


def _live_steps(share: ShareOptions, found: Share, present: Present) -> Iterator[Step]:
    body = _fields(share).changes(ShareFields.of(found))
    if body:
        yield ChangeShare(found.name, body)
    if present.nfs[found.name].squash != _squash(share):
        yield SetSquash(found.name, _squash(share))
    if not found.enabled:
        yield EnableShare(found.name, enabled=True)


def _resize_steps(present: Present, capacity: int) -> Iterator[Step]:
    """A volume that grew: the server takes the new size at its next start."""
    wanted = CONTENT["volume"].spec("", capacity)
    for store in present.content.values():
        if store.name == wanted.name and store.config.get("max_size") != capacity:
            yield ConfigureStore(wanted)


def _adapter_steps(protocols: Sequence[str], present: Present) -> Iterator[Step]:
    for protocol, port in PORTS.items():
        adapter = present.adapters.get(protocol)
        wanted = protocol in protocols
        if adapter is None or adapter.enabled != wanted or (wanted and adapter.port != port):
            yield SetAdapter(protocol, wanted, port)


def _changed_backends(wanted: Sequence[ShareOptions], present: Present) -> Iterator[BlockedError]:
    for number, share in enumerate(wanted, start=1):
        found = present.find(share.name)
        for what, has, wants in zip(
            ("metadata", "content"),
            present.backends(found) if found else (present.left_over(share), share.content),
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
