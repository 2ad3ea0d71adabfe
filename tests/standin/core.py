"""The stand-in for the server: its REST behaviour, in process, without sockets.

It has the routes that the charm uses and refuses what the real server refuses, in the same words
where the charm shows them. `tests/contract` holds it to what the real server does.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.standin.answers import (
    Problem,
    Response,
    as_json,
    as_text,
    bad_request,
    conflict,
    not_found,
)
from tests.standin.database import Database, Object, now
from tests.standin.snapshots import Snapshots
from tests.standin.stores import Stores
from units import format_size, parse_size

VERSION = os.environ.get("STANDIN_VERSION", "v0.29.0")
PERMISSIONS = ("none", "read", "read-write", "admin")
SQUASH = ("none", "root_to_admin", "root_to_guest", "all_to_admin", "all_to_guest")
_LONGEST_NAME = 64 - 37
LARGEST_BODY = 1024 * 1024
DEFAULT_ADAPTERS = {"nfs": 12049, "smb": 1445}

# Type of each field that a share can be changed by; others are ignored, as the server does.
_SHARE_FIELDS: dict[str, type] = {
    "read_only": bool,
    "default_permission": str,
    "quota_bytes": str,
    "read_buffer_size": str,
    "local_store_size": str,
    "trash_enabled": bool,
    "trash_retention_days": int,
}


class Cut(Exception):  # noqa: N818  # a fault to inject, not an error
    """A fault: the connection is cut before an answer."""


class Timeout(Exception):  # noqa: N818  # a fault to inject, not an error
    """A fault: there is never an answer."""


@dataclass
class Call:
    """A call that was made."""

    method: str
    path: str
    body: Any = None


@dataclass
class StandIn:
    """The server. `listen` is asked to bind a port for a protocol, and tells whether it could."""

    database: Database
    secret: str
    stores: Stores = field(default_factory=Stores)
    listen: Callable[[str, int | None], bool] = lambda _protocol, _port: True
    calls: list[Call] = field(default_factory=list[Call])
    fault: Callable[[str, str], Response | None] = lambda _method, _path: None
    bound: dict[str, bool] = field(default_factory=dict[str, bool])
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.snapshots = Snapshots(self.database, self.stores)

    @classmethod
    def start(
        cls, path: Path | None, secret: str, admin_password: str | None, **parts: Any
    ) -> "StandIn":
        """Boot: the admin, the default adapters, all stores, all shares."""
        made = cls(Database(path), secret, **parts)
        made.boot(admin_password)
        return made

    def boot(self, admin_password: str | None) -> None:
        """Make what is missing and open what is there; ValueError where a store cannot be."""
        if self.database.user("admin") is None:
            self.database.put_user(
                {"username": "admin", "role": "admin", "enabled": True}, admin_password or "random"
            )
        for protocol, port in DEFAULT_ADAPTERS.items():
            if self.database.find("adapter", protocol) is None:
                self.database.put("adapter", {"name": protocol, "enabled": True, "port": port})
        for store in self.database.all("metadata"):
            self.stores.open_metadata(store)
        for share in self.database.all("share"):
            self._open(share)
        self.snapshots.recover()
        for adapter in self.database.all("adapter"):
            self._bind(adapter)

    def metrics(self) -> str | None:
        """The metrics page; None where the process dies of it: a share's name is no UTF-8."""
        for share in self.database.all("share"):
            try:
                share["name"].encode()
            except UnicodeEncodeError:
                return None
        return f'dittofs_build_info{{commit="standin",version="{VERSION}"}} 1\n'

    @property
    def changes(self) -> list[Call]:
        """The calls that changed something; a login does not."""
        return [
            call
            for call in self.calls
            if call.method != "GET" and call.path not in {"/auth/login", "/system/drain-uploads"}
        ]

    def handle(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """Answer one request. `headers` have lower-case names."""
        path = urlsplit(target).path
        faulty = self.fault(method, path)
        if faulty is not None:
            return faulty
        try:
            return self._route(method, path, headers, body)
        except Problem as problem:
            return problem.response

    def _route(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
        if path in {"/health", "/health/ready"}:
            return self._health(path)
        route = path.removeprefix("/api/v1") if path.startswith("/api/v1/") else ""
        for pattern, methods in _ROUTES:
            match = pattern.fullmatch(route)
            if match and method not in methods:
                return Response(405, content_type="")
            if match:
                user: Object | Response = {}
                if route != "/auth/login":
                    user = self._authenticate(headers)
                if isinstance(user, Response):
                    return user
                parsed = _parse(body) if method != "GET" and body else {}
                self.calls.append(Call(method, route, parsed))
                parts = [unquote(part, errors="surrogateescape") for part in match.groups()]
                return methods[method](self, parsed, user, *parts)
        return as_text(404, "404 page not found")

    def _authenticate(self, headers: dict[str, str]) -> Object | Response:
        header = headers.get("authorization")
        if not header:
            return as_text(401, "Authorization header required")
        user = self.database.user(self._token_user(header.removeprefix("Bearer ")) or "")
        if user is None:
            return as_text(401, "Invalid or expired token")
        if user["role"] != "admin":
            return as_text(403, "Admin access required")
        return user

    def _token(self, user: str) -> str:
        name = base64.urlsafe_b64encode(user.encode()).decode()
        return f"{name}.{self._sign(name)}"

    def _token_user(self, token: str) -> str | None:
        name, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(name).encode()):
            return None
        return base64.urlsafe_b64decode(name).decode()

    def _sign(self, text: str) -> str:
        return hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()

    def _health(self, path: str) -> Response:
        data: Object = {"service": "dittofs", "control_plane_db": "reachable"}
        if path.endswith("ready"):
            data = {
                "shares": len(self.database.all("share")),
                "metadata_stores": len(self.database.all("metadata")),
                "adapters": {"running": len(self.bound), "types": sorted(self.bound)},
            }
        return as_json({"status": "healthy", "timestamp": now(), "data": data})

    def login(self, body: Object, _user: Object) -> Response:
        """POST /auth/login."""
        name, password = _str(body, "username"), _str(body, "password")
        if not name or not password:
            raise bad_request("Username and password are required")
        if not self.database.accepts(name, password):
            raise Problem(401, "Unauthorized", "Invalid username or password")
        return self._tokens(name)

    def _tokens(self, name: str) -> Response:
        token = self._token(name)
        return as_json(
            {
                "access_token": token,
                "refresh_token": token,
                "token_type": "Bearer",
                "expires_in": 900,
                "user": self.database.user(name),
            }
        )

    def me(self, _body: Object, user: Object) -> Response:
        """GET /auth/me."""
        return as_json(user)

    def change_password(self, body: Object, user: Object) -> Response:
        """POST /users/me/password."""
        current, wanted = _str(body, "current_password"), _str(body, "new_password")
        if not current:
            raise bad_request("Current password is required")
        if not self.database.accepts(user["username"], current):
            raise Problem(401, "Unauthorized", "Current password is incorrect")
        if not 8 <= len(wanted.encode()) <= 72:
            raise bad_request("Password must have 8 to 72 characters")
        self.database.put_user(user, wanted)
        return self._tokens(user["username"])

    def users(self, _body: Object, _user: Object) -> Response:
        """GET /users."""
        return as_json(self.database.users())

    def create_user(self, body: Object, _user: Object) -> Response:
        """POST /users."""
        name = _str(body, "username")
        if self.database.user(name):
            raise conflict("User already exists")
        made = {"username": name, "role": _str(body, "role") or "user", "enabled": True}
        return as_json(self.database.put_user(made, _str(body, "password")), 201)

    def list_stores(self, _body: Object, _user: Object, kind: str) -> Response:
        """GET /store/metadata, /store/block/local."""
        return as_json([_store_answer(each) for each in self.database.all(_kind(kind))])

    def create_store(self, body: Object, _user: Object, kind: str) -> Response:
        """POST /store/metadata, /store/block/local."""
        kind = _kind(kind)
        name = _str(body, "name")
        if not name:
            raise bad_request("Store name is required")
        store = {"name": name, "type": _str(body, "type"), "config": _config(body)}
        self._check_store(kind, store)
        if self.database.find(kind, name):
            raise conflict(f"{'Metadata' if kind == 'metadata' else 'Block'} store already exists")
        if kind == "metadata":
            try:
                self.stores.open_metadata(store)
            except ValueError as error:
                raise bad_request(f"Failed to create metadata store: {error}") from error
        return as_json(_store_answer(self.database.put(kind, store)), 201)

    def change_store(self, body: Object, _user: Object, kind: str, name: str) -> Response:
        """PUT of a store: the row only, the store is not opened again."""
        kind = _kind(kind)
        found = self.database.find(kind, name)
        if found is None:
            raise not_found("Metadata store" if kind == "metadata" else "Block store")
        if "config" in body:
            found["config"] = _config(body)
        found["type"] = _str(body, "type") or found["type"]
        self._check_store(kind, found)
        return as_json(_store_answer(self.database.put(kind, found)))

    def delete_store(self, _body: Object, _user: Object, kind: str, name: str) -> Response:
        """DELETE of a store that no share uses; its files stay."""
        kind = _kind(kind)
        found = self.database.find(kind, name)
        what = "metadata" if kind == "metadata" else "block"
        if found is None:
            raise not_found(f"{what.capitalize()} store")
        for share in self.database.all("share"):
            if found["id"] in {share["metadata_store_id"], share["local_block_store_id"]}:
                raise conflict(f"Cannot delete {what} store: it is in use by one or more shares")
        self.database.remove(kind, found["name"])
        return Response(204)

    def _check_store(self, kind: str, store: Object) -> None:
        types = ("badger", "memory") if kind == "metadata" else ("fs", "memory")
        if store["type"] not in types:
            if kind == "local":
                raise bad_request(f"Store type '{store['type']}' is not valid for kind 'local'")
            raise bad_request(
                f"Failed to create metadata store: unsupported metadata store type: "
                f"{store['type']}"
            )
        if store["type"] == "fs" and not isinstance(store["config"].get("path"), str):
            raise bad_request(
                "Invalid block store config: fs local block store requires path in config"
            )

    def list_shares(self, _body: Object, _user: Object) -> Response:
        """GET /shares."""
        return as_json([self._share_answer(each) for each in self.database.all("share")])

    def create_share(self, body: Object, _user: Object) -> Response:
        """POST /shares."""
        name = _str(body, "name")
        if not name:
            raise bad_request("Share name is required")
        name = normalized(name)
        if not _str(body, "metadata_store_id"):
            raise bad_request("Metadata store ID is required")
        metadata = self.database.find("metadata", _str(body, "metadata_store_id"))
        if metadata is None:
            raise bad_request(f"Metadata store not found: {body['metadata_store_id']}")
        content = self.database.find("local", _str(body, "local_block_store"))
        if content is None:
            raise bad_request(f"Local block store not found: {_str(body, 'local_block_store')}")
        share: Object = {
            "name": name,
            "metadata_store_id": metadata["id"],
            "local_block_store_id": content["id"],
            "enabled": True,
            "read_only": False,
            "default_permission": "none",
            "trash_enabled": False,
            "trash_retention_days": 0,
            "squash": "root_to_guest",
        }
        share |= _share_changes(body)
        if self.database.find("share", share["name"]):
            raise conflict("Share already exists")
        share = self.database.put("share", share)
        self._open(share)
        return as_json(self._share_answer(share), 201)

    def _open(self, share: Object) -> None:
        content = self.database.find("local", share["local_block_store_id"])
        store = self.database.find("metadata", share["metadata_store_id"])
        if content is not None and store is not None and _opens(share):
            self.stores.open_share(share, content, store["name"])

    def _share(self, name: str) -> Object:
        found = self.database.find("share", normalized(name))
        if found is None:
            raise not_found("Share")
        return found

    def get_share(self, _body: Object, _user: Object, name: str) -> Response:
        """GET /shares/{name}."""
        return as_json(self._share_answer(self._share(name)))

    def change_share(self, body: Object, _user: Object, name: str) -> Response:
        """PUT /shares/{name}."""
        share = self._share(name) | _share_changes(body)
        return as_json(self._share_answer(self.database.put("share", share)))

    def delete_share(self, _body: Object, _user: Object, name: str) -> Response:
        """DELETE /shares/{name}; what it holds stays."""
        share = self._share(name)
        self.snapshots.drop(share)
        if _opens(share):
            self.stores.close_share(share)
        self.database.remove("share", share["name"])
        return Response(204)

    def share_status(self, _body: Object, _user: Object, name: str) -> Response:
        """GET /shares/{name}/status."""
        self._share(name)
        return as_json(_health())

    def enable_share(self, _body: Object, _user: Object, name: str, word: str) -> Response:
        """POST /shares/{name}/enable, /disable."""
        share = self.database.put("share", self._share(name) | {"enabled": word == "enable"})
        return as_json(self._share_answer(share))

    def nfs_config(self, _body: Object, _user: Object, name: str) -> Response:
        """GET /shares/{name}/adapters/nfs/config."""
        return as_json({"squash": self._share(name)["squash"], "allow_auth_sys": True})

    def change_nfs_config(self, body: Object, user: Object, name: str) -> Response:
        """PATCH /shares/{name}/adapters/nfs/config."""
        share, squash = self._share(name), _str(body, "squash")
        if squash not in SQUASH:
            raise bad_request(f"Invalid squash: {squash} (want {'|'.join(SQUASH)})")
        self.database.put("share", share | {"squash": squash})
        return self.nfs_config(body, user, name)

    def list_snapshots(self, _body: Object, _user: Object, name: str) -> Response:
        """GET /shares/{name}/snapshots."""
        return self.snapshots.list(name)

    def create_snapshot(self, body: Object, _user: Object, name: str) -> Response:
        """POST /shares/{name}/snapshots."""
        return self.snapshots.create(body, name)

    def get_snapshot(self, _body: Object, _user: Object, name: str, identifier: str) -> Response:
        """GET /shares/{name}/snapshots/{id}."""
        return self.snapshots.get(name, identifier)

    def delete_snapshot(
        self, _body: Object, _user: Object, name: str, identifier: str
    ) -> Response:
        """DELETE /shares/{name}/snapshots/{id}."""
        return self.snapshots.delete(name, identifier)

    def restore_snapshot(
        self, body: Object, _user: Object, name: str, identifier: str
    ) -> Response:
        """POST /shares/{name}/snapshots/{id}/restore."""
        return self.snapshots.restore(body, name, identifier)

    def list_adapters(self, _body: Object, _user: Object) -> Response:
        """GET /adapters."""
        return as_json([self._adapter_answer(each) for each in self.database.all("adapter")])

    def get_adapter(self, _body: Object, _user: Object, name: str) -> Response:
        """GET /adapters/{type}."""
        return as_json(self._adapter_answer(self._adapter(name)))

    def change_adapter(self, body: Object, _user: Object, name: str) -> Response:
        """PUT /adapters/{type}: bound again at once; a failure is in the status only."""
        adapter = self._adapter(name) | _typed(body, {"enabled": bool, "port": int})
        adapter = self.database.put("adapter", adapter)
        self._bind(adapter)
        return as_json(self._adapter_answer(adapter))

    def _adapter(self, name: str) -> Object:
        found = self.database.find("adapter", name)
        if found is None:
            raise not_found("Adapter")
        return found

    def _bind(self, adapter: Object) -> None:
        name = adapter["name"]
        self.bound[name] = self.listen(name, adapter["port"] if adapter["enabled"] else None)

    def drain(self, _body: Object, _user: Object) -> Response:
        """POST /system/drain-uploads: there is nothing to upload."""
        return as_json({"status": "drained", "duration": "1ms"})

    def clients(self, _body: Object, _user: Object) -> Response:
        """GET /clients."""
        return as_json([])

    def _share_answer(self, share: Object) -> Object:
        answer = {key: value for key, value in share.items() if key != "squash"}
        for size in ("quota_bytes", "read_buffer_size", "local_store_size"):
            stored = answer.pop(size, 0)
            if stored:
                answer[size] = format_size(stored)
        store = self.database.find("metadata", share["metadata_store_id"]) or {"name": ""}
        used = self.stores.used_bytes(share, store["name"])
        answer["name"] = shown(share["name"])
        status = _health()
        if not _opens(share):
            status = _health("unknown", f'share not found: share not found: "{answer["name"]}"')
        return {"remote_block_store_id": None, **answer, "used_bytes": used, "status": status}

    def _adapter_answer(self, adapter: Object) -> Object:
        name = adapter["name"]
        if adapter["enabled"] and self.bound.get(name):
            status = _health()
        else:
            status = _health("unknown", f"adapter {name} not running")
        shown = {key: value for key, value in adapter.items() if key != "name"}
        return shown | {"type": name, "running": adapter["enabled"], "status": status}


def normalized(name: str) -> str:
    """A share's name as the server has it: escapes are decoded, in routes once more."""
    escapes = re.fullmatch(r"([^%]|%[0-9A-Fa-f]{2})*", name, re.DOTALL)
    decoded = unquote(name, errors="surrogateescape") if escapes else name
    return f"/{decoded.lstrip('/')}"


def shown(name: str) -> str:
    """A name in JSON: what is not UTF-8 is replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _opens(share: Object) -> bool:
    """A file handle holds the share's name, a colon and 36 characters in 64 bytes."""
    return len(share["name"].encode(errors="surrogateescape")) <= _LONGEST_NAME


def _kind(route: str) -> str:
    return "metadata" if route == "metadata" else "local"


def _store_answer(store: Object) -> Object:
    return store | {"status": _health()}


def _health(status: str = "healthy", message: str = "") -> Object:
    return {"status": status, "checked_at": now()} | ({"message": message} if message else {})


def _parse(body: bytes) -> Object:
    if len(body) > LARGEST_BODY:
        raise bad_request("Invalid request body")
    try:
        value = json.loads(body)
    except ValueError:
        raise bad_request("Invalid request body") from None
    if not isinstance(value, dict):
        raise bad_request("Invalid request body")
    return value


def _typed(body: Object, types: dict[str, type]) -> Object:
    """The fields that are known and there; a wrong type refuses the whole body."""
    found: Object = {}
    for name, kind in types.items():
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise bad_request("Invalid request body")
        found[name] = value
    return found


def _str(body: Object, name: str) -> str:
    return str(_typed(body, {name: str}).get(name, ""))


def _config(body: Object) -> Object:
    text = _str(body, "config")
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise bad_request(f"Failed to create metadata store: failed to get config: {error}") from (
            error
        )
    return value if isinstance(value, dict) else {}


def _share_changes(body: Object) -> Object:
    found = _typed(body, _SHARE_FIELDS)
    permission = found.get("default_permission")
    if permission is not None and permission not in PERMISSIONS:
        raise bad_request(
            f"Invalid default_permission: {permission} (want {'|'.join(PERMISSIONS)})"
        )
    for size in ("quota_bytes", "read_buffer_size", "local_store_size"):
        if size in found:
            try:
                found[size] = parse_size(found[size])
            except ValueError:
                raise bad_request(
                    f'Invalid {size}: invalid byte size format: "{found[size]}"'
                ) from None
    if found.get("trash_retention_days", 0) < 0:
        raise bad_request("trash_retention_days must be >= 0")
    return found


_NAME = "([^/]+)"
_STORE = r"/store/(?:block/)?(metadata|local)"
_ROUTES: list[tuple[re.Pattern[str], dict[str, Callable[..., Response]]]] = [
    (re.compile(pattern), methods)
    for pattern, methods in (
        ("/auth/login", {"POST": StandIn.login}),
        ("/auth/me", {"GET": StandIn.me}),
        ("/users/me/password", {"POST": StandIn.change_password}),
        ("/users", {"GET": StandIn.users, "POST": StandIn.create_user}),
        (_STORE, {"GET": StandIn.list_stores, "POST": StandIn.create_store}),
        (f"{_STORE}/{_NAME}", {"PUT": StandIn.change_store, "DELETE": StandIn.delete_store}),
        ("/shares", {"GET": StandIn.list_shares, "POST": StandIn.create_share}),
        (
            f"/shares/{_NAME}",
            {
                "GET": StandIn.get_share,
                "PUT": StandIn.change_share,
                "DELETE": StandIn.delete_share,
            },
        ),
        (f"/shares/{_NAME}/status", {"GET": StandIn.share_status}),
        (f"/shares/{_NAME}/(enable|disable)", {"POST": StandIn.enable_share}),
        (
            f"/shares/{_NAME}/adapters/nfs/config",
            {"GET": StandIn.nfs_config, "PATCH": StandIn.change_nfs_config},
        ),
        (
            f"/shares/{_NAME}/snapshots",
            {"GET": StandIn.list_snapshots, "POST": StandIn.create_snapshot},
        ),
        (
            f"/shares/{_NAME}/snapshots/{_NAME}",
            {"GET": StandIn.get_snapshot, "DELETE": StandIn.delete_snapshot},
        ),
        (f"/shares/{_NAME}/snapshots/{_NAME}/restore", {"POST": StandIn.restore_snapshot}),
        ("/adapters", {"GET": StandIn.list_adapters}),
        (f"/adapters/{_NAME}", {"GET": StandIn.get_adapter, "PUT": StandIn.change_adapter}),
        ("/system/drain-uploads", {"POST": StandIn.drain}),
        ("/clients", {"GET": StandIn.clients}),
    )
]
