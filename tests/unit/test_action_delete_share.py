"""delete-share: what it deletes, and all it refuses."""

import pytest
from ops import testing

from tests.standin.core import Response


@pytest.fixture
def with_old(deployed):
    """A unit with a share `/old` that the option no longer lists, with files on both volumes."""
    deployed.configure(shares="- name: /export\n- name: /old")
    deployed.configure(shares="- name: /export")
    for place in ("metadata/stores/old", "content/shares/old", "content/shares/export"):
        (deployed.root / place).mkdir(parents=True, exist_ok=True)
        (deployed.root / place / "file").write_text("data")
    return deployed


def test_the_share_and_its_files_are_gone_and_the_server_serves_again(with_old):
    results = with_old.act("delete-share", name="/old", confirm="/old")
    assert results == {"deleted": "/old", "freed-bytes": "0"}
    assert with_old.server.database.find("share", "/old") is None
    assert with_old.server.database.find("metadata", "old") is None
    assert not (with_old.root / "metadata/stores/old").exists()
    assert not (with_old.root / "content/shares/old").exists()
    assert (with_old.root / "content/shares/export/file").exists()
    assert with_old.status == testing.ActiveStatus("nfs, smb: /export")


def test_a_share_of_the_same_name_starts_empty(with_old):
    with_old.act("delete-share", name="/old", confirm="/old")
    with_old.configure(shares="- name: /export\n- name: /old")
    assert with_old.status == testing.ActiveStatus("nfs, smb: /export, /old")
    assert not (with_old.root / "content/shares/old/file").exists()


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"name": "/old", "confirm": "/export"}, "to delete /old for ever, say confirm=/old"),
        ({"name": "/export", "confirm": "/export"}, "the option shares lists /export: take it"),
        ({"name": "/none", "confirm": "/none"}, "there is no share /none: see list-shares"),
    ],
)
def test_what_is_refused_changes_nothing(with_old, params, text):
    with_old.server.calls.clear()
    with pytest.raises(testing.ActionFailed, match=text):
        with_old.act("delete-share", **params)
    assert with_old.server.changes == []
    assert (with_old.root / "metadata/stores/old/file").exists()


def test_with_a_list_that_cannot_be_read_it_is_refused(with_old):
    with_old.configure(shares="- nonsense")
    with pytest.raises(testing.ActionFailed, match="mend the option shares first"):
        with_old.act("delete-share", name="/old", confirm="/old")


def test_while_the_server_is_away_it_is_refused(with_old):
    with_old.border.stop()
    with pytest.raises(testing.ActionFailed, match="the server does not answer yet"):
        with_old.act("delete-share", name="/old", confirm="/old")
    assert (with_old.root / "content/shares/old/file").exists()


def test_a_store_that_another_share_uses_keeps_its_files(with_old):
    database = with_old.server.database
    old = database.find("share", "/old")
    database.put("share", {**old, "name": "/second", "id": "second"})
    with pytest.raises(testing.ActionFailed, match="409 Cannot delete metadata store"):
        with_old.act("delete-share", name="/old", confirm="/old")
    assert with_old.server.database.find("metadata", "old") is not None
    assert (with_old.root / "metadata/stores/old/file").exists()


def test_a_share_that_somebody_else_made_is_left_to_them(with_old):
    database = with_old.server.database
    store = database.find("metadata", "export")
    old = database.find("share", "/old")
    database.put("share", {**old, "metadata_store_id": store["id"]})
    with pytest.raises(testing.ActionFailed, match="/old was not made by this charm"):
        with_old.act("delete-share", name="/old", confirm="/old")
    assert (with_old.root / "metadata/stores/export/file").exists() is False
    assert with_old.server.database.find("share", "/old") is not None


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/shares/old"), ("DELETE", "/store/metadata/old")]
)
def test_a_deletion_that_was_cut_short_is_ended_by_the_next(with_old, method, path):
    def fail(asked_method, asked_path):
        if asked_method == method and asked_path.endswith(path):
            return Response(500)
        return None

    with_old.server.fault = fail
    with pytest.raises(testing.ActionFailed, match="the server answered 500"):
        with_old.act("delete-share", name="/old", confirm="/old")
    with_old.server.fault = lambda *_: None
    assert with_old.act("delete-share", name="/old", confirm="/old")["deleted"] == "/old"
    assert not (with_old.root / "metadata/stores/old").exists()
    with pytest.raises(testing.ActionFailed, match="there is no share /old"):
        with_old.act("delete-share", name="/old", confirm="/old")


@pytest.mark.parametrize("name", ["/..", "/.", "/", "/a/b", "/a:b", "export", "old", "../content"])
def test_a_name_that_no_share_of_the_charm_has_never_becomes_a_path(with_old, name):
    with_old.server.calls.clear()
    with pytest.raises(testing.ActionFailed, match=r"no share .*: see list-shares"):
        with_old.act("delete-share", name=name, confirm=name)
    assert with_old.server.changes == []
    assert with_old.border.starts == 1
    for place in ("metadata/stores/old", "content/shares/old", "content/shares/export"):
        assert (with_old.root / place / "file").exists()
