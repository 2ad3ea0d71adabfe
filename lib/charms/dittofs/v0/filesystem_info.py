"""Both sides of the `filesystem_info` interface: where a shared file system can be mounted.

The provider writes one key into its application databag, `endpoint`: a URI
`scheme://[user@](host[:port],host...)/path[?options]`, for example
`nfs://(10.1.2.3:12049)/export`. The requirer writes nothing. One relation carries one file system.

A charm that offers a file system:

    from charms.dittofs.v0.filesystem_info import FilesystemProvider, NfsInfo

    self.filesystem = FilesystemProvider(self, "filesystem")
    for relation in self.model.relations["filesystem"]:
        self.filesystem.publish(relation, NfsInfo(hostname="10.1.2.3", port=12049, path="/export"))

`publish` writes only as leader and only what differs, so it may be called at every event; None
withdraws the file system. `FilesystemInfo` is the general form: another scheme, several hosts, a
user, options. It has no place for a password: a databag is no place for one.

A charm that mounts one, with `limit: 1` on its endpoint:

    from charms.dittofs.v0.filesystem_info import FilesystemRequirer, FilesystemInfoError

    self.filesystem = FilesystemRequirer(self, "filesystem")
    observe(self.filesystem.on.filesystem_available, self._mount)
    observe(self.filesystem.on.filesystem_gone, self._unmount)

    def _mount(self, event):
        info = self.filesystem.get(event.relation)   # None, or a FilesystemInfo
        # info.scheme, info.hosts[0].name, info.hosts[0].port, info.path

`get` may be called at any event, so a charm that reconciles need not observe the two.

Databags of other providers are read as they are: `get` returns None where there is nothing yet,
and raises `FilesystemInfoError` for an endpoint that is no URI of this form.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode

import ops

LIBID = "c273f362d71d4f988131aad7bb7d66e9"
LIBAPI = 0
LIBPATCH = 1

_KEY = "endpoint"
_LARGEST_PORT = 65535
_HOST = re.compile(r"(\[(?P<address>[^\[\]]+)\]|(?P<name>[^\[\]():@]+))(:(?P<port>[0-9]{1,5}))?")


class FilesystemInfoError(ValueError):
    """The endpoint is no URI of the interface's form."""


@dataclass(frozen=True)
class Host:
    """A server: a name, an IPv4 or an IPv6 address, and its port if it is not the usual one."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        """As in the URI, an IPv6 address in brackets."""
        name = f"[{self.name}]" if ":" in self.name else quote(self.name, safe="")
        return name if self.port is None else f"{name}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Host":
        """Read what `str` writes.

        Raises:
            FilesystemInfoError: it has no name, or a port that is none.
        """
        found = _HOST.fullmatch(text)
        if not found:
            raise FilesystemInfoError(f"not a host: {text!r}")
        port = int(found["port"]) if found["port"] else None
        if port is not None and not 0 < port <= _LARGEST_PORT:
            raise FilesystemInfoError(f"not a port: {text!r}")
        return cls(found["address"] or unquote(found["name"]), port)


@dataclass(frozen=True)
class FilesystemInfo:
    """A file system: `scheme` such as nfs or ceph, its servers, an absolute path, options."""

    scheme: str
    hosts: tuple[Host, ...]
    path: str
    user: str = ""
    options: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        """As a URI; the same object always gives the same text."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        hosts = ",".join(str(host) for host in self.hosts)
        options = urlencode(sorted(self.options.items()), quote_via=quote)
        path = quote(self.path, safe="/")
        return f"{self.scheme}://{user}({hosts}){path}" + (f"?{options}" if options else "")

    @classmethod
    def parse(cls, uri: str) -> "FilesystemInfo":
        """Read a URI; a single host may stand without parentheses.

        Raises:
            FilesystemInfoError: it has no scheme, no host or no path.
        """
        scheme, found, rest = uri.partition("://")
        location, _, query = rest.partition("?")
        authority, slash, path = location.partition("/")
        user, at, hosts = authority.rpartition("@")
        if hosts.startswith("(") and hosts.endswith(")"):
            hosts = hosts[1:-1]
        if not (found and scheme and slash and hosts) or (at and not user):
            raise FilesystemInfoError(f"not a file system's URI: {uri!r}")
        return cls(
            scheme=scheme,
            hosts=tuple(Host.parse(host) for host in hosts.split(",")),
            path=f"/{unquote(path)}",
            user=unquote(user),
            options=dict(parse_qsl(query, keep_blank_values=True)),
        )


class NfsInfo(FilesystemInfo):
    """An NFS export on one server; `path` is the export with its leading slash."""

    def __init__(self, hostname: str, port: int | None, path: str):
        super().__init__("nfs", (Host(hostname, port),), path)


class FilesystemProvider(ops.Object):
    """The side that offers a file system. `relation_name` is the endpoint in the metadata."""

    def __init__(self, charm: ops.CharmBase, relation_name: str):
        super().__init__(charm, f"{relation_name}-filesystem-provider")
        self._charm = charm

    def publish(self, relation: ops.Relation, info: FilesystemInfo | None) -> None:
        """Tell the related application where the file system is; None withdraws it."""
        if not self._charm.unit.is_leader():
            return
        databag = relation.data[self._charm.app]
        wanted = str(info) if info else ""
        if databag.get(_KEY, "") != wanted:
            databag[_KEY] = wanted


class FilesystemAvailableEvent(ops.RelationEvent):
    """A file system is offered, or it is offered at another place."""


class FilesystemGoneEvent(ops.RelationEvent):
    """The file system is no longer offered: unmount it."""


class FilesystemRequirerEvents(ops.ObjectEvents):
    """What a requirer may observe."""

    filesystem_available = ops.EventSource(FilesystemAvailableEvent)
    filesystem_gone = ops.EventSource(FilesystemGoneEvent)


class FilesystemRequirer(ops.Object):
    """The side that mounts a file system. `relation_name` is the endpoint in the metadata."""

    on = FilesystemRequirerEvents()  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]  # ops' own pattern

    def __init__(self, charm: ops.CharmBase, relation_name: str):
        super().__init__(charm, f"{relation_name}-filesystem-requirer")
        events = charm.on[relation_name]
        self.framework.observe(events.relation_changed, self._on_changed)
        self.framework.observe(events.relation_broken, self._on_broken)

    def get(self, relation: ops.Relation) -> FilesystemInfo | None:
        """Return what the provider offers, None where it offers nothing (yet, or any more).

        Raises:
            FilesystemInfoError: it wrote an endpoint that is no URI of the interface's form.
        """
        # While a relation is being removed its databag is still there.
        endpoint = relation.data[relation.app].get(_KEY) if relation.active else None
        return FilesystemInfo.parse(endpoint) if endpoint else None

    def _on_changed(self, event: ops.RelationChangedEvent) -> None:
        offered = event.relation.data[event.relation.app].get(_KEY)
        emitter = self.on.filesystem_available if offered else self.on.filesystem_gone
        emitter.emit(event.relation, app=event.app, unit=event.unit)

    def _on_broken(self, event: ops.RelationBrokenEvent) -> None:
        self.on.filesystem_gone.emit(event.relation, app=event.app, unit=event.unit)
