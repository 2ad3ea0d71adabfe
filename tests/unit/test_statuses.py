"""What the charm says in `juju status`, which shows 120 characters of it."""

import ast
import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

import backup_status
from agent.archive import faults
from backup_status import Failure, Report

SOURCE = Path(__file__).parents[2] / "src"
RAISED = {"BlockedError", "WaitingError", "MismatchError", "problem"}
# Only actions fail with these, and an action's message is not cut.
OF_ACTIONS = {"actions.py", "backup_actions.py"}
LIMIT, NAME = 100, "x" * 10
# The agent's words for what stays until a person acts, or passes by what one does.
REMEDIED = {
    "bucket", "busy", "credentials", "key", "missing", "newer", "refused", "settings", "space",
}  # fmt: skip
# Only a mistake in a program makes these raise such an error.
OF_PROGRAMS = {"commands.py", "settings.py", "swapping.py"}
REMEDY = re.compile(
    "s3-backup: (the last backup failed: )?(ask|back up|bring|check|enable|give|integrate|let|"
    "list|make|name|refresh|run|see|set|take) .*?: "
)
CODES = [*faults._STANDING, "EntityTooLarge", "InvalidObjectState", "NoSuchKey"]  # noqa: SLF001  # all there are
ANSWERS = [(400, code) for code in CODES] + [(403, "AccessDenied")]
ANSWERS += [(status, "") for status in (301, 401, 404, 407, 501, 507)]


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


def of_the_agent() -> Iterator[tuple[str, str, str]]:
    """Place, kind and text of what the agent says of backups, with a short name for each value."""
    for path in sorted((SOURCE / "agent" / "archive").glob("*.py")):
        if path.name in OF_PROGRAMS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ArchiveError":
                kind, text = (said(each) for each in node.args)
                if kind in REMEDIED and text:
                    yield f"{path.name}:{node.lineno}", kind, text


def of_s3() -> Iterator[tuple[str, str, str]]:
    """The same of what S3 and the way to it say, with names that are as long as may be."""
    knowing = http.client.HTTPMessage()
    knowing["x-amz-bucket-region"] = "r" * 40
    for work in ("GET", "PUT", "DELETE", "LIST"):
        place = faults.Place(work, "b" * 63, "h" * 200, "k" * 200)
        found = [
            faults.answered(place, status, headers, f"<Code>{code}</Code>".encode()).error
            for status, code in ANSWERS
            for headers in (http.client.HTTPMessage(), knowing)
        ]
        found += [faults.broken(place, error).error for error in broken()]
        found.append(faults.nonsense(place))
        yield from ((work, error.kind, str(error)) for error in found)


def broken() -> Iterator[Exception]:
    """What may be wrong with a connection and stays so."""
    for words in ("self-signed certificate", "Hostname mismatch, certificate is not valid for"):
        untrusted = ssl.SSLCertVerificationError(1, "words of OpenSSL")
        untrusted.verify_message = words
        yield untrusted
    plain = ssl.SSLError(1, "words of OpenSSL")
    plain.reason = "WRONG_VERSION_NUMBER"
    yield plain
    yield OSError("Tunnel connection failed: 403 Forbidden")
    yield socket.gaierror(socket.EAI_NONAME, "words of the system")
    yield ValueError("Invalid header value")


def said(node: ast.expr) -> str:
    """A text that is written there, empty for a name of one."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if not isinstance(node, ast.JoinedStr):
        return ""
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else NAME for part in node.values
    )


@pytest.mark.parametrize(("place", "text"), list(texts()))
def test_a_status_is_not_cut_where_the_names_in_it_are_short(place, text):
    assert len(text) <= LIMIT, place


@pytest.mark.parametrize(("place", "kind", "text"), [*of_the_agent(), *dict.fromkeys(of_s3())])
def test_of_a_backup_that_failed_the_remedy_comes_first_and_is_not_cut(place, kind, text):
    failure = Failure(at=0.0, kind=kind, text=text)
    (finding,) = backup_status.findings(Report(last_failure=failure), None)
    remedy = REMEDY.match(str(finding))
    assert kind in REMEDIED
    assert remedy, f"{place}: {finding}"
    assert remedy.end() <= LIMIT, f"{place}: {finding}"


def test_that_there_is_more_is_never_cut_off(deployed):
    secret = f"secret:{'none':a<20}"
    status = deployed.configure(admin_password=secret, shares=f"- name: /a/{'b' * 200}")
    assert len(status.message) == 120
    assert status.message.endswith("… (+1 more: status-detail)")
