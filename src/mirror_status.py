"""What the agent says of the mirror, typed, and what a person has to know of it."""

import time
from collections.abc import Iterator
from urllib.parse import unquote

from pydantic import ValidationError

from errors import BlockedError, CharmError, WaitingError
from said import Part, age, moment, span

# The agent writes its status at least every 5 s: what is older is not known any more.
_WRITTEN_EVERY = 5.0
_SILENT = 60.0
_SHOWN = 3
# fmt: off
_REMEDIED = frozenset({
    "password", "login", "locked", "expired", "rights", "host", "host-blocked", "database", "tls",
    "binlog", "connections", "limit", "tables", "transaction", "engine", "packet",
})
# fmt: on
"""The agent's words for faults of MySQL of which the message begins with what to do."""
A_PERSON_ACTS = _REMEDIED | {"schema", "key", "config", "sql"}
"""All its words for faults that do not pass."""


class Holder(Part):
    """Whose metadata a database holds; `updated`: when it was written last, unix time."""

    instance: str
    application: str = "unknown"
    model: str = "unknown"
    updated: float | None = None

    def __str__(self) -> str:
        """For people."""
        written = "" if self.updated is None else f", last written {age(self.updated)} ago"
        return f"instance {self.instance} ({self.application} in the model {self.model}{written})"


class Progress(Part):
    """Of something long; `eta` in seconds."""

    what: str = "work"
    rows: int = 0
    total: int | None = None
    rate: float | None = None
    eta: float | None = None

    def __str__(self) -> str:
        """For people."""
        whole = f" of {self.total} ({100 * self.rows // self.total} %)" if self.total else ""
        left = "" if self.eta is None else f", {span(self.eta)} left"
        return f"{self.what}, {self.rows}{whole} rows{left}"


class Store(Part):
    """The metadata of one share; `name` as it stands in paths, `lag` in seconds."""

    name: str
    state: str = "unknown"
    rows: int | None = None
    lag: float = 0.0
    message: str = ""

    @property
    def share(self) -> str:
        """The name of its share."""
        return "/" + unquote(self.name)


class Mysql(Part):
    """Where the metadata is."""

    version: str | None = None
    endpoint: str | None = None


class Copied(Part):
    """When the control plane was copied, unix time."""

    copied: float | None = None


class Verified(Part):
    """The last comparison of both sides."""

    at: float
    equal: bool


class Report(Part):
    """The agent's status.json; times in unix time, `lag` in seconds."""

    state: str = "starting"
    kind: str = ""
    message: str = ""
    since: float = 0.0
    updated: float = 0.0
    lag: float = 0.0
    behind_bytes: int = 0
    behind_transactions: int = 0
    mysql: Mysql = Mysql()
    mirror: Holder | None = None
    progress: Progress | None = None
    stores: tuple[Store, ...] = ()
    control_plane: Copied = Copied()
    verified: Verified | None = None

    @property
    def behind(self) -> float:
        """Seconds since MySQL was seen to be equal; what is not said any more counts as well."""
        return self.lag + max(time.time() - self.updated - _WRITTEN_EVERY, 0.0)

    @property
    def silent(self) -> bool:
        """Whether it is too old to be true."""
        return time.time() - self.updated > _SILENT


def parse(text: bytes | None) -> Report:
    """Read status.json; what is not there or makes no sense is a start."""
    try:
        return Report.model_validate_json(text or b"{}")
    except ValidationError:
        return Report()


def findings(report: Report, max_lag: int) -> Iterator[CharmError]:
    """What is to be said of the mirror; nothing where all is well.

    Args:
        report: of an agent that mirrors, or tries to.
        max_lag: how many seconds behind the server is no news.
    """
    if report.state != "starting" and report.silent:
        yield WaitingError(f"mysql: the mirror has said nothing since {moment(report.updated)}")
    else:
        yield from _of_state(report, max_lag)
    yield from _of_stores(report.stores)


def foreign(holder: Holder | None) -> str:
    """That a database belongs to somebody else, and to whom."""
    whose = str(holder) if holder else "another instance"
    return f"this database holds the metadata of {whose}"


def _of_state(report: Report, max_lag: int) -> Iterator[CharmError]:
    reason = f": {report.message}" if report.message else ""
    match report.state:
        case "mirroring":
            if report.behind > max_lag:
                yield WaitingError(
                    f"mysql: {span(report.behind)} behind the server, more than mirror-max-lag "
                    f"({max_lag} s)"
                )
        case "scanning":
            progress = f": {report.progress}" if report.progress else ""
            yield WaitingError(f"mysql: the metadata is being copied to MySQL{progress}")
        case "away":
            yield WaitingError(
                f"mysql: away since {moment(report.since)}{reason}",
                more="the server serves on, and what it writes is copied later",
            )
        case "blocked" if report.kind == "foreign":
            yield BlockedError(
                "mysql: relate a fresh database or remove the relation: it has another's metadata",
                more=f"{foreign(report.mirror)}, and is left untouched; its tables dittofs_* can "
                "be dropped where nobody needs them; the server serves on",
            )
        case "blocked" if report.kind == "store":
            return  # said of the store
        case "blocked":
            remedied = report.message and report.kind in _REMEDIED
            text = report.message if remedied else f"the mirror cannot go on{reason}"
            yield BlockedError(f"mysql: {text}", more="the server serves on")
        case _:
            yield WaitingError(f"mysql: the mirror is {report.state}{reason}")


def _of_stores(stores: tuple[Store, ...]) -> Iterator[CharmError]:
    gone = [store.share for store in stores if store.state == "gone"]
    if gone:
        others = f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
        yield BlockedError(
            "mysql: bring the metadata volume back or run delete-share: "
            f"{', '.join(gone[:_SHOWN])}{others} vanished from it",
            more="the metadata in MySQL is kept",
        )
    for store in stores:
        if store.state == "error":
            yield WaitingError(
                f"mysql: {store.share} is not mirrored, which is tried again: {store.message}"
            )
