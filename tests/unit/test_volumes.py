"""The two volumes: which pairs are served, and what the status says of the others."""

import json
from dataclasses import dataclass

import ops
import pytest
from ops import testing

import volumes
from volumes import MARKER, Marker, MismatchError


@dataclass(frozen=True)
class Owner:
    application: str = "dittofs"
    model_uuid: str = "a-model"
    instance: str | None = None


OURS = Owner()
META = {
    "name": "tester",
    "containers": {"dittofs": {"resource": "image"}},
    "resources": {"image": {"type": "oci-image"}},
}


class Lender(ops.CharmBase):
    """Only lends its container."""


@pytest.fixture
def roots(tmp_path):
    for name in volumes.PATHS:
        (tmp_path / name).mkdir()
    return {name: tmp_path / name for name in volumes.PATHS}


@pytest.fixture
def container(roots):
    """A container whose two volumes are the directories of `roots`; `mv` really moves."""
    mounts = {
        name: testing.Mount(location=path, source=roots[name])
        for name, path in volumes.PATHS.items()
    }
    state = testing.State(
        containers=[testing.Container("dittofs", can_connect=True, mounts=mounts)]
    )
    context = testing.Context(Lender, meta=META)
    with context(context.on.update_status(), state) as manager:
        yield manager.charm.unit.get_container("dittofs")


def marker(roots, name) -> dict[str, object]:
    return json.loads((roots[name] / MARKER).read_text())


def start(container, life="life", owner=OURS) -> volumes.Pair:
    """What the charm does before it starts the server."""
    pair = volumes.look(container)
    volumes.check(pair, owner)
    volumes.commit(container, pair, owner, life)
    return volumes.look(container)


def refused(container, owner=OURS) -> MismatchError:
    with pytest.raises(MismatchError) as raised:
        volumes.check(volumes.look(container), owner)
    return raised.value


def with_share(container) -> None:
    volumes.record_shares(container, volumes.look(container), {"/export": "badger/volume"})


def test_two_empty_volumes_become_a_pair(container, roots):
    (roots["content"] / "lost+found").mkdir()
    start(container)
    assert marker(roots, "metadata") == marker(roots, "content")
    assert marker(roots, "metadata")["generation"] == 1


def test_each_start_counts_and_keeps_the_instance(container, roots):
    start(container)
    first = marker(roots, "metadata")
    start(container)
    second = marker(roots, "content")
    assert (first["instance"], first["generation"]) == (second["instance"], 1)
    assert second["generation"] == 2


@pytest.mark.parametrize(("lost", "left"), [("metadata", "content"), ("content", "metadata")])
def test_an_empty_volume_beside_one_with_data_is_refused(container, roots, lost, left):
    start(container)
    with_share(container)
    (roots[lost] / MARKER).unlink()
    error = refused(container)
    assert str(error) == (
        f"bring the {lost} volume back or run start-without volume={lost}: it is empty"
    )
    assert f"; the {left} volume has shares /export; a backup can be restored" in error.whole
    assert error.lost == lost


def test_a_volume_of_another_instance_is_refused_and_named(container, roots):
    start(container)
    with_share(container)
    other = marker(roots, "content") | {"instance": "other", "application": "files"}
    (roots["content"] / MARKER).write_text(json.dumps(other))
    error = refused(container)
    assert str(error) == (
        "bring the content volume back or run start-without volume=content: it is another's"
    )
    assert "; it belongs to an instance of files and has shares /export; " in error.whole
    assert error.lost == "content"
    ours, theirs = marker(roots, "metadata"), marker(roots, "content")
    (roots["content"] / MARKER).write_text(json.dumps(ours))
    (roots["metadata"] / MARKER).write_text(json.dumps(theirs))
    assert refused(container).lost == "metadata"


@pytest.mark.parametrize("name", ["metadata", "content"])
def test_a_volume_brought_back_from_an_old_copy_is_refused(container, roots, name):
    start(container)
    with_share(container)
    copy = (roots[name] / MARKER).read_text()
    start(container)
    (roots[name] / MARKER).write_text(copy)
    error = refused(container)
    assert str(error) == (
        f"restore a backup or run start-without volume={name}: that volume is older"
    )
    assert error.whole.endswith("; the volumes have shares /export")
    assert error.lost == name


def test_a_volume_with_files_but_no_marker_is_refused(container, roots):
    (roots["content"] / "photos").mkdir()
    text = "bring the {0} volume back or run start-without volume={0}: it has foreign files"
    error = refused(container)
    assert str(error) == text.format("content")
    assert error.whole.endswith("; start-without puts them aside")
    (roots["content"] / "photos").rmdir()
    start(container)
    (roots["metadata"] / MARKER).unlink()
    (roots["metadata"] / "photos").mkdir()
    assert str(refused(container)) == text.format("metadata")


@pytest.mark.parametrize("other", [Owner(application="files"), Owner(model_uuid="another-model")])
def test_a_pair_of_another_application_or_model_waits_to_be_adopted(container, roots, other):
    start(container, owner=other)
    error = refused(container)
    instance = str(marker(roots, "metadata")["instance"])
    assert error.adopt == instance
    assert str(error).startswith(f"run adopt-volumes confirm={instance} to serve the volumes of")
    assert f"; they belong to the application {other.application} of another life" in error.whole
    assert error.whole.endswith(", and have no shares")
    volumes.adopt(container, volumes.look(container), OURS)
    volumes.check(volumes.look(container), OURS)
    assert marker(roots, "content")["instance"] == instance


@pytest.mark.parametrize("text", ["", "{", '{"version": 2}', "[]"])
def test_a_marker_that_cannot_be_read_is_refused_and_left_alone(container, roots, text):
    start(container)
    (roots["content"] / MARKER).write_text(text)
    with pytest.raises(MismatchError, match="on the content volume is damaged or of a newer"):
        volumes.look(container)
    assert (roots["content"] / MARKER).read_text() == text


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_crash_between_the_steps_of_a_start_is_no_mismatch(container, monkeypatch, first, steps):
    if not first:
        start(container)
    push = container.push
    left = iter(range(steps))

    def dying_push(*args, **kwargs):
        if next(left, None) is None:
            raise ops.pebble.ConnectionError("cut")
        push(*args, **kwargs)

    monkeypatch.setattr(container, "push", dying_push)
    if steps < 3:
        with pytest.raises(ops.pebble.ConnectionError):
            start(container)
    monkeypatch.undo()
    pair = start(container)
    assert pair.metadata.marker == pair.content.marker


def test_shares_are_noted_on_both_volumes_and_only_when_they_differ(container, roots, monkeypatch):
    start(container)
    with_share(container)
    assert marker(roots, "metadata")["shares"] == {"/export": "badger/volume"}
    assert marker(roots, "content")["shares"] == {"/export": "badger/volume"}

    def no_push(*_args, **_kwargs):
        pytest.fail("written although nothing differs")

    monkeypatch.setattr(container, "push", no_push)
    with_share(container)


def test_many_shares_are_shortened(container, roots):
    start(container)
    names = {f"/s{n}": "badger/volume" for n in range(9)}
    volumes.record_shares(container, volumes.look(container), names)
    (roots["content"] / MARKER).unlink()
    assert "shares /s0, /s1, /s2 and 6 more" in refused(container).whole


def test_a_volume_that_the_server_cannot_write_is_named(container, monkeypatch):
    volumes.check_writable(container)

    def refusing_push(path, *_args, **_kwargs):
        if path.startswith("/data/content"):
            raise ops.pebble.PathError("permission-denied", f"open {path}: permission denied")

    monkeypatch.setattr(container, "push", refusing_push)
    monkeypatch.setattr(container, "remove_path", lambda _path: None)
    with pytest.raises(volumes.BlockedError) as raised:
        volumes.check_writable(container)
    assert str(raised.value) == (
        "check the content volume: the server's user 65532 cannot write to it (permission denied)"
    )
    assert "storage class" in raised.value.whole


def test_the_probe_leaves_nothing_behind(container, roots):
    volumes.check_writable(container)
    assert [list(root.iterdir()) for root in roots.values()] == [[], []]


def test_a_marker_survives_being_written_and_read():
    made = Marker(
        instance="i", generation=3, committed=True, application="a", model_uuid="m", life="l"
    )
    assert Marker.model_validate_json(made.model_dump_json()) == made


OWN = [
    ".dittofs-operation.json",
    ".dittofs-charm-ended.json",
    ".dittofs-backup",
    ".dittofs-restore",
    ".restoring",
    ".recovering",
    "deleted-stores",
    "aside-restore-1",
    "lost+found",
]


@pytest.mark.parametrize("name", volumes.PATHS)
def test_what_the_charm_and_the_agent_keep_for_themselves_is_no_data(container, roots, name):
    for own in OWN:
        (roots[name] / own).mkdir()
    pair = volumes.look(container)
    assert pair.fresh
    assert getattr(pair, name).notes == {".dittofs-operation.json", ".dittofs-charm-ended.json"}
    start(container)
    volumes.check(volumes.look(container), OURS)


def test_volumes_that_were_restored_are_a_pair_whatever_they_were(container, roots):
    start(container)
    before = marker(roots, "content")
    for lost in ("metadata", "content"):
        (roots[lost] / MARKER).unlink()
        claimed = volumes.claim(container, volumes.survey(container), OURS, "new")
        assert claimed == volumes.look(container)
        volumes.check(claimed, OURS)
        after = marker(roots, "content")
        assert after["instance"] == before["instance"]
        assert after["life"] == "new"
    generations = [each["generation"] for each in (before, marker(roots, "content"))]
    assert generations == [1, 3]


def test_the_newer_one_of_two_of_ours_names_a_restored_pair(container, roots):
    start(container)
    for name, instance, generation in (("metadata", "a", 3), ("content", "b", 7)):
        text = json.dumps(marker(roots, name) | {"instance": instance, "generation": generation})
        (roots[name] / MARKER).write_text(text)
    claimed = volumes.claim(container, volumes.survey(container), OURS, "life")
    assert claimed.marker is not None
    assert (claimed.marker.instance, claimed.marker.generation) == ("b", 8)


@pytest.mark.parametrize("text", ["{", None])
def test_volumes_of_nobody_or_of_others_get_a_name_of_their_own(container, roots, text):
    start(container, owner=Owner("other"))
    foreign = marker(roots, "metadata")["instance"]
    if text is not None:
        for name in volumes.PATHS:
            (roots[name] / MARKER).write_text(text)
    claimed = volumes.claim(container, volumes.survey(container), OURS, "life")
    volumes.check(claimed, OURS)
    assert claimed.marker is not None
    assert claimed.marker.instance != foreign
    assert claimed.marker.generation == 1


def test_a_survey_goes_on_where_a_marker_is_damaged(container, roots):
    start(container)
    (roots["metadata"] / MARKER).write_text("{")
    pair = volumes.survey(container)
    assert pair.metadata.damaged
    assert not pair.fresh
    assert pair.content.marker is not None
    with pytest.raises(MismatchError, match="metadata volume is damaged"):
        volumes.look(container)
