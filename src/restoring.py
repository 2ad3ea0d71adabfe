"""A restore, step by step: what was there before stays until what came back is proven and serves.

    fetch -> swap -> start -> settle -> stop -> restart -> finish -> discard
      |        +--------+--------+--------+--------+--------+-> rollback -> discard
      +-> discard

The agent fetches, settles and finishes; the charm does the rest while the agent waits. The step is
noted before it is begun, and each may be begun again: a pod that is lost goes on where it was.
"""

import time
from collections.abc import Callable, Mapping

import backup_status
import sidecar
import volumes
from api import Api, UnreachableError
from backup_service import BackupService, FailedError
from credentials import Credentials
from deadline import HOOK
from errors import BlockedError, CharmError, WaitingError
from operation import Ended, Operation, Step
from sidecar import Containers
from state import State
from workload import API_URL, Workload, pebble_errors

# Journals are read at a start, which takes minutes; a server that ends again and again is no use.
_START_PATIENCE = 3600.0
_CRASH_PATIENCE = 120.0

Following = Operation | Ended


class Restore:
    """The steps; methods raise `CharmError` where a step cannot be done just now."""

    def __init__(
        self,
        containers: Containers,
        service: BackupService,
        state: State,
        made: Credentials,
    ):
        self._dittofs, self._agent = containers
        self._service = service
        self._state = state
        self._made = made
        self._workload = Workload(self._dittofs)
        self._steps: Mapping[Step, Callable[[Operation], Following]] = {
            "fetch": self._fetch,
            "swap": self._swap,
            "start": lambda operation: self._start(operation, "settle"),
            "settle": self._settle,
            "stop": self._stop,
            "restart": lambda operation: self._start(operation, "finish"),
            "finish": self._finish,
            "rollback": self._roll_back,
            "discard": self._discard,
        }

    def advance(self, operation: Operation) -> Following:
        """Do a step; return the next one, the same where it is waited for, or how it all ended."""
        return self._steps[operation.step](operation)

    def progress(self, operation: Operation) -> str:
        """How far it is, for people."""
        match operation.step:
            case "swap":
                return "putting it in the place of what is there"
            case "start" | "stop" | "restart":
                return "starting the server"
            case "rollback":
                return f"putting back what was there before: {operation.reason}"
            case "discard":
                return "removing what is not needed any more"
            case _:
                return backup_status.progress(self._service.report(), operation)

    def _fetch(self, operation: Operation) -> Following:
        self._service.ensure(operation)
        said = self._service.report().of(operation)
        if said is None or said.state == "running":
            return operation
        if said.state == "failed":
            return operation.then("discard", reason=said.reason)
        return operation.then("swap", result=said.result)

    def _swap(self, operation: Operation) -> Following:
        # It has the stores open that go.
        sidecar.stop(self._agent, sidecar.MIRROR)
        with pebble_errors():
            self._workload.stop("to put the backup in its place")
            self._workload.forget_exit()
        try:
            self._service.run("backup-swap", operation)
        except FailedError as error:
            return operation.then("rollback", reason=error.whole)
        return operation.then("start")

    def _start(self, operation: Operation, following: Step) -> Following:
        """Start the server on what came back, and wait until it answers."""
        try:
            self._launch(operation)
            with Api(API_URL) as api:
                api.wait_ready(HOOK, self._workload.check_worth_waiting)
        except UnreachableError as error:
            return self._not_ready(operation, error)
        except BlockedError as error:
            return operation.then("rollback", reason=error.whole)
        return operation.then(following)

    def _launch(self, operation: Operation) -> None:
        """Let the server run on volumes that are marked so that they may be served.

        Raises:
            BlockedError: it cannot run on them.
        """
        with pebble_errors():
            self._workload.check_last_exit()
            if self._workload.running:
                return
            pair = volumes.survey(self._dittofs)
            name = self._may_serve(pair)
            volumes.check_writable(self._dittofs)
            self._claim(operation, pair, name)
            self._workload.ensure(self._state.options, self._made)

    def _may_serve(self, pair: volumes.Pair) -> str:
        """The name of the server, where it may be started on this pair."""
        name = self._workload.name()
        allowed = self._state.options.allow_unknown_server
        pair.check_server(name, allow_unknown=allowed)
        return name

    def _claim(self, operation: Operation, pair: volumes.Pair, name: str) -> None:
        life = self._made.life
        if not operation.replaces_users and pair.marker is not None:
            # The users are those from before, with the password they had.
            life = pair.marker.life
        volumes.claim(self._dittofs, pair, self._state, life, name)

    def _not_ready(self, operation: Operation, error: UnreachableError) -> Following:
        waited = time.time() - operation.since
        try:
            with pebble_errors():
                self._workload.check_alive()
        except CharmError as ended:
            if isinstance(ended, BlockedError) or waited > _CRASH_PATIENCE:
                return operation.then("rollback", reason=ended.whole)
            raise
        if waited > _START_PATIENCE:
            return operation.then("rollback", reason=error.whole)
        raise error

    def _settle(self, operation: Operation) -> Following:
        following = self._work(operation, "stop")
        different = [
            str(share.get("name", "?"))
            for share in following.results.get("settle", {}).get("shares", [])
            if not share.get("equal")
        ]
        if different and following.step == "stop":
            reason = f"not what the backup holds: {', '.join(different)}"
            return operation.then("rollback", reason=reason)
        return following

    def _stop(self, operation: Operation) -> Following:
        with pebble_errors():
            self._workload.stop("to start it again on what came back")
            self._workload.forget_exit()
        return operation.then("restart")

    def _finish(self, operation: Operation) -> Following:
        return self._work(operation, "discard")

    def _work(self, operation: Operation, following: Step) -> Operation:
        """A step of the agent's, on a server that runs: a new pod has none."""
        try:
            self._launch(operation)
        except BlockedError as error:
            return operation.then("rollback", reason=error.whole)
        self._service.ensure(operation)
        said = self._service.report().of(operation)
        if said is None or said.state == "running":
            return operation
        if said.state == "failed":
            return operation.then("rollback", reason=said.reason)
        return operation.then(following, result=said.result)

    def _roll_back(self, operation: Operation) -> Following:
        with pebble_errors():
            self._workload.stop("to put back what was there")
            self._workload.forget_exit()
        try:
            self._service.run("backup-rollback", operation)
        except FailedError as error:
            raise WaitingError(
                f"what was there before cannot be put back, which is tried again: {error}"
            ) from None
        with pebble_errors():
            self._serve_again()
        return operation.then("discard")

    def _serve_again(self) -> None:
        """Start the server on what was there before, where that could be served."""
        pair = volumes.survey(self._dittofs)
        try:
            volumes.need_markers(pair)
            volumes.check(pair, self._state)
            name = self._may_serve(pair)
        except BlockedError:
            return
        if pair.marker is not None and pair.marker.life == self._made.life:
            volumes.commit(self._dittofs, pair, self._state, self._made.life, name)
            self._workload.ensure(self._state.options, self._made)

    def _discard(self, operation: Operation) -> Following:
        try:
            self._service.run("backup-discard", operation)
        except FailedError as error:
            raise WaitingError(
                f"what is not needed any more cannot be removed, which is tried again: {error}"
            ) from None
        problem = ""
        if operation.reason:
            kept = "nothing was changed"
            if "fetch" in operation.results:
                kept = "what was there before is in its place again"
            problem = f"{operation.reason}; {operation} failed, {kept}"
        return Ended.of(operation, operation.results, problem)
