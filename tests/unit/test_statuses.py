"""What the charm says in `juju status`, which shows 120 characters of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
RAISED = {"BlockedError", "WaitingError", "MismatchError", "problem"}
# Only actions fail with these, and an action's message is not cut.
OF_ACTIONS = {"actions.py", "backup_actions.py"}
LIMIT, NAME = 100, "x" * 10


def texts() -> Iterator[tuple[str, str]]:
    """Place and text of each status, with a short name for each value in it."""
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name in OF_ACTIONS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RAISED:
                for argument in node.args:
                    if isinstance(argument, ast.JoinedStr | ast.Constant):
                        yield f"{path.name}:{node.lineno}", said(argument)


def said(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else NAME for part in node.values
    )


@pytest.mark.parametrize(("place", "text"), list(texts()))
def test_a_status_is_not_cut_where_the_names_in_it_are_short(place, text):
    assert len(text) <= LIMIT, place


def test_that_there_is_more_is_never_cut_off(deployed):
    secret = f"secret:{'none':a<20}"
    status = deployed.configure(admin_password=secret, shares=f"- name: /a/{'b' * 200}")
    assert len(status.message) == 120
    assert status.message.endswith("… (+1 more: status-detail)")
