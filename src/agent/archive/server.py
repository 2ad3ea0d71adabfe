"""The server's REST API, as far as backups need it.

The charm has a client of its own for the rest of it; this one does without any package.
"""

import http.client
import json
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote, urlsplit

from agent.archive.errors import ArchiveError
from agent.archive.progress import Progress
from agent.archive.settings import Api

READY, FAILED = "ready", "failed"

_TIMEOUT = 35.0  # the server cuts its own requests at 30 s
RESTORE_SECONDS = 6 * 3600.0
CONFLICT, REFUSED = 409, 500
_UNAUTHORIZED, _NOT_FOUND = 401, 404
_BUSY_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class ServerError(ArchiveError):
    """A call failed; `status` is the HTTP status, None where there was no answer."""

    def __init__(self, text: str, status: int | None = None):
        super().__init__("api", text)
        self.status = status


class NoAnswerError(ServerError):
    """A call was not answered: the server is not there, ended meanwhile, or took too long."""


@dataclass(frozen=True)
class ShareInfo:
    """A share: the types of its stores in the server's words, `status` healthy or another word."""

    name: str
    enabled: bool
    used_bytes: int
    metadata_type: str
    content_type: str
    status: str
    message: str


@dataclass(frozen=True)
class Usage:
    """What a share holds, in bytes, and what it may; an empty `quota`: none.

    The quota is as the server words it, with two decimals.
    """

    used_bytes: int
    quota: str
    read_only: bool
    default_permission: str


@dataclass(frozen=True)
class SnapshotInfo:
    """A snapshot of a share; its state is creating, ready or failed."""

    id: str
    name: str
    state: str
    error: str


@dataclass(frozen=True)
class _Request:
    """What is asked; `text` names it in errors, `timeout` in seconds."""

    method: str
    text: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    timeout: float = _TIMEOUT


class Server:
    """Logs in by itself at the first call; a context manager that forgets the login.

    Every method raises ServerError. Each call has a connection of its own, so none is cut by a
    restart of the server before.
    """

    def __init__(self, access: Api):
        self._access = access
        self._token: str | None = None

    def __enter__(self) -> Self:
        """Nothing is asked yet."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Forget the login."""
        self._token = None

    def wait_ready(self, progress: Progress, seconds: float) -> None:
        """Return when the server answers, which it does when its stores and shares are open."""
        end = time.monotonic() + seconds
        for pause in _pauses():
            try:
                _send(f"{self._access.url}/health/ready", _Request("GET", "health"))
            except ServerError as error:
                if error.status is not None:
                    return
                if time.monotonic() + pause >= end:
                    raise ServerError(
                        f"the server does not answer for {seconds:.0f} seconds"
                    ) from None
            else:
                return
            progress.wait(pause)

    def version(self) -> str | None:
        """The version that the server names in its metrics; None where it does not answer."""
        try:
            answer = _send(self._access.metrics, _Request("GET", "metrics"))
        except ServerError:
            return None
        for line in answer.decode(errors="replace").splitlines():
            if line.startswith("dittofs_build_info{"):
                _, found, rest = line.partition('version="')
                return rest.partition('"')[0] if found else None
        return None

    def shares(self) -> list[ShareInfo]:
        """All shares, also the disabled ones."""
        types = self._store_types("metadata") | self._store_types("block/local")
        entries = self._list("/shares", "list shares")
        with _sense("list shares"):
            return [_share_info(entry, types) for entry in entries]

    def usage(self) -> dict[str, Usage]:
        """What each share holds, by its name; one call."""
        entries = self._list("/shares", "list shares")
        with _sense("list shares"):
            return {
                str(entry["name"]): Usage(
                    used_bytes=int(entry.get("used_bytes") or 0),
                    quota=str(entry.get("quota_bytes") or ""),
                    read_only=bool(entry.get("read_only")),
                    default_permission=str(entry.get("default_permission") or "none"),
                )
                for entry in entries
            }

    def create_snapshot(self, share: str, name: str) -> str:
        """Begin a snapshot; its id, to wait for."""
        text = f"make a snapshot of {share}"
        answer = self._call(f"{_share(share)}/snapshots", _Request("POST", text, {"name": name}))
        with _sense(text):
            return str(answer["snapshot_id"])

    def snapshot(self, share: str, snapshot: str) -> SnapshotInfo:
        """How a snapshot is now."""
        text = f"read a snapshot of {share}"
        answer = self._call(_snapshot(share, snapshot), _Request("GET", text))
        with _sense(text):
            return _snapshot_info(answer)

    def snapshots(self, share: str) -> list[SnapshotInfo]:
        """All snapshots of a share, also those that failed."""
        text = f"list snapshots of {share}"
        entries = self._list(f"{_share(share)}/snapshots", text)
        with _sense(text):
            return [_snapshot_info(entry) for entry in entries]

    def wait_snapshot(self, share: str, snapshot: str, progress: Progress, seconds: float) -> None:
        """Return when a snapshot is ready; one that failed, or takes longer, is an error."""
        end = time.monotonic() + seconds
        for pause in _pauses():
            found = self.snapshot(share, snapshot)
            if found.state == READY:
                return
            if found.state == FAILED:
                raise ServerError(f"the snapshot of {share} failed: {found.error}".rstrip(": "))
            if time.monotonic() + pause >= end:
                raise ServerError(
                    f"the snapshot of {share} is not ready after {seconds:.0f} seconds"
                )
            progress.wait(pause)

    def delete_snapshot(self, share: str, snapshot: str) -> None:
        """Delete a snapshot; nothing where it is gone already.

        The server says that one is ready a moment before it is done with it, and refuses so long.
        """
        asked = _Request("DELETE", f"delete a snapshot of {share}")
        end = time.monotonic() + _BUSY_SECONDS
        for pause in _pauses():
            try:
                self._call(_snapshot(share, snapshot), asked)
            except ServerError as error:
                if error.status == _NOT_FOUND:
                    return
                if error.status != CONFLICT or time.monotonic() + pause >= end:
                    raise
            else:
                return
            time.sleep(pause)

    def restore(self, share: str, snapshot: str) -> str | None:
        """Bring a disabled share to a snapshot; the id of the one that the server made before."""
        text = f"restore {share}"
        asked = _Request("POST", text, {"allow_non_durable": True}, RESTORE_SECONDS)
        answer = self._call(f"{_snapshot(share, snapshot)}/restore", asked)
        with _sense(text):
            return answer.get("safety_snapshot_id") or None

    def enable(self, share: str, enabled: bool) -> None:
        """Serve a share, or refuse clients and keep its files."""
        word = "enable" if enabled else "disable"
        self._call(f"{_share(share)}/{word}", _Request("POST", f"{word} {share}"))

    def set_quota(self, share: str, quota: int) -> None:
        """Let a share grow to `quota` bytes, from the next write on; 0: without a bound."""
        body = {"quota_bytes": str(quota)}
        self._call(_share(share), _Request("PUT", f"set the quota of {share}", body))

    def set_read_only(self, share: str, read_only: bool, permission: str) -> None:
        """Refuse every change of a share's files, or no longer.

        v0.29.0 goes on with what it knows of a client until its permission is set, too.
        """
        body = {"read_only": read_only, "default_permission": permission}
        text = f"make {share} read-only" if read_only else f"make {share} writable"
        self._call(_share(share), _Request("PUT", text, body))

    def _store_types(self, kind: str) -> dict[str, str]:
        text = f"list {kind} stores"
        entries = self._list(f"/store/{kind}", text)
        with _sense(text):
            return {str(entry["id"]): str(entry["type"]) for entry in entries}

    def _call(self, route: str, asked: _Request) -> Any:
        """The answer's JSON, None where it is empty; with a new login where the old one ended."""
        url = f"{self._access.url}/api/v1{route}"
        had_token = self._token is not None
        try:
            answer = _send(url, asked, self._login())
        except ServerError as error:
            if error.status != _UNAUTHORIZED or not had_token:
                raise
            self._token = None
            answer = _send(url, asked, self._login())
        with _sense(asked.text):
            return json.loads(answer) if answer else None

    def _list(self, route: str, text: str) -> list[dict[str, Any]]:
        # The server writes null for an empty list in places.
        return self._call(route, _Request("GET", text)) or []

    def _login(self) -> str:
        if self._token is None:
            body = {"username": self._access.user, "password": self._access.password}
            url = f"{self._access.url}/api/v1/auth/login"
            try:
                answer = _send(url, _Request("POST", "login", body))
            except ServerError as error:
                if error.status == _UNAUTHORIZED:
                    raise ServerError(
                        "the server does not accept the admin password", _UNAUTHORIZED
                    ) from None
                raise
            with _sense("login"):
                self._token = str(json.loads(answer)["access_token"])
        return self._token


def _share(name: str) -> str:
    return f"/shares/{quote(name.removeprefix('/'), safe='')}"


def _snapshot(share: str, snapshot: str) -> str:
    return f"{_share(share)}/snapshots/{quote(snapshot, safe='')}"


def _share_info(entry: Mapping[str, Any], types: Mapping[str, str]) -> ShareInfo:
    status: Mapping[str, Any] = entry.get("status") or {}
    return ShareInfo(
        name=str(entry["name"]),
        enabled=bool(entry.get("enabled", True)),
        used_bytes=int(entry.get("used_bytes") or 0),
        metadata_type=types.get(entry["metadata_store_id"], ""),
        content_type=types.get(entry["local_block_store_id"], ""),
        status=str(status.get("status", "unknown")),
        message=str(status.get("message") or ""),
    )


def _snapshot_info(entry: Mapping[str, Any]) -> SnapshotInfo:
    return SnapshotInfo(
        id=str(entry["id"]),
        name=str(entry.get("name") or ""),
        state=str(entry["state"]),
        error=str(entry.get("error") or ""),
    )


def _send(url: str, asked: _Request, token: str | None = None) -> bytes:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=asked.timeout)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = None if asked.body is None else json.dumps(asked.body)
    try:
        with _transport_errors(asked.text):
            connection.request(asked.method, parts.path, body, headers)
            response = connection.getresponse()
            answer = response.read()
    finally:
        connection.close()
    if not http.client.OK <= response.status < http.client.MULTIPLE_CHOICES:
        raise ServerError(
            f"{asked.text}: the server answered {response.status} {_detail(answer)}".rstrip(),
            response.status,
        )
    return answer


def _detail(answer: bytes) -> str:
    """What the server says of an error: RFC 7807, or one line of plain text."""
    plain = " ".join(answer.decode(errors="replace").split())
    try:
        problem: Mapping[str, Any] = json.loads(plain)
        return str(problem.get("detail") or problem.get("title") or "")[:200]
    except (ValueError, AttributeError):
        return plain[:100]


@contextmanager
def _transport_errors(text: str) -> Generator[None]:
    try:
        yield
    except TimeoutError:
        raise NoAnswerError(f"{text}: the server did not answer in time") from None
    except ConnectionRefusedError:
        raise NoAnswerError("the server does not answer") from None
    except (OSError, http.client.HTTPException):
        raise NoAnswerError(f"{text}: the server cut the connection") from None


@contextmanager
def _sense(text: str) -> Generator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ServerError(f"{text}: the server's answer makes no sense") from None


def _pauses() -> Generator[float]:
    """Seconds to wait between two questions, without an end."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 1.5, _LONGEST_PAUSE)
