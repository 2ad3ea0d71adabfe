"""The border of the unit tests: HTTP calls reach a stand-in in the same process."""

from typing import Any

import httpx

from tests.standin.core import Cut, StandIn, Timeout

METRICS_PORT = 9090


class Border:
    """Stands where the sockets were. `server` None: nobody listens."""

    def __init__(self) -> None:
        self.server: StandIn | None = None

    def install(self, monkeypatch: Any) -> None:
        """Route every `httpx.Client` here."""

        def handle(_: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
            return self.handle(request)

        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)

    def _metrics(self, request: httpx.Request) -> httpx.Response:
        text = self.server.metrics() if self.server else None
        if text is None:
            self.server = None
            raise httpx.RemoteProtocolError("panic", request=request)
        return httpx.Response(200, text=text)

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer as the server would, or fail as a socket would."""
        if self.server is None:
            raise httpx.ConnectError("refused", request=request)
        if request.url.port == METRICS_PORT:
            return self._metrics(request)
        try:
            answer = self.server.handle(
                request.method,
                request.url.raw_path.decode(),
                {name.lower(): value for name, value in request.headers.items()},
                request.content,
            )
        except Cut:
            raise httpx.RemoteProtocolError("cut", request=request) from None
        except Timeout:
            raise httpx.ReadTimeout("slow", request=request) from None
        headers = {"content-type": answer.content_type} | answer.headers
        return httpx.Response(answer.status, content=answer.body, headers=headers)
