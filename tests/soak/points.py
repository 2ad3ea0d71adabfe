"""One point: an operation begins, something happens at one of its steps, and all is well again."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ops import testing

from tests.functional.unit import HookKilled, killed_hook
from tests.soak.deployment import SHARES, Site, State, require
from tests.soak.moments import STEPS, View, Watch, present
from tests.soak.victims import VICTIMS

ANY_TIME = "any time"
_LONGEST = 150.0
_COMPLETE = "complete"
_NOT_THERE = "not there"
_KILLS_HOOK = frozenset({"hook", "pod"})


@dataclass(frozen=True)
class Point:
    """What is to happen; `delay` in seconds from the beginning of the step."""

    operation: str
    step: str
    victim: str
    delay: float

    def __str__(self) -> str:
        """As the option `--only` takes it, and the delay."""
        return f"{self.operation}/{self.step}/{self.victim} +{self.delay:.2f} s"


@dataclass(frozen=True)
class Done:
    """What has happened.

    Attributes:
        step: at which it was struck; empty where it did not come, or the victim was not there.
        word: what the victim says of it.
        outcome: of the operation.
    """

    step: str
    word: str
    outcome: str


@dataclass(frozen=True)
class _Asked:
    """An action; `wanted` is what the shares have to hold when it succeeds."""

    action: str
    kind: str
    wanted: State
    backup_id: str = ""
    shares: str = ""

    @property
    def params(self) -> Mapping[str, str]:
        if not self.backup_id:
            return {}
        given = {"backup-id": self.backup_id, "confirm": self.backup_id}
        return given | ({"shares": self.shares} if self.shares else {})


def strike(site: Site, point: Point) -> Done:
    """Do it, heal everything, and check that all is as it has to be.

    Raises:
        ViolationError: it is not.
    """
    site.change()
    asked = _asked(site, point.operation)
    began = time.time()
    said, struck = _operate(site, point, asked)
    late = said is None and time.time() - began > _LONGEST
    require(not late, f"{asked.action} does not end within {_LONGEST:.0f} s")
    site.heal()
    outcome = _judge(site, point, asked, said, began)
    failed = outcome != _COMPLETE and asked.kind == "create"
    if failed or site.unit.status.name != "active":
        # Whatever has failed, the next backup works.
        site.back_up()
    site.check()
    step, word = struck or ("", "")
    return Done("" if word == _NOT_THERE else step, word, f"{said or 'killed'} -> {outcome}")


def _asked(site: Site, operation: str) -> _Asked:
    if operation == "create":
        return _Asked("create-backup", "create", site.present)
    if operation == "delete":
        if len(site.backups) < 2:
            site.back_up()
        backup_id = site.random.choice(sorted(site.backups))
        return _Asked("delete-backup", "delete", site.present, backup_id)
    backup_id = site.random.choice(sorted(site.backups))
    state = site.backups[backup_id]
    if operation == "restore a share":
        share = site.random.choice(SHARES)
        wanted = {**site.present, share: state[share]}
        return _Asked("restore", "restore", wanted, backup_id, share)
    return _Asked("restore", "restore", state, backup_id)


def _operate(site: Site, point: Point, asked: _Asked) -> tuple[str | None, tuple[str, str] | None]:
    """Run the action and strike meanwhile; what it says, and what was struck."""
    view = View(site.pod.volumes, site.proxy)
    watch = Watch(
        view,
        STEPS[point.operation].get(point.step, lambda _: True),
        point.delay,
        partial(VICTIMS[point.victim], site.scene),
        partial(_spoil, site),
    )
    site.proxy.on_request = watch.called
    watching = site.hands.submit(watch.run, partial(present, point.operation))
    in_vain = point.operation == "restore in vain"
    spoiling = site.hands.submit(watch.watch_what_is_laid_down) if in_vain else None
    said: str | None = None
    try:
        with contextlib.suppress(HookKilled), killed_hook(_LONGEST):
            said = _said(site, asked)
    finally:
        watch.end()
        struck = watching.result()
        if spoiling:
            spoiling.result()
        site.proxy.on_request = _nothing
    return said, struck


def _said(site: Site, asked: _Asked) -> str:
    try:
        results = site.unit.act(asked.action, **asked.params)
    except testing.ActionFailed as error:
        return f"failed: {' '.join(error.message.split())}"
    words = [str(results[name]) for name in ("backup", "restore", "deletion") if name in results]
    return words[0]


def _judge(site: Site, point: Point, asked: _Asked, said: str | None, began: float) -> str:
    """Note what has to be there now, by what became of the operation; say what became of it."""
    ended = site.ended(asked.kind, began)
    complete = bool(ended) and not ended["failed"]
    told = said == _COMPLETE
    require(complete or not told, f"{asked.action} said that it was complete: {ended}")
    if asked.kind == "create":
        new = set(site.listed()) - set(site.backups)
        require(len(new) <= 1, f"{sorted(new)} are new")
        require(new or not complete, "the backup that was made is not listed")
        site.check_list(new=dict.fromkeys(new, asked.wanted))
    else:
        gone = asked.backup_id if asked.kind == "delete" else ""
        site.check_list(gone=gone)
        require(not (complete and gone in site.backups), f"{gone} was deleted and is listed")
    if asked.kind == "restore" and complete:
        require(point.operation != "restore in vain", "what was spoiled is said to be restored")
        site.present = asked.wanted
    return _COMPLETE if complete else str(ended.get("text") or "nothing")


def _spoil(site: Site) -> None:
    """Change what was laid down, so that it is not what the backup holds."""
    place = site.pod.volumes["content"].path / ".restoring"
    for path in place.glob("shares/*/snapshots/*/manifest.hashes"):
        with path.open("ab") as file:
            file.write(b"\n")


def _nothing(_: int, method: str, path: str) -> None:
    del method, path
