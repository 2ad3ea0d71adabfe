"""README, "Deploy": shares are listed in one option and changed while clients work."""

import json

import pytest

from tests.integration.application import SERVED
from tests.integration.client import ClientError, Sample

_ONE = "- name: /export"
_BLOCKED_SECONDS = 120


@pytest.fixture
def ready(serving, files):
    """The application with its one share as it was deployed, and a client."""
    serving.set_options(shares=_ONE)
    serving.wait_for(SERVED)
    return serving, files


def test_a_share_is_added_while_clients_work(ready, times):
    application, files = ready
    files.put("/export", "a", Sample("added"))
    with files.watching("/export", "a") as watch, times.measured("share added"):
        application.set_options(shares=f"{_ONE}\n- name: /projects")
        application.wait_for("nfs, smb: /export, /projects")
    assert watch.outages == []
    files.put("/projects", "b", Sample("in the new share"))
    assert files.get("/projects", "b") == Sample("in the new share").found


def test_a_mistake_is_named_and_touches_nothing(ready):
    application, files = ready
    files.put("/export", "a", Sample("kept"))
    application.set_options(shares="- name: a:b")
    application.wait(
        lambda status: status.current == "blocked" and "entry 1" in status.message,
        timeout=_BLOCKED_SECONDS,
    )
    assert files.get("/export", "a") == Sample("kept").found
    application.set_options(shares=_ONE)
    application.wait_for(SERVED)


def test_a_share_is_closed_for_writing_and_opened_again(ready):
    application, files = ready
    files.put("/export", "a", Sample("before"))
    application.set_options(shares="- {name: /export, read-only: true}")
    application.juju.wait(lambda _: _share(application, "/export")["read-only"])
    with pytest.raises(ClientError):
        files.put("/export", "closed", Sample("closed"))
    assert files.get("/export", "a") == Sample("before").found
    application.set_options(shares=_ONE)
    application.juju.wait(lambda _: not _share(application, "/export")["read-only"])
    files.put("/export", "open", Sample("open"))


def test_a_share_in_memory_says_that_it_is_volatile(ready):
    application, files = ready
    entry = "- {name: /scratch, metadata: memory, content: memory, quota: 100MB}"
    application.set_options(shares=f"{_ONE}\n{entry}")
    application.wait_for("nfs, smb: /export, /scratch (volatile)")
    files.put("/scratch", "a", Sample("volatile"))
    assert files.get("/scratch", "a") == Sample("volatile").found


def test_a_share_that_leaves_and_comes_back_has_its_files(ready):
    application, files = ready
    application.set_options(shares=f"{_ONE}\n- name: /left")
    application.wait_for("nfs, smb: /export, /left")
    files.put("/left", "a", Sample("left"))
    application.set_options(shares=_ONE)
    application.wait_for(SERVED)
    with pytest.raises(ClientError):
        files.get("/left", "a")
    application.set_options(shares=f"{_ONE}\n- name: /left")
    application.wait_for("nfs, smb: /export, /left")
    files.wait_for("/left", "a", Sample("left"))


def test_delete_share_deletes_it_with_its_files(ready, times):
    application, files = ready
    application.set_options(shares=f"{_ONE}\n- name: /old")
    application.wait_for("nfs, smb: /export, /old")
    files.put("/old", "a", Sample("old"))
    named = {"name": "/old", "confirm": "/old"}
    assert "take it out of the list" in application.refused("delete-share", named)
    application.set_options(shares=_ONE)
    application.wait_for(SERVED)
    with times.measured("delete-share"):
        assert application.act("delete-share", named)["deleted"] == "/old"
    application.set_options(shares=f"{_ONE}\n- name: /old")
    application.wait_for("nfs, smb: /export, /old")
    with pytest.raises(ClientError, match="no file"):
        files.get("/old", "a")


def test_the_first_share_is_offered_to_other_charms(ready):
    application, files = ready
    files.put("/export", "a", Sample("offered"))
    juju = application.juju
    juju.integrate("dittofs:filesystem", "nfs-client:filesystem")
    address = f"dittofs-0.dittofs-endpoints.{juju.show_model().short_name}.svc.cluster.local"
    juju.wait(
        lambda status: (
            status.apps["nfs-client"].units["nfs-client/0"].workload_status.message
            == f"nfs://({address}:12049)/export"
        )
    )
    assert type(files)(juju, address).get("/export", "a") == Sample("offered").found
    juju.remove_relation("dittofs:filesystem", "nfs-client:filesystem")


def _share(application, name):
    rows = json.loads(application.act("list-shares", {"format": "json"})["shares"])
    return next(row for row in rows if row["name"] == name)
