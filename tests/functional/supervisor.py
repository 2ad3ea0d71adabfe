"""A stand-in for Canonical's Pebble: the API on a unix socket that `ops.pebble.Client` uses.

For machines without Pebble. `tests/functional/test_pebble.py` runs the same tests against this and
against a real daemon.
"""

import contextlib
import http.server
import itertools
import json
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import wsproto
import wsproto.events
import yaml

from tests.functional import files_api
from tests.functional.files_api import ApiProblem
from tests.functional.services import DURATIONS, Check, Service, StartError, seconds, written

VERSION = "v1.32.1-standin"
_SERVICE_KEYS = {
    "override",
    "summary",
    "description",
    "command",
    "startup",
    "environment",
    "user",
    "user-id",
    "group",
    "group-id",
    "working-dir",
    "after",
    "before",
    "requires",
    "on-success",
    "on-failure",
    "on-check-failure",
    "backoff-delay",
    "backoff-factor",
    "backoff-limit",
    "kill-delay",
}
_CHECK_KEYS = {
    "override",
    "level",
    "startup",
    "period",
    "timeout",
    "threshold",
    "http",
    "tcp",
    "exec",
}


class Daemon:
    """The plan, the services, the checks and the changes."""

    def __init__(self) -> None:
        self.layers: dict[str, dict[str, Any]] = {}
        self.services: dict[str, Service] = {}
        self.checks: dict[str, Check] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        self.done: dict[str, threading.Event] = {}
        self.execs: dict[str, Exec] = {}
        self.notices: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)

    def plan(self) -> dict[str, Any]:
        """All layers, one over the other."""
        plan: dict[str, Any] = {}
        for layer in self.layers.values():
            for section in ("services", "checks"):
                for name, entry in (layer.get(section) or {}).items():
                    present = plan.setdefault(section, {})
                    merged = present.get(name, {}) | entry
                    present[name] = merged if entry.get("override") == "merge" else entry
        return plan

    def add_layer(self, label: str, text: str, combine: bool) -> None:
        """Add a layer, or combine it with the one of the same label."""
        layer = yaml.safe_load(text) or {}
        _check_layer(label, layer)
        if label in self.layers and not combine:
            raise ApiProblem(400, f'layer "{label}" already exists')
        merged = self.layers.get(label, {})
        for section in ("services", "checks"):
            if layer.get(section):
                merged[section] = merged.get(section, {}) | layer[section]
        self.layers[label] = merged
        for name, config in self.plan().get("checks", {}).items():
            self._change_check(self.checks.get(name), Check(name, config, self._check_failed))

    def _change_check(self, present: Check | None, wanted: Check) -> None:
        """What becomes of a check when the plan changes, also where it says the same of it."""
        runs = present is not None and present.running
        if present and runs and (present.config == wanted.config or not wanted.enabled):
            # One that was enabled goes on until somebody stops it.
            return
        if present:
            present.stop()
        self.checks[wanted.name] = wanted
        if wanted.enabled:
            wanted.start()

    def change_checks(self, action: str, names: list[str]) -> dict[str, list[str]]:
        """Start or stop checks; those that were not in that state."""
        for name in names:
            if name not in self.checks:
                raise ApiProblem(400, f'cannot {action} checks: "{name}" is not in the plan')
        change = Check.start if action == "start" else Check.stop
        return {"changed": sorted(name for name in names if change(self.checks[name]))}

    def act(self, action: str, names: list[str]) -> str:
        """Start, stop, restart or replan services; the id of the change."""
        plan = self.plan().get("services", {})
        for name in names:
            if name not in plan:
                raise ApiProblem(400, f'cannot {action} services: service "{name}" does not exist')
        if action in {"replan", "autostart"}:
            names = [name for name, each in plan.items() if self._to_start(name, each, action)]
        kind = "start" if action in {"replan", "autostart", "restart"} else action
        return self.change(action, lambda change: self._act(kind, action, names, change))

    def _to_start(self, name: str, config: dict[str, Any], action: str) -> bool:
        service = self.services.get(name)
        if action == "replan" and service and service.config and service.config != config:
            # It ran once, and what the plan says of its startup is of no interest.
            return True
        return config.get("startup") == "enabled" and not (service and service.running)

    def _act(self, kind: str, action: str, names: list[str], change: dict[str, Any]) -> None:
        plan = self.plan().get("services", {})
        errors: list[str] = []
        for name in names:
            task = _task(kind, f'{kind.capitalize()} service "{name}"')
            change["tasks"].append(task)
            service = self.services.setdefault(name, Service(name, _print))
            try:
                if kind == "stop" or action in {"restart", "replan"}:
                    service.stop()
                if kind == "start" and not (action == "start" and service.running):
                    service.start(plan[name])
            except StartError as error:
                task["status"] = "Error"
                indented = "\n".join(f"    {line}" for line in error.output.splitlines())
                task["log"] = [
                    f"{_now()} INFO Most recent service output:\n{indented}",
                    f"{_now()} ERROR {error}",
                ]
                errors.append(f"- {task['summary']} ({error})")
        if errors:
            change["err"] = "cannot perform the following tasks:\n" + "\n".join(errors)
            change["status"] = "Error"

    def change(self, kind: str, work: Any) -> str:
        """Do something in the background; the id under which it can be waited for."""
        number = str(next(self._numbers))
        change = {
            "id": number,
            "kind": kind,
            "summary": kind,
            "status": "Doing",
            "ready": False,
            "spawn-time": _now(),
            "tasks": [],
        }
        self.changes[number], self.done[number] = change, threading.Event()

        def run() -> None:
            work(change)
            change["ready"] = True
            if change["status"] == "Doing":
                change["status"] = "Done"
            self.done[number].set()

        threading.Thread(target=run, daemon=True).start()
        return number

    def wait(self, number: str, timeout: float) -> dict[str, Any]:
        """A change when it is done."""
        if number not in self.changes:
            raise ApiProblem(404, f'cannot find change with id "{number}"')
        if not self.done[number].wait(timeout):
            raise ApiProblem(504, f"timed out waiting for change after {timeout}s")
        return self.changes[number]

    def service_infos(self, names: list[str]) -> list[dict[str, Any]]:
        """What runs."""
        plan = self.plan().get("services", {})
        infos: list[dict[str, Any]] = []
        for name in sorted(plan):
            if not names or name in names:
                current = self.services[name].current if name in self.services else "inactive"
                startup = plan[name].get("startup") or "disabled"
                infos.append({"name": name, "startup": startup, "current": current})
        return infos

    def signal(self, asked: dict[str, Any]) -> bool:
        """Send a signal to services that run."""
        for name in asked["services"]:
            service = self.services.get(name)
            if service is None or not service.signal(signal.Signals[asked["signal"]]):
                text = f'cannot send signal to "{name}": service is not running'
                raise ApiProblem(500, text)
        return True

    def close(self) -> None:
        """End all services, at the same time."""
        with ThreadPoolExecutor(max(len(self.services), 1)) as hands:
            list(hands.map(Service.stop, self.services.values()))

    def notify(self, asked: dict[str, Any]) -> dict[str, str]:
        """Take a custom notice; those of one key are counted."""
        if asked.get("action") != "add" or asked.get("type") != "custom":
            raise ApiProblem(400, f'invalid action "{asked.get("action")}"')
        key = asked.get("key", "")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+)+(/[a-z0-9-]+)+", key):
            raise ApiProblem(400, f'invalid key "{key}"')
        now = _now()
        found = self.notices.setdefault(
            key,
            {
                "id": str(next(self._numbers)),
                "user-id": os.getuid(),
                "type": "custom",
                "key": key,
                "first-occurred": now,
                "occurrences": 0,
            },
        )
        found |= {"last-occurred": now, "last-repeated": now}
        found["occurrences"] += 1
        return {"id": found["id"]}

    def _check_failed(self, check: str) -> None:
        for name, config in self.plan().get("services", {}).items():
            if (
                config.get("on-check-failure", {}).get(check) == "restart"
                and name in self.services
            ):
                threading.Thread(target=self.services[name].restart, daemon=True).start()


class Exec:
    """A command with its websockets."""

    def __init__(self, body: dict[str, Any]):
        self.stdin = bytearray()
        self.input_done = threading.Event()
        self.output: dict[str, bytes] = {}
        self.finished = threading.Event()
        self._body = body

    def run(self, change: dict[str, Any]) -> None:
        """Run the command when its input is complete."""
        task = _task("exec", f"exec {self._body['command'][0]}")
        change["tasks"].append(task)
        self.input_done.wait(5)
        self.output = {"stdio": b"", "stderr": b""}
        try:
            done = self._run()
        except subprocess.TimeoutExpired:
            reason = f"timed out after {self._body['timeout']}: context deadline exceeded"
        except OSError as error:
            reason = f"fork/exec {self._body['command'][0]}: {str(error.strerror).lower()}"
        else:
            self.output = {"stdio": done.stdout, "stderr": done.stderr or b""}
            task["data"] = {"exit-code": done.returncode}
            reason = ""
        if reason:
            task |= {"status": "Error", "log": [f"{_now()} ERROR {reason}"]}
            change["status"] = "Error"
            what = f'Execute command "{self._body["command"][0]}"'
            change["err"] = f"cannot perform the following tasks:\n- {what} ({reason})"
        self.finished.set()

    def _run(self) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self._body["command"],
            input=bytes(self.stdin),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self._body.get("split-stderr") else subprocess.STDOUT,
            env=os.environ | (self._body.get("environment") or {}),
            cwd=self._body.get("working-dir") or None,
            timeout=seconds(self._body["timeout"]) if self._body.get("timeout") else None,
            check=False,
        )


class Handler(http.server.BaseHTTPRequestHandler):
    """The routes."""

    protocol_version = "HTTP/1.1"
    daemon: Daemon

    def address_string(self) -> str:
        """A unix socket has no address."""
        return "local"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Say nothing."""

    def do_GET(self) -> None:  # http.server's name
        path = urlsplit(self.path).path
        websocket = re.fullmatch(r"/v1/tasks/(\w+)/websocket/(\w+)", path)
        if websocket:
            self._websocket(websocket[1], websocket[2])
            return
        self._answer(lambda: self._get(path, parse_qs(urlsplit(self.path).query)))

    def do_POST(self) -> None:  # http.server's name
        body = self._body()
        self._answer(lambda: self._post(urlsplit(self.path).path, body))

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        data = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(data)

    def _answer(self, work: Any) -> None:
        try:
            result = work()
        except ApiProblem as problem:
            error: dict[str, Any] = {"message": str(problem)}
            if problem.kind:
                error["kind"] = problem.kind
            self._json(problem.status, {"type": "error", "result": error})
            return
        if isinstance(result, tuple):
            change, extra = result
            self._json(202, {"type": "async", "change": change, "result": extra})
        elif isinstance(result, files_api.Multipart):
            self._send(200, result.body, result.content_type)
        else:
            self._json(200, {"type": "sync", "result": result})

    def _json(self, status: int, answer: dict[str, Any]) -> None:
        answer |= {"status-code": status, "status": http.HTTPStatus(status).phrase}
        self._send(status, json.dumps(answer).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _get(self, path: str, query: dict[str, list[str]]) -> Any:  # noqa: PLR0911  # a row of routes
        daemon = self.daemon
        if path == "/v1/system-info":
            return {"version": VERSION, "boot-id": "standin"}
        if path == "/v1/plan":
            return yaml.safe_dump(daemon.plan())
        if path == "/v1/services":
            return daemon.service_infos(_split(query.get("names")))
        if path == "/v1/notices":
            return list(self.daemon.notices.values())
        if path == "/v1/checks":
            names = _split(query.get("names"))
            return [
                each.info() for each in daemon.checks.values() if not names or each.name in names
            ]
        if path == "/v1/files" and query["action"] == ["list"]:
            return files_api.list_files(Path(query["path"][0]), query.get("itself") == ["true"])
        if path == "/v1/files":
            return files_api.read_file(Path(query["path"][0]))
        change = re.fullmatch(r"/v1/changes/(\w+)(/wait)?", path)
        if change:
            timeout = seconds(query["timeout"][0]) if "timeout" in query else 3600.0
            return daemon.wait(change[1], timeout if change[2] else 0.0)
        raise ApiProblem(404, f"invalid API endpoint requested: {path}")

    def _post(self, path: str, body: bytes) -> Any:  # noqa: PLR0911  # a row of routes
        if path == "/v1/files" and not self.headers["content-type"].startswith("application/json"):
            return files_api.write_file(self.headers["content-type"], body)
        asked = json.loads(body)
        if path == "/v1/layers":
            return self.daemon.add_layer(asked["label"], asked["layer"], bool(asked["combine"]))
        if path == "/v1/services":
            return self.daemon.act(asked["action"], asked.get("services") or []), None
        if path == "/v1/checks":
            return self.daemon.change_checks(asked["action"], asked["checks"])
        if path == "/v1/files":
            return files_api.change_files(asked)
        if path == "/v1/notices":
            return self.daemon.notify(asked)
        if path == "/v1/signals":
            return self.daemon.signal(asked)
        if path == "/v1/exec":
            return self._exec(asked)
        raise ApiProblem(404, f"invalid API endpoint requested: {path}")

    def _exec(self, asked: dict[str, Any]) -> Any:
        if shutil.which(asked["command"][0]) is None:
            raise ApiProblem(400, f'cannot find executable "{asked["command"][0]}"')
        run = Exec(asked)
        change = self.daemon.change("exec", run.run)
        self.daemon.execs[change] = run
        return change, {"task-id": change}

    def _websocket(self, task: str, name: str) -> None:
        """Take the input of a command, then send its output and say that it ends."""
        run = self.daemon.execs[task]
        socket = self.connection
        connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        request = f"GET {self.path} HTTP/1.1\r\n{self.headers}".replace("\n", "\r\n")
        request = request.replace("\r\r\n", "\r\n").rstrip() + "\r\n\r\n"
        connection.receive_data(request.encode())
        next(iter(connection.events()))
        socket.sendall(connection.send(wsproto.events.AcceptConnection()))
        if name == "stdio":
            self._take_input(connection, run)
        run.finished.wait(60)
        with contextlib.suppress(OSError):
            if name in run.output:
                if run.output[name]:
                    message = wsproto.events.BytesMessage(run.output[name])
                    socket.sendall(connection.send(message))
                end = wsproto.events.TextMessage('{"command":"end"}')
                socket.sendall(connection.send(end))
            while data := socket.recv(4096):
                del data
        self.close_connection = True

    def _take_input(self, connection: wsproto.WSConnection, run: Exec) -> None:
        while not run.input_done.is_set():
            data = self.connection.recv(65536)
            connection.receive_data(data or None)
            for event in connection.events():
                if isinstance(event, wsproto.events.BytesMessage):
                    run.stdin += event.data
                elif isinstance(
                    event, wsproto.events.TextMessage | wsproto.events.CloseConnection
                ):
                    run.input_done.set()


def _check_layer(label: str, layer: dict[str, Any]) -> None:
    for section, keys in (("services", _SERVICE_KEYS), ("checks", _CHECK_KEYS)):
        for name, entry in (layer.get(section) or {}).items():
            unknown = sorted(set(entry) - keys)
            if unknown:
                raise ApiProblem(
                    400, f'cannot parse layer "{label}" section "{section}": field {unknown[0]}'
                )
            if entry.get("override") not in {"replace", "merge"}:
                raise ApiProblem(400, f'layer "{label}" must define "override" for "{name}"')
            for key in DURATIONS & set(entry):
                try:
                    entry[key] = written(str(entry[key]))
                except ValueError as error:
                    raise ApiProblem(400, f"cannot parse layer: {error}") from error
            if section == "services" and not entry.get("command"):
                raise ApiProblem(400, f'plan must define "command" for service "{name}"')


def _task(kind: str, summary: str) -> dict[str, Any]:
    return {
        "id": "1",
        "kind": kind,
        "summary": summary,
        "status": "Done",
        "log": [],
        "progress": {"label": "", "done": 1, "total": 1},
        "spawn-time": _now(),
    }


def _split(values: list[str] | None) -> list[str]:
    return [name for value in values or [] for name in value.split(",")]


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _print(text: str) -> None:
    sys.stdout.write(f"{_now()} {text}\n")
    sys.stdout.flush()


class Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP on a unix socket."""

    daemon_threads = True
    request_queue_size = 32


def main() -> None:
    """`run --create-dirs`, with the directory in `$PEBBLE`."""
    socket = Path(os.environ["PEBBLE"]) / ".pebble.socket"
    socket.unlink(missing_ok=True)
    Handler.daemon = Daemon()
    with Listener(str(socket), Handler) as listener:
        # `shutdown` waits for the loop that this very thread runs.
        end = threading.Thread(target=listener.shutdown)
        signal.signal(signal.SIGTERM, lambda *_: end.start())
        listener.serve_forever(poll_interval=0.1)
    Handler.daemon.close()


if __name__ == "__main__":
    main()
