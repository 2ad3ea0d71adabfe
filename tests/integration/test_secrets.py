"""README, "Deploy": the password of admin is in a secret, and can be given in one."""

import secrets

import pytest
from pydantic import SecretStr

from tests.integration.application import ADMIN, SERVED

_OPTION = "admin-password"


def made() -> SecretStr:
    """A password that nobody has."""
    return SecretStr(secrets.token_hex(16))


@pytest.fixture(scope="module")
def given(serving):
    """A secret of a user with a password for admin; the application may not read it yet."""
    return serving.juju.add_secret("admin", {"password": made().get_secret_value()})


def lets_in(application, files) -> bool:
    """Whether the server takes the password that the application's secret tells."""
    return files.accepts(application.reveal(application.secret(ADMIN), "password"))


def test_the_password_that_the_charm_made_is_told_by_a_secret_of_the_application(serving, files):
    assert lets_in(serving, files)
    assert not files.accepts(made())


def test_a_secret_that_is_not_granted_is_named(serving, files, given):
    serving.set_options(admin_password=given)
    serving.wait(
        lambda status: status.current == "blocked" and status.message.startswith(f"{_OPTION}: ")
    )
    assert lets_in(serving, files)


def test_a_password_is_given_in_a_secret(serving, files, given, times):
    juju = serving.juju
    juju.grant_secret(given, serving.name)
    # To grant it is no event, nor is it to set what is set.
    juju.config(serving.name, reset=_OPTION)
    with times.measured("password given"):
        serving.set_options(admin_password=given)
        juju.wait(lambda _: files.accepts(serving.reveal(given, "password")), successes=1)
    serving.wait_for(SERVED)
    assert lets_in(serving, files)


def test_the_password_is_changed_with_its_secret(serving, files, given, times):
    before, after = serving.reveal(given, "password"), made()
    with times.measured("password changed"):
        serving.juju.update_secret(given, {"password": after.get_secret_value()})
        serving.juju.wait(lambda _: files.accepts(after), successes=1)
    serving.wait_for(SERVED)
    assert not files.accepts(before)
    assert lets_in(serving, files)
    log = serving.juju.debug_log()
    told = [word.get_secret_value() in log for word in (before, after)]
    assert told == [False, False]


def test_the_charm_s_own_password_is_back_without_the_option(serving, files, given):
    serving.juju.config(serving.name, reset=_OPTION)
    serving.juju.wait(lambda _: not files.accepts(serving.reveal(given, "password")), successes=1)
    serving.wait_for(SERVED)
    serving.wait_idle()
    assert lets_in(serving, files)
