"""A proxy that knows the hosts of S3s, all of which are the tests' one server.

Clients of AWS, MinIO, Ceph and Google ask hosts of other names, some of which have the bucket in
front. Here a client asks this proxy for them, in the clear or through a tunnel, in which it finds
a certificate for the names that the S3 has: with one star, that stands for no dot.
"""

import http.client
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

from tests.databases import HOST
from tests.s3 import OTHER_S3, Authority

_AWS = (
    "s3.eu-west-1.amazonaws.com",
    "s3.us-east-1.amazonaws.com",
    "s3.dualstack.eu-west-1.amazonaws.com",
)
_NAMES = (*_AWS, *OTHER_S3)


class HostsProxy:
    """Passes requests on to the server on 127.0.0.1, as they were signed; a context manager.

    Args:
        target: the port of the server.
        folder: for the files of the certificate.

    Attributes:
        asked: scheme and host of each request that was passed on.
        login: what it wants of clients, such as `Basic dXNlcjp3b3Jk`; None: nothing.
        status: the answer to all that is asked instead of passing it on; None: none.
    """

    def __init__(self, target: int, folder: Path):
        authority = Authority("hosts")
        self.target = target
        self.ca = authority.pem
        self.context = authority.context(folder, *_NAMES, *(f"*.{name}" for name in _NAMES))
        self.asked: list[tuple[str, str]] = []
        self.login: str | None = None
        self.status: int | None = None
        self._server = _Listener((HOST, 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http://{HOST}:{self._server.server_address[1]}"


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], proxy: HostsProxy):
        self.proxy = proxy
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections end in all ways here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tunnel = False

    @property
    def proxy(self) -> HostsProxy:
        return cast("_Listener", self.server).proxy

    def finish(self) -> None:
        """Close the tunnel, which is no socket that the listener knows."""
        super().finish()
        if self.tunnel:
            self.rfile.close()
            self.connection.close()

    def do_CONNECT(self) -> None:
        """Be the server that is asked for, from here on."""
        if not self._may_pass():
            return
        self.send_response_only(200)
        self.end_headers()
        self.connection: ssl.SSLSocket = self.proxy.context.wrap_socket(
            self.connection, server_side=True
        )
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)  # pyright: ignore[reportAttributeAccessIssue]  # socketserver has such a file itself
        self.tunnel = True
        # A client may ask for the tunnel in HTTP/1.0.
        self.close_connection = False

    def _pass_on(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.tunnel and not self._may_pass():
            return
        host = self.headers["Host"]
        assert self.tunnel or parts.netloc == host
        self.proxy.asked.append(("https" if self.tunnel else "http", host))
        onward = http.client.HTTPConnection(HOST, self.proxy.target, timeout=60)
        onward.putrequest(
            self.command,
            self.path.removeprefix(f"http://{host}"),
            skip_host=True,
            skip_accept_encoding=True,
        )
        for name, value in self.headers.items():
            onward.putheader(name, value)
        onward.endheaders(body)
        with onward.getresponse() as answer:
            data = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                    self.send_header(name, value)
        onward.close()
        self._end(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815  # http.server's names

    def _may_pass(self) -> bool:
        proxy = self.proxy
        refusal = proxy.status
        if proxy.login and self.headers.get("Proxy-Authorization") != proxy.login:
            refusal = 407
        if refusal:
            self.send_response_only(refusal)
            self._end(b"<html>no</html>")
            self.close_connection = True
        return not refusal

    def _end(self, data: bytes) -> None:
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Say nothing."""
