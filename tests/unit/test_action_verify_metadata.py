"""verify-metadata: equal, different or not to be told; it fails but where both are equal."""

import json
from typing import Any

import pytest
from ops import testing

DIFFERENCE = {"key": "2f6100", "store": "missing", "mysql": "version 7, 12 bytes, crc32 00c0ffee"}


@pytest.fixture
def mirrored(deployed):
    deployed.relate()
    return deployed


def store(**fields: Any) -> dict[str, Any]:
    return {
        "name": "export",
        "result": "equal",
        "uncertain": "",
        "rows": 1200,
        "bytes": 3 * 2**20,
        "checksum": "0badcafe",
        "store-rows": 1200,
        "not-compared": 0,
        "differences": 0,
        "first-differences": [],
    } | fields


def answer(unit, code: int, **fields: Any) -> None:
    result = ["equal", "different", "uncertain"][code]
    said = {"result": result, "stores": [store()], "error": None} | fields
    unit.agent.answers["verify"] = (code, json.dumps(said))


def failed(unit, text: str) -> dict[str, Any]:
    """Run the action, which fails with this text; its results."""
    context = unit._context()  # noqa: SLF001  # results of an action that fails
    event = context.on.action("verify-metadata")
    with pytest.raises(testing.ActionFailed, match=text):
        unit._deliver(context, event)  # noqa: SLF001  # the same
    assert context.action_results is not None
    return context.action_results


def test_both_sides_are_equal(mirrored):
    answer(mirrored, 0)
    results = mirrored.act("verify-metadata")
    assert results["equal"] == "true"
    heading, line = results["stores"].splitlines()
    assert heading.split() == [
        "name",
        "equal",
        "rows",
        "rows-in-mysql",
        "size",
        "checksum",
        "differences",
        "not-compared",
    ]
    assert line.split() == ["export", "yes", "1200", "1200", "3.00MiB", "0badcafe", "0", "0"]
    assert mirrored.agent.commands == [["mirror"]]


def test_a_difference_fails_the_action_and_is_shown(mirrored):
    wrong = store(
        result="different", rows=1201, differences=1, **{"first-differences": [DIFFERENCE]}
    )
    answer(mirrored, 1, stores=[wrong, store(name="b")])
    results = failed(mirrored, "MySQL differs from the metadata volume in: export")
    assert results["equal"] == "false"
    assert results["differences"] == (
        "export: key=2f6100, store=missing, mysql=version 7, 12 bytes, crc32 00c0ffee"
    )


@pytest.mark.parametrize(
    ("code", "output", "text"),
    [
        (
            2,
            '{"result": "uncertain", "stores": [], "error": {"kind": "away", "text": "gone"}}',
            "it cannot be told: gone",
        ),
        (2, '{"error": {"kind": "settings", "text": "no file"}}', "it cannot be told: no file"),
        (137, "Killed", "the comparison ended with 137 and without a word"),
        (0, "", "the comparison ended with 0"),
    ],
)
def test_what_cannot_be_told_fails_the_action(mirrored, code, output, text):
    mirrored.agent.answers["verify"] = (code, output)
    assert failed(mirrored, text)["equal"] == "unknown"
    assert mirrored.status.name == "active"


def test_a_mirror_that_does_not_get_on_is_told_from_a_difference(mirrored):
    waiting = store(name="b", result="uncertain", uncertain="MySQL does not get on")
    answer(mirrored, 2, stores=[store(), waiting])
    results = failed(mirrored, "it cannot be told: b: MySQL does not get on")
    assert results["equal"] == "unknown"
    assert results["uncertain"] == "b: MySQL does not get on"
    assert [line.split()[1] for line in results["stores"].splitlines()] == [
        "equal",
        "yes",
        "unknown",
    ]
    # A difference is certain, whatever is not.
    wrong = store(result="different", differences=1, rows=1)
    answer(mirrored, 1, stores=[wrong, waiting])
    results = failed(mirrored, "MySQL differs from the metadata volume in: export")
    assert results["uncertain"] == "b: MySQL does not get on"


def test_without_a_database_there_is_nothing_to_compare(deployed):
    with pytest.raises(
        testing.ActionFailed, match="no database is related: juju integrate dittofs:mysql"
    ):
        deployed.act("verify-metadata")


def test_no_store_at_all_is_equal(mirrored):
    answer(mirrored, 0, stores=[])
    assert mirrored.act("verify-metadata") == {"equal": "true", "stores": "none"}
