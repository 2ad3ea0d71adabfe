"""list-shares."""

import json

import pytest
from ops import testing


def test_all_shares_are_listed_also_those_no_longer_served(deployed):
    deployed.configure(shares="- {name: /new, metadata: memory, quota: 1GiB, read-only: true}")
    rows = {
        row["name"]: row
        for row in json.loads(deployed.act("list-shares", format="json")["shares"])
    }
    assert rows["/export"]["served"] is False
    assert rows["/export"]["listed"] is False
    assert rows["/export"]["volatile"] is False
    assert rows["/new"] == {
        "name": "/new",
        "listed": True,
        "served": True,
        "metadata": "memory",
        "content": "volume",
        "volatile": True,
        "access": "read-write",
        "read-only": True,
        "used-bytes": 0,
        "removed-bytes": 0,
        "quota": "1.00GiB",
        "limit": "1.00GiB",
        "needs-bytes": 6 * 2**30,
        "status": "healthy",
    }


def test_the_table_is_for_people(deployed):
    lines = deployed.act("list-shares")["shares"].splitlines()
    assert lines[0].split()[:3] == ["name", "listed", "served"]
    assert lines[1].split()[:5] == ["/export", "yes", "yes", "badger", "volume"]


def test_no_share(unit):
    unit.change(config={"shares": "[]"})
    unit.deploy()
    assert unit.act("list-shares")["shares"] == "none"


def test_it_works_while_the_configuration_is_wrong(deployed):
    deployed.configure(shares="- nonsense", memory="x", log_level="y", protocols="z")
    assert "/export" in deployed.act("list-shares")["shares"]


def test_while_the_server_is_away_it_fails_with_the_reason(deployed):
    deployed.border.stop()
    with pytest.raises(testing.ActionFailed, match="the server does not answer yet"):
        deployed.act("list-shares")


def test_before_the_first_start_it_fails_with_the_reason(unit):
    unit.change(leader=False)
    with pytest.raises(testing.ActionFailed, match="waiting for the leader"):
        unit.act("list-shares")
