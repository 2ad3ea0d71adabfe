"""From what Juju says to a server that serves it: the row of steps of the serving unit."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import ops

import shares
import sidecar
import space_guard
import volumes
from api import Api, UnreachableError
from budget import Space
from credentials import Credentials
from deadline import HOOK
from errors import CharmError, WaitingError
from login import connect
from present import Present
from sidecar import Containers
from state import State, remember
from workload import METRICS_URL, Workload, pebble_errors

if TYPE_CHECKING:
    from operation import Operation

logger = logging.getLogger(__name__)

# What is left of the event's time, which is longer than the check "answers" needs to fail: a start
# that takes longer is followed by the event that the check has recovered.
_START_WAIT = HOOK
_RESTART_WAIT = 3.0
_RESTART_NEEDED = frozenset({"log-level", "memory"})


@dataclass
class Outcome:
    """What a pass found and did.

    Attributes:
        findings: what stands in the way, in the order it was found.
        serving: the shares served now, None where that is not known.
        version: the server's version, when it was started in this pass.
        mirrored: whether the metadata is in MySQL, no older than the option allows.
        activity: what is done with backups, for the status; empty for nothing.
        guard: what is to be guarded on the content volume; None where that is not known.
        build: the server's name where that is no release; empty for none.
    """

    findings: list[CharmError] = field(default_factory=list[CharmError])
    serving: tuple[str, ...] | None = None
    version: str | None = None
    mirrored: bool = False
    activity: str = ""
    guard: space_guard.Guard | None = None
    build: str = ""

    @property
    def trial(self) -> bool:
        """Whether the content volume is too small for what is served from it."""
        return self.guard is not None and self.guard.budget.trial


@dataclass(frozen=True)
class _Unit:
    """A unit that may serve, with all that is needed for it."""

    containers: Containers
    state: State
    model: ops.Model
    made: Credentials


def reconcile(containers: Containers, state: State, model: ops.Model) -> Outcome:
    """Bring volumes, server, shares, mirror and backups to what the state says; idempotent."""
    outcome = Outcome()
    try:
        with pebble_errors():
            if state.detached:
                Workload(containers.dittofs).stop("a volume is not attached")
                _end(containers.agent, sidecar.MIRROR, sidecar.BACKUP, sidecar.GUARD)
            state.need_volumes()
            made = state.need_credentials()
            pair = volumes.survey(containers.dittofs)
    except CharmError as error:
        outcome.findings.append(error)
        return outcome
    unit = _Unit(containers, state, model, made)
    if state.s3 is not None or volumes.OPERATION in pair.metadata.notes:
        _serve_with_backups(unit, pair, outcome)
        return outcome
    _serve(unit, pair, outcome)
    unused = [sidecar.BACKUP] if state.mysql else [sidecar.MIRROR, sidecar.BACKUP]
    _end(containers.agent, *unused)
    return outcome


def shut_down(containers: Containers, state: State, model: ops.Model) -> list[CharmError]:
    """Drain and stop the server, then the mirror, in bounded time; return what did not go well."""
    problems: list[CharmError] = []
    workload = Workload(containers.dittofs)
    # What they do goes on in the next pod; without the server they would only fail.
    _end(containers.agent, sidecar.BACKUP, sidecar.GUARD)
    try:
        with pebble_errors():
            running = workload.running
        if running and state.credentials and not _restoring(containers, state):
            with connect(model, state, state.credentials) as api:
                api.drain()
    except CharmError as error:
        problems.append(error)
    try:
        with pebble_errors():
            workload.stop("the unit is going")
    except CharmError as error:
        problems.append(error)
    try:
        if state.mysql is None:
            sidecar.stop(containers.agent, sidecar.MIRROR)
        else:
            import mirroring  # noqa: PLC0415  # most units have no database

            mirroring.finish(containers.agent)
    except CharmError as error:
        problems.append(error)
    return problems


def under_way(containers: Containers, state: State) -> "Operation | None":
    """What is done with backups now; None for nothing.

    Raises:
        CharmError: it cannot be told.
    """
    if not state.attached:
        return None
    with pebble_errors():
        notes = volumes.survey(containers.dittofs).metadata.notes
        if volumes.OPERATION not in notes:
            return None
        from operation import Notes  # noqa: PLC0415  # most events have nothing to do with it

        return Notes(containers.dittofs).read()


def _restoring(containers: Containers, state: State) -> bool:
    """Whether the server is not to be logged in to: its password would be changed."""
    operation = under_way(containers, state)
    return operation is not None and operation.takes_server


def _serve_with_backups(unit: _Unit, pair: volumes.Pair, outcome: Outcome) -> None:
    """Go on with what is under way, serve as far as that allows, and look after backups."""
    from backups import Backups  # noqa: PLC0415  # most units have no S3

    containers = unit.containers
    backups = Backups(containers, unit.state, unit.model, unit.made, pair)
    instead = backups.advance()
    if instead is not None:
        # The server gets other users, and its shares are closed.
        _end(containers.agent, sidecar.GUARD)
        outcome.findings += instead
        return
    try:
        with pebble_errors():
            pair = volumes.survey(containers.dittofs)
    except CharmError as error:
        outcome.findings.append(error)
        return
    pair = _serve(unit, pair, outcome, backups.operation)
    if unit.state.mysql is None:
        _end(containers.agent, sidecar.MIRROR)
    found = backups.reconcile(pair, serves=outcome.serving is not None)
    outcome.findings += found.findings
    outcome.activity = found.activity


def _serve(
    unit: _Unit, pair: volumes.Pair, outcome: Outcome, operation: "Operation | None" = None
) -> volumes.Pair:
    """Bring server, shares and mirror to what the state says; return the volumes as they are then.

    While an operation is under way a server that runs and its shares stay as they are.
    """
    state, containers = unit.state, unit.containers
    try:
        with pebble_errors():
            started, pair = _ensure_running(unit, pair, operation)
    except CharmError as error:
        cured = isinstance(error, volumes.MismatchError) and _cures(operation)
        outcome.findings += [] if cured else [error]
        return pair
    if pair.marker is not None:
        outcome.build = pair.marker.build
        remember(unit.model, state, pair.marker.instance)
    try:
        known = _reconcile_server(unit, outcome, started=started, held=operation is not None)
        with pebble_errors():
            pair = volumes.record_shares(containers.dittofs, pair, known)
        if outcome.guard is not None:
            restores = operation is not None and operation.kind == "restore"
            outcome.findings += _guard(unit, outcome.guard, held=restores)
    except UnreachableError as error:
        outcome.findings.append(_explanation(containers.dittofs) or error)
    except CharmError as error:
        outcome.findings.append(error)
    # Also beside a server that does not answer: what it wrote is to be in MySQL.
    if state.mysql is not None:
        _mirror(containers.agent, state, pair, outcome)
    return pair


def _ensure_running(
    unit: _Unit, pair: volumes.Pair, operation: "Operation | None"
) -> tuple[bool, volumes.Pair]:
    """Return whether the server was (re)started, and the volumes it runs on."""
    container, state, made = unit.containers.dittofs, unit.state, unit.made
    workload = Workload(container)
    try:
        volumes.need_markers(pair)
        if not _cures(operation):
            pair = _lost_metadata(unit, pair)
        volumes.check(pair, state)
    except CharmError as error:
        workload.stop(f"its volumes may not be served: {error}")
        if isinstance(error, volumes.MismatchError):
            _end(unit.containers.agent, sidecar.MIRROR, sidecar.GUARD)
        raise
    marker = pair.marker
    held = operation is not None
    # Juju lost the passwords, or this is a later life of the application.
    estranged = marker is not None and marker.life != made.life
    if workload.running and (held or not estranged):
        if held or _RESTART_NEEDED & state.faulty:
            return False, pair
        return workload.ensure(state.options, made), pair
    name = workload.name()
    pair.check_server(name, allow_unknown=state.options.allow_unknown_server)
    if not workload.changed(state.options, made):
        workload.check_last_exit()
    workload.stop("its passwords are of another life" if estranged else "it is to be started anew")
    volumes.check_writable(container)
    if estranged:
        import control_plane  # noqa: PLC0415  # most events need no SQLite

        control_plane.forget_admin(container)
    pair = volumes.commit(container, pair, state, made.life, name)
    return workload.ensure(state.options, made), pair


def _cures(operation: "Operation | None") -> bool:
    """Whether what is wrong with the volumes is about to be replaced."""
    return operation is not None and operation.step == "fetch"


def _lost_metadata(unit: _Unit, pair: volumes.Pair) -> volumes.Pair:
    """The pair, its metadata volume brought back from MySQL where it was lost and is there."""
    if pair.metadata.marker is not None and not pair.metadata.recovery:
        return pair
    from recovering import Recovery  # noqa: PLC0415  # most events have nothing to recover

    return Recovery(*unit.containers, unit.state, unit.model).bring_back(pair, unit.made)


def _mirror(agent: ops.Container, state: State, pair: volumes.Pair, outcome: Outcome) -> None:
    """Bring the mirror to what the state says; what is wrong with it is only told."""
    import mirroring  # noqa: PLC0415  # most units have no database

    found = mirroring.reconcile(agent, state, pair)
    outcome.mirrored = found.mirrored
    outcome.findings += found.findings


def _end(agent: ops.Container, *services: sidecar.Service) -> None:
    """End services where they run; a container that is away is of no interest."""
    with suppress(WaitingError):
        sidecar.stop(agent, *services)


def _explanation(container: ops.Container) -> CharmError | None:
    """Why nobody answers, where the server's end says it."""
    try:
        with pebble_errors():
            Workload(container).check_alive()
    except CharmError as error:
        return error
    return None


def _reconcile_server(
    unit: _Unit, outcome: Outcome, *, started: bool, held: bool
) -> dict[str, str]:
    """Bring shares and protocols to the options; return all shares with their backends.

    Where they are held nothing is changed.
    """
    workload, state = Workload(unit.containers.dittofs), unit.state
    restarted = False
    while True:
        wait = _START_WAIT if started else _RESTART_WAIT
        with connect(unit.model, state, unit.made, wait, workload.check_worth_waiting) as api:
            present = Present.ask(api, state.options.shares or ())
            evicting = present.evicting()
            if held or restarted or not evicting:
                outcome.findings += _evicts(evicting)
                present = _reconcile_shares(state, api, present, outcome, held=held)
                # After the repair: the server dies of its metrics page while a name is no UTF-8.
                if started and present.metrics_are_safe:
                    outcome.version = api.version(METRICS_URL)
                return {
                    name: "/".join(present.backends(each)) for name, each in present.shares.items()
                }
        # Somebody made a store that deletes the only copy of files when it is full. The server
        # reads that limit at its start, and what starts it lifts it first.
        with pebble_errors():
            workload.stop("a store of it may delete the only copy of files")
            workload.ensure(state.options, unit.made)
        restarted = started = True


def _guard(unit: _Unit, guard: space_guard.Guard, *, held: bool) -> list[CharmError]:
    """Guard the volumes' space; return what is to be said of it.

    A backup outlives it that the server is started anew, a restore is not disturbed.
    """
    report = space_guard.reconcile(unit.containers.agent, unit.state, unit.model, unit.made, guard)
    if report is None:
        return []
    if report.stuck and not held:
        _write_again(unit, guard, report.stuck)
        return []
    return list(space_guard.findings(report))


def _write_again(unit: _Unit, guard: space_guard.Guard, stuck: Sequence[str]) -> None:
    """Start the server anew without its note that these shares are read-only."""
    workload = Workload(unit.containers.dittofs)
    with pebble_errors():
        workload.stop(f"it keeps read-only what is to be written: {', '.join(stuck)}")
    try:
        space_guard.make_writable(unit.containers.agent, unit.state, unit.model, unit.made, guard)
    finally:
        with pebble_errors():
            workload.ensure(unit.state.options, unit.made)
    with connect(unit.model, unit.state, unit.made, _START_WAIT, workload.check_worth_waiting):
        logger.info("server: writes again: %s", ", ".join(stuck))


def _evicts(names: list[str]) -> list[CharmError]:
    if not names:
        return []
    return [
        WaitingError(
            "the server lifts a limit at which it deletes files at its next start: local stores "
            f"{', '.join(names)}"
        )
    ]


def _reconcile_shares(
    state: State, api: Api, present: Present, outcome: Outcome, *, held: bool
) -> Present:
    """Bring shares and protocols to the options; return what the server has then."""
    wanted = state.options.shares or ()
    space = Space.of(state.volumes["content"])
    divided = shares.divide(state.options, present, space, backups=state.s3 is not None)
    plan = shares.plan(state.options, present, divided)
    outcome.findings += plan.problems
    if plan.steps and not held:
        failed = list(shares.execute(api, plan.steps))
        outcome.findings += failed
        present = shares.settle(api, state.options, plan.steps, present)
        if not failed:
            outcome.findings += shares.undone(state.options, present, divided)
    outcome.findings += shares.unhealthy(state.options, present)
    listed = [found for share in wanted if (found := present.find(share.name))]
    if state.options.shares is not None:
        outcome.guard = space_guard.Guard(divided, shares.guarded(state.options, present))
    if held:
        # What is taken out of the list is served until the list is looked at again.
        left = sorted(present.shares.values(), key=lambda each: each.name)
        listed += [each for each in left if each not in listed and present.made_by_charm(each)]
    outcome.serving = tuple(share.name for share in listed if share.enabled)
    return present
