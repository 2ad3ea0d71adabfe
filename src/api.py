"""Client of the server's REST API: the only place that knows routes and bodies.

Written for the routes of v0.29 to v0.31. Every failure becomes one `ApiError`, which says what was
asked, what came back, and is tried again at the next event.
"""

import json
import logging
import ssl
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError

from deadline import EVENT
from errors import WaitingError
from stores import Kind, StoreSpec
from units import format_size, parse_size

Model = TypeVar("Model")

# Each line of theirs would be a process of its own: `juju-log`.
for _noisy in ("httpx", "httpcore"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

_ADMIN = "admin"
_TIMEOUT = 35.0  # the server cuts its own requests at 30 s
# It is in the server's memory: one that hangs is not to be waited for.
_HEALTH_TIMEOUT = 3.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_STORE_ROUTES: dict[Kind, str] = {"metadata": "/store/metadata", "local": "/store/block/local"}


class ApiError(WaitingError):
    """A call failed; `kind` says how: the name of a transport error, or the HTTP status."""

    def __init__(self, text: str, kind: str):
        super().__init__(text)
        self.kind = kind


class UnreachableError(ApiError):
    """Nobody answered, or the connection was cut."""


class LoginError(ApiError):
    """The server does not know the password."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Health(_Answer):
    """How a store, share or adapter is: `healthy`, or a word and the reason."""

    status: str = "unknown"
    message: str = ""
    checked_at: datetime | None = None


class Store(_Answer):
    """A metadata store or local block store; sizes in its config are bytes."""

    id: str
    name: str
    type: str
    config: dict[str, Any] = {}
    status: Health = Health()


class Share(_Answer):
    """A share as the server has it. Sizes in bytes; the server rounds `quota` to two decimals."""

    id: str
    name: str
    metadata_store_id: str
    local_block_store_id: str
    remote_block_store_id: str | None = None
    read_only: bool = False
    enabled: bool = True
    default_permission: str = "none"
    quota_bytes: str | None = None
    used_bytes: int = 0
    trash_enabled: bool = False
    trash_retention_days: int = 0
    status: Health = Health()


class Adapter(_Answer):
    """A protocol: `port` it is to listen on, and in `status` whether it does."""

    type: str
    enabled: bool
    port: int
    status: Health = Health()


class NfsConfig(_Answer):
    """What NFS does with a share; `squash` in the server's words."""

    squash: str = "root_to_guest"


class ShareFields(BaseModel):
    """The fields of a share that can be changed while it is served. Sizes in bytes, 0 for none."""

    model_config = ConfigDict(frozen=True)

    read_only: bool
    default_permission: str
    quota: int
    trash_enabled: bool
    trash_retention_days: int

    @classmethod
    def of(cls, share: Share) -> "ShareFields":
        """The fields as the server has them."""
        return cls(
            read_only=share.read_only,
            default_permission=share.default_permission,
            quota=parse_size(share.quota_bytes) if share.quota_bytes else 0,
            trash_enabled=share.trash_enabled,
            trash_retention_days=share.trash_retention_days,
        )

    def changes(self, present: "ShareFields") -> dict[str, Any]:
        """Return the body that makes `present` like this, empty where it is already."""
        wanted, found = self.model_dump(exclude={"quota"}), present.model_dump(exclude={"quota"})
        body = {name: value for name, value in wanted.items() if found[name] != value}
        if "read_only" in body:
            # v0.29.0 goes on with what it knows of a client until the permission is set, too.
            body["default_permission"] = self.default_permission
        # The server tells a quota with two decimals: compare what it would tell of ours.
        if parse_size(format_size(self.quota)) != present.quota:
            body["quota_bytes"] = str(self.quota)
        return body


class Api:
    """One connection to the server, used for one event; a context manager.

    Every method raises `ApiError`: `UnreachableError` where nobody answers.
    """

    def __init__(self, url: str):
        # Reading all certificates of the world takes 50 ms, and localhost has none of them.
        no_certificates = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._http = httpx.Client(
            base_url=url, timeout=_TIMEOUT, trust_env=False, verify=no_certificates
        )

    def __enter__(self) -> Self:
        """Open the connection."""
        self._http.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the connection."""
        self._http.close()

    def wait_ready(self, seconds: float, check: Callable[[], None] | None = None) -> None:
        """Return when the server answers, which it does when its stores and shares are open.

        Args:
            seconds: how long to wait, within the event's time; 0 asks once.
            check: is called now and then meanwhile; what it raises ends the waiting.

        Raises:
            UnreachableError: it does not within the given time.
        """
        end = time.monotonic() + EVENT.left(seconds)
        pause = _FIRST_PAUSE
        while True:
            try:
                self._call("GET", "/health/ready", "health", timeout=_HEALTH_TIMEOUT)
                return  # noqa: TRY300  # there is nothing more to do than to have an answer
            except UnreachableError:
                if time.monotonic() + pause >= end:
                    raise
            if check and pause == _LONGEST_PAUSE:
                check()
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def login(self, password: SecretStr) -> None:
        """Log in as `admin`; the token is used by all later calls.

        Raises:
            LoginError: the password is not the server's.
        """
        body = {"username": _ADMIN, "password": password.get_secret_value()}
        try:
            answer = self._call("POST", "/api/v1/auth/login", "login", body)
        except ApiError as error:
            if error.kind == "401":
                raise LoginError("the server does not accept the admin password", "401") from None
            raise
        token = _parse(answer, TypeAdapter(dict[str, Any]), "login").get("access_token")
        self._http.headers["Authorization"] = f"Bearer {token}"

    def change_password(self, present: SecretStr, wanted: SecretStr) -> None:
        """Give `admin`, logged in, another password; tokens stay valid."""
        body = {
            "current_password": present.get_secret_value(),
            "new_password": wanted.get_secret_value(),
        }
        self._call("POST", "/api/v1/users/me/password", "change password", body)

    def version(self, metrics_url: str) -> str | None:
        """The version that the running server names in its metrics; None where it has none."""
        try:
            text = self._http.get(metrics_url, timeout=EVENT.left(_TIMEOUT)).text
        except httpx.HTTPError:
            return None
        for line in text.splitlines():
            if line.startswith("dittofs_build_info{"):
                _, found, rest = line.partition('version="')
                return rest.partition('"')[0] if found else None
        return None

    def stores(self, kind: Kind) -> Sequence[Store]:
        """All stores of a kind."""
        return self._list(_STORE_ROUTES[kind], Store, f"list {kind} stores")

    def create_store(self, spec: StoreSpec) -> Store:
        """Make a store; the server opens it at once."""
        body = {"name": spec.name, "type": spec.type, "config": json.dumps(dict(spec.config))}
        text = f"make store {spec.name}"
        answer = self._call("POST", _api(_STORE_ROUTES[spec.kind]), text, body)
        return _parse(answer, TypeAdapter(Store), text)

    def delete_metadata_store(self, name: str) -> None:
        """Forget a store that no share uses; its files stay."""
        route = f"{_STORE_ROUTES['metadata']}/{quote(name, safe='')}"
        self._call("DELETE", _api(route), f"delete store {name}")

    def shares(self) -> Sequence[Share]:
        """All shares, also the disabled ones."""
        return self._list("/shares", Share, "list shares")

    def create_share(
        self, name: str, metadata: str, content: str, fields: ShareFields, read_buffer: int
    ) -> Share:
        """Make a share on two stores that exist; `read_buffer` in bytes."""
        body = {
            "name": name,
            "metadata_store_id": metadata,
            "local_block_store": content,
            "read_buffer_size": str(read_buffer),
            **fields.model_dump(exclude={"quota"}),
            "quota_bytes": str(fields.quota),
        }
        answer = self._call("POST", _api("/shares"), f"make share {name}", body)
        return _parse(answer, TypeAdapter(Share), f"make share {name}")

    def change_share(self, name: str, body: Mapping[str, Any]) -> None:
        """Change a share by what `ShareFields.changes` returned."""
        self._call("PUT", _share(name), f"change share {name}", body)

    def enable_share(self, name: str, enabled: bool) -> None:
        """Serve a share, or refuse clients and keep its files."""
        word = "enable" if enabled else "disable"
        self._call("POST", f"{_share(name)}/{word}", f"{word} share {name}")

    def delete_share(self, name: str) -> None:
        """Take a share out of the server; what it holds stays on the volumes."""
        self._call("DELETE", _share(name), f"delete share {name}")

    def nfs_config(self, name: str) -> NfsConfig:
        """How NFS serves a share."""
        text = f"read NFS settings of {name}"
        answer = self._call("GET", f"{_share(name)}/adapters/nfs/config", text)
        return _parse(answer, TypeAdapter(NfsConfig), text)

    def set_squash(self, name: str, squash: str) -> None:
        """Change which users NFS maps to which, in the server's words."""
        text = f"change squash of {name}"
        self._call("PATCH", f"{_share(name)}/adapters/nfs/config", text, {"squash": squash})

    def adapters(self) -> Sequence[Adapter]:
        """The protocols that the server has."""
        return self._list("/adapters", Adapter, "list adapters")

    def set_adapter(self, protocol: str, enabled: bool, port: int) -> None:
        """Serve a protocol on a port or not; DELETE would be undone at the next start."""
        body = {"enabled": enabled, "port": port}
        self._call("PUT", _api(f"/adapters/{protocol}"), f"configure {protocol}", body)

    def drain(self) -> None:
        """Let the server upload what is only local; at once where nothing is to be uploaded."""
        self._call("POST", _api("/system/drain-uploads"), "drain")

    def _list(self, route: str, model: type[Model], text: str) -> list[Model]:
        answer = self._call("GET", _api(route), text)
        # The server writes null for an empty list in places.
        entries = _parse(answer, TypeAdapter(list[dict[str, Any]] | None), text) or []
        adapter = TypeAdapter(model)
        with _answer_errors(text):
            return [adapter.validate_python(entry) for entry in entries]

    def _call(
        self,
        method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"],
        path: str,
        text: str,
        body: Mapping[str, Any] | None = None,
        timeout: float = _TIMEOUT,
    ) -> httpx.Response:
        with _transport_errors(text):
            answer = self._http.request(method, path, json=body, timeout=EVENT.left(timeout))
        if answer.is_success:
            return answer
        raise ApiError(
            f"{text}: the server answered {answer.status_code} {_detail(answer)}".rstrip(),
            str(answer.status_code),
        )


def _api(route: str) -> str:
    return f"/api/v1{route}"


def _share(name: str) -> str:
    """The route of a share. Of a name that has `%` the server decodes the escape once more."""
    once = quote(name.removeprefix("/"), safe="", errors="surrogateescape")
    return _api(f"/shares/{quote(once, safe='') if '%' in name else once}")


@contextmanager
def _transport_errors(text: str) -> Generator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise UnreachableError(f"{text}: the server did not answer in time", "timeout") from error
    except httpx.ConnectError as error:
        raise UnreachableError("the server does not answer yet", "connect") from error
    except httpx.HTTPError as error:
        raise UnreachableError(f"{text}: the connection was cut", "cut") from error


def _detail(answer: httpx.Response) -> str:
    """What the server says of an error: RFC 7807, or one line of plain text."""
    try:
        problem: object = answer.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict):
        detail = TypeAdapter(dict[str, Any]).validate_python(problem)
        return str(detail.get("detail") or detail.get("title") or "")[:200]
    return " ".join(answer.text.split())[:100]


def _parse(answer: httpx.Response, adapter: TypeAdapter[Model], text: str) -> Model:
    with _answer_errors(text):
        return adapter.validate_json(answer.content)


@contextmanager
def _answer_errors(text: str) -> Generator[None]:
    try:
        yield
    except ValidationError as error:
        raise ApiError(f"{text}: the server's answer makes no sense", "garbage") from error
