"""verify-metadata: what the agent compared, for people; it fails where both sides differ."""

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
        "equal": True,
        "rows": 1200,
        "bytes": 3 * 2**20,
        "checksum": "0badcafe",
        "store-rows": 1200,
        "differences": 0,
        "first-differences": [],
    } | fields


def answer(unit, code: int, **fields: Any) -> None:
    said = {"equal": code == 0, "stores": [store()], "error": None} | fields
    unit.agent.answers["verify"] = (code, json.dumps(said))


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
    ]
    assert line.split() == ["export", "yes", "1200", "1200", "3.00MiB", "0badcafe", "0"]
    assert mirrored.agent.commands == [["mirror"]]


def test_a_difference_fails_the_action_and_is_shown(mirrored):
    wrong = store(equal=False, rows=1201, differences=1, **{"first-differences": [DIFFERENCE]})
    answer(mirrored, 1, stores=[wrong, store(name="b")])
    context = mirrored._context()  # noqa: SLF001  # results of an action that fails
    event = context.on.action("verify-metadata")
    with pytest.raises(testing.ActionFailed, match="MySQL differs from the metadata volume in: e"):
        mirrored._deliver(context, event)  # noqa: SLF001  # the same
    results = context.action_results
    assert results is not None
    assert results["equal"] == "false"
    assert results["differences"] == (
        "export: key=2f6100, store=missing, mysql=version 7, 12 bytes, crc32 00c0ffee"
    )


@pytest.mark.parametrize(
    ("code", "output", "text"),
    [
        (
            2,
            '{"equal": false, "stores": [], "error": {"kind": "uncertain", "text": "a scan"}}',
            "it cannot be told: a scan",
        ),
        (2, '{"error": {"kind": "settings", "text": "no file"}}', "it cannot be told: no file"),
        (137, "Killed", "the comparison ended with 137 and without a word"),
        (0, "", "the comparison ended with 0"),
    ],
)
def test_what_cannot_be_told_fails_the_action(mirrored, code, output, text):
    mirrored.agent.answers["verify"] = (code, output)
    with pytest.raises(testing.ActionFailed, match=text):
        mirrored.act("verify-metadata")
    assert mirrored.status.name == "active"


def test_without_a_database_there_is_nothing_to_compare(deployed):
    with pytest.raises(
        testing.ActionFailed, match="no database is related: juju integrate dittofs:mysql"
    ):
        deployed.act("verify-metadata")


def test_no_store_at_all_is_equal(mirrored):
    answer(mirrored, 0, stores=[])
    assert mirrored.act("verify-metadata") == {"equal": "true", "stores": "none"}
