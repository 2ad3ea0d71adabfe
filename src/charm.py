#!/usr/bin/env python3
"""The DittoFS charm: events in, status out."""

import startup

# isort: split
import logging
from contextlib import suppress

import ops

import budget
import names
import serving
import sidecar
import state
from budget import Space
from charms.dittofs.v0.filesystem_info import FilesystemProvider
from deadline import ACTION, EVENT, HOOK
from errors import BlockedError, CharmError, DifferenceError, UncertainError, UnreadError
from relations import filesystem, mysql
from relations.mysql import MYSQL
from shares import PORTS
from sidecar import Containers
from state import FILESYSTEM, PEERS, S3, State
from workload import API_PORT, CONTAINER, METRICS_PORT, Workload, pebble_errors

startup.imported()
logger = logging.getLogger(__name__)

_SHOWN_SHARES = 5
_SHOWN = 120  # characters of a status


class DittofsCharm(ops.CharmBase):
    """Every event leads to the same reconcile; actions and teardown are on their own."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        EVENT.begin(HOOK)
        self._containers = Containers(
            self.unit.get_container(CONTAINER), self.unit.get_container(sidecar.CONTAINER)
        )
        self._filesystem = FilesystemProvider(self, FILESYSTEM)
        self._findings: list[CharmError] = []
        self._active = ""
        self._stopped = False
        self._evaluated = False
        on, observe = self.on, framework.observe
        for event in (
            on["metadata"].storage_attached,
            on["content"].storage_attached,
            on.install,
            on.start,
            on.config_changed,
            on.leader_elected,
            on.upgrade_charm,
            on.update_status,
            on.secret_changed,
            on[CONTAINER].pebble_ready,
            on[CONTAINER].pebble_check_failed,
            on[CONTAINER].pebble_check_recovered,
            on[sidecar.CONTAINER].pebble_ready,
            on[sidecar.CONTAINER].pebble_check_failed,
            on[sidecar.CONTAINER].pebble_check_recovered,
            on[sidecar.CONTAINER].pebble_custom_notice,
            on[PEERS].relation_created,
            on[PEERS].relation_changed,
            on[FILESYSTEM].relation_created,
            on[FILESYSTEM].relation_joined,
            on[FILESYSTEM].relation_broken,
            on[MYSQL].relation_created,
            on[MYSQL].relation_changed,
            on[MYSQL].relation_broken,
            on[S3].relation_created,
            on[S3].relation_changed,
            on[S3].relation_broken,
        ):
            observe(event, self._on_reconcile)
        for event in (
            on["metadata"].storage_detaching,
            on["content"].storage_detaching,
            on.stop,
            on.remove,
        ):
            observe(event, self._on_teardown)
        observe(on.secret_remove, self._on_secret_remove)
        framework.observe(self.on.status_detail_action, self._on_status_detail)
        framework.observe(self.on.list_shares_action, self._on_action)
        framework.observe(self.on.delete_share_action, self._on_action)
        framework.observe(self.on.start_without_action, self._on_action)
        framework.observe(self.on.adopt_volumes_action, self._on_action)
        framework.observe(self.on.recover_metadata_action, self._on_action)
        framework.observe(self.on.verify_metadata_action, self._on_action)
        framework.observe(self.on.pre_refresh_check_action, self._on_action)
        framework.observe(self.on.create_backup_action, self._on_action)
        framework.observe(self.on.list_backups_action, self._on_action)
        framework.observe(self.on.restore_action, self._on_action)
        framework.observe(self.on.verify_backup_action, self._on_action)
        framework.observe(self.on.delete_backup_action, self._on_action)
        observe(on.collect_unit_status, self._on_collect_status)

    def _on_reconcile(self, event: ops.EventBase) -> None:
        if isinstance(event, ops.SecretChangedEvent):
            # Should this event not get to its end, a later one that is idle must not trust them.
            with suppress(CharmError), sidecar.agent_errors():
                for service in (sidecar.MIRROR, sidecar.BACKUP):
                    sidecar.Agent(self._containers.agent, service).note_source("")
        try:
            self._reconcile(idle=isinstance(event, ops.UpdateStatusEvent))
        except UnreadError:
            self._reconcile()

    def _reconcile(self, *, idle: bool = False) -> State:
        """Bring everything to what Juju says now, and remember for the status what was found."""
        juju = State.from_charm(self, idle=idle)
        if not idle:
            self._ask(juju)
        self._evaluated = True
        self._active = ""
        with suppress(CharmError), pebble_errors():
            Workload(self._containers.dittofs).ensure_check()
        if juju.serves:
            self._findings = [BlockedError(mistake) for mistake in juju.mistakes]
            juju = self._serve(juju)
        else:
            remedy = f"juju scale-application {juju.application} 1"
            self._findings = [BlockedError(f"only unit 0 can serve; run: {remedy}")]
            state.pass_on(self.model, juju)
        self._findings += filesystem.publish(self._filesystem, self.model, juju)
        return juju

    def _ask(self, juju: State) -> None:
        """Ask Juju and the related applications for what follows from options and relations."""
        mysql.request(self.model, juju.leader)
        if juju.s3 is not None:
            from relations import s3  # noqa: PLC0415  # most units have no S3

            s3.request(self.model, juju.leader)
        if juju.serves and juju.options.protocols is not None:
            ports = [PORTS[each] for each in juju.options.protocols]
            ports += [sidecar.MIRROR.port] if juju.mysql else []
            ports += [sidecar.BACKUP.port] if juju.s3 else []
            self.unit.set_ports(API_PORT, METRICS_PORT, *ports)

    def _serve(self, juju: State) -> State:
        """Bring the server up; return the state with the share that is offered now."""
        outcome = serving.reconcile(self._containers, juju, self.model)
        self._findings += outcome.findings
        if juju.attached:
            spaces = {name: Space.of(path) for name, path in juju.volumes.items()}
            self._findings += budget.nearly_full(spaces)
        if outcome.version:
            self.unit.set_workload_version(outcome.version)
        if outcome.serving is not None and juju.options.shares is not None:
            nfs = "nfs" in (juju.options.protocols or ())
            first = outcome.serving[0] if nfs and outcome.serving else None
            if juju.filesystem_clients:
                state.offer(self.model, first)
            self._active = _describe(juju, outcome.serving)
            self._active += "; for a trial: the content volume is too small" * outcome.trial
            self._active += f"; server {outcome.build!r} is no release" if outcome.build else ""
            self._active += "; metadata in MySQL" if outcome.mirrored else ""
            self._active += f"; {outcome.activity}" if outcome.activity else ""
            juju = juju.model_copy(update={"served_share": first})
        return juju

    def _on_teardown(self, _: ops.EventBase) -> None:
        juju = State.from_charm(self)
        state.forget_places(self)
        if juju.serves:
            for problem in serving.shut_down(self._containers, juju, self.model):
                logger.warning("while stopping: %s", problem)
        self._stopped = self._evaluated = True

    def _on_secret_remove(self, event: ops.SecretRemoveEvent) -> None:
        """An old password of which nobody needs the revision any more."""
        event.remove_revision()

    def _on_status_detail(self, event: ops.ActionEvent) -> None:
        self._reconcile()
        self._on_action(event)

    def _on_action(self, event: ops.ActionEvent) -> None:
        """Run an action, then reconcile: it may have opened the way for the server."""
        import actions  # noqa: PLC0415  # most events are none

        EVENT.begin(ACTION)
        juju = State.from_charm(self)
        call = actions.Call(self._containers, self.model, juju, event.log, self._sorted_findings())
        action = actions.find(event.handle.kind.removesuffix("_action"), call)
        params = event.load_params(action.params, errors="fail")
        if action.long:
            # `juju run` gives up after 60 s where it is not told to wait, and the action goes on.
            event.log(f"may take longer than juju run waits; to follow: juju show-task {event.id}")
        try:
            if not juju.serves:
                raise BlockedError(f"only unit 0 serves: run it on {juju.application}/0")
            event.set_results(action.run(params))
        except (DifferenceError, UncertainError) as error:
            event.set_results(error.results)
            event.fail(error.whole)
        except CharmError as error:
            event.fail(error.whole)
        EVENT.begin(HOOK)
        self._reconcile()

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        if not self._evaluated:
            # An event of no interest: its status must not hide what stands in the way.
            self._reconcile()
        findings = self._sorted_findings()
        for index, finding in enumerate(findings):
            others = len(findings) - 1 if index == 0 else 0
            more = f" (+{others} more: status-detail)" if others else ""
            event.add_status(finding.status(_cut(str(finding), len(more)) + more))
        if self._stopped:
            event.add_status(ops.MaintenanceStatus("stopped"))
        event.add_status(ops.ActiveStatus(self._active))

    def _sorted_findings(self) -> list[CharmError]:
        """The worst first: what a person has to mend before what mends itself; each once."""
        found = {error.whole: error for error in self._findings}
        return sorted(found.values(), key=lambda error: error.status is not ops.BlockedStatus)


def _cut(text: str, behind: int) -> str:
    """A text that `juju status` shows, and as many characters behind it."""
    room = _SHOWN - behind
    return f"{text[: room - 1]}…" if behind and len(text) > room else text


def _describe(juju: State, serving_now: tuple[str, ...]) -> str:
    """What is served, for `juju status`: protocols and shares, the volatile ones marked."""
    if not juju.options.protocols:
        return "no protocol is served: see the option protocols"
    if not serving_now:
        return "no share is served: see the option shares"
    volatile = {share.name for share in juju.options.shares or () if share.volatile}
    shown = [
        f"{name} (volatile)" if names.canonical(name) in volatile else name for name in serving_now
    ]
    more = len(shown) - _SHOWN_SHARES
    listed = ", ".join(shown[:_SHOWN_SHARES]) + (f" and {more} more" if more > 0 else "")
    return f"{', '.join(juju.options.protocols)}: {listed}"


if __name__ == "__main__":  # pragma: no cover  # Juju's way in
    ops.main(DittofsCharm)
