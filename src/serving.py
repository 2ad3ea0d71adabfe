"""From what Juju says to a server that serves it: the row of steps of the serving unit."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import ops
from pydantic import SecretStr

import control_plane
import credentials
import shares
import volumes
from api import Api, LoginError, UnreachableError
from credentials import Credentials
from errors import BlockedError, CharmError
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
    """

    findings: list[CharmError] = field(default_factory=list[CharmError])
    serving: tuple[str, ...] | None = None
    version: str | None = None


def reconcile(container: ops.Container, state: State, model: ops.Model) -> Outcome:
    """Bring volumes, server, stores, shares and protocols to what the state says; idempotent."""
    outcome = Outcome()
    try:
        with pebble_errors():
            if not state.attached:
                Workload(container).stop()
            state.need_volumes()
            made = state.need_credentials()
            started, pair = _ensure_running(container, state, made)
        with connect(model, state, made, _START_WAIT if started else _RESTART_WAIT) as api:
            if started:
                outcome.version = api.version(METRICS_URL)
            known = _reconcile_shares(state, api, outcome)
        with pebble_errors():
            volumes.record_shares(container, pair, known)
    except UnreachableError as error:
        outcome.findings.append(_explanation(container) or error)
    except CharmError as error:
        outcome.findings.append(error)
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


def shut_down(container: ops.Container, state: State, model: ops.Model) -> list[CharmError]:
    """Drain and stop the server, in bounded time; return what did not go well."""
    problems: list[CharmError] = []
    workload = Workload(container)
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
    return problems


def content_capacity(state: State) -> int:
    """What a share may use of the content volume, in bytes, from the size of its file system."""
    info = os.statvfs(state.volumes["content"])
    return shares.content_capacity(info.f_blocks * info.f_frsize)


def _ensure_running(
    container: ops.Container, state: State, made: Credentials
) -> tuple[bool, volumes.Pair]:
    """Return whether the server was (re)started, and the volumes it runs on."""
    workload = Workload(container)
    pair = volumes.look(container)
    try:
        volumes.check(pair, state)
    except volumes.MismatchError:
        workload.stop()
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
        control_plane.forget_admin(container)
    pair = volumes.commit(container, pair, state, made.life)
    return workload.ensure(state.options, made), pair


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
