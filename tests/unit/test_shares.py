"""Wanted against present: which calls are planned, and which are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import names
import options
import shares
from api import Adapter, Health, NfsConfig, Share, Store
from budget import Space
from present import Present
from shares import Plan
from steps import (
    ChangeShare,
    CreateShare,
    CreateStore,
    EnableShare,
    SetAdapter,
    SetSquash,
    TakeOutShare,
)
from stores import NEVER_EVICTS
from units import GIB, TIB, format_size

SPACE = Space(used=0, free=100 * TIB)
LISTENING = Health(status="healthy")


def wanted(text: str, protocols: str = "nfs,smb", memory: str = "64Gi") -> options.Options:
    loaded = options.load({"shares": text, "protocols": protocols, "memory": memory})
    assert loaded.mistakes == ()
    return loaded.options


def adapters(nfs: bool = True, smb: bool = True) -> dict[str, Adapter]:
    return {
        "nfs": Adapter(type="nfs", enabled=nfs, port=12049, status=LISTENING),
        "smb": Adapter(type="smb", enabled=smb, port=12445, status=LISTENING),
    }


def nothing() -> Present:
    return Present(metadata={}, content={}, shares={}, adapters=adapters(), nfs={})


def serving(text: str) -> Present:
    """The server after all that the options want was done: each planned step, carried out."""
    chosen = wanted(text)
    metadata: dict[str, Store] = {}
    content: dict[str, Store] = {}
    made: dict[str, Share] = {}
    nfs: dict[str, NfsConfig] = {each.name: NfsConfig() for each in chosen.shares or ()}
    for step in planned(chosen, nothing()).steps:
        if isinstance(step, CreateStore):
            table = metadata if step.spec.kind == "metadata" else content
            store_id = f"id-{step.spec.kind}-{step.spec.name}"
            table[store_id] = Store(
                id=store_id,
                name=step.spec.name,
                type=step.spec.type,
                config=dict(step.spec.config),
            )
        elif isinstance(step, CreateShare):
            made[step.share.name] = Share(
                id=step.share.name,
                name=step.share.name,
                metadata_store_id=f"id-metadata-{step.metadata}",
                local_block_store_id=f"id-local-{step.content}",
                read_only=step.share.read_only,
                default_permission=step.share.access,
                quota_bytes=format_size(step.share.quota) if step.share.quota else None,
                trash_enabled=step.share.trash_days > 0,
                trash_retention_days=step.share.trash_days,
                status=LISTENING,
            )
        elif isinstance(step, SetSquash):
            nfs[step.name] = NfsConfig(squash=step.squash)
    return Present(metadata=metadata, content=content, shares=made, adapters=adapters(), nfs=nfs)


def planned(chosen: options.Options, present: Present, space: Space = SPACE) -> Plan:
    divided = shares.divide(chosen, present, space, backups=False)
    return shares.plan(chosen, present, divided)


def plan(text: str, present: Present, protocols: str = "nfs,smb") -> Plan:
    return planned(wanted(text, protocols), present)


def test_the_first_share_needs_its_two_stores_and_one_call():
    steps = plan("- name: /export", nothing()).steps
    assert [type(step) for step in steps] == [CreateStore, CreateStore, CreateShare]
    badger, volume = steps[0], steps[1]
    assert isinstance(badger, CreateStore)
    assert isinstance(volume, CreateStore)
    assert badger.spec.config == {"path": "/data/metadata/stores/export"}
    assert volume.spec.config == {"path": "/data/content", "max_size": NEVER_EVICTS}


def test_shares_have_a_metadata_store_each_and_one_volume():
    steps = plan("- name: /a\n- name: /b c", nothing()).steps
    stores = [step.spec for step in steps if isinstance(step, CreateStore)]
    assert [(spec.kind, spec.name) for spec in stores] == [
        ("metadata", "a"),
        ("local", "volume"),
        ("metadata", "b%20c"),
    ]


def test_backends_in_memory():
    steps = plan("- {name: /a, metadata: memory, content: memory, quota: 1GiB}", nothing()).steps
    stores = [step.spec for step in steps if isinstance(step, CreateStore)]
    assert [(spec.kind, spec.type, dict(spec.config)) for spec in stores] == [
        ("metadata", "memory", {}),
        ("local", "memory", {}),
    ]


FULL = (
    "- {name: /a, access: read, squash: none, read-only: true, quota: 1000MB, trash-days: 7}\n"
    "- {name: /b, metadata: memory}\n"
)


def test_nothing_differs_nothing_is_called():
    assert plan(FULL, serving(FULL)) == Plan((), ())


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ("access: read", ChangeShare("/a", {"default_permission": "read"})),
        (
            "trash-days: 3",
            ChangeShare("/a", {"trash_enabled": True, "trash_retention_days": 3}),
        ),
        ("squash: all-to-guest", SetSquash("/a", "all_to_guest")),
    ],
)
def test_a_changed_field_is_one_call_there_and_one_back(change, step):
    changed = f"- {{name: /a, {change}}}"
    assert plan(changed, serving("- name: /a")).steps == (step,)
    assert len(plan("- name: /a", serving(changed)).steps) == 1
    assert plan(changed, serving(changed)).steps == ()


def test_quota_and_read_only_of_content_in_memory_are_the_charms():
    entry = "- {{name: /a, content: memory, quota: {}}}"
    (step,) = plan(entry.format("1.5GiB"), serving(entry.format("1GiB"))).steps
    assert step == ChangeShare("/a", {"quota_bytes": str(GIB + GIB // 2)})
    (step,) = plan(entry.format("1GiB, read-only: true"), serving(entry.format("1GiB"))).steps
    body = {"read_only": True, "default_permission": "read-write"}
    assert step == ChangeShare("/a", body)


def test_a_share_that_leaves_the_list_is_disabled_and_comes_back_enabled():
    present = serving("- name: /a\n- name: /b")
    assert plan("- name: /b", present).steps == (EnableShare("/a", enabled=False),)
    present.shares["/a"] = present.shares["/a"].model_copy(update={"enabled": False})
    assert plan("- name: /b", present).steps == ()
    assert plan("- name: /a\n- name: /b", present).steps == (EnableShare("/a", enabled=True),)


def test_a_share_that_somebody_else_made_is_left_alone():
    present = serving("- name: /a")
    present.metadata["x"] = Store(id="x", name="own-store", type="badger")
    present.shares["/own"] = present.shares["/a"].model_copy(
        update={"name": "/own", "metadata_store_id": "x"}
    )
    assert plan("- name: /a", present).steps == ()


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            "{name: /a, metadata: memory}",
            (
                "shares: entry 1: set metadata of /a back to badger, or use another name; it "
                "cannot become memory"
            ),
        ),
        (
            "{name: /a, content: memory, quota: 1GiB, access: read}",
            (
                "shares: entry 1: set content of /a back to volume, or use another name; it "
                "cannot become memory"
            ),
        ),
    ],
)
def test_a_backend_that_changed_is_named_and_the_share_not_touched(entry, text):
    made = plan(f"- {entry}\n- name: /b", serving("- name: /a\n- name: /b"))
    assert made.steps == ()
    assert [problem.whole for problem in made.problems] == [text]


def test_protocols():
    present = serving("- name: /a")
    assert plan("- name: /a", present, "nfs").steps == (SetAdapter("smb", False, 12445),)
    present.adapters["smb"] = Adapter(type="smb", enabled=True, port=1445)
    assert plan("- name: /a", present).steps == (SetAdapter("smb", True, 12445),)
    del present.adapters["nfs"]
    assert SetAdapter("nfs", True, 12049) in plan("- name: /a", present).steps


def test_what_is_not_known_is_left_as_it_is():
    present = serving("- name: /a")
    unknown = options.Options(shares=None, protocols=None)
    assert planned(unknown, present) == Plan((), ())


def test_what_the_guard_made_of_quota_and_read_only_is_left_to_it():
    present = serving("- {name: /a, quota: 1GiB}")
    for quota in ("1.37GiB", "1B", None):
        present.shares["/a"] = present.shares["/a"].model_copy(
            update={"quota_bytes": quota, "read_only": True}
        )
        assert plan("- {name: /a, quota: 1GiB}", present).steps == ()
        assert plan("- name: /a", present).steps == ()


def test_more_shares_than_the_content_volume_holds_are_refused_with_the_number_that_fits():
    text = "\n".join(f"- name: /s{number}" for number in range(3))
    made = planned(wanted(text), nothing(), Space(used=0, free=16 * GIB))
    assert made.steps == ()
    (problem,) = made.problems
    assert problem.whole == (
        "use a content volume of 18.00GiB or list fewer shares: 2 of 3 fit; this one has "
        "16.00GiB; smaller quotas need less; for a trial set allow-small-content-volume=true"
    )
    assert planned(wanted(text), nothing(), Space(used=0, free=18 * GIB)).problems == ()


def test_content_in_memory_takes_nothing_of_the_volume():
    text = "- name: /a\n- {name: /b, content: memory, metadata: memory, quota: 20GiB}"
    divided = shares.divide(wanted(text), nothing(), SPACE, backups=False)
    assert set(divided.needs) == {"/a"}


def test_shares_that_are_not_listed_any_more_still_take_what_they_hold():
    present = serving("- name: /a\n- name: /b")
    for held, fits in ((0, True), (2 * GIB, True), (5 * GIB, False)):
        present.shares["/b"] = present.shares["/b"].model_copy(update={"used_bytes": held})
        space = Space(used=15 * GIB, free=2 * GIB)
        made = planned(wanted("- name: /a"), present, space)
        assert (made.problems == ()) is fits
        whole = [problem.whole for problem in made.problems]
        assert ("with 1 that are not listed" in str(whole)) is not fits


def test_more_shares_than_the_memory_holds_are_refused_with_the_number_that_fits():
    text = "\n".join(f"- name: /s{number}" for number in range(20))
    made = planned(wanted(text, memory="2Gi"), nothing())
    assert made.steps == ()
    (problem,) = made.problems
    assert str(problem) == "raise the option memory or list fewer shares: 9 of 20 fit in 2.00GiB"
    fitting = "\n".join(f"- name: /s{number}" for number in range(9))
    assert planned(wanted(fitting, memory="2Gi"), nothing()).problems == ()


def test_the_smallest_memory_holds_a_share_and_64_gib_hold_200():
    assert planned(wanted("- name: /a", memory="512Mi"), nothing()).problems == ()
    text = "\n".join(f"- name: /s{number}" for number in range(200))
    many = plan(text, nothing())
    assert len([step for step in many.steps if isinstance(step, CreateShare)]) == 0
    assert ": 190 of 200 fit in 64.00GiB" in str(many.problems[0])


def test_what_is_not_well_is_said():
    present = serving("- name: /a")
    present.shares["/a"] = present.shares["/a"].model_copy(
        update={"status": Health(status="unhealthy", message="disk gone")}
    )
    present.adapters["smb"] = Adapter(
        type="smb",
        enabled=True,
        port=12445,
        status=Health(status="unknown", message="no listener"),
    )
    del present.adapters["nfs"]
    said = [str(problem) for problem in shares.unhealthy(wanted("- name: /a"), present)]
    assert said == [
        "share /a is unhealthy: disk gone",
        "nfs does not listen on port 12049 yet (missing)",
        "smb does not listen on port 12445 yet (unknown: no listener)",
    ]


entries = st.fixed_dictionaries(
    {
        "metadata": st.sampled_from(["badger", "memory"]),
        "access": st.sampled_from(["none", "read", "read-write"]),
        "squash": st.sampled_from(["none", "root-to-guest", "all-to-admin"]),
        "read-only": st.sampled_from(["true", "false"]),
        "quota": st.sampled_from(["none", "999999999", "10GiB", "1.37TiB"]),
        "trash-days": st.integers(0, 30),
    }
)


@given(st.dictionaries(st.sampled_from(["a", "b c", "größe", "d"]), entries))
def test_whatever_is_wanted_once_made_needs_no_further_call(chosen):
    text = "\n".join(
        f"- {{name: {name}, " + ", ".join(f"{k}: {v}" for k, v in entry.items()) + "}"
        for name, entry in chosen.items()
    )
    assert plan(text, serving(text)) == Plan((), ())


def test_a_share_that_is_there_in_name_only_is_not_called_well():
    present = serving("- name: /a")
    present.shares["/a"] = present.shares["/a"].model_copy(
        update={"status": Health(status="unknown", message="share not found")}
    )
    said = [str(problem) for problem in shares.unhealthy(wanted("- name: /a"), present)]
    assert said == ["share /a is unknown: share not found"]


def test_a_store_without_its_share_is_not_given_to_a_share_of_another_backend():
    present = serving("- name: /a")
    present.shares.clear()
    made = plan("- {name: /a, metadata: memory}", present)
    assert made.steps == ()
    (problem,) = made.problems
    assert "entry 1: set metadata of /a back to badger" in str(problem)
    assert problem.whole.endswith("; it cannot become memory")
    assert CreateShare in {type(step) for step in plan("- name: /a", present).steps}


@pytest.mark.parametrize(
    ("asked", "told", "true"),
    [
        ("/caf\u00e9", "/caf\u00e9", "/caf\u00e9"),
        ("/cafe\u0301", "/cafe\u0301", "/cafe\u0301"),
        ("/x%20y", "/x y", "/x y"),
        ("/caf%e9", "/caf\ufffd", "/caf\udce9"),
        ("/%e2%82x", "/\ufffd\ufffdx", "/\udce2\udc82x"),
        ("/50%", "/50%", "/50%"),
        ("/x%20y", "/other", None),
    ],
)
def test_a_share_is_known_by_its_store_whatever_the_server_made_of_its_name(asked, told, true):
    present = serving("- name: /a")
    (store,) = present.metadata.values()
    present.metadata[store.id] = store.model_copy(update={"name": names.key(asked)})
    share = present.shares.pop("/a").model_copy(update={"name": told})
    present.shares[told] = share
    assert present.true_name(share) == true
    assert present.metrics_are_safe == ("\ufffd" not in told)
    left = planned(wanted("[]").model_copy(update={"shares": None}), present)
    assert left.steps == ()
    assert [str(each).partition(": ")[0] for each in left.problems] == (
        ["mend the option shares"] if "\ufffd" in told else []
    )
    steps = plan("[]", present).steps
    if true is None:
        assert steps == ()
    elif "\ufffd" in told:
        assert steps == (TakeOutShare(true),)
    else:
        assert steps == (EnableShare(told, enabled=False),)


def test_a_share_with_a_decomposed_name_is_the_one_that_is_listed():
    text = "- name: /caf\u00e9"
    present = serving(text)
    share = present.shares.pop("/caf\u00e9").model_copy(update={"name": "/cafe\u0301"})
    present.shares["/cafe\u0301"] = share
    present.nfs["/cafe\u0301"] = NfsConfig()
    (store,) = present.metadata.values()
    present.metadata[store.id] = store.model_copy(update={"name": names.key("/cafe\u0301")})
    assert plan(text, present).steps == ()
    assert plan("[]", present).steps == (EnableShare("/cafe\u0301", enabled=False),)


def test_what_the_server_took_and_did_not_do_is_said():
    present = serving("- {name: /a, access: read}")
    divided = shares.divide(wanted("- name: /a"), present, SPACE, backups=False)
    (said,) = shares.undone(wanted("- name: /a"), present, divided)
    assert "the server said yes and has not done it" in str(said)
