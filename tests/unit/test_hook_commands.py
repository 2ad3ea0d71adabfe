"""An event that has nothing to do asks Juju for little: each hook command costs its time."""

import dataclasses

from ops import testing

from tests.unit import agents
from tests.unit.conftest import Unit

ALONE, RELATED = 10, 14


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


def test_a_secret_that_changed_when_nothing_could_be_done_is_read_by_a_later_idle_event(deployed):
    deployed.relate()
    new = dataclasses.replace(agents.USER, latest_content={"username": "u", "password": "new"})
    others = [each for each in deployed.state.secrets if each.id != new.id]
    agent, server = (deployed.state.get_container(name) for name in ("agent", "dittofs"))
    away = dataclasses.replace(server, can_connect=False)
    deployed.change(secrets=[*others, new], containers=[agent, away])
    assert deployed.run("secret_changed", new).name == "waiting"
    deployed.change(containers=[deployed.state.get_container("agent"), server])
    deployed.run("update_status")
    assert deployed.agent.config["mysql"]["password"] == "new"


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
    (kept,) = deployed.admin_secrets("app")
    assert kept.latest_content == {"password": "correct horse"}


def test_a_note_of_the_volumes_that_is_no_use_is_made_anew(deployed):
    note = deployed.charm_dir / ".volumes.json"
    for text in ("", "{", "[]", '{"metadata": 1}', '{"metadata": "/none", "content": "/none"}'):
        note.write_text(text)
        assert deployed.run("update_status") == testing.ActiveStatus("nfs, smb: /export")
        assert len(asked(deployed)) <= ALONE
    note.unlink()
    note.mkdir()
    assert deployed.run("update_status") == testing.ActiveStatus("nfs, smb: /export")
    assert deployed.run("config_changed") == testing.ActiveStatus("nfs, smb: /export")
