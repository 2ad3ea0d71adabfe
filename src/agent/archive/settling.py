"""Let the server bring shares to the snapshots that were laid down, prove it, and serve them.

`settle` can be called again after a crash: a restore that the server was in the middle of is
undone by it at its next start, or done anew over what is there.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.archive import dumps
from agent.archive.errors import ArchiveError
from agent.archive.progress import Progress
from agent.archive.request import Request
from agent.archive.server import (
    CONFLICT,
    REFUSED,
    RESTORE_SECONDS,
    NoAnswerError,
    Server,
    ServerError,
    ShareInfo,
)
from agent.archive.settings import ArchiveSettings
from agent.archive.staging import SHARES, StagedShare, Staging, read_json, volume_errors, write

logger = logging.getLogger("agent.archive.settling")

PROOF = "restore-proof"
_SETTLED = "settled.json"
_READY_SECONDS = 120.0
# It begins with work for each file that was written since the last one, and there may be many.
_SNAPSHOT_SECONDS = 6 * 3600.0
_HEALTHY_SECONDS = 120.0
_BUSY_SECONDS = 120.0
_AT_ONCE, _RETRY_SECONDS = 1.0, 5.0
_HEALTHY = "healthy"


def settle(settings: ArchiveSettings, request: Request, progress: Progress) -> dict[str, Any]:
    """Bring each share to the backup's snapshot; return `shares`: what was found equal.

    The shares stay disabled. The proof is a new snapshot, which must hold what the backup's does.

    Raises:
        ArchiveError: `api`, or `damaged`: a share is not what was backed up.
    """
    with volume_errors(settings), Server(settings.api) as server:
        staging = Staging(settings)
        staged = staging.of(request.id)
        settled = _Settled(staging.notes / _SETTLED)
        progress.say("waiting for the server")
        server.wait_ready(progress, _READY_SECONDS)
        for share in staged.shares:
            if share.name not in settled:
                work = _Settling(settings, server, progress, share)
                work.bring_back(again=settled.ask(share.name))
                settled.note(share.name, work.proven())
        return {"shares": [settled.told(share.name) for share in staged.shares]}


def finish(settings: ArchiveSettings, request: Request, progress: Progress) -> dict[str, Any]:
    """Serve the shares that were served, and delete the snapshots; return `shares`.

    Raises:
        ArchiveError: `api`: not all of them get healthy.
    """
    with volume_errors(settings), Server(settings.api) as server:
        staging = Staging(settings)
        staged = staging.of(request.id)
        settled = _Settled(staging.notes / _SETTLED)
        progress.say("waiting for the server")
        server.wait_ready(progress, _READY_SECONDS)
        for share in staged.shares:
            if share.enabled:
                server.enable(share.name, True)
        found = _healthy(server, staged.shares, progress)
        progress.say("deleting the snapshots of the restore")
        problems = {
            share.name: _delete(server, share.name, settled.snapshots(share.name), progress)
            for share in staged.shares
        }
        return {
            "shares": [
                _told(share, found[share.name], problems[share.name]) for share in staged.shares
            ]
        }


class _Settled:
    """The shares that are proven, the snapshots to delete, and the share asked for last."""

    def __init__(self, path: Path):
        self._path = path
        found = read_json(path) or {}
        self._shares: dict[str, list[str]] = dict(found.get("shares", {}))
        self._asked = str(found.get("asked", ""))

    def __contains__(self, name: str) -> bool:
        """Whether a share is proven."""
        return name in self._shares

    def ask(self, name: str) -> bool:
        """Remember that the server is asked to restore a share; whether it was asked before."""
        before, self._asked = self._asked, name
        self._write()
        return before == name

    def note(self, name: str, snapshots: Sequence[str]) -> None:
        """Remember that a share is proven."""
        self._shares[name] = list(snapshots)
        self._write()

    def _write(self) -> None:
        noted = {"shares": self._shares, "asked": self._asked}
        write(self._path, json.dumps(noted, indent=1, sort_keys=True))

    def snapshots(self, name: str) -> Sequence[str]:
        """The ids of the snapshots that were there when the share was proven."""
        return self._shares.get(name, [])

    def told(self, name: str) -> Mapping[str, Any]:
        """A share as the step's result has it."""
        return {"name": name, "equal": name in self, "message": "equal to the backup"}


class _Settling:
    """One share."""

    def __init__(
        self, settings: ArchiveSettings, server: Server, progress: Progress, share: StagedShare
    ):
        self._server = server
        self._progress = progress
        self._share = share
        self._snapshots = settings.content / SHARES / share.key / "snapshots"

    def bring_back(self, *, again: bool) -> None:
        """Let the server restore the share from the backup's snapshot.

        Args:
            again: it was asked before by a program that did not see the end, so it may be at it.
        """
        name = self._share.name
        self._progress.say(f"restoring {name}")
        self._server.enable(name, False)
        end = time.monotonic() + _BUSY_SECONDS
        was_cut = False
        while True:
            self._progress.check(RESTORE_SECONDS)
            began = time.monotonic()
            try:
                self._server.restore(name, self._share.snapshot)
            except ServerError as error:
                # It refuses at once while it is busy with a restore whose caller went away, and
                # undoes at its next start what it was in the middle of when it ended.
                cut = error.status is None
                may_be_busy = error.status == CONFLICT or (
                    error.status == REFUSED and (again or was_cut)
                )
                busy = may_be_busy and time.monotonic() - began < _AT_ONCE and began < end
                if not busy and (was_cut or not cut):
                    raise
                was_cut = was_cut or cut
                logger.warning("%s; trying again", error)
            else:
                return
            self._progress.wait(_RETRY_SECONDS)
            self._server.wait_ready(self._progress, _READY_SECONDS)

    def proven(self) -> list[str]:
        """Compare the share with the backup; the ids of the snapshots that are left of it.

        Raises:
            ArchiveError: `damaged`: they differ.
        """
        name = self._share.name
        self._progress.say(f"comparing {name} with the backup")
        proof = self._server.create_snapshot(name, PROOF)
        self._server.wait_snapshot(name, proof, self._progress, _SNAPSHOT_SECONDS)
        different = dumps.differing(
            self._snapshots / self._share.snapshot, self._snapshots / proof
        )
        if different:
            raise ArchiveError(
                "damaged", f"{name} is not what was backed up: {', '.join(different)} differs"
            )
        self._server.delete_snapshot(name, proof)
        # The rows of all others were left out: what is there now came with the restore.
        return [snapshot.id for snapshot in self._server.snapshots(name)]


def _healthy(
    server: Server, shares: Sequence[StagedShare], progress: Progress
) -> Mapping[str, ShareInfo]:
    """Wait until all shares that are to be served are healthy; all shares as they are then."""
    end = time.monotonic() + _HEALTHY_SECONDS
    wanted = {share.name for share in shares if share.enabled}
    names = {share.name for share in shares}
    while True:
        found = {share.name: share for share in server.shares()}
        missing = sorted(names - set(found))
        if missing:
            raise ArchiveError("api", f"the server does not have the share {', '.join(missing)}")
        ill = [found[name] for name in sorted(wanted) if found[name].status != _HEALTHY]
        if not ill:
            return found
        progress.say(f"waiting for {ill[0].name} to get healthy")
        if time.monotonic() > end:
            raise ArchiveError(
                "api", f"{ill[0].name} is {ill[0].status}: {ill[0].message}".rstrip(": ")
            )
        progress.wait(1.0)


def _delete(server: Server, name: str, snapshots: Sequence[str], progress: Progress) -> str:
    """Delete snapshots of a share; what is left of them is not worth to fail for.

    Nobody deletes those later that the server made of itself, so one that ends is waited for.
    """
    problem = ""
    for snapshot in snapshots:
        try:
            try:
                server.delete_snapshot(name, snapshot)
            except NoAnswerError:
                server.wait_ready(progress, _READY_SECONDS)
                server.delete_snapshot(name, snapshot)
        except ServerError as error:
            logger.warning("%s", error)
            problem = f"the snapshot {snapshot} is left: {error}"
    return problem


def _told(share: StagedShare, found: ShareInfo, problem: str) -> dict[str, Any]:
    messages = [problem] if problem else []
    if found.used_bytes != share.used_bytes:
        messages.append(f"had {share.used_bytes} bytes when it was backed up")
    return {
        "name": share.name,
        "bytes": found.used_bytes,
        "status": found.status if share.enabled else "disabled",
        "message": "; ".join(messages),
    }
