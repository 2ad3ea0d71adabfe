"""The stand-in as a program: `start --foreground --config FILE`, as the real server is started."""

import json
import os
import re
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import yaml

from tests.standin.answers import Problem, Response, broken, not_found
from tests.standin.core import VERSION, StandIn
from tests.standin.database import now
from tests.standin.files import Full, Stale, VolumeStores
from tests.standin.journal import seconds

_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR")
_SECTIONS = {
    "logging",
    "shutdown_timeout",
    "database",
    "controlplane",
    "admin",
    "metadata",
    "blockstore",
    "gc",
    "snapshot",
    "metrics",
    "identity",
    "kerberos",
    "ldap",
}
_SHORTEST_SECRET = 32
_NEWER_STATE = 78
_DURATION = re.compile(r"(\d+(ms|s|m|h))+")
# A test writes a larger number here to make a volume of a newer server.
_STAMP, _FORMAT = "standin-format", 1
# How many seconds a snapshot takes, and each half of a restore.
_SECONDS = "STANDIN_SNAPSHOT_SECONDS"


class Listeners:
    """The sockets of the protocols: they accept and close."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def listen(self, protocol: str, port: int | None) -> bool:
        """Bind the port of a protocol, or none; whether it could be bound."""
        present = self._sockets.pop(protocol, None)
        if present:
            present.close()
        if port is None:
            return False
        try:
            sock = socket.create_server(("", port))
        except (OSError, OverflowError):
            return False
        self._sockets[protocol] = sock
        threading.Thread(target=_accept, args=(sock,), daemon=True).start()
        return True


def _accept(sock: socket.socket) -> None:
    while True:
        try:
            connection, _ = sock.accept()
        except OSError:
            return
        connection.close()


class Handler(BaseHTTPRequestHandler):
    """HTTP in front of the core, with the route for files beside the API."""

    protocol_version = "HTTP/1.1"
    server_version = "standin"
    core: StandIn
    stores: VolumeStores

    def _serve(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        parts = urlsplit(self.path).path.split("/", 4)
        if parts[1:3] == ["standin", "files"]:
            answer = self._file(unquote(parts[3]), unquote(parts[4]), body)
        else:
            answer = self.core.handle(self.command, self.path, headers, body)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  # http.server's names

    def _file(self, share_name: str, name: str, data: bytes) -> Response:
        database = self.core.database
        share = database.find("share", f"/{share_name}")
        if share is None or not share["enabled"]:
            return not_found("Share").response
        store = (database.find("metadata", share["metadata_store_id"]) or {})["name"]
        noted = share["read_only"] or self.stores.noted_read_only(share, store)
        if noted and self.command != "GET":
            return Problem(403, "Forbidden", "read-only").response
        try:
            return self._serve_file(share, store, name, data)
        except Full as error:
            return Problem(507, "Insufficient Storage", str(error)).response
        except (Stale, OSError) as error:
            return broken(str(error)).response

    def _serve_file(self, share: dict[str, Any], store: str, name: str, data: bytes) -> Response:
        if self.command == "PUT":
            self.stores.put(share, store, name, data)
        elif self.command == "DELETE":
            self.stores.remove(share, store, name)
        else:
            content = self.stores.get(share, store, name)
            if content is None:
                return not_found("File").response
            return Response(200, content, "application/octet-stream")
        return Response(201)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Say nothing: the real server logs requests of the API only."""


def _log(level: str, message: str, **more: Any) -> None:
    line = {"time": now(), "level": level, "msg": message, **more}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _fail(message: str, code: int = 1) -> NoReturn:
    sys.stderr.write(f"Error: {message}\n")
    sys.exit(code)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        _fail(f"configuration file not found: {path}")
    config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for unknown in sorted(set(config) - _SECTIONS):
        sys.stderr.write(f"WARNING: config contains unknown keys (ignored): {unknown}\n")
    level = str(config.get("logging", {}).get("level", "INFO"))
    if level.upper() not in _LEVELS:
        _fail(
            "failed to load configuration: configuration validation failed: "
            f"Config.Logging.Level: validation failed on 'oneof' tag (value: {level})"
        )
    for section in ("controlplane", "metrics"):
        port = config.get(section, {}).get("port", 1)
        if not isinstance(port, int):
            _fail(f"failed to load configuration: '{section}.port' cannot parse value as 'int'")
    timeout = str(config.get("shutdown_timeout", "30s"))
    if not _DURATION.fullmatch(timeout):
        _fail(f"failed to load configuration: time: invalid duration {timeout!r}")
    return config


def _check_environment() -> None:
    """As the real one: each variable of this beginning is an option, and stands above the file."""
    for option in ("metrics.port", "controlplane.port"):
        value = os.environ.get(f"DITTOFS_{option.replace('.', '_').upper()}", "0")
        if not value.isdigit():
            _fail(f"failed to load configuration: {option!r} cannot parse value as 'int'")


def _boot(config: dict[str, Any]) -> tuple[StandIn, VolumeStores]:
    database = Path(config["database"]["sqlite"]["path"])
    stamp = database.with_name(_STAMP)
    if stamp.exists() and int(stamp.read_text()) > _FORMAT:
        _fail("on-disk state is newer than this server", _NEWER_STATE)
    local = config.get("blockstore", {}).get("local", {})
    stores = VolumeStores(seconds(str(local.get("backpressure_max_wait", "60s"))))
    secret = os.environ.get("DITTOFS_CONTROLPLANE_SECRET", "")
    try:
        core = StandIn.start(
            database,
            secret,
            os.environ.get("DITTOFS_ADMIN_INITIAL_PASSWORD"),
            stores=stores,
            listen=Listeners().listen,
        )
        core.snapshots.seconds = float(os.environ.get(_SECONDS, "0.05"))
    except ValueError as error:
        _fail(f"failed to initialize metadata stores: {error}")
    if len(secret) < _SHORTEST_SECRET:
        _fail(
            "failed to create API server: JWT secret must be at least 32 characters; "
            "set via DITTOFS_CONTROLPLANE_SECRET env var or config"
        )
    return core, stores


class Metrics(BaseHTTPRequestHandler):
    """The metrics listener: which version runs."""

    core: StandIn

    def do_GET(self) -> None:  # http.server's name
        text = self.core.metrics()
        if text is None:
            _log("ERROR", "panic: label value is not valid UTF-8")
            os._exit(2)
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Say nothing."""


class Listener(ThreadingHTTPServer):
    """A server with a queue long enough for tests that start many clients."""

    daemon_threads = True
    request_queue_size = 128


def start(path: Path) -> None:
    """Run until a signal says otherwise."""
    config = _load(path)
    control = config.get("controlplane", {})
    _check_environment()
    core, stores = _boot(config)
    Handler.core, Handler.stores = core, stores
    Metrics.core = core
    address = (control.get("host", "127.0.0.1"), control.get("port", 8080))
    try:
        api = Listener(address, Handler)
    except OSError as error:
        _fail(f"API server error: API server failed: listen tcp {address[0]}: {error}")
    metrics = config.get("metrics", {})
    if metrics.get("enabled"):
        listener = Listener((metrics.get("host", "127.0.0.1"), metrics.get("port", 9090)), Metrics)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        # `shutdown` waits for the loop that this very thread runs.
        signal.signal(number, lambda *_: threading.Thread(target=api.shutdown).start())
    _log("INFO", "Server is running", version=VERSION)
    api.serve_forever(poll_interval=0.02)
    api.server_close()
    core.snapshots.close()
    core.database.close()
    stores.close()
    _log("INFO", "DittoFS runtime stopped")


def status(port: int) -> None:
    """Whether a server answers here, as JSON; always a success."""
    try:
        with urlopen(f"http://localhost:{port}/health", timeout=10) as answer:
            running = bool(answer.read())
    except OSError:
        running = False
    sys.stdout.write(json.dumps({"running": running, "healthy": running}, indent=2) + "\n")


def main(arguments: list[str]) -> None:
    """The words of the command line."""
    if arguments == ["version"]:
        sys.stderr.write(f"dfs {VERSION}\n  Commit:     standin\n  Built:      unknown\n")
    elif arguments[:2] == ["status", "--api-port"] and arguments[3:] == ["--output", "json"]:
        status(int(arguments[2]))
    elif arguments[:3] == ["start", "--foreground", "--config"] and arguments[3:]:
        start(Path(arguments[3]))
    else:
        _fail("usage: start --foreground --config FILE | status --api-port N --output json")


if __name__ == "__main__":
    main(sys.argv[1:])
