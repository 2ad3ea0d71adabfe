"""What the stand-in answers."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Response:
    """What goes back to the client."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict[str, str])


class Problem(Exception):  # noqa: N818  # the RFC's own word
    """An answer that refuses, in the form of RFC 7807."""

    def __init__(self, status: int, title: str, detail: str):
        super().__init__(detail)
        body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        self.response = Response(
            status, json.dumps(body).encode() + b"\n", "application/problem+json"
        )


def bad_request(detail: str) -> Problem:
    """What is wrong is the client's fault."""
    return Problem(400, "Bad Request", detail)


def not_found(what: str) -> Problem:
    """There is no such thing."""
    return Problem(404, "Not Found", f"{what} not found")


def conflict(detail: str) -> Problem:
    """It is there already, or something needs it."""
    return Problem(409, "Conflict", detail)


def broken(detail: str) -> Problem:
    """What is wrong is the server's fault."""
    return Problem(500, "Internal Server Error", detail)


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer with a value."""
    return Response(status, json.dumps(value).encode() + b"\n", headers=headers or {})


def as_text(status: int, text: str) -> Response:
    """An answer that the router gives."""
    return Response(status, f"{text}\n".encode(), "text/plain; charset=utf-8")
