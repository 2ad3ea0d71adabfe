"""A server that answers what a test says: the border to one that misbehaves."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from agent.archive.server import Server
from agent.archive.settings import Api

# The status and the body; status 0 waits so many seconds and cuts the connection.
Answer = tuple[int, Any]


class _Handler(http.server.BaseHTTPRequestHandler):
    answer: Callable[[str], Answer]

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/v1/auth/login":
            self._say(200, {"access_token": "token"})
            return
        status, body = self.answer(self.path)
        if status:
            self._say(status, body)
        else:
            time.sleep(body)

    do_POST = do_DELETE = do_GET  # noqa: N815  # http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class' name
        """Say nothing."""

    def _say(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def answering(answer: Callable[[str], Answer]) -> Iterator[Api]:
    """A server whose answers depend on the path; logins always work."""
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{listener.server_port}"
    try:
        yield Api(url, f"{url}/metrics", "admin", "password")
    finally:
        listener.shutdown()
        listener.server_close()


@contextlib.contextmanager
def scripted(*answers: Answer) -> Iterator[Server]:
    """A client of a server with these answers, of which the last is for all that follow."""
    left = list(answers)
    with answering(lambda _: left.pop(0) if len(left) > 1 else left[0]) as api:
        yield Server(api)


def describing(version: str, *shares: tuple[str, str, str]) -> Callable[[str], Answer]:
    """The answers of a server with shares: name, type of metadata store, type of content store."""
    entries = [
        {"name": name, "metadata_store_id": f"m-{metadata}", "local_block_store_id": content}
        for name, metadata, content in shares
    ]
    bodies: dict[str, Any] = {
        "/metrics": f'dittofs_build_info{{version="{version}"}} 1\n'.encode(),
        "/api/v1/shares": entries,
        "/api/v1/store/metadata": [
            {"id": f"m-{name}", "type": name} for name in ("badger", "memory")
        ],
        "/api/v1/store/block/local": [{"id": name, "type": name} for name in ("fs", "memory")],
    }
    return lambda path: (200, bodies[path]) if path in bodies else (404, b"")
