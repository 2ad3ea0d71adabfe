"""The mirror of the metadata in MySQL, beside a server that serves: nothing here stops it."""

import functools
import json
import time
from dataclasses import dataclass, field

import ops
from pydantic import SecretStr

import mirror_status
from deadline import EVENT
from errors import BlockedError, CharmError, UnreadError
from mirror_status import Report
from relations.mysql import Database
from sidecar import Agent, agent_errors
from state import State
from volumes import Marker, Pair

# The agent looks at a store of some thousand files in this time: a status worth showing.
_START_WAIT = 10.0
_LAST_WAIT = 6.0
_POLL = 0.2
_BUSY = frozenset({"starting", "scanning", "recovering"})


@dataclass
class Outcome:
    """What a pass found.

    Attributes:
        findings: what is to be said of the mirror.
        mirrored: whether the metadata is in MySQL, no older than the option allows.
    """

    findings: list[CharmError] = field(default_factory=list[CharmError])
    mirrored: bool = False


def settings(state: State, marker: Marker | None, key: SecretStr | None = None) -> bytes:
    """The mirror's settings; `key` in place of the application's own, no `marker` where none is.

    Raises:
        BlockedError: no database is related.
        WaitingError: the database or the key is not there yet.
    """
    if state.mysql is None:
        raise BlockedError(
            f"no database is related: juju integrate {state.application}:mysql <database>"
        )
    database = state.mysql.need_database()
    used = key or state.need_mirror_key()
    return json.dumps(
        {
            "instance": marker.instance if marker else "",
            "generation": marker.generation if marker else 0,
            "application": state.application,
            "model": state.model_name,
            "model_uuid": state.model_uuid,
            "marker": marker.model_dump_json() if marker else "",
            "mysql": _mysql(database),
            "control_plane_key": used.get_secret_value(),
            "max_lag": state.options.mirror_max_lag,
            "log_level": state.options.log_level,
        },
        sort_keys=True,
        indent=1,
    ).encode()


def reconcile(container: ops.Container, state: State, pair: Pair) -> Outcome:
    """Run the mirror of a pair that is served."""
    outcome = Outcome()
    agent = Agent(container)
    try:
        with agent_errors():
            source = state.source(pair.marker.model_dump_json() if pair.marker else "")
            make = functools.partial(settings, state, pair.marker)
            started = agent.ensure_from(source, make, ["mirror"], idle=state.idle)
            report = settle(agent) if started else read(agent)
    except CharmError as error:
        outcome.findings.append(error)
        return outcome
    outcome.findings += mirror_status.findings(report, state.options.mirror_max_lag)
    if outcome.findings and state.idle:
        # It may have settings that Juju has others for by now.
        raise UnreadError
    outcome.mirrored = report.state == "mirroring" and not outcome.findings
    return outcome


def finish(container: ops.Container) -> None:
    """End the agent for good, after the server: it gets a moment for what was written last.

    Raises:
        WaitingError: Pebble is away, or the agent is not done yet; it goes on by itself.
    """
    with agent_errors():
        Agent(container).finish(EVENT.left(_LAST_WAIT))


def look(container: ops.Container) -> Report:
    """What the agent said last.

    Raises:
        WaitingError: its container is away.
    """
    with agent_errors():
        return read(Agent(container))


def read(agent: Agent) -> Report:
    """What the agent says now. Belongs inside `agent_errors()`."""
    return mirror_status.parse(agent.status())


def settle(agent: Agent) -> Report:
    """What the agent says after its start, when it has done what it begins with, or 10 s later.

    Belongs inside `agent_errors()`.
    """
    end = time.monotonic() + EVENT.left(_START_WAIT)
    while True:
        report = read(agent)
        if report.state not in _BUSY or time.monotonic() > end:
            return report
        time.sleep(_POLL)


def _mysql(database: Database) -> dict[str, object]:
    return {
        "endpoints": [list(each) for each in database.endpoints],
        "user": database.user.get_secret_value(),
        "password": database.password.get_secret_value(),
        "database": database.name,
        "tls": database.tls,
        "ca": database.ca,
    }
