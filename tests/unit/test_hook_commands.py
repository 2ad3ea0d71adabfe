"""An event that has nothing to do asks Juju for little: each hook command costs its time."""

from ops import testing

from tests.unit.conftest import Unit

ALONE, RELATED = 14, 23


def asked(unit: Unit) -> list[str]:
    """The hook commands of an idle event but the lines of the log, which are ops' own."""
    unit.run("update_status")
    return [each for each in unit.commands if not each.startswith("juju-log ")]


def test_an_idle_event_asks_for_little_the_first_time_and_later(deployed):
    for _ in range(2):
        assert len(asked(deployed)) <= ALONE, deployed.commands
    deployed.relate()
    deployed.relate_s3()
    assert deployed.status == testing.ActiveStatus("nfs, smb: /export; metadata in MySQL")
    for _ in range(2):
        assert len(asked(deployed)) <= RELATED, deployed.commands


def test_an_idle_event_is_the_first_to_reach_a_server_and_changes_its_password(deployed):
    """What is compared at other events only is compared where something was changed."""
    secret = testing.Secret({"password": "correct horse"}, id=f"secret:{'user':a<20}")
    deployed.change(secrets=[*deployed.state.secrets, secret])
    deployed.border.stop()
    deployed.configure(admin_password=secret.id)
    deployed.border.unit = deployed
    plan = deployed.state.get_container("dittofs").plan
    deployed.border.start(plan.services["dittofs"].environment)
    assert deployed.run("update_status") == testing.ActiveStatus("nfs, smb: /export")
    (kept,) = [each for each in deployed.state.secrets if each.owner == "unit"]
    assert kept.latest_content == {"password": "correct horse"}
