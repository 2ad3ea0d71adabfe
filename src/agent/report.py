"""What the agent says of itself: status.json for the charm, /metrics and /health over HTTP."""

import contextlib
import http.server
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

logger = logging.getLogger(__name__)

PORT = 9091
STATUS = "status.json"
_AT_LEAST_EVERY = 5.0
_AT_MOST_EVERY = 0.2


@dataclass
class Progress:
    """Of something long: `total` None where it is not known."""

    what: str
    total: int | None = None
    rows: int = 0
    bytes: int = 0
    began: float = field(default_factory=time.monotonic)

    def as_json(self) -> dict[str, Any]:
        """For status.json: rows and bytes so far, rows a second, seconds left."""
        elapsed = max(time.monotonic() - self.began, 1e-6)
        rate = self.rows / elapsed
        left = (self.total - self.rows) / rate if self.total and rate else None
        return {
            "what": self.what,
            "rows": self.rows,
            "bytes": self.bytes,
            "total": self.total,
            "rate": round(rate),
            "eta": None if left is None else max(round(left), 0),
        }


class Report:
    """The present state of the agent; every thread may change it."""

    def __init__(self, directory: Path, max_lag: float):
        self._directory = directory
        self._max_lag = max_lag
        self._lock = threading.RLock()
        self._written_at = 0.0
        self._equal_at = time.monotonic()
        self._due = True
        self.counters: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._status: dict[str, Any] = {
            "state": "starting",
            "kind": "",
            "message": "",
            "since": time.time(),
            "behind-bytes": 0,
            "behind-transactions": 0,
            "mysql": {},
            "mirror": None,
            "progress": None,
            "stores": [],
            "control-plane": {"copied": None},
            "verified": None,
        }

    def state(self, state: str, kind: str = "", message: str = "", **fields: Any) -> None:
        """Set the state; the time it began stays where only the text changes."""
        with self._lock:
            if (state, kind) != (self._status["state"], self._status["kind"]):
                self._status["since"] = time.time()
                self._due = True
            self._status |= {"state": state, "kind": kind, "message": message, **fields}

    def set(self, **fields: Any) -> None:
        """Change other fields; `_` in a name stands for `-`."""
        with self._lock:
            before = self._news()
            self._status |= {name.replace("_", "-"): value for name, value in fields.items()}
            self._due = self._due or self._news() != before

    def equal(self, at: float) -> None:
        """MySQL was equal to all stores at this time of the monotonic clock, as far as is known.

        Who does not say it any more, because a thread hangs, falls behind by that.
        """
        self._equal_at = at

    @property
    def lag(self) -> float:
        """Seconds since MySQL was seen to be equal to all stores."""
        return round(max(time.monotonic() - self._equal_at, 0.0), 3)

    def flush(self, *, now: bool = False) -> None:
        """Write status.json where it is due."""
        with self._lock:
            age = time.monotonic() - self._written_at
            if not now and (age < _AT_MOST_EVERY or (age < _AT_LEAST_EVERY and not self._due)):
                return
            self._due = False
            self._written_at = time.monotonic()
            present = self._status | {"lag": self.lag, "updated": time.time()}
            text = json.dumps(present, sort_keys=True)
            target = self._directory / STATUS
            temporary = target.with_suffix(".new")
            # A full disk of the pod is no reason to stop mirroring.
            with contextlib.suppress(OSError):
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(target)

    def _news(self) -> object:
        """What is worth writing at once: all but the figures that change all the time."""
        status = self._status
        stores = [{**each, "lag": None} for each in status["stores"]]
        return stores, status["verified"], status["control-plane"], status["mysql"]

    def healthy(self) -> tuple[bool, str]:
        """Whether all is well, and what is to be said of it."""
        with self._lock:
            status = self._status
            lag = self.lag
            if status["state"] == "mirroring" and lag > self._max_lag:
                return False, f"{lag:.0f} s behind"
            well = status["state"] in {"mirroring", "recovered"}
            return well, status["message"] or str(status["state"])

    def metrics(self) -> str:
        """In Prometheus' text format."""
        with self._lock:
            status = dict(self._status)
            counters, errors = dict(self.counters), dict(self.errors)
        verified: dict[str, float] = status["verified"] or {}
        gauges: Mapping[str, tuple[str, float]] = {
            "lag_seconds": ("Since MySQL was seen to be equal to the stores.", self.lag),
            "behind_bytes": ("Log bytes that wait for MySQL.", status["behind-bytes"]),
            "behind_transactions": (
                "Transactions that wait for MySQL.",
                status["behind-transactions"],
            ),
            "up": ("1 while mirroring or recovered.", float(self.healthy()[0])),
            "last_verify_timestamp_seconds": (
                "When both sides were compared.",
                verified.get("at", 0),
            ),
            "last_verify_equal": ("1 if they were equal.", float(verified.get("equal", 0))),
        }
        lines: list[str] = []
        for name, (text, value) in gauges.items():
            lines += metric(_PREFIX + name, "gauge", text, {"": value})
        for name, text in _COUNTERS.items():
            lines += metric(_PREFIX + name, "counter", text, {"": counters.get(name, 0)})
        kinds = {f'{{kind="{kind}"}}': count for kind, count in sorted(errors.items())}
        lines += metric(f"{_PREFIX}errors_total", "counter", "Errors by kind.", kinds)
        rows = {
            f'{{store="{_escaped(each["name"])}"}}': each["rows"]
            for each in status["stores"]
            if each.get("rows") is not None
        }
        lines += metric(f"{_PREFIX}store_rows", "gauge", "Rows in MySQL, as last counted.", rows)
        return "\n".join(lines) + "\n"


_PREFIX = "dittofs_mirror_"
_COUNTERS = {
    "rows_total": "Rows written to MySQL.",
    "transactions_total": "Transactions of the stores that reached MySQL.",
    "batches_total": "Transactions in MySQL.",
    "scans_total": "Comparisons in full, and first copies.",
    "control_plane_copies_total": "Copies of the control plane.",
}


def metric(name: str, kind: str, text: str, values: Mapping[str, float]) -> list[str]:
    """The lines of a metric in Prometheus' text format; `values` by their labels."""
    return [
        f"# HELP {name} {text}",
        f"# TYPE {name} {kind}",
        *(f"{name}{labels} {value!r}" for labels, value in values.items()),
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


class Watched(Protocol):
    """What a service says of itself."""

    def healthy(self) -> tuple[bool, str]: ...  # noqa: D102  # the class docstring says it
    def metrics(self) -> str: ...  # noqa: D102  # the class docstring says it


class Server:
    """Answers /health and /metrics in a thread of its own.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, report: Watched, port: int = PORT, host: str = ""):
        handler = type("Handler", (_Handler,), {"report": report})
        self._server = http.server.ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    report: ClassVar[Watched]
    timeout = 5.0  # seconds for who has connected to ask

    def do_GET(self) -> None:
        if self.path == "/health":
            well, text = self.report.healthy()
            self._answer(200 if well else 503, text + "\n")
        elif self.path == "/metrics":
            self._answer(200, self.report.metrics())
        else:
            self._answer(404, "see /health and /metrics\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class' name
        """Nothing: the checks of every few seconds are no news."""

    def _answer(self, code: int, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)


def listen(report: Watched, port: int) -> Server | None:
    """Be watched on a port; None where it is taken: the work matters more."""
    try:
        return Server(report, port)
    except OSError as error:
        logger.warning("port %s: %s; no health check and no metrics", port, error.strerror)
        return None


def read_status(directory: Path) -> dict[str, Any] | None:
    """What an agent wrote last; None where there is nothing."""
    try:
        return json.loads((directory / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
