"""From what Juju says to a server that serves it: the row of steps of the serving unit."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import ops
from pydantic import SecretStr

import credentials
import shares
import sidecar
import volumes
from api import Api, LoginError, UnreachableError
from credentials import Credentials
from errors import BlockedError, CharmError, WaitingError
from state import State
from workload import API_PORT, METRICS_PORT, Workload, pebble_errors

API_URL = f"http://localhost:{API_PORT}"
METRICS_URL = f"http://localhost:{METRICS_PORT}/metrics"

# Longer than the check "ready" needs to fail: a start that takes longer is followed by the event
# that the check has recovered.
_START_WAIT = 45.0
_RESTART_WAIT = 3.0
_RESTART_NEEDED = frozenset({"log-level", "memory"})


@dataclass
class Outcome:
    """What a pass found and did.

    Attributes:
        findings: what stands in the way, in the order it was found.
        serving: the shares served now, None where that is not known.
        version: the server's version, when it was started in this pass.
        mirroring: whether the agent's service was brought up.
        mirrored: whether the metadata is in MySQL, no older than the option allows.
    """

    findings: list[CharmError] = field(default_factory=list[CharmError])
    serving: tuple[str, ...] | None = None
    version: str | None = None
    mirroring: bool = False
    mirrored: bool = False


class Containers(NamedTuple):
    """The two containers of the pod, each with both volumes."""

    dittofs: ops.Container
    agent: ops.Container


def reconcile(containers: Containers, state: State, model: ops.Model) -> Outcome:
    """Bring volumes, server, shares and the mirror to what the state says; idempotent."""
    outcome = Outcome()
    try:
        with pebble_errors():
            if not state.attached:
                Workload(containers.dittofs).stop()
                _end_mirror(containers.agent)
            state.need_volumes()
            made = state.need_credentials()
            started, pair = _ensure_running(containers, state, model, made)
    except CharmError as error:
        outcome.findings.append(error)
        return outcome
    wait = _START_WAIT if started else _RESTART_WAIT
    try:
        with connect(model, state, made, wait) as api:
            if started:
                outcome.version = api.version(METRICS_URL)
            known = _reconcile_shares(state, api, outcome)
        with pebble_errors():
            pair = volumes.record_shares(containers.dittofs, pair, known)
    except UnreachableError as error:
        outcome.findings.append(_explanation(containers.dittofs) or error)
    except CharmError as error:
        outcome.findings.append(error)
    # Also beside a server that does not answer: what it wrote is to be in MySQL.
    _mirror(containers.agent, state, pair, outcome)
    return outcome


@contextmanager
def connect(
    model: ops.Model, state: State, made: Credentials, wait: float = 0.0
) -> Generator[Api]:
    """Yield the API, logged in; the wanted admin password is applied on the way.

    Args:
        model: where the passwords are kept.
        state: says which password is wanted.
        made: the credentials that the server was started with.
        wait: seconds to wait for the server's first answer.

    Raises:
        UnreachableError: nobody answers.
        BlockedError: the server has a password that the charm does not know.
    """
    with Api(API_URL) as api:
        api.wait_ready(wait)
        _login(model, state, made, api)
        yield api


def shut_down(containers: Containers, state: State, model: ops.Model) -> list[CharmError]:
    """Drain and stop the server, then the mirror, in bounded time; return what did not go well."""
    problems: list[CharmError] = []
    workload = Workload(containers.dittofs)
    try:
        with pebble_errors():
            running = workload.running
        if running and state.credentials:
            with connect(model, state, state.credentials) as api:
                api.drain()
    except CharmError as error:
        problems.append(error)
    try:
        with pebble_errors():
            workload.stop()
    except CharmError as error:
        problems.append(error)
    try:
        if state.mysql is None:
            sidecar.stop(containers.agent)
        else:
            import mirroring  # noqa: PLC0415  # most units have no database

            mirroring.finish(containers.agent)
    except CharmError as error:
        problems.append(error)
    return problems


def content_capacity(state: State) -> int:
    """What a share may use of the content volume, in bytes, from the size of its file system."""
    info = os.statvfs(state.volumes["content"])
    return shares.content_capacity(info.f_blocks * info.f_frsize)


def _ensure_running(
    containers: Containers, state: State, model: ops.Model, made: Credentials
) -> tuple[bool, volumes.Pair]:
    """Return whether the server was (re)started, and the volumes it runs on."""
    container = containers.dittofs
    workload = Workload(container)
    try:
        pair = _lost_metadata(containers, state, model, volumes.look(container), made)
        volumes.check(pair, state)
    except CharmError as error:
        workload.stop()
        if isinstance(error, volumes.MismatchError):
            _end_mirror(containers.agent)
        raise
    marker = pair.marker
    # Juju lost the passwords, or this is a later life of the application.
    estranged = marker is not None and marker.life != made.life
    if workload.running and not estranged:
        if _RESTART_NEEDED & state.faulty:
            return False, pair
        return workload.ensure(state.options, made), pair
    workload.check_last_exit()
    workload.stop()
    volumes.check_writable(container)
    if estranged:
        import control_plane  # noqa: PLC0415  # most events need no SQLite

        control_plane.forget_admin(container)
    pair = volumes.commit(container, pair, state, made.life)
    return workload.ensure(state.options, made), pair


def _lost_metadata(
    containers: Containers, state: State, model: ops.Model, pair: volumes.Pair, made: Credentials
) -> volumes.Pair:
    """The pair, its metadata volume brought back from MySQL where it was lost and is there."""
    if pair.metadata.marker is not None and not pair.metadata.recovery:
        return pair
    from recovering import Recovery  # noqa: PLC0415  # most events have nothing to recover

    return Recovery(*containers, state, model).bring_back(pair, made)


def _mirror(agent: ops.Container, state: State, pair: volumes.Pair, outcome: Outcome) -> None:
    """Bring the mirror to what the state says; what is wrong with it is only told."""
    if state.mysql is None:
        _end_mirror(agent)
        return
    import mirroring  # noqa: PLC0415  # most units have no database

    found = mirroring.reconcile(agent, state, pair)
    outcome.mirroring, outcome.mirrored = found.running, found.mirrored
    outcome.findings += found.findings


def _end_mirror(agent: ops.Container) -> None:
    """End the mirror where it runs; a container that is away is of no interest."""
    with suppress(WaitingError):
        sidecar.stop(agent)


def _explanation(container: ops.Container) -> CharmError | None:
    """Why nobody answers, where the server's end says it."""
    try:
        with pebble_errors():
            Workload(container).check_alive()
    except CharmError as error:
        return error
    return None


def _login(model: ops.Model, state: State, made: Credentials, api: Api) -> None:
    wanted = state.admin_password
    if wanted is not None and _accepts(api, wanted):
        credentials.remember_password(model, wanted)
        return
    for known in credentials.known_passwords(model, made):
        if known != wanted and _accepts(api, known):
            if wanted is not None:
                api.change_password(known, wanted)
            credentials.remember_password(model, wanted or known)
            return
    raise BlockedError(
        "the password of the server's user admin was changed behind the charm: put the present "
        "one into a Juju secret, grant it, and set the option admin-password to it"
    )


def _accepts(api: Api, password: SecretStr) -> bool:
    try:
        api.login(password)
    except LoginError:
        return False
    return True


def _reconcile_shares(state: State, api: Api, outcome: Outcome) -> dict[str, str]:
    """Bring shares and protocols to the options; return all shares with their backends."""
    wanted = state.options.shares or ()
    present = shares.Present.ask(api, wanted)
    plan = shares.plan(state.options, present, content_capacity(state))
    outcome.findings += plan.problems
    outcome.findings += shares.execute(api, plan.steps)
    if plan.steps:
        present = shares.settle(api, state.options, plan.steps, present)
    outcome.findings += shares.unhealthy(state.options, present)
    outcome.serving = tuple(
        share.name
        for share in wanted
        if (found := present.shares.get(share.name)) and found.enabled
    )
    return {name: "/".join(present.backends(found)) for name, found in present.shares.items()}
