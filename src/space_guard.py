"""The agent's guard of the volumes' space: its settings, its service, and what it says.

A quota of the server is no bound that can be set once: it counts removed files for ever, and a
share without one fills the volume. So the guard, a service that always runs beside the server,
moves the quotas of the shares on the content volume: while a volume is short of space, or the
shares hold all that there is room for, none of their files may grow; and the option's quota is
given on top of what removed files count for. While next to nothing is left, nothing is written.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import ops
from pydantic import Field, ValidationError

import credentials
from budget import REMEDIES, Budget, Space
from credentials import Credentials
from deadline import EVENT
from errors import BlockedError, CharmError, WaitingError
from said import Part, moment
from shares import Guarded
from sidecar import GUARD, Agent, agent_errors
from state import State
from units import format_size
from workload import API_URL, METRICS_URL

# It writes every few seconds, and cannot set a quota while the server starts.
_SILENT = 60.0
# Millions of files take seconds to count, and one share waits for the others.
_COUNTING = 900.0
_START_WAIT = 8.0
_POLL = 0.1
_WRITABLE_TIMEOUT = 60.0

logger = logging.getLogger(__name__)


class ShareReport(Part):
    """The quota of a share, in bytes: the option's, what removed files count for, the server's."""

    quota: int = 0
    removed: int = 0
    limit: int = 0


class Report(Part):
    """The guard's guard-status.json; times in unix time, sizes in bytes.

    Attributes:
        short: the volumes that have too little space, since `since`.
        full: whether the shares hold all that there is room for, since `since`.
        halted: the shares in which nothing can be written.
        stuck: the shares that the server keeps read-only although they may be written, until it
            is made to forget that while it is down.
        free: what each volume has free.
        error: why the server does not take what the guard wants, since `error_since`.
        counting_since: when the oldest count of removed files that runs was asked for.
    """

    updated: float = 0.0
    short: tuple[str, ...] = ()
    full: bool = False
    halted: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    since: float = 0.0
    free: dict[str, int] = Field(default_factory=dict[str, int])
    error: str = ""
    error_since: float | None = None
    counting_since: float | None = None
    shares: dict[str, ShareReport] = Field(default_factory=dict[str, ShareReport])


@dataclass(frozen=True)
class Guard:
    """What is to be guarded: a content volume as it is divided, and the shares on it."""

    budget: Budget
    shares: tuple[Guarded, ...]


def reconcile(
    container: ops.Container, state: State, model: ops.Model, made: Credentials, guard: Guard
) -> Report | None:
    """Run the guard beside a server that serves; return what it says, None without a guard.

    Raises:
        CharmError: it cannot be run.
    """
    with agent_errors():
        agent = Agent(container, GUARD)
        if not guard.shares:
            agent.stop()
            return None
        started = agent.ensure(_settings(state, model, made, guard), ["guard"])
        return _settle(agent) if started else parse(agent.status())


def make_writable(
    container: ops.Container, state: State, model: ops.Model, made: Credentials, guard: Guard
) -> None:
    """Let shares be written that the server keeps read-only; it must be down.

    Raises:
        CharmError: it cannot be done now.
    """
    with agent_errors():
        agent = Agent(container, GUARD)
        settings = _settings(state, model, made, guard)
        answer = agent.execute(settings, ["make-writable"], _WRITABLE_TIMEOUT)
        agent.restart("the server forgets what it kept read-only")
    said = " ".join(answer.text.split())[:500]
    logger.info("space guard: %s", said)
    if answer.code:
        raise WaitingError(
            "see juju debug-log: the server keeps shares read-only that are to be written",
            more=said,
        )


def look(container: ops.Container) -> Report:
    """What the guard said last.

    Raises:
        WaitingError: its container is away.
    """
    with agent_errors():
        return parse(Agent(container, GUARD).status())


def parse(text: bytes | None) -> Report:
    """Read guard-status.json; what is not there or makes no sense is a start."""
    try:
        return Report.model_validate_json(text or b"{}")
    except ValidationError:
        return Report()


def findings(report: Report) -> Iterator[CharmError]:
    """What is to be said of it; nothing where there is space."""
    now = time.time()
    if not report.updated:
        yield WaitingError(
            "the guard of the volumes does not work yet: see the log of the agent's container"
        )
    elif now - report.updated > _SILENT:
        yield WaitingError(
            f"the guard of the volumes has said nothing since {moment(report.updated)}"
        )
    elif report.error_since and now - report.error_since > _SILENT:
        yield WaitingError(f"the guard of the volumes cannot set a quota: {report.error}")
    if report.counting_since and now - report.counting_since > _COUNTING:
        yield WaitingError(
            "a share may refuse files too early: the guard counts removed files since "
            f"{moment(report.counting_since)}",
            more="see the log of the agent's container",
        )
    what = "nothing can be written" if report.halted else "no file can grow"
    since = f"since {moment(report.since)}"
    for name in report.short:
        left = format_size(report.free.get(name, 0))
        remedy = REMEDIES.get(name, f"enlarge the {name} volume")
        yield BlockedError(f"{remedy}: {what}, {left} are left", more=since)
    if report.full:
        yield BlockedError(
            f"{REMEDIES['content']}: {what}",
            more=f"the shares hold all that it has room for, {since}",
        )


def _settle(agent: Agent) -> Report:
    """What it says after its start, when it has looked at the volumes, or 8 s later."""
    end = time.monotonic() + EVENT.left(_START_WAIT)
    while True:
        report = parse(agent.status())
        if report.updated or time.monotonic() > end:
            return report
        time.sleep(_POLL)


def _settings(state: State, model: ops.Model, made: Credentials, guard: Guard) -> bytes:
    metadata = Space.of(state.volumes["metadata"])
    return json.dumps(
        {
            "api": {
                "url": API_URL,
                "metrics": METRICS_URL,
                "user": "admin",
                "password": credentials.present_password(model, made).get_secret_value(),
            },
            "volumes": {
                "content": guard.budget.bounds._asdict(),
                "metadata": metadata.metadata_bounds._asdict(),
            },
            "room": guard.budget.room,
            "shares": {
                each.name: {
                    "quota": each.share.quota,
                    "read_only": each.share.read_only,
                    "store": each.store,
                }
                for each in guard.shares
            },
            "log_level": state.options.log_level,
        },
        sort_keys=True,
        indent=1,
    ).encode()
