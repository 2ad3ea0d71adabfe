"""At which step a backup, a restore or a deletion is, as seen from outside.

What can be seen is on the volumes (the note of the operation, snapshots, what a restore lays down)
and at S3 (each request). A step is told by what comes first with it, so each of them has a test
that holds from its beginning on.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.functional.pod import Volume
from tests.s3 import FaultyProxy

_POLL_SECONDS = 0.002
_HOLD_SECONDS = 20.0
# The steps that the note of a restore names, in their order; a way back is as good as the end.
_RANKS = {
    "fetch": 1,
    "swap": 2,
    "start": 3,
    "settle": 4,
    "stop": 5,
    "restart": 6,
    "finish": 7,
    "rollback": 8,
    "discard": 9,
}
_WAYS_BACK = frozenset({"clearing", "returning", "returned", "gone"})


class Call(NamedTuple):
    """A request to S3.

    Attributes:
        word: what it does to what, such as `PUT piece`.
        noted: whether it came while an operation was noted, not before.
        late: whether the snapshots of the operation were being deleted already.
    """

    word: str
    noted: bool
    late: bool


class View:
    """What was seen of an operation since it was asked for; `look` brings it up to date."""

    def __init__(self, volumes: Mapping[str, Volume], proxy: FaultyProxy):
        self._metadata = volumes["metadata"].path
        self._content = volumes["content"].path
        self._proxy = proxy
        self._before = self._snapshots()
        self._settling: frozenset[Path] | None = None
        self._lock = threading.Lock()
        self._present: frozenset[Path] = frozenset()
        self.calls: list[Call] = []
        self.note: Mapping[str, Any] = {}
        self.rank = 0
        self.made: frozenset[Path] = frozenset()
        self.settling = False

    def look(self) -> None:
        """Read what is on the volumes now."""
        with self._lock:
            self.note = read(self._metadata / ".dittofs-operation.json")
            self.rank = max(self.rank, _RANKS.get(self.note.get("step", ""), 0))
            there = self._snapshots()
            self._present = there - self._before
            self.made |= self._present
            if self.note.get("step") == "settle":
                if self._settling is None:
                    self._settling = there
                self.settling = self.settling or bool(there - self._settling)

    def called(self, method: str, path: str) -> None:
        """A request has come."""
        self.look()
        self.calls.append(Call(_word(method, path), bool(self.note), self.deleting))

    def count(self, word: str, *, noted: bool = True) -> int:
        """How many requests of a kind came."""
        return sum(call.word == word and call.noted == noted for call in self.calls)

    @property
    def deleting(self) -> bool:
        """Whether snapshots that were made are gone again."""
        return self._present != self.made

    @property
    def answered(self) -> bool:
        """Whether the last request has its answer."""
        return bool(self._proxy.requests) and self._proxy.requests[-1].status is not None

    @property
    def laid_down(self) -> bool:
        """Whether all of a restore is on the disks."""
        return (self._metadata / ".restoring" / "staged.json").exists()

    @property
    def phase(self) -> str:
        """How far the swap is, empty before it."""
        return read(self._restore / "plan.json").get("phase", "")

    @property
    def settled(self) -> int:
        """How many shares are proven."""
        return len(read(self._restore / "settled.json").get("shares", {}))

    @property
    def done(self) -> bool:
        """Whether the agent is done with the operation, and the charm does not know it yet."""
        said = read(self._metadata / ".dittofs-backup" / "status.json").get("operation") or {}
        return said.get("id") == self.note.get("id", "-") and said.get("state") == "done"

    @property
    def _restore(self) -> Path:
        return self._metadata / ".dittofs-restore"

    def _snapshots(self) -> frozenset[Path]:
        # pathlib's own raises where a folder is renamed meanwhile.
        return frozenset(map(Path, glob(f"{self._content}/shares/*/snapshots/*")))  # noqa: PTH207  # see above


Begun = Callable[[View], bool]


def _count(word: str, least: int = 1) -> Begun:
    return lambda view: view.count(word) >= least


def _rank(step: str) -> Begun:
    return lambda view: view.rank >= _RANKS[step]


_FOUND: Mapping[str, Begun] = {
    "looked for": lambda view: view.count("LIST backups", noted=False) > 0,
    "begun": lambda view: bool(view.note) or view.rank > 0,
}
_PUT_BACK: Mapping[str, Begun] = {
    "rollback": _rank("rollback"),
    "putting back": lambda view: view.phase in _WAYS_BACK,
    "discard": _rank("discard"),
}
_RESTORE: Mapping[str, Begun] = _FOUND | {
    "manifest": _count("GET backup"),
    "table": _count("GET piece"),
    "control plane": _count("GET piece", 2),
    "piece": _count("GET piece", 3),
    "laid down": lambda view: view.laid_down or view.rank > _RANKS["fetch"],
    "swap": _rank("swap"),
    "swapping": lambda view: bool(view.phase) or view.rank > _RANKS["swap"],
    "start": _rank("start"),
    "settle": _rank("settle"),
    "settling": lambda view: view.settling or view.rank > _RANKS["settle"],
    "share settled": lambda view: view.settled > 0 or view.rank > _RANKS["settle"],
    "stop": _rank("stop"),
    "restart": _rank("restart"),
    "finish": _rank("finish"),
    "discard": _rank("discard"),
}
STEPS: Mapping[str, Mapping[str, Begun]] = {
    "create": {
        "begun": lambda view: bool(view.note),
        "check written": _count("PUT check"),
        "check read": _count("GET check"),
        "check deleted": _count("DELETE"),
        "looked for": _count("HEAD backup"),
        "answered": lambda view: view.count("HEAD backup") > 0 and view.answered,
        "snapshots": lambda view: bool(view.made),
        "bucket listed": _count("LIST pieces"),
        "control plane": _count("PUT piece"),
        "piece": _count("PUT piece", 2),
        "snapshots deleted": lambda view: view.deleting,
        "table": lambda view: any(call.late and call.word == "PUT piece" for call in view.calls),
        "manifest": _count("PUT backup"),
        "prune": _count("LIST backups"),
        "old manifest": _count("DELETE", 2),
        "sweep": _count("LIST pieces", 2),
        "old pieces": _count("DELETE", 3),
        "done": lambda view: view.done,
    },
    "restore": _RESTORE,
    "restore a share": _RESTORE,
    "restore in vain": _PUT_BACK,
    "delete": _FOUND
    | {
        "manifest": _count("DELETE"),
        "sweep": _count("LIST pieces"),
        "others listed": _count("LIST backups"),
        "table": _count("GET piece"),
        "pieces": _count("DELETE", 2),
        "done": lambda view: view.done,
    },
}


class Watch:
    """Waits for a step and strikes there, once; for a thread that lives longer than it.

    Args:
        view: what is seen; the requests come from the proxy.
        begun: says that the step has come.
        delay: seconds to wait then.
        strike: what to do, returns a word about it.
        spoil: is called by `watch_what_is_laid_down` once a restore is laid down.
    """

    def __init__(
        self,
        view: View,
        begun: Begun,
        delay: float,
        strike: Callable[[], str],
        spoil: Callable[[], None],
    ):
        self._view = view
        self._begun = begun
        self._delay = delay
        self._strike = strike
        self._spoil = spoil
        self._over = threading.Event()
        self._struck = threading.Event()

    def called(self, _: int, method: str, path: str) -> None:
        """A request is on its way; the one that begins the step waits for the strike."""
        self._view.called(method, path)
        if not self._delay and not self._over.is_set() and self._begun(self._view):
            self._struck.wait(_HOLD_SECONDS)

    def run(self, name: Callable[[View], str]) -> tuple[str, str] | None:
        """Return at which step was struck, as `name` calls it, and the word; None for never."""
        while not self._over.is_set():
            self._view.look()
            if self._begun(self._view):
                return self._do(name)
            time.sleep(_POLL_SECONDS)
        return None

    def watch_what_is_laid_down(self) -> None:
        """Spoil it; for another thread, as who strikes may take long."""
        while not self._over.is_set():
            if self._view.laid_down:
                self._spoil()
                return
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """The operation is over: strike no more."""
        self._over.set()

    def _do(self, name: Callable[[View], str]) -> tuple[str, str] | None:
        if self._over.wait(self._delay):
            return None
        self._view.look()
        step = name(self._view)
        try:
            return step, self._strike()
        finally:
            self._struck.set()


def present(operation: str, view: View) -> str:
    """The step at which an operation is."""
    begun = [step for step, test in STEPS[operation].items() if test(view)]
    return begun[-1] if begun else "before"


def read(path: Path) -> Mapping[str, Any]:
    """A file that is written by others just now; empty where it makes no sense."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _word(method: str, path: str) -> str:
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    if "delete" in query:
        return "DELETE"
    if "list-type" in query:
        return f"LIST {query.get('prefix', [''])[0].rstrip('/').rpartition('/')[2]}"
    for folder, what in (("backups", "backup"), ("pieces", "piece")):
        if f"/{folder}/" in parts.path:
            return f"{method} {what}"
    return f"{method} check"
