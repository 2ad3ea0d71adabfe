"""What the program of backups says of itself: a file for the charm, and metrics.

The file is lost with the pod, so what has to be remembered is kept on the metadata volume, too. A
volume that is full is no reason to stop.
"""

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.archive.progress import SILENCE
from agent.archive.request import Request
from agent.report import metric

STATUS = "backup-status.json"
_MEMORY = "status.json"
_AT_MOST_EVERY = 0.2
_MOST_ATTEMPTS = 5


class Status:
    """The present state; every thread may change it.

    Args:
        run: the folder of the program's own files.
        notes: the folder on the volume.
        instance: of the volumes; what is remembered of another one is forgotten. Empty: not known.
    """

    def __init__(self, run: Path, notes: Path, instance: str = ""):
        self._run, self._notes = run, notes
        self._lock = threading.RLock()
        self._written_at = 0.0
        self._silent_from = time.monotonic() + SILENCE
        self._state: dict[str, Any] = {
            "operation": None,
            "due": False,
            "overdue": False,
            "next": None,
            "last-success": None,
            "last-failure": None,
            "failures": 0,
            "scheduled-since": None,
        }
        begun = dict(self._state)
        self._state |= {"standing": "", "instance": ""} | _read(run / STATUS, notes / _MEMORY)
        if instance and self._state["instance"] not in {"", instance}:
            self._state |= {name: value for name, value in begun.items() if name != "operation"}
            self._state["standing"] = ""
        self._state["instance"] = instance or self._state["instance"]
        self._write()

    def __getitem__(self, name: str) -> Any:
        """A field as it is in the file."""
        with self._lock:
            return self._state[name]

    def set(self, **fields: Any) -> None:
        """Change fields; `_` in a name stands for `-`. Written where they differ."""
        with self._lock:
            before = dict(self._state)
            self._state |= {name.replace("_", "-"): value for name, value in fields.items()}
            if self._state != before:
                self._write(remember=True)

    def finished(self, request: Request) -> bool:
        """Whether this step was done, or has failed for good."""
        found = self._of(request)
        return found is not None and found["state"] != "running"

    def begin(self, request: Request) -> bool:
        """Note that a step is begun; False where it was begun too often without an end."""
        with self._lock:
            found = self._of(request)
            attempts = (found["attempts"] if found else 0) + 1
            now = time.time()
            self._state["operation"] = {
                "id": request.id,
                "kind": request.kind,
                "step": request.step,
                "state": "running",
                "message": "starting",
                "error-kind": "",
                "began": found["began"] if found else now,
                "updated": now,
                "bytes-done": 0,
                "bytes-total": 0,
                "attempts": attempts,
                "result": {},
            }
            self._write(remember=True)
            return attempts <= _MOST_ATTEMPTS

    @property
    def may_begin_again(self) -> bool:
        """Whether the step that runs was not begun too often yet."""
        with self._lock:
            return self._state["operation"]["attempts"] < _MOST_ATTEMPTS

    def alive(self, silence: float) -> None:
        """The work goes on, and is heard of again within so many seconds."""
        self._silent_from = time.monotonic() + silence

    @property
    def silent(self) -> bool:
        """Whether the work was not heard of for longer than anything in it takes."""
        return time.monotonic() > self._silent_from

    def told(self, message: str, done: int | None, total: int | None) -> None:
        """How far it is."""
        with self._lock:
            is_new = message != self._state["operation"]["message"]
            self._operation(message=message)
            if done is not None and total is not None:
                self._operation(**{"bytes-done": done, "bytes-total": total})
            # Nothing more may be said for long.
            if is_new or time.monotonic() - self._written_at > _AT_MOST_EVERY:
                self._write()

    def interrupted(self) -> None:
        """The program was told to end: that is no attempt that failed."""
        with self._lock:
            found = self._state["operation"]
            if found and found["state"] == "running":
                self._operation(attempts=found["attempts"] - 1)
                self._write(remember=True)

    def done(self, result: Mapping[str, Any]) -> None:
        """A step is done."""
        with self._lock:
            self._operation(state="done", message="done", result=dict(result))
            if "problem" in result:
                self._state["standing"] = result["problem"]
            if self._state["operation"]["kind"] == "create":
                self._state["last-success"] = {
                    "id": result["backup-id"],
                    "at": time.time(),
                    "size": result["size"],
                    "uploaded": result["uploaded"],
                    "duration": result["duration"],
                }
            self._write(remember=True)

    def failed(self, kind: str, text: str) -> None:
        """A step has failed for good."""
        with self._lock:
            self._operation(state="failed", message=text, **{"error-kind": kind})
            if self._state["operation"]["kind"] == "create":
                self._state["last-failure"] = {"at": time.time(), "kind": kind, "text": text}
                self._state["failures"] += 1
            self._write(remember=True)

    def healthy(self) -> tuple[bool, str]:
        """That it answers at all."""
        return True, "ok"

    def metrics(self) -> str:
        """In Prometheus' text format."""
        with self._lock:
            state = dict(self._state)
        success: Mapping[str, float] = state["last-success"] or {}
        failure: Mapping[str, float] = state["last-failure"] or {}
        running = bool(state["operation"] and state["operation"]["state"] == "running")
        gauges: Mapping[str, tuple[str, float]] = {
            "last_success_timestamp_seconds": (
                "When the last backup was made.",
                success.get("at", 0),
            ),
            "last_failure_timestamp_seconds": ("When one failed last.", failure.get("at", 0)),
            "last_duration_seconds": ("Of the last backup.", success.get("duration", 0)),
            "last_size_bytes": ("What the last backup holds.", success.get("size", 0)),
            "last_uploaded_bytes": ("What was sent for it.", success.get("uploaded", 0)),
            "next_timestamp_seconds": ("When the next is due, 0: never.", state["next"] or 0),
            "overdue": ("1 where two turns were missed.", float(state["overdue"])),
            "operation_running": ("1 while something is done.", float(running)),
            "problem": (
                "1 where something in the bucket is damaged, or could not be deleted.",
                float(bool(state["standing"])),
            ),
        }
        lines: list[str] = []
        for name, (text, value) in gauges.items():
            lines += metric(f"dittofs_backup_{name}", "gauge", text, {"": value})
        lines += metric(
            "dittofs_backup_failures_total",
            "counter",
            "Backups that failed.",
            {"": float(state["failures"])},
        )
        return "\n".join(lines) + "\n"

    def _of(self, request: Request) -> dict[str, Any] | None:
        with self._lock:
            found = self._state["operation"]
            same = found and (found["id"], found["step"]) == (request.id, request.step)
            return found if same else None

    def _operation(self, **fields: Any) -> None:
        self._state["operation"] |= {**fields, "updated": time.time()}

    def _write(self, *, remember: bool = False) -> None:
        self._written_at = time.monotonic()
        text = json.dumps(self._state | {"updated": time.time()}, sort_keys=True)
        _replace(self._run / STATUS, text)
        if remember:
            _replace(self._notes / _MEMORY, text)


def _read(*places: Path) -> dict[str, Any]:
    """What was written last, from the first place that has something."""
    for place in places:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(place.read_text(encoding="utf-8")))
    return {}


def _replace(target: Path, text: str) -> None:
    temporary = target.with_suffix(".new")
    with contextlib.suppress(OSError):
        target.parent.mkdir(exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
