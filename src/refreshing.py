"""Whether charm and server can be refreshed now. Looks only, and changes nothing."""

import time
from collections.abc import Callable, Iterable, Iterator

import ops

import budget
import serving
import volumes
from budget import Space
from errors import CharmError
from sidecar import Containers
from state import State
from workload import Workload, pebble_errors


class Refresh:
    """The checks; each gives what stands in the way, and may raise that as `CharmError`."""

    def __init__(self, containers: Containers, state: State, model: ops.Model, server: str):
        self._containers = containers
        self._state = state
        self._model = model
        self._server = server

    def reasons(self) -> list[str]:
        """All that stands in the way; empty for nothing."""
        checks: tuple[Callable[[], Iterable[str]], ...] = (
            self._operation,
            self._units,
            self._versions,
            self._space,
            self._mirror,
            self._backup,
        )
        found: list[str] = []
        for check in checks:
            try:
                found += check()
            except CharmError as error:
                found.append(error.whole)
        return list(dict.fromkeys(found))

    def _operation(self) -> Iterator[str]:
        operation = serving.under_way(self._containers, self._state)
        if operation is not None:
            yield f"{operation} is under way: wait until it is done, see status-detail"

    def _units(self) -> Iterator[str]:
        """Kubernetes refreshes the last unit first, and waits until that one is ready."""
        if self._model.app.planned_units() > 1:
            remedy = f"juju scale-application {self._state.application} 1"
            yield f"run {remedy}: no other unit gets ready"

    def _versions(self) -> Iterable[str]:
        """The server that is to come, or the present one, and what has served."""
        self._state.need_volumes()
        with pebble_errors():
            pair = volumes.look(self._containers.dittofs)
            name = self._server or Workload(self._containers.dittofs).name()
        pair.check_server(name, allow_unknown=self._state.options.allow_unknown_server)
        return ()

    def _space(self) -> Iterator[str]:
        spaces = {name: Space.of(path) for name, path in self._state.volumes.items()}
        yield from (each.whole for each in budget.nearly_full(spaces))

    def _mirror(self) -> Iterator[str]:
        if self._state.mysql is None:
            return
        import mirror_status  # noqa: PLC0415  # most units have no database
        import mirroring  # noqa: PLC0415  # the same

        said = mirroring.look(self._containers.agent)
        found = mirror_status.findings(said, self._state.options.mirror_max_lag)
        yield from (each.whole for each in found)

    def _backup(self) -> Iterator[str]:
        """One that is no older than `RECENT` and was found whole since, and is still there."""
        if self._state.s3 is None:
            return
        from backups import RECENT, Backups  # noqa: PLC0415  # most units have no S3

        self._state.s3.need_bucket()
        self._state.need_volumes()
        with pebble_errors():
            pair = volumes.survey(self._containers.dittofs)
        made = self._state.need_credentials()
        backups = Backups(self._containers, self._state, self._model, made, pair)
        verified = backups.detail().verified
        recent = [
            row.id
            for row in backups.listed()
            if row.own and row.complete and row.time > time.time() - RECENT
        ]
        hours = RECENT // 3600
        if not recent:
            yield (
                f"no backup was made in the last {hours} hours: run create-backup, then "
                "verify-backup"
            )
        elif not verified & set(recent):
            yield (
                f"no backup of the last {hours} hours was verified: run verify-backup "
                f"backup-id={recent[-1]}"
            )
