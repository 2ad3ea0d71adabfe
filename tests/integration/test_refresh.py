"""docs/how-to/refresh.md: charm and server are changed by Juju alone."""

import jubilant
import pytest

from tests.integration.application import SERVED
from tests.integration.client import Sample

_OUTAGE = 120.0


def test_the_check_before_it_says_that_nothing_stands_in_the_way(serving):
    before = serving.detail()
    assert serving.act("pre-refresh-check") == {"refresh": "ready"}
    assert serving.detail()["volumes"][0]["instance"] == before["volumes"][0]["instance"]


@pytest.mark.parametrize("server", ["v0.1.0", "no-release"])
def test_the_check_names_a_server_that_may_not_serve(serving, server):
    assert server in serving.refused("pre-refresh-check", {"server": server})


def test_the_charm_is_refreshed_and_the_files_are_there(serving, files, charm, resources, times):
    files.put("/export", "a", Sample("before the refresh"))
    juju = serving.juju
    revision = juju.status().apps["dittofs"].charm_rev
    with files.watching("/export", "a") as watch, times.measured("refresh to active and idle"):
        juju.refresh("dittofs", path=charm, resources=resources)
        juju.wait(lambda status: status.apps["dittofs"].charm_rev > revision, successes=1)
        juju.wait(
            lambda status: (
                jubilant.all_agents_idle(status, "dittofs")
                and jubilant.all_active(status, "dittofs")
            ),
            error=lambda status: jubilant.any_error(status, "dittofs"),
            successes=10,
        )
    times.note("refresh: longest outage", watch.longest)
    assert watch.served_at_the_end
    assert watch.longest < _OUTAGE
    assert serving.message == SERVED
    assert files.get("/export", "a") == Sample("before the refresh").found
    assert serving.act("pre-refresh-check") == {"refresh": "ready"}
