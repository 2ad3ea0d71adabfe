"""docs/explanation/architecture.md: what ends or hangs comes back by itself, in bounded time."""

import time

import pytest

from tests.integration.application import SERVED
from tests.integration.client import Sample

_SERVER, _AGENT = ("dittofs", "dfs"), ("agent", "python3*")
_SAMPLE = Sample("is there after every fault")
# What is promised of a hang, and what nothing may exceed.
_HANG, _OUTAGE = 90.0, 120.0
# A check has to have found the server well once before a hang is told from a start.
_CHECKED = 30


@pytest.fixture
def ready(serving, files):
    """The application with a file, as it is when all is well."""
    serving.wait_for(SERVED)
    files.put("/export", "a", _SAMPLE)
    return serving, files


def wait_until_served(files, seconds: float) -> None:
    """Wait until a client can read the file, at most so long."""
    files.wait_for("/export", "a", _SAMPLE, seconds)


def test_a_server_that_is_killed_comes_back(ready, times):
    application, files = ready
    before = application.processes(*_SERVER)
    with files.watching("/export", "a") as watch:
        application.signal(*_SERVER, "KILL")
        application.juju.wait(lambda _: _started_anew(application, before), successes=1)
        wait_until_served(files, _OUTAGE)
    times.note("server killed: outage", watch.longest)
    assert watch.served_at_the_end
    assert watch.longest < _OUTAGE
    application.wait_for(SERVED)


def test_a_server_that_hangs_is_started_anew(ready, times):
    application, files = ready
    time.sleep(_CHECKED)
    before = application.processes(*_SERVER)
    with files.watching("/export", "a") as watch:
        application.signal(*_SERVER, "STOP")
        application.juju.wait(
            lambda _: _started_anew(application, before), successes=1, timeout=2 * _HANG
        )
        wait_until_served(files, _OUTAGE)
    times.note("server hangs: outage", watch.longest)
    assert watch.served_at_the_end
    assert 0 < watch.longest < _HANG
    application.wait_for(SERVED)


def test_actions_answer_while_the_server_hangs(ready):
    application, files = ready
    time.sleep(_CHECKED)
    before = application.processes(*_SERVER)
    application.signal(*_SERVER, "STOP")
    assert "reasons" in application.detail()
    application.juju.wait(
        lambda _: _started_anew(application, before), successes=1, timeout=2 * _HANG
    )
    application.wait_for(SERVED)
    wait_until_served(files, _OUTAGE)


def test_a_pod_that_is_deleted_comes_back_with_its_volumes(ready, cluster, times):
    application, files = ready
    instance = application.instance
    with files.watching("/export", "a") as watch:
        before = cluster.pod("dittofs-0")
        cluster.delete_pod("dittofs-0")
        application.juju.wait(lambda _: cluster.pod("dittofs-0") not in {"", before})
        wait_until_served(files, 2 * _OUTAGE)
    times.note("pod deleted: outage", watch.longest)
    assert watch.served_at_the_end
    assert 0 < watch.longest < _OUTAGE
    application.wait_for(SERVED)
    assert application.instance == instance


def test_an_agent_that_is_killed_comes_back_and_no_client_notices(ready, times):
    application, files = ready
    before, server = application.processes(*_AGENT), application.processes(*_SERVER)
    with files.watching("/export", "a") as watch, times.measured("agent killed to agent back"):
        application.signal(*_AGENT, "KILL")
        application.juju.wait(
            lambda _: bool(set(application.processes(*_AGENT)) - set(before)), successes=1
        )
    assert watch.outages == []
    assert application.processes(*_SERVER) == server
    application.wait_for(SERVED)


def _started_anew(application, before: list[int]) -> bool:
    """Whether another server runs than the one of before."""
    now = application.processes(*_SERVER)
    return bool(now) and not set(now) & set(before)
