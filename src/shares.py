"""Wanted against present: a plan of the fewest calls, and its execution."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import budget
import names
from api import Adapter, Api, NfsConfig, Share, ShareFields
from budget import Budget, Space
from deadline import EVENT
from errors import BlockedError, CharmError, WaitingError
from options import Options, ShareOptions
from present import Present, opens
from steps import (
    READ_BUFFER,
    ChangeShare,
    CreateShare,
    CreateStore,
    EnableShare,
    SetAdapter,
    SetSquash,
    Step,
    TakeOutShare,
    fields_of,
)
from stores import CONTENT, METADATA, StoreSpec
from units import MIB, format_size
from workload import NFS_PORT, SMB_PORT, memory_limit

logger = logging.getLogger(__name__)

PORTS = {"nfs": NFS_PORT, "smb": SMB_PORT}

# What the server takes for itself, before any share.
_BASE_MEMORY = 256 * MIB
_SETTLE_TIME = 6.0


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
            f"raise the option memory or list fewer shares: {fitting} of {len(shares)} fit in "
            f"{format_size(options.memory)}"
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
    problems += _deadly(options, present)
    if options.shares is not None:
        steps += _unreadable_steps(present)
        unfit = [*_too_little_memory(options)]
        unfit += [divided.problem] if divided.problem else []
        steps += [] if unfit else _share_steps(options.shares, present)
        problems += unfit
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
        if names.canonical(share.name) not in quotas and present.on_volume(share)
    ]
    small = options.allow_small_content_volume
    return budget.divide(space, quotas, others, backups=backups, small=small)


class Guarded(NamedTuple):
    """A share of the options that is on the content volume, its name at the server, its store."""

    share: ShareOptions
    name: str
    store: str


def guarded(options: Options, present: Present) -> tuple[Guarded, ...]:
    """The shares of the options that are on the content volume."""
    return tuple(
        Guarded(share, found.name, store.name if store else share.key)
        for share in options.shares or ()
        if (found := present.find(share.name)) and present.on_volume(found)
        for store in [present.metadata.get(found.metadata_store_id)]
    )


def execute(api: Api, steps: Sequence[Step]) -> Iterator[CharmError]:
    """Make the calls; one that fails does not keep the others from being made, but is yielded.

    A share whose store was not made as it was asked for is not made on it.
    """
    failed: set[tuple[str, str]] = set()
    for step in steps:
        needs: set[tuple[str, str]] = set()
        if isinstance(step, CreateShare):
            needs = {("metadata", step.metadata), ("local", step.content)}
        if failed & needs:
            continue
        try:
            step.apply(api)
        except CharmError as error:
            if isinstance(step, CreateStore):
                failed.add((step.spec.kind, step.spec.name))
            yield error
        else:
            logger.info("server: %s", step)


def undone(options: Options, present: Present, divided: Budget) -> Iterator[CharmError]:
    """Yield a line for each step that is to be made still: the server took it and did not do it.

    Arguments are those of `plan`.
    """
    for step in plan(options, present, divided).steps:
        yield WaitingError(f"the server said yes and has not done it: {step}")


def settle(api: Api, options: Options, steps: Sequence[Step], before: Present) -> Present:
    """Ask again after the steps were made.

    The server tells the status of an adapter that is up to 5 s old. Where an adapter was changed,
    this waits for one that was taken later, and lets a listener that was not up then be.
    """
    changed = {step.protocol for step in steps if isinstance(step, SetAdapter) and step.enabled}
    end = time.monotonic() + EVENT.left(_SETTLE_TIME)
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
        if found and found.enabled and not opens(found):
            yield WaitingError(f"share {found.name} is {_said(found)}")
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
        found = present.find(share.name)
        content = CONTENT[share.content].spec(share.key)
        if found is None:
            if present.left_over(share) != share.metadata:
                continue
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
    yield from _closing_steps(wanted, present)


def _unreadable_steps(present: Present) -> Iterator[Step]:
    """The server dies of its metrics page while it has such a name, closed or not."""
    for share in present.shares.values():
        if not names.readable(share.name) and (name := present.true_name(share)):
            yield TakeOutShare(name)


def _deadly(options: Options, present: Present) -> Iterator[BlockedError]:
    """Say where the server's metrics page ends it, and the plan has nothing against that."""
    for share in present.shares.values():
        ours = present.made_by_charm(share)
        if not names.readable(share.name) and not (ours and options.shares is not None):
            remedy = "mend the option shares" if ours else "delete it with dfsctl"
            yield BlockedError(
                f"{remedy}: the name of the server's share {share.name} is no UTF-8, so its "
                "metrics page ends it"
            )


def _closing_steps(wanted: Sequence[ShareOptions], present: Present) -> Iterator[Step]:
    listed = [present.find(share.name) for share in wanted]
    for share in present.shares.values():
        closed = not share.enabled or not names.readable(share.name)
        if share not in listed and not closed and present.made_by_charm(share):
            yield EnableShare(share.name, enabled=False)


def _live_steps(share: ShareOptions, found: Share, present: Present) -> Iterator[Step]:
    fields = fields_of(share)
    has = ShareFields.of(found)
    if present.on_volume(found):
        # The guard has these: see space_guard.py.
        fields = fields.model_copy(update={"quota": has.quota, "read_only": has.read_only})
    body = fields.changes(has)
    if body:
        yield ChangeShare(found.name, body)
    if present.nfs[found.name].squash != _squash(share):
        yield SetSquash(found.name, _squash(share))
    if not found.enabled:
        yield EnableShare(found.name, enabled=True)


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
                    f"shares: entry {number}: set {what} of {share.name} back to {has}, or use "
                    "another name",
                    more=f"it cannot become {wants}",
                )


def _squash(share: ShareOptions) -> str:
    return share.squash.replace("-", "_")


def _cost(memory: int, share: ShareOptions) -> int:
    return (
        READ_BUFFER
        + METADATA[share.metadata].cost(memory, share.quota)
        + CONTENT[share.content].cost(memory, share.quota)
    )
