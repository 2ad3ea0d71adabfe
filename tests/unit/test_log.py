"""`juju debug-log` tells what was done and why: a line for each change, none without one."""

import pytest

from tests.unit.test_every_event import backed_up_and_restored, related


def told(unit) -> list[str]:
    """The lines since the last call."""
    lines, unit.told = unit.told, []
    return lines


def test_a_deployment_is_told(unit):
    unit.deploy()
    lines = told(unit)
    for line in (
        "secrets: made secret:",
        "volumes: marked generation 1 of instance ",
        "server: wrote /config/config.yaml",
        "server: start, it does not run",
        "secrets: the password of admin is in secret:",
        "server: make the metadata store export (badger)",
        "server: make the share /export",
        "volumes: noted the shares on the content volume: /export",
    ):
        assert len([each for each in lines if each.startswith(line)]) == 1, (line, lines)


@pytest.mark.parametrize("event", ["update_status", "config_changed", "upgrade_charm"])
def test_an_event_that_changes_nothing_tells_nothing(deployed, event):
    related(deployed)
    deployed.run("config_changed")
    told(deployed)
    deployed.run(event)
    assert told(deployed) == []


def test_a_restart_is_told_with_its_reason(deployed):
    deployed.configure(memory="4Gi")
    assert "server: restart, changed: DITTOFS_CHARM_CONFIG_DIGEST, GOMEMLIMIT" in told(deployed)
    deployed.configure(log_level="debug")
    assert "server: restart, changed: DITTOFS_CHARM_CONFIG_DIGEST" in told(deployed)


def test_each_step_with_shares_and_protocols_is_told(deployed):
    deployed.configure(shares="- {name: /export, access: read, squash: none}\n- name: /new")
    deployed.configure(shares="- name: /new", protocols="nfs")
    deployed.act("delete-share", name="/export", confirm="/export")
    lines = told(deployed)
    for line in (
        "server: change default_permission of the share /export",
        "server: set squash none for the share /export",
        "server: make the share /new",
        "server: close the share /export",
        "server: stop smb",
        "server: took the share /export out",
        "server: stop, to delete the share /export",
        "volumes: deleted /data/metadata/stores/export",
        "server: start, it does not run",
    ):
        assert line in lines, (line, lines)


def test_a_stop_is_told_with_its_reason_and_once(deployed):
    for path in (deployed.root / "content").iterdir():
        path.unlink()
    deployed.run("update_status")
    deployed.run("update_status")
    (line,) = [each for each in told(deployed) if each.startswith("server: stop")]
    assert line == (
        "server: stop, its volumes may not be served: bring the content volume back or run "
        "start-without volume=content: it is empty"
    )


def test_each_step_of_an_operation_and_of_the_agent_is_told(deployed):
    related(deployed)
    backed_up_and_restored(deployed)
    lines = "\n".join(told(deployed))
    for line in (
        "agent: start the service agent (mirror), it does not run",
        "agent: start the service backup (backup), it does not run",
        "operation: a backup: create",
        "operation: a backup has ended: done",
        ": fetch",
        ": swap",
        ": settle",
        "has ended: done",
        "the backup-key",
    ):
        assert line in lines, line
