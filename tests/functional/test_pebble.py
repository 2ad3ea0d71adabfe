"""What the charm relies on of Pebble: the same tests for a real daemon and for the stand-in."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import ops
import pytest
from ops import pebble

import checks
import layers
from agent.archive import notices
from tests import servers


@pytest.fixture(params=["stand-in", "real"])
def daemon(request, tmp_path, monkeypatch):
    """A daemon of its own, with a client."""
    if request.param == "real":
        program = servers.pebble()
        if not program.real:
            pytest.skip("no real Pebble on this machine")
    else:
        monkeypatch.setenv("PEBBLE_PROGRAM", "standin")
        program = servers.pebble.__wrapped__()
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [program.path, "run", "--create-dirs"],
            env=os.environ | {"PEBBLE": str(tmp_path)},
            stdout=log,
            stderr=log,
        )
    made = ops.pebble.Client(str(tmp_path / ".pebble.socket"))
    try:
        for _ in range(500):
            try:
                made.get_system_info()
                break
            except (pebble.Error, OSError):
                time.sleep(0.01)
        yield made, daemon
    finally:
        daemon.terminate()
        daemon.wait(20)


@pytest.fixture
def client(daemon):
    """The client alone."""
    return daemon[0]


def layer(command: str, **service: object) -> pebble.Layer:
    return pebble.Layer(
        {
            "services": {
                "s": {
                    "override": "replace",
                    "command": command,
                    "startup": "enabled",
                    "backoff-delay": "100ms",
                    **service,
                }
            }
        }  # pyright: ignore[reportArgumentType]  # tests also try what the types forbid
    )


def current(client) -> str:
    (info,) = client.get_services()
    return str(getattr(info.current, "value", info.current))


def until(client, wanted: str) -> None:
    for _ in range(200):
        if current(client) == wanted:
            return
        time.sleep(0.02)
    pytest.fail(f"{current(client)}, not {wanted}")


def test_a_service_is_started_and_stopped_and_only_restarted_when_it_changed(client, tmp_path):
    script = f"sh -c 'echo x >> {tmp_path}/starts; sleep 60'"
    client.add_layer("s", layer(script), combine=True)
    assert current(client) == "inactive"
    client.replan_services()
    assert current(client) == "active"
    client.replan_services()
    assert (tmp_path / "starts").read_text() == "x\n"
    client.add_layer("s", layer(script, environment={"A": "1"}), combine=True)
    client.replan_services()
    assert (tmp_path / "starts").read_text() == "x\nx\n"
    assert client.get_plan().services["s"].environment == {"A": "1"}
    client.stop_services(["s"])
    assert current(client) == "inactive"
    client.stop_services(["s"])


def starts(folder: Path, name: str) -> int:
    path = folder / name
    return path.read_text().count("x") if path.exists() else 0


def two(folder: Path, **first: Any) -> pebble.Layer:
    """Services `a` and `b`, which count their starts; `first`: what `a` has besides."""
    made: dict[str, Any] = {
        name: layer(f"sh -c 'echo x >> {folder}/{name}; sleep 60'").services["s"].to_dict()
        for name in ("a", "b")
    }
    made["a"] |= first
    return pebble.Layer({"services": made})  # pyright: ignore[reportArgumentType]  # as above


def test_replan_starts_what_once_ran_and_differs_also_where_it_is_disabled(client, tmp_path):
    """So nothing is replanned: what is meant is named."""
    client.add_layer("s", two(tmp_path), combine=True)
    client.replan_services()
    client.add_layer("s", two(tmp_path, startup="disabled"), combine=True)
    client.stop_services(["a"])
    client.replan_services()
    assert (starts(tmp_path, "a"), starts(tmp_path, "b")) == (2, 1)
    client.stop_services(["a"])
    client.replan_services()
    assert (starts(tmp_path, "a"), starts(tmp_path, "b")) == (2, 1)


def test_what_is_restarted_by_name_gets_its_new_layer_and_nothing_else_starts(client, tmp_path):
    client.add_layer("s", two(tmp_path), combine=True)
    client.restart_services(["a", "b"])
    client.add_layer("s", two(tmp_path, startup="disabled"), combine=True)
    client.stop_services(["a"])
    script = f"sh -c 'echo xx >> {tmp_path}/b; sleep 60'"
    client.add_layer(
        "b",
        pebble.Layer({"services": {"b": {"override": "merge", "command": script}}}),
        combine=True,
    )
    client.restart_services(["b"])
    assert (starts(tmp_path, "a"), starts(tmp_path, "b")) == (1, 3)
    assert [str(each.current.value) for each in client.get_services()] == ["inactive", "active"]  # pyright: ignore[reportAttributeAccessIssue]  # both are known


def test_a_service_that_waits_for_its_next_start_is_restarted_at_once(client):
    client.add_layer("s", layer("sh -c 'exit 3'", **{"backoff-delay": "60s"}), combine=True)
    with pytest.raises(pebble.ChangeError):
        client.restart_services(["s"])
    assert current(client) == "backoff"
    client.add_layer("s", layer("sleep 60"), combine=True)
    client.restart_services(["s"])
    assert current(client) == "active"


def counting(folder: Path, startup: str) -> pebble.Layer:
    """A check that counts how often it was made."""
    check: Any = {
        "override": "replace",
        "period": "100ms",
        "timeout": "90ms",
        "startup": startup,
        "exec": {"command": f"sh -c 'echo x >> {folder}/checks'"},
    }
    return pebble.Layer({"checks": {"c": check}})


def made(folder: Path) -> bool:
    """Whether the check is made now."""
    before = starts(folder, "checks")
    time.sleep(0.5)
    return starts(folder, "checks") > before + 1


def test_a_check_is_made_until_it_is_stopped_whatever_the_plan_says(client, tmp_path):
    client.add_layer("c", counting(tmp_path, "enabled"), combine=True)
    assert made(tmp_path)
    client.add_layer("c", counting(tmp_path, "disabled"), combine=True)
    assert made(tmp_path)
    assert client.stop_checks(["c"]) == ["c"]
    time.sleep(0.2)
    assert not made(tmp_path)
    # It may have noted itself as running again: see the next test.
    client.add_layer("c", pebble.Layer({}), combine=True)
    (info,) = client.get_checks()
    assert info.status == pebble.CheckStatus.INACTIVE
    assert client.stop_checks(["c"]) == []
    assert client.start_checks(["c"]) == ["c"]
    assert client.start_checks(["c"]) == []
    assert made(tmp_path)
    client.stop_checks(["c"])
    client.add_layer("c", counting(tmp_path, "enabled"), combine=True)
    assert made(tmp_path)


def test_a_check_that_is_stopped_while_it_is_made_can_be_stopped_and_started_again(
    client, tmp_path
):
    seen = tmp_path / "seen"
    check: Any = {
        "override": "replace",
        "period": "50ms",
        "timeout": "49ms",
        "startup": "disabled",
        "exec": {"command": f"sh -c 'echo x > {seen}; sleep 0.01'"},
    }
    given = pebble.Layer({"checks": {"c": check}})
    client.add_layer("c", given, combine=True)
    for delay in range(24):
        assert client.start_checks(["c"]) == ["c"]
        seen.unlink(missing_ok=True)
        while not seen.exists():
            time.sleep(0.0005)
        time.sleep(0.008 + delay % 12 * 0.0005)
        # What Pebble noted comes to light a moment later.
        checks.stop(client, "c", "c")
        time.sleep(0.1)
        checks.stop(client, "c", "c")
        client.add_layer("c", given, combine=True)


def test_a_stopped_check_that_is_enabled_is_made_again_from_any_change_of_the_plan_on(
    client, tmp_path
):
    client.add_layer("c", counting(tmp_path, "enabled"), combine=True)
    client.stop_checks(["c"])
    time.sleep(0.2)
    assert not made(tmp_path)
    client.add_layer("s", layer("sleep 60"), combine=True)
    assert made(tmp_path)
    with pytest.raises(pebble.APIError, match="cannot stop checks"):
        client.stop_checks(["none"])


def test_the_plan_has_durations_in_its_own_words(client):
    """So who compares it with a layer has to compare values."""
    made = layer("sleep 60", **{"kill-delay": "110s", "backoff-limit": "60s"}).to_dict()
    made["checks"] = {
        "c": {
            "override": "replace",
            "period": "3600s",
            "timeout": "1500ms",
            "threshold": 2,
            "startup": "disabled",
            "exec": {"command": "true"},
        }
    }
    given = pebble.Layer(made)
    client.add_layer("s", given, combine=True)
    plan = client.get_plan()
    told = {**plan.services["s"].to_dict(), **plan.checks["c"].to_dict()}
    words = {key: told[key] for key in ("kill-delay", "backoff-delay", "backoff-limit")}
    assert words == {"kill-delay": "1m50s", "backoff-delay": "100ms", "backoff-limit": "1m0s"}
    assert (told["period"], told["timeout"]) == ("1h0m0s", "1.5s")
    assert plan.services["s"] != given.services["s"]
    assert layers.different(plan, given) == ()
    other = layer("sleep 60", **{"kill-delay": "111s", "backoff-limit": "60s"})
    assert layers.different(plan, other) == ("kill-delay",)


def test_a_service_that_fails_at_once_is_an_error_with_its_output_and_is_tried_again(client):
    words = layer("sh -c 'echo last words; exit 3'", **{"backoff-delay": "60s"})
    client.add_layer("s", words, combine=True)
    with pytest.raises(pebble.ChangeError, match="exited quickly with code 3") as raised:
        client.replan_services()
    logs = [entry for task in raised.value.change.tasks for entry in task.log]
    assert any("Most recent service output:\n    last words" in entry for entry in logs)
    assert current(client) == "backoff"
    client.stop_services(["s"])
    assert current(client) == "inactive"


def test_a_service_that_dies_later_is_restarted(client, tmp_path):
    script = f"sh -c 'echo x >> {tmp_path}/starts; sleep 1.2; exit 1'"
    client.add_layer("s", layer(script), combine=True)
    client.replan_services()
    for _ in range(200):
        if (tmp_path / "starts").read_text() == "x\nx\n":
            break
        time.sleep(0.02)
    else:
        pytest.fail("it was not restarted")


def test_success_can_be_left_alone(client):
    client.add_layer("s", layer("sh -c 'sleep 1.2'", **{"on-success": "ignore"}), combine=True)
    client.replan_services()
    until(client, "inactive")
    time.sleep(0.5)
    assert current(client) == "inactive"


def test_the_whole_group_is_signalled_and_killed_after_the_delay(client, tmp_path):
    deaf = tmp_path / "deaf.sh"
    deaf.write_text(f"trap : TERM\necho $$ > {tmp_path}/pid\nsleep 60\nsleep 60\n")
    outer = f"sh -c 'trap : TERM; sh {deaf}; sleep 60'"
    client.add_layer("s", layer(outer, **{"kill-delay": "300ms"}), combine=True)
    client.replan_services()
    begin = time.monotonic()
    client.stop_services(["s"])
    assert 0.2 < time.monotonic() - begin < 4
    pid = int((tmp_path / "pid").read_text())
    time.sleep(0.1)
    # Whether its parent has been told yet does not matter.
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


def test_a_signal_goes_to_the_process_of_a_service_that_runs(client, tmp_path):
    script = tmp_path / "script.sh"
    script.write_text(
        f"trap 'echo x >> {tmp_path}/signals; exit 0' INT\n"
        f"echo x >> {tmp_path}/starts\n"
        "while :; do sleep 0.05; done\n"
    )
    # Its next start is far away, so that it is seen to wait for it on any machine.
    client.add_layer("s", layer(f"sh {script}", **{"backoff-delay": "60s"}), combine=True)
    with pytest.raises(pebble.APIError, match="service is not running"):
        client.send_signal("SIGINT", ["s"])
    client.replan_services()
    client.send_signal("SIGINT", ["s"])
    until(client, "backoff")
    assert (tmp_path / "signals").read_text() == "x\n"
    with pytest.raises(pebble.APIError, match="service is not running"):
        client.send_signal("SIGINT", ["s"])
    # It is stopped, or replanned, while it waits for its next start.
    client.add_layer("s", layer(f"sh {script}", environment={"A": "1"}), combine=True)
    client.replan_services()
    assert current(client) == "active"
    assert (tmp_path / "starts").read_text() == "x\nx\n"
    client.stop_services(["s"])
    assert current(client) == "inactive"


def test_sigterm_ends_all_services_at_the_same_time_and_kills_after_their_delays(daemon, tmp_path):
    client, process = daemon
    deaf = tmp_path / "deaf.sh"
    deaf.write_text(f"trap 'date +%s.%N > {tmp_path}/$1' TERM\nwhile :; do sleep 0.05; done\n")
    made = {
        name: layer(f"sh {deaf} {name}", **{"kill-delay": delay}).services["s"].to_dict()
        for name, delay in (("a", "1s"), ("b", "2s"))
    }
    client.add_layer("s", pebble.Layer({"services": made}), combine=True)  # pyright: ignore[reportArgumentType]  # as above
    client.replan_services()
    begin = time.time()
    process.terminate()
    process.wait(20)
    assert 1.8 < time.time() - begin < 5
    for name in ("a", "b"):
        assert 0 <= float((tmp_path / name).read_text()) - begin < 1


def test_unknown_services_and_wrong_layers_are_refused(client):
    with pytest.raises(pebble.APIError, match='service "s" does not exist'):
        client.stop_services(["s"])
    with pytest.raises(pebble.APIError):
        client.add_layer("x", "services: {s: {override: replace, command: x, bogus: 1}}")
    with pytest.raises(pebble.APIError):
        client.add_layer("x", "services: {s: {override: replace, command: x, kill-delay: soon}}")


def test_files(client, tmp_path):
    path = f"{tmp_path}/a/b.txt"
    content = bytes(range(256)) * 300 + b"\r\n--\r\n"
    with pytest.raises(pebble.PathError) as raised:
        client.push(path, content)
    assert raised.value.kind == "not-found"
    client.push(path, content, make_dirs=True, permissions=0o600)
    with client.pull(path, encoding=None) as file:
        assert file.read() == content
    (info,) = client.list_files(f"{tmp_path}/a")
    assert (info.name, info.size, info.permissions) == ("b.txt", len(content), 0o600)
    with pytest.raises(pebble.PathError) as raised:
        client.pull(f"{tmp_path}/none")
    assert raised.value.kind == "not-found"
    with pytest.raises(pebble.PathError) as raised:
        client.remove_path(f"{tmp_path}/none")
    assert raised.value.kind == "not-found"
    client.remove_path(f"{tmp_path}/none", recursive=True)
    client.make_dir(f"{tmp_path}/d", permissions=0o700)
    with pytest.raises(pebble.PathError) as raised:
        client.make_dir(f"{tmp_path}/d")
    assert raised.value.kind == "generic-file-error"
    client.remove_path(f"{tmp_path}/a", recursive=True)
    assert not (tmp_path / "a").exists()


def test_commands(client, tmp_path):
    (tmp_path / "from").write_text("x")
    client.exec(["mv", f"{tmp_path}/from", f"{tmp_path}/to"]).wait()
    assert (tmp_path / "to").read_text() == "x"
    with pytest.raises(pebble.ExecError) as raised:
        client.exec(["sh", "-c", "exit 3"]).wait()
    assert raised.value.exit_code == 3
    output = client.exec(["sh", "-c", "cat; echo e >&2"], stdin="hey").wait_output()
    assert output == ("hey", "e\n")
    with pytest.raises(pebble.APIError, match="cannot find executable"):
        client.exec(["no-such-program"])


def test_a_command_that_cannot_be_run_or_does_not_end_is_an_error(client, tmp_path):
    for name, mode in (("junk", 0o755), ("no program", 0o644)):
        (tmp_path / name).write_bytes(b"\x00junk")
        (tmp_path / name).chmod(mode)
    with pytest.raises(pebble.ChangeError, match="exec format error"):
        client.exec([f"{tmp_path}/junk"], timeout=5, stdin="").wait_output()
    with pytest.raises(pebble.APIError, match="cannot find executable"):
        client.exec([f"{tmp_path}/no program"])
    began = time.monotonic()
    with pytest.raises(pebble.ChangeError, match="timed out after "):
        client.exec(["sleep", "60"], timeout=0.5, stdin="").wait_output()
    assert time.monotonic() - began < 3


def test_a_failing_check_restarts_the_service(client, tmp_path):
    made = layer(f"sh -c 'echo x >> {tmp_path}/starts; sleep 60'").to_dict()
    made["services"]["s"]["on-check-failure"] = {"c": "restart"}  # pyright: ignore[reportTypedDictNotRequiredAccess]  # it is there
    made["checks"] = {
        "c": {
            "override": "replace",
            "period": "100ms",
            "timeout": "90ms",
            "threshold": 2,
            "exec": {"command": f"test ! -e {tmp_path}/bad"},
        }
    }
    client.add_layer("s", pebble.Layer(made), combine=True)
    client.replan_services()
    (check,) = client.get_checks()
    assert check.status == pebble.CheckStatus.UP
    (tmp_path / "bad").touch()
    for _ in range(200):
        if (tmp_path / "starts").read_text().count("x") > 1:
            break
        time.sleep(0.02)
    else:
        pytest.fail("it was not restarted")
    shutil.rmtree(tmp_path / "bad", ignore_errors=True)


def test_a_change_that_takes_longer_than_the_client_waits_is_a_time_out(client):
    client.add_layer("s", layer("sleep 60"), combine=True)
    with pytest.raises(pebble.TimeoutError):
        client.replan_services(timeout=0.2)


def test_a_program_of_the_container_wakes_the_charm(client, tmp_path, monkeypatch):
    monkeypatch.setenv("PEBBLE", str(tmp_path))
    assert notices.notify()
    assert notices.notify()
    (found,) = client.get_notices()
    assert (found.type, found.key) == (pebble.NoticeType.CUSTOM, "dittofs.charm/backup")
    assert found.occurrences == 2
    assert not notices.notify("no key")
    monkeypatch.setenv("PEBBLE_SOCKET", str(tmp_path / "nobody"))
    assert not notices.notify()
