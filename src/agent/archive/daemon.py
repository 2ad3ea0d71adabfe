"""The service of backups: does what the charm asks for, and says when a backup is due."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.archive import checking, creation, laying, notices, pruning, settling
from agent.archive.bucket import open_bucket
from agent.archive.catalogue import Catalogue
from agent.archive.errors import ArchiveError
from agent.archive.progress import SILENCE, Progress
from agent.archive.request import Request, read
from agent.archive.schedule import Schedule
from agent.archive.server import NoAnswerError
from agent.archive.settings import OPERATION, ArchiveSettings
from agent.archive.staging import volume_errors
from agent.archive.status import Status

logger = logging.getLogger(__name__)

Work = Callable[[ArchiveSettings, Request, Progress], dict[str, Any]]

_POLL_SECONDS = 0.25
_SCHEDULE_SECONDS = 5.0
_ASK_SECONDS = 300.0
_SNAPSHOTS_SECONDS = 30.0
_AGAIN_SECONDS = 1.0


def delete(settings: ArchiveSettings, request: Request, progress: Progress) -> dict[str, Any]:
    """Delete a backup, and what no other one needs."""
    catalogue = Catalogue(open_bucket(settings), settings)
    freed = pruning.delete(settings, catalogue, request.backup_id, progress)
    return {
        "deleted-objects": freed.objects,
        "freed": freed.size,
        "problem": "; ".join(freed.problems),
    }


STEPS: Mapping[tuple[str, str], Work] = {
    ("create", "create"): creation.create,
    ("verify", "verify"): checking.verify,
    ("delete", "delete"): delete,
    ("restore", "fetch"): laying.fetch,
    ("restore", "settle"): settling.settle,
    ("restore", "finish"): settling.finish,
}


class Daemon:
    """Runs until `stop` is set."""

    def __init__(self, settings: ArchiveSettings, status: Status, stop: threading.Event):
        self._settings = settings
        self._status = status
        self._stop = stop
        self._schedule = Schedule(settings.schedule)
        self._looked = 0.0
        self._asks_again = 0.0
        self._deletes_snapshots = 0.0

    def run(self) -> None:
        """Work."""
        while not self._stop.is_set():
            self._status.alive(SILENCE)
            request = read(self._settings.metadata / OPERATION)
            work = STEPS.get((request.kind, request.step)) if request else None
            if request and work and not self._status.finished(request):
                self._do(request, work)
            else:
                # Not before what is to be done: S3 may be away, and the server down meanwhile.
                if request is None:
                    self._delete_snapshots()
                self._remember_success()
                self._look_at_the_clock(idle=request is None)
                self._stop.wait(_POLL_SECONDS)

    def _do(self, request: Request, work: Work) -> None:
        logger.info("%s %s: %s", request.kind, request.backup_id, request.step)
        if not self._status.begin(request):
            self._status.failed("cancelled", "it ended again and again before it was done")
        else:
            try:
                with volume_errors(self._settings):
                    done = work(self._settings, request, Progress(self._status, self._stop))
                self._status.done(done)
            except ArchiveError as error:
                if error.kind == "cancelled":
                    return
                logger.warning("%s %s: %s", request.kind, request.backup_id, error)
                if self._goes_again(request, error):
                    self._stop.wait(_AGAIN_SECONDS)
                    return
                self._status.failed(error.kind, str(error))
        self._looked = self._deletes_snapshots = 0.0
        self._look_at_the_clock(idle=False)
        notices.notify()

    def _goes_again(self, request: Request, error: ArchiveError) -> bool:
        """Whether a step is only interrupted: the server's end is not the end of a restore.

        Where a node dies, this program may live a moment longer than the server; what it notes
        then decides what becomes of the restore.
        """
        without_answer = request.kind == "restore" and isinstance(error, NoAnswerError)
        return without_answer and self._status.may_begin_again

    def _delete_snapshots(self) -> None:
        """Delete what a backup could not, because the server or this program ended just then."""
        if time.monotonic() < self._deletes_snapshots:
            return
        self._deletes_snapshots = math.inf
        try:
            creation.delete_left_over(self._settings)
        except ArchiveError as error:
            logger.info("snapshots of earlier backups cannot be deleted now: %s", error)
            self._deletes_snapshots = time.monotonic() + _SNAPSHOTS_SECONDS

    def _look_at_the_clock(self, *, idle: bool) -> None:
        """Say whether a backup is due; the charm is woken as long as it is."""
        now = time.time()
        if now - self._looked < _SCHEDULE_SECONDS and now >= self._looked:
            return
        self._looked = now
        status = self._status
        if not self._settings.schedule:
            status.set(due=False, overdue=False, next=None, scheduled_since=None)
            return
        since = status["scheduled-since"] or now
        success, failure = status["last-success"], status["last-failure"]
        succeeded = success["at"] if success else None
        following = self._schedule.next(since, succeeded, failure["at"] if failure else None)
        due = idle and following is not None and following <= now
        woken = due and not status["due"]
        status.set(
            due=due,
            overdue=self._schedule.overdue(since, succeeded, now),
            next=following,
            scheduled_since=since,
        )
        if woken:
            notices.notify()

    def _remember_success(self) -> None:
        """A volume that is new knows of no backup; the bucket is asked until it answers."""
        if time.monotonic() < self._asks_again or self._status["last-success"]:
            return
        if self._settings.s3 is None:
            return
        self._asks_again = math.inf
        try:
            heads = [
                entry.head
                for entry in Catalogue(open_bucket(self._settings, 10.0), self._settings).entries()
                if entry.head and entry.own
            ]
        except ArchiveError as error:
            logger.info("the last backup is not known: %s", error)
            self._asks_again = time.monotonic() + _ASK_SECONDS
            return
        if heads:
            last = heads[-1]
            self._status.set(
                last_success={
                    "id": last.id,
                    "at": last.time + last.duration,
                    "size": last.size,
                    "uploaded": last.uploaded,
                    "duration": last.duration,
                }
            )
