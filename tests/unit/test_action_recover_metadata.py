"""recover-metadata: the metadata of another application, taken over by a person's word."""

import base64
import json
import shutil

import pytest
from ops import testing

from tests.unit import agents
from tests.unit.conftest import Unit

KEY = base64.b64encode(b"k" * 32).decode()
SECRET = testing.Secret({"key": KEY}, id=f"secret:{'keptkey':a<20}")
MIRRORED = testing.ActiveStatus("nfs, smb: /export; metadata in MySQL")
NOTE = ".dittofs-charm-recovery.json"


@pytest.fixture
def heir(deployed, border, tmp_path):
    """A new application in another model; MySQL has the metadata of a lost one.

    Its content volume is the lost one's, brought over; its metadata volume is empty.
    """
    deployed.server.database.put_user({"username": "ann", "role": "user"}, "a password")
    deployed.border.stop()
    made = Unit(border, tmp_path / "heir")
    shutil.copytree(deployed.root / "content", made.root / "content", dirs_exist_ok=True)
    made.agent.copy = deployed.root / "metadata"
    made.agent.hold(agents.row(deployed.marker("metadata"), model="lost"))
    made.change(
        model=testing.Model(name="new", uuid="4b9b8c1c-98f4-4d4a-8d3f-3f2a3b3ac009"),
        secrets=[SECRET],
    )
    made.relate()
    assert made.deploy().name == "blocked"
    assert asked_for(made)
    return made


def asked_for(unit: Unit) -> bool:
    """Whether the status asks for the action, and its detail says how it is run."""
    (reason,) = unit.reasons()
    short = unit.status.message.startswith(f"mysql: run recover-metadata from={instance(unit)} ")
    return short and f"run recover-metadata from={instance(unit)} confirm=" in reason


def instance(unit: Unit) -> str:
    return unit.marker("content")["instance"]


def take(unit: Unit, **params: str):
    given = {"from": instance(unit), "confirm": instance(unit), "recovery-key": str(SECRET.id)}
    return unit.act("recover-metadata", **(given | params))


def test_metadata_and_users_of_a_lost_application_are_served(heir):
    results = take(heir)
    assert results == {"instance": instance(heir), "recovery": "complete"}
    assert heir.status == MIRRORED
    assert {user["username"] for user in heir.server.database.users()} == {"admin", "ann"}
    marker = heir.marker("metadata")
    assert marker == heir.marker("content")
    assert marker["model_uuid"].endswith("009")
    (recover, mirror) = heir.agent.commands
    assert recover == ["recover", "--from", instance(heir), "--stay"]
    assert mirror == ["mirror"]
    assert not (heir.root / "metadata" / NOTE).exists()


def test_the_key_is_the_kept_one_for_the_recovery_and_the_own_one_afterwards(heir):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        start = heir.agent.start

        def note(command):
            seen.append(heir.agent.config["control_plane_key"])
            start(command)

        patch.setattr(heir.agent, "start", note)
        take(heir)
    assert seen[0] == KEY
    (own,) = [each for each in heir.state.secrets if each.label == "mirror-key"]
    assert seen[-1] == own.latest_content["key"] != KEY


def test_it_goes_on_by_itself_when_the_action_or_the_pod_ends(heir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            heir.agent,
            "recover",
            lambda: heir.agent.say(state="recovering", progress={"what": "recover x", "rows": 1}),
        )
        results = take(heir)
    assert results["recovery"] == "goes on: recover x, 1 rows"
    assert heir.status.message == "mysql: recovering the metadata volume: recover x, 1 rows"
    assert KEY not in (heir.root / "metadata" / NOTE).read_text()
    heir.new_pod()
    heir.change(secrets=[each for each in heir.state.secrets if each.id != SECRET.id])
    status = heir.pebble_ready()
    assert status.message == (
        "recovery-key: run juju grant-secret <secret> dittofs, then this again"
    )
    assert heir.reasons() == [f"blocked: {status.message}; the secret cannot be read"]
    heir.change(secrets=[*heir.state.secrets, SECRET])
    assert heir.run("update_status") == MIRRORED


def test_the_progress_is_in_the_actions_log(heir):
    lines = iter(range(3))

    def recover():
        heir.agent.say(state="recovering", progress={"what": "recover x", "rows": next(lines)})

    def go_on(seconds):
        heir.border.now[0] += seconds
        number = next(lines, None)
        if number is None:
            type(heir.agent).recover(heir.agent)
        else:
            heir.agent.say(state="recovering", progress={"what": "recover x", "rows": number})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heir.agent, "recover", recover)
        patch.setattr("mirroring._START_WAIT", 0.0)
        patch.setattr("time.sleep", go_on)
        context = heir._context()  # noqa: SLF001  # its action_logs
        event = context.on.action(
            "recover-metadata",
            params={
                "from": instance(heir),
                "confirm": instance(heir),
                "recovery-key": str(SECRET.id),
            },
        )
        heir._deliver(context, event)  # noqa: SLF001  # the same
    assert context.action_logs[1:]
    assert all(line.startswith("recover x, ") for line in context.action_logs[1:])
    assert heir.status == MIRRORED


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"confirm": "yes"}, "say confirm="),
        ({"from": "0b5e", "confirm": "0b5e"}, "the database holds the metadata of instance"),
        (
            {"recovery-key": f"secret:{'no':a<20}"},
            "recovery-key: run juju grant-secret .*; the secret cannot be read",
        ),
    ],
)
def test_what_is_refused_changes_nothing(heir, params, text):
    with pytest.raises(testing.ActionFailed, match=text):
        take(heir, **params)
    assert list((heir.root / "metadata").iterdir()) == []
    assert heir.agent.commands == []
    assert heir.status.name == "blocked"


@pytest.mark.parametrize(
    "content", [{"key": "short"}, {"other": KEY}, {"key": "%%%"}, {"key": "ß"}]
)
def test_a_secret_without_a_fit_key_is_refused(heir, content):
    wrong = testing.Secret(content, id=f"secret:{'wrong':a<20}")
    heir.change(secrets=[*heir.state.secrets, wrong])
    with pytest.raises(testing.ActionFailed, match="the secret needs the key `key`"):
        take(heir, **{"recovery-key": str(wrong.id)})


def test_a_wrong_key_is_said_and_can_be_tried_again(heir):
    kept, heir.agent.copy = heir.agent.copy, None
    with pytest.raises(testing.ActionFailed, match="the key is not the right one"):
        take(heir)
    assert asked_for(heir)
    assert not (heir.root / "metadata" / NOTE).exists()
    heir.agent.copy = kept
    assert take(heir)["recovery"] == "complete"
    assert heir.status == MIRRORED


def test_a_volume_that_is_not_empty_is_never_touched(deployed):
    deployed.relate()
    deployed.agent.hold(agents.row(deployed.marker("metadata"), instance="0b5e"))
    with pytest.raises(testing.ActionFailed, match="the metadata volume is not empty"):
        deployed.act("recover-metadata", **{"from": "0b5e", "confirm": "0b5e"})
    assert deployed.status == MIRRORED


def test_without_a_database_or_with_an_empty_one_there_is_nothing_to_recover(heir):
    heir.agent.hold(None)
    with pytest.raises(testing.ActionFailed, match="holds the metadata of nobody"):
        heir.act("recover-metadata", **{"from": "0b5e", "confirm": "0b5e"})
    heir.unrelate()
    with pytest.raises(
        testing.ActionFailed, match="no database is related: juju integrate dittofs:mysql"
    ):
        heir.act("recover-metadata", **{"from": "0b5e", "confirm": "0b5e"})


def test_the_status_and_its_detail_name_all_that_the_action_needs(heir):
    status = heir.run("update_status").message
    named = json.loads(heir.agent.answers["inspect"][1])["mirror"]["instance"]
    assert named in status
    (reason,) = heir.reasons()
    assert f"instance {named} (dittofs in the model lost, last written 2 hours ago)" in reason
    assert f"recover-metadata from={named} confirm={named} recovery-key=<secret>" in reason
