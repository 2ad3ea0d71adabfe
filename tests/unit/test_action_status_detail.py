"""status-detail."""

import json

from ops import testing


def detail(unit):
    return json.loads(unit.act("status-detail", format="json")["status"])


def test_everything_the_charm_knows(deployed):
    found = detail(deployed)
    assert found["reasons"] == []
    assert found["server"] == {"version": "v0.29.0"}
    assert [volume["name"] for volume in found["volumes"]] == ["metadata", "content"]
    for volume in found["volumes"]:
        assert volume["size-bytes"] >= volume["used-bytes"] > 0
        assert volume["instance"] == deployed.marker("metadata")["instance"]
        assert volume["generation"] == 1
    assert [(store["name"], store["kind"], store["type"]) for store in found["stores"]] == [
        ("export", "metadata", "badger"),
        ("volume", "content", "fs"),
    ]
    assert [(share["name"], share["status"]) for share in found["shares"]] == [
        ("/export", "healthy")
    ]
    assert [
        (adapter["protocol"], adapter["port"], adapter["status"]) for adapter in found["adapters"]
    ] == [("nfs", 12049, "healthy"), ("smb", 12445, "healthy")]


def test_the_text_is_for_people(deployed):
    lines = deployed.act("status-detail")["status"].splitlines()
    assert lines[:2] == ["Reasons:", "  none"]
    assert "Volumes:" in lines
    assert any(line.startswith("  /export") and "healthy" in line for line in lines)
    assert any(line.startswith("  metadata") and "GiB" in line for line in lines)


def test_every_reason_is_shown_the_worst_first(deployed):
    deployed.configure(shares="- nonsense", log_level="loud")
    deployed.server.bound["smb"] = False
    deployed.run("update_status")
    reasons = detail(deployed)["reasons"]
    assert [reason.partition(":")[0] for reason in reasons] == ["blocked", "blocked", "waiting"]
    assert deployed.status.message.endswith("(+2 more: status-detail)")


def test_what_cannot_be_reached_is_said_in_its_place(deployed):
    deployed.border.stop()
    found = detail(deployed)
    assert found["server"] == {"version": "unknown", "reason": "the server does not answer yet"}
    assert len(found["volumes"]) == 2
    deployed.new_pod(can_connect=False)
    assert [volume["instance"] for volume in detail(deployed)["volumes"]] == ["none", "none"]


def test_before_anything_is_there_it_works(unit):
    unit.change(storages=[], leader=False)
    found = detail(unit)
    assert found["volumes"] == []
    assert found["reasons"] == ["waiting: waiting for the storage to be attached"]
    assert unit.status == testing.WaitingStatus("waiting for the storage to be attached")
