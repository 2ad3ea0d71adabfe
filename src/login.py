"""The server's API, logged in as `admin`."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

import ops
from pydantic import SecretStr

import credentials
from api import Api, LoginError
from credentials import Credentials
from errors import BlockedError
from state import State
from workload import API_URL

logger = logging.getLogger(__name__)


@contextmanager
def connect(
    model: ops.Model,
    state: State,
    made: Credentials,
    wait: float = 0.0,
    check: Callable[[], None] | None = None,
) -> Generator[Api]:
    """Yield the API, logged in; the wanted admin password is applied on the way.

    Args:
        model: where the passwords are kept.
        state: says which password is wanted.
        made: the credentials that the server was started with.
        wait: seconds to wait for the server's first answer.
        check: is called meanwhile; what it raises ends the waiting.

    Raises:
        UnreachableError: nobody answers.
        BlockedError: the server has a password that the charm does not know.
    """
    with Api(API_URL) as api:
        api.wait_ready(wait, check)
        _login(model, state, made, api)
        yield api


def _login(model: ops.Model, state: State, made: Credentials, api: Api) -> None:
    wanted = state.admin_password
    if wanted is not None and _accepts(api, wanted):
        # Where it was another one before, an event that is not idle has compared them.
        compare = not state.idle or wanted != made.admin_password
        credentials.remember_password(model, wanted, compare=compare)
        return
    for known in credentials.known_passwords(model, made):
        if known != wanted and _accepts(api, known):
            if wanted is not None:
                api.change_password(known, wanted)
                logger.info("server: changed the password of admin")
            credentials.remember_password(model, wanted or known)
            return
    raise BlockedError(
        "set admin-password to a secret with admin's present password: somebody changed it",
        more="put it into a Juju secret and grant that to the application before",
    )


def _accepts(api: Api, password: SecretStr) -> bool:
    try:
        api.login(password)
    except LoginError:
        return False
    return True
