"""The admin password and the token key: made, given, changed, lost, and never shown."""

import dataclasses

import ops
import pytest
from ops import testing

SECRET_IDS = {number: f"secret:{f'user{number}':a<20}" for number in (1, 2, 3)}
ACTIVE = testing.ActiveStatus("nfs, smb: /export")


def made_by_charm(unit) -> testing.Secret:
    (secret,) = [each for each in unit.state.secrets if "token-key" in each.tracked_content]
    return secret


def kept_by(unit, owner: str) -> list[dict[str, str]]:
    """What the secret with the password that admin has holds, where there is one."""
    return [dict(each.latest_content) for each in unit.admin_secrets(owner)]


def user_secret(password: str, number: int = 1) -> testing.Secret:
    return testing.Secret({"password": password}, id=SECRET_IDS[number], owner=None)


def give(unit, secret: testing.Secret):
    unit.change(secrets=[*unit.state.secrets, secret])
    return unit.configure(admin_password=str(secret.id))


def accepts(unit, password: str) -> bool:
    return unit.server.database.accepts("admin", password)


def test_the_charm_makes_a_long_password_and_keeps_it_in_a_secret_of_the_application(deployed):
    secret = made_by_charm(deployed)
    assert secret.owner == "app"
    assert len(secret.tracked_content["admin-password"]) >= 24
    assert len(secret.tracked_content["token-key"]) >= 32
    assert accepts(deployed, secret.tracked_content["admin-password"])


def test_a_given_password_is_applied_without_a_restart(deployed):
    assert give(deployed, user_secret("correct horse")) == ACTIVE
    assert accepts(deployed, "correct horse")
    assert deployed.border.starts == 1


def test_a_given_password_is_there_from_the_first_start(unit):
    secret = user_secret("correct horse")
    unit.change(secrets=[secret], config={"admin-password": secret.id})
    assert unit.deploy() == ACTIVE
    assert accepts(unit, "correct horse")


def test_a_new_revision_is_applied(deployed):
    give(deployed, user_secret("correct horse"))
    old = deployed.state.get_secret(id=SECRET_IDS[1])
    new = dataclasses.replace(old, latest_content={"password": "battery staple"})
    deployed.change(secrets=[each for each in deployed.state.secrets if each.id != old.id] + [new])
    assert deployed.run("secret_changed", new) == ACTIVE
    assert accepts(deployed, "battery staple")


def test_another_secret_and_none_at_all_are_applied(deployed):
    give(deployed, user_secret("correct horse"))
    assert give(deployed, user_secret("battery staple", 2)) == ACTIVE
    assert accepts(deployed, "battery staple")
    config = {name: value for name, value in deployed.state.config.items() if "admin" not in name}
    deployed.change(config=config)
    assert deployed.run("config_changed") == ACTIVE
    assert accepts(deployed, made_by_charm(deployed).tracked_content["admin-password"])


def test_the_password_that_admin_has_outlives_the_unit(deployed):
    """Such as when it is scaled to 0: a secret of the unit would be gone."""
    give(deployed, user_secret("correct horse"))
    assert kept_by(deployed, "app") == [{"password": "correct horse"}]
    assert not kept_by(deployed, "unit")


def test_a_change_is_applied_also_where_unit_0_is_not_the_leader(deployed):
    first = kept_by(deployed, "app")
    deployed.change(leader=False)
    assert give(deployed, user_secret("correct horse")) == ACTIVE
    assert give(deployed, user_secret("battery staple", 2)) == ACTIVE
    assert kept_by(deployed, "unit") == [{"password": "battery staple"}]
    assert kept_by(deployed, "app") == first
    deployed.change(leader=True)
    assert deployed.run("config_changed") == ACTIVE
    assert kept_by(deployed, "app") == [{"password": "battery staple"}]
    assert not kept_by(deployed, "unit")
    assert give(deployed, user_secret("staple horse", 3)) == ACTIVE
    assert kept_by(deployed, "app") == [{"password": "staple horse"}]


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (None, "admin-password: run juju grant-secret <secret> dittofs, then set it again: the"),
        (user_secret("short"), "admin-password: the secret needs the key password with 8 to 72"),
        (user_secret("x" * 73), "admin-password: the secret needs the key password with 8 to 72"),
        (user_secret("from a file\n"), "admin-password: set a password without a line break or"),
        (user_secret("correct\x1bhorse"), "admin-password: set a password without a line break"),
        (
            testing.Secret({"passwort": "correct horse"}, id=SECRET_IDS[1]),
            "admin-password: the secret needs the key password",
        ),
    ],
)
def test_a_secret_that_is_no_use_is_said_and_the_server_keeps_its_password(deployed, secret, text):
    present = made_by_charm(deployed).tracked_content["admin-password"]
    if secret:
        deployed.change(secrets=[*deployed.state.secrets, secret])
    status = deployed.configure(admin_password=SECRET_IDS[1])
    assert status.name == "blocked"
    assert status.message.startswith(text)
    assert accepts(deployed, present)
    deployed.change(secrets=[each for each in deployed.state.secrets if each.id != SECRET_IDS[1]])
    assert give(deployed, user_secret("correct horse")) == ACTIVE


def test_a_password_changed_behind_the_charm_is_said_with_the_remedy(deployed):
    admin = deployed.server.database.user("admin")
    deployed.server.database.put_user(admin, "changed by hand")
    status = deployed.run("update_status")
    assert status.name == "blocked"
    assert status.message == (
        "set admin-password to a secret with admin's present password: somebody changed it"
    )
    (reason,) = deployed.reasons()
    assert reason == (
        f"blocked: {status.message}; put it into a Juju secret and grant that to the application "
        "before"
    )
    assert give(deployed, user_secret("changed by hand")) == ACTIVE


def test_lost_secrets_are_made_anew_and_the_server_takes_them(deployed):
    """The users of the server stay; only admin is made anew."""
    before = made_by_charm(deployed).tracked_content
    deployed.server.database.put_user({"username": "ann", "role": "user"}, "her password")
    deployed.change(secrets=[])
    assert deployed.run("update_status") == ACTIVE
    after = made_by_charm(deployed).tracked_content
    assert after != before
    assert accepts(deployed, after["admin-password"])
    assert deployed.server.database.accepts("ann", "her password")


def test_lost_secrets_wait_for_a_leader(deployed):
    deployed.change(secrets=[], leader=False)
    assert deployed.run("update_status") == testing.WaitingStatus(
        "waiting for the leader to make the passwords"
    )
    deployed.change(leader=True)
    assert deployed.run("leader_elected") == ACTIVE


def test_secrets_that_juju_does_not_give_just_now_are_not_made_anew(deployed, monkeypatch):
    from scenario import mocking  # noqa: PLC0415  # the border

    def refuse(*_args, **_kwargs):
        raise ops.ModelError("connection refused")

    starts, secrets = deployed.border.starts, deployed.state.secrets
    with monkeypatch.context() as patch:
        patch.setattr(mocking._MockModelBackend, "secret_get", refuse)  # noqa: SLF001  # ops' own
        status = deployed.run("update_status")
    assert status.name == "waiting"
    assert deployed.state.secrets == secrets
    assert deployed.border.starts == starts
    assert deployed.run("update_status") == ACTIVE
    assert deployed.border.starts == starts


def test_a_revision_that_nobody_needs_is_removed(deployed):
    give(deployed, user_secret("correct horse"))
    (kept,) = deployed.admin_secrets("app")
    context = deployed._context()  # noqa: SLF001  # what it removed is told by the context only
    context.run(context.on.secret_remove(kept, revision=1), deployed.state)
    assert context.removed_secret_revisions == [1]
