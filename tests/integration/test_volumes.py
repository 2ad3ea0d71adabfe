"""docs/how-to/volumes.md: a unit serves its own volumes or none, and one unit serves."""

from typing import NamedTuple

import pytest

from tests.integration.application import LOST, SERVED, Application
from tests.integration.client import ClientError, Sample
from tests.integration.reading import Claim

_ONLY_UNIT_0 = "only unit 0 can serve"


class Scaled(NamedTuple):
    """An application that was scaled to 0 and to 1, and the claims that it had before."""

    application: Application
    before: dict[str, Claim]


def scale_to_0_and_1(application: Application) -> None:
    """What takes a unit away and brings one back, as Juju does it."""
    application.scale(0)
    application.juju.wait(lambda status: not status.apps[application.name].units)
    application.scale(1)
    application.wait(lambda status: status.message in {LOST, SERVED})


@pytest.fixture(scope="module")
def scaled(serving, files, cluster):
    """An application with a file that was scaled to 0 and to 1."""
    files.put("/export", "a", Sample("before it was scaled"))
    before = cluster.claims("dittofs")
    for claim in before.values():
        cluster.keep(claim.volume)
    scale_to_0_and_1(serving)
    return Scaled(serving, before)


def lost(application: Application) -> None:
    """Skip what is about lost volumes where Juju gave the unit its own ones back."""
    if application.message == SERVED:
        pytest.skip("this Juju gives a unit its own volumes back")


def test_scaled_to_0_and_1_it_serves_its_own_volumes_or_none(scaled, files):
    if scaled.application.message == SERVED:
        files.wait_for("/export", "a", Sample("before it was scaled"))
        return
    assert scaled.application.status().current == "blocked"
    with pytest.raises(ClientError):
        files.get("/export", "a")
    reasons = "\n".join(scaled.application.detail()["reasons"])
    assert "start-without volume=both" in reasons


def test_the_old_volumes_are_put_behind_the_claims(scaled, files, cluster, times):
    application, before = scaled
    lost(application)
    present = cluster.claims("dittofs")
    with times.measured("old volumes put behind the claims"):
        cluster.scale("dittofs", 0)
        cluster.delete_claims(*(claim.name for claim in present.values()))
        for name, claim in before.items():
            cluster.reserve(claim.volume, present[name].name)
        cluster.scale("dittofs", 1)
        application.wait_for(SERVED)
    files.wait_for("/export", "a", Sample("before it was scaled"))


def test_start_without_both_begins_anew_with_empty_shares(scaled, files):
    application = scaled.application
    if application.message == SERVED:
        scale_to_0_and_1(application)
    lost(application)
    volume = {"volume": "both"}
    assert "confirm=both" in application.refused("start-without", volume | {"confirm": "no"})
    application.act("start-without", volume | {"confirm": "both"}, wait=300)
    application.wait_for(SERVED)
    with pytest.raises(ClientError, match="no file"):
        files.get("/export", "a")
    files.put("/export", "b", Sample("begun anew"))
    assert files.get("/export", "b") == Sample("begun anew").found


def test_a_second_unit_is_refused_and_the_first_serves_on(serving, files, times):
    serving.wait_for(SERVED)
    files.put("/export", "c", Sample("two units"))
    with files.watching("/export", "c") as coming:
        serving.scale(2)
        serving.wait(
            lambda status: status.current == "blocked" and status.message.startswith(_ONLY_UNIT_0),
            number=1,
        )
    times.note("second unit comes: longest outage", coming.longest)
    assert "scale-application dittofs 1" in serving.refused("pre-refresh-check")
    # From its first event on the second unit is not ready: no client is sent to it.
    with files.watching("/export", "c") as there:
        serving.scale(1)
        serving.juju.wait(lambda status: len(status.apps["dittofs"].units) == 1)
        serving.wait_for(SERVED)
    assert there.outages == []
    assert coming.served_at_the_end
