"""Volumes at their limits: nothing is deleted, and what does not fit is said."""

import json
import time

import pytest
from ops import pebble, testing

from budget import REMEDIES
from stores import NEVER_EVICTS
from tests.juju import AGENT
from units import GIB, MIB

ACTIVE = testing.ActiveStatus("nfs, smb: /export")
SMALL = 5 * GIB


def limits(unit):
    """Name of each local store to its `max_size`."""
    stores = unit.server.database.all("local")
    return {store["name"]: store["config"].get("max_size") for store in stores}


def put_store(unit, name, **config):
    """A local store that the charm did not make; its id."""
    database = unit.server.database
    config = {"path": "/data/content/own", **config}
    return database.put("local", {"name": name, "type": "fs", "config": config})["id"]


def put_share(unit, name, store, **fields):
    """A share on it."""
    database = unit.server.database
    share = {**database.find("share", "/export"), "name": name, "id": name}
    database.put("share", share | {"local_block_store_id": store} | fields)


def test_the_store_that_the_charm_makes_never_deletes_content(deployed):
    assert limits(deployed) == {"volume": NEVER_EVICTS}


@pytest.mark.parametrize("config", [{"max_size": 900 * MIB}, {}, {"max_size": "1GiB"}])
def test_an_older_store_is_changed_before_the_server_is_started_on_it(deployed, config):
    database = deployed.server.database
    store = database.find("local", "volume")
    database.put(
        "local", {**store, "config": {"path": "/data/content", "chunk_size": 1, **config}}
    )
    starts = deployed.border.starts
    deployed.new_pod()
    assert deployed.pebble_ready() == ACTIVE
    assert deployed.border.starts == starts + 1
    (store,) = deployed.server.database.all("local")
    assert store["config"] == {
        "path": "/data/content",
        "chunk_size": 1,
        "max_size": NEVER_EVICTS,
    }


def test_a_configuration_that_restarts_the_server_changes_it_too(deployed):
    put_share(deployed, "/own", put_store(deployed, "own"))
    assert deployed.configure(log_level="debug") == ACTIVE
    assert limits(deployed)["own"] == NEVER_EVICTS


def test_a_store_that_somebody_made_is_changed_at_the_next_event_by_one_restart(deployed):
    put_share(deployed, "/own", put_store(deployed, "own", max_size=GIB))
    starts = deployed.border.starts
    for _ in range(3):
        assert deployed.run("update_status") == ACTIVE
    assert deployed.border.starts == starts + 1
    assert limits(deployed) == {"volume": NEVER_EVICTS, "own": NEVER_EVICTS}


def test_a_cache_in_front_of_a_remote_store_keeps_its_limit(deployed):
    cache = put_store(deployed, "cache", max_size=GIB)
    put_share(deployed, "/remote", cache, remote_block_store_id="s3")
    put_store(deployed, "unused", max_size=GIB)
    starts = deployed.border.starts
    assert deployed.run("update_status") == ACTIVE
    assert deployed.border.starts == starts
    deployed.new_pod()
    deployed.pebble_ready()
    assert limits(deployed) == {"volume": NEVER_EVICTS, "cache": GIB, "unused": GIB}
    # As soon as one share has its only copy there, it is no cache any more.
    put_share(deployed, "/only-here", cache)
    deployed.run("update_status")
    assert limits(deployed)["cache"] == NEVER_EVICTS


def test_settings_that_are_damaged_are_said_and_no_server_started(deployed):
    starts = deployed.border.starts
    deployed.new_pod()
    deployed.database.write_bytes(b"not a database" * 999)
    status = deployed.pebble_ready()
    assert status.name == "blocked"
    text = (
        "restore a backup or bring the metadata volume back: /data/metadata/controlplane.db is "
        "damaged"
    )
    assert status.message == text
    assert deployed.reasons() == [
        f"blocked: {text}; this file has the server's settings: file is not a database"
    ]
    assert deployed.border.starts == starts


def test_a_volume_of_1_gib_is_refused_until_it_is_larger_or_a_trial_is_asked_for(unit):
    unit.border.spaces["content"] = (0, GIB)
    unit.deploy()
    text = "use a content volume of 8.00GiB or list fewer shares: 0 of 1 fit"
    assert unit.status == testing.BlockedStatus(text)
    (reason,) = unit.reasons()
    assert reason == (
        f"blocked: {text}; this one has 1.00GiB; smaller quotas need less; for a trial "
        "set allow-small-content-volume=true"
    )
    assert unit.server.database.all("share") == []
    status = unit.configure(allow_small_content_volume=True)
    trial = "nfs, smb: /export; for a trial: the content volume is too small"
    assert status == testing.ActiveStatus(trial)
    assert unit.agent.guard.config["volumes"]["content"] == {
        "freeze": 64 * MIB,
        "resume": 80 * MIB,
        "halt": 32 * MIB,
        "tight": 80 * MIB,
    }
    unit.border.spaces["content"] = (0, 16 * GIB)
    assert unit.run("update_status") == ACTIVE
    assert unit.configure(allow_small_content_volume=False) == ACTIVE


@pytest.mark.parametrize("volume", ["metadata", "content"])
def test_a_volume_that_is_nearly_full_is_said_until_it_is_not(deployed, volume):
    deployed.border.spaces[volume] = (85 * GIB, 15 * GIB)
    assert deployed.run("update_status") == testing.BlockedStatus(
        f"{REMEDIES[volume]}: it is 85 % full, 15.00GiB are left"
    )
    deployed.border.spaces[volume] = (84 * GIB, 16 * GIB)
    assert deployed.run("update_status") == ACTIVE


def test_a_volume_that_is_full_is_said_while_the_server_is_away_too(deployed):
    deployed.border.spaces["content"] = (100 * GIB, 0)
    deployed.border.stop()
    deployed.run("update_status")
    full = "enlarge the content volume: it is 100 % full, 0B are left"
    assert any(full in each for each in deployed.reasons())


def test_the_guard_runs_beside_the_server_and_is_told_what_it_needs(deployed):
    assert deployed.guard == pebble.ServiceStatus.ACTIVE
    config = deployed.agent.guard.config
    assert config["volumes"] == {
        "content": {
            "freeze": 2 * GIB,
            "resume": 5 * GIB // 2,
            "halt": GIB // 2,
            "tight": 5 * GIB,
        },
        "metadata": {
            "freeze": 10 * GIB,
            "resume": 25 * GIB // 2,
            "halt": 5 * GIB,
            "tight": 25 * GIB // 2,
        },
    }
    assert config["room"] == 91 * GIB // 2
    assert config["shares"] == {"/export": {"quota": 0, "read_only": False, "store": "export"}}
    assert config["api"]["password"]
    assert config["api"]["password"] not in "\n".join(deployed.logs)


def test_it_is_started_again_only_where_something_differs(deployed):
    starts = deployed.agent.guard.starts
    deployed.run("update_status")
    deployed.run("config_changed")
    assert deployed.agent.guard.starts == starts
    deployed.server.calls.clear()
    deployed.configure(shares="- {name: /export, quota: 1GiB, read-only: true}")
    assert deployed.agent.guard.starts == starts + 1
    share = deployed.agent.guard.config["shares"]["/export"]
    assert (share["quota"], share["read_only"]) == (GIB, True)
    assert deployed.server.changes == []
    deployed.border.spaces["content"] = (GIB, 199 * GIB)
    deployed.run("update_status")
    assert deployed.agent.guard.starts == starts + 2
    assert deployed.agent.guard.config["volumes"]["content"]["freeze"] == 4 * GIB


def test_a_share_in_memory_needs_no_guard(deployed):
    deployed.configure(shares="- {name: /a, metadata: memory, content: memory, quota: 1MiB}")
    assert deployed.guard == pebble.ServiceStatus.INACTIVE
    deployed.configure(shares="- name: /export")
    assert deployed.guard == pebble.ServiceStatus.ACTIVE


def test_a_wrong_option_leaves_the_guard_as_it_is(deployed):
    starts = deployed.agent.guard.starts
    deployed.configure(shares="- nonsense")
    assert deployed.guard == pebble.ServiceStatus.ACTIVE
    assert deployed.agent.guard.starts == starts


@pytest.mark.parametrize(
    ("said", "volume", "what", "why"),
    [
        ({"short": ["content"]}, "content", "no file can grow", ", 900.00MiB are left"),
        (
            {"short": ["metadata"], "halted": ["/export"]},
            "metadata",
            "nothing can be written",
            ", 7.00MiB are left",
        ),
        (
            {"full": True},
            "content",
            "no file can grow",
            "",
        ),
    ],
)
def test_that_no_file_can_grow_is_said_until_it_can(deployed, said, volume, what, why):
    free = {"content": 900 * MIB, "metadata": 7 * MIB}
    deployed.agent.guard.say(since=1767225600.0, free=free, **said)
    assert deployed.run("update_status") == testing.BlockedStatus(
        f"{REMEDIES[volume]}: {what}{why}"
    )
    assert "since 2026-01-01 00:00 UTC" in str(deployed.reasons())
    deployed.agent.guard.say()
    assert deployed.run("update_status") == ACTIVE


def test_a_guard_that_says_nothing_or_cannot_work_is_said(deployed):
    deployed.agent.guard.say(updated=time.time() - 100)
    deployed.run("update_status")
    assert deployed.status.name == "waiting"
    assert deployed.status.message.startswith("the guard of the volumes has said nothing since 20")
    # For a moment while the server starts that is nothing.
    away = {"error": "it does not answer"}
    deployed.agent.guard.say(**away, **{"error-since": time.time() - 10})
    assert deployed.run("update_status") == ACTIVE
    deployed.agent.guard.say(**away, **{"error-since": time.time() - 100})
    assert deployed.run("update_status") == testing.WaitingStatus(
        "the guard of the volumes cannot set a quota: it does not answer"
    )


def test_a_count_that_does_not_end_is_said(deployed):
    deployed.agent.guard.say(**{"counting-since": time.time() - 600})
    assert deployed.run("update_status") == ACTIVE
    deployed.agent.guard.say(**{"counting-since": 1767225600.0})
    text = (
        "a share may refuse files too early: the guard counts removed files since 2026-01-01 "
        "00:00 UTC"
    )
    assert deployed.run("update_status") == testing.WaitingStatus(text)
    assert deployed.reasons() == [f"waiting: {text}; see the log of the agent's container"]


def test_a_server_that_keeps_shares_read_only_is_started_anew_without_that(deployed):
    deployed.agent.answers["make-writable"] = (0, '{"writable": ["/export"], "error": null}')
    starts, guards = deployed.border.starts, deployed.agent.guard.starts
    deployed.agent.guard.say(stuck=["/export"])
    assert deployed.run("update_status") == ACTIVE
    assert deployed.border.starts == starts + 1
    # What the guard said before does not hold any more.
    assert deployed.agent.guard.starts == guards + 1
    assert deployed.run("update_status") == ACTIVE
    assert deployed.border.starts == starts + 1


def test_a_server_whose_note_cannot_be_taken_back_serves_on_and_says_so(deployed):
    said = {"kind": "store", "text": "no space left on device"}
    deployed.agent.answers["make-writable"] = (1, json.dumps({"error": said}))
    deployed.agent.guard.say(stuck=["/export"])
    status = deployed.run("update_status")
    text = "see juju debug-log: the server keeps shares read-only that are to be written"
    assert status.message == text
    assert "no space left on device" in "".join(deployed.logs)
    assert deployed.service == pebble.ServiceStatus.ACTIVE


def test_a_guard_that_ends_at_once_is_said(deployed):
    deployed.agent.guard.broken = True
    status = deployed.configure(shares="- {name: /export, quota: 1GiB}")
    assert status == testing.WaitingStatus(
        "the guard of the volumes does not work yet: see the log of the agent's container"
    )
    deployed.agent.guard.broken = False
    assert deployed.configure(shares="- {name: /export, quota: 2GiB}") == ACTIVE


def test_without_its_container_the_server_serves_and_that_is_said(deployed):
    deployed.agent_away()
    assert deployed.run("update_status") == testing.WaitingStatus(
        "waiting for the agent's container"
    )
    assert deployed.service == pebble.ServiceStatus.ACTIVE


def test_it_ends_with_the_unit_and_with_volumes_that_are_not_served(deployed):
    (deployed.root / "content" / ".dittofs-charm.json").unlink()
    deployed.run("update_status")
    assert deployed.status.name == "blocked"
    assert deployed.guard == pebble.ServiceStatus.INACTIVE


def test_the_end_of_a_unit_is_its_end(deployed):
    deployed.remove()
    assert deployed.guard == pebble.ServiceStatus.INACTIVE


def test_the_detail_tells_what_was_asked_for_from_what_the_guard_added(deployed):
    deployed.configure(shares="- {name: /export, quota: 1GiB}")
    said = {"quota": GIB, "removed": 5 * MIB, "limit": GIB + 5 * MIB, "used": 7 * MIB}
    deployed.agent.guard.say(shares={"/export": said})
    found = json.loads(deployed.act("status-detail", format="json")["status"])
    assert found["content-budget"] == {
        "usable": "100.00GiB",
        "reserve": "5.00GiB",
        "needed": "6.00GiB",
        "room-for-files": "45.50GiB",
        "no-growth-below": "2.00GiB",
        "trial": False,
    }
    (share,) = found["shares"]
    assert (share["quota"], share["removed-bytes"]) == ("1.00GiB", 5 * MIB)
    assert share["needs-bytes"] == 6 * GIB
    assert found["space-guard"]["short-of-space"] == "no volume"
    assert [volume["free-bytes"] for volume in found["volumes"]] == [99 * GIB, 99 * GIB]


def test_without_the_container_the_detail_is_there_all_the_same(deployed):
    deployed.agent_away()
    found = json.loads(deployed.act("status-detail", format="json")["status"])
    assert found["space-guard"]["heard"] == "never"
    assert not deployed.state.get_container(AGENT).can_connect
