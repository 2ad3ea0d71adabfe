"""What the actions show: everything the charm knows, for programs and for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ops

import names
import space_guard
import volumes
from api import Api, Health
from budget import Budget, Space
from errors import CharmError
from present import Present
from said import moment
from shares import PORTS, divide
from sidecar import Containers
from state import State
from stores import volatile
from units import format_size
from workload import pebble_errors

Row = dict[str, Any]


def share_rows(present: Present, state: State, guard: space_guard.Report) -> list[Row]:
    """One row for each share of the server; sizes in bytes.

    `quota` is what the option asks for, `limit` what the server enforces now. What the server
    counts as used has removed files in it, of which `removed` says as much as is known.
    """
    listed = {share.name: share for share in state.options.shares or ()}
    needs = _division(present, state).needs
    rows: list[Row] = []
    for name, share in sorted(present.shares.items()):
        metadata, content = present.backends(share)
        wanted = names.canonical(name)
        asked = listed[wanted].quota if wanted in listed else 0
        said = guard.shares.get(name, space_guard.ShareReport())
        rows.append(
            {
                "name": name,
                "listed": wanted in listed,
                "served": share.enabled,
                "metadata": metadata,
                "content": content,
                "volatile": volatile(metadata, content),
                "access": share.default_permission,
                "read-only": share.read_only,
                "used-bytes": share.used_bytes,
                "removed-bytes": said.removed,
                "quota": format_size(asked) if asked else "none",
                "limit": share.quota_bytes or "none",
                "needs-bytes": needs.get(wanted, 0),
                "status": _health(share.status),
            }
        )
    return rows


def budget_detail(present: Present, state: State) -> Row:
    """How the content volume is divided among the listed shares; sizes in bytes."""
    divided = _division(present, state)
    return {
        "content-budget": {
            "usable": format_size(divided.usable),
            "reserve": format_size(divided.reserve),
            "needed": format_size(sum(divided.needs.values())),
            "room-for-files": format_size(divided.room),
            "no-growth-below": format_size(divided.bounds.freeze),
            "trial": divided.trial,
        }
    }


def guard_detail(report: space_guard.Report) -> Row:
    """What the guard of the volumes says; times as text."""
    return {
        "space-guard": {
            "heard": moment(report.updated) if report.updated else "never",
            "short-of-space": ", ".join(report.short) or "no volume",
            "full": report.full,
            "nothing-written-in": ", ".join(report.halted) or "no share",
            "since": moment(report.since) if report.short or report.full else "never",
            "error": report.error or "none",
        }
    }


def _division(present: Present, state: State) -> Budget:
    space = Space.of(state.volumes["content"]) if state.attached else Space(0, 0)
    return divide(state.options, present, space, backups=state.s3 is not None)


def server_detail(api: Api, state: State, metrics_url: str, guard: space_guard.Report) -> Row:
    """What the server says of itself, its stores, shares and adapters."""
    present = Present.ask(api, ())
    return {
        **budget_detail(present, state),
        "server": {"version": _version(api, present, metrics_url) or "unknown"},
        "stores": [
            {
                "name": store.name,
                "kind": kind,
                "type": store.type,
                "config": store.config,
                "status": _health(store.status),
            }
            for kind, stores in (("metadata", present.metadata), ("content", present.content))
            for store in sorted(stores.values(), key=lambda each: each.name)
        ],
        "shares": share_rows(present, state, guard),
        "adapters": [
            {
                "protocol": adapter.type,
                "enabled": adapter.enabled,
                "port": adapter.port,
                "wanted-port": PORTS.get(adapter.type, adapter.port),
                "status": _health(adapter.status),
            }
            for adapter in sorted(present.adapters.values(), key=lambda each: each.type)
        ],
    }


def _version(api: Api, present: Present, metrics_url: str) -> str | None:
    return api.version(metrics_url) if present.metrics_are_safe else None


def volume_rows(container: ops.Container, state: State) -> list[Row]:
    """One row for each attached volume: sizes in bytes, and what its marker says."""
    markers: dict[str, volumes.Marker | None] = {}
    try:
        with pebble_errors():
            pair = volumes.look(container)
            markers = {"metadata": pair.metadata.marker, "content": pair.content.marker}
    except CharmError:
        # The sizes are worth showing without the container, too.
        markers = {}
    rows: list[Row] = []
    for name, path in state.volumes.items():
        space = Space.of(path)
        marker = markers.get(name)
        rows.append(
            {
                "name": name,
                "size-bytes": space.usable,
                "used-bytes": space.used,
                "free-bytes": space.free,
                "instance": marker.instance if marker else "none",
                "generation": marker.generation if marker else 0,
            }
        )
    return rows


def mirror_detail(agent: ops.Container, state: State) -> Row:
    """What the agent says of the metadata in MySQL; times as text, spans in seconds."""
    if state.mysql is None:
        return {"mirror": {"state": "no database is related"}}
    import mirroring  # noqa: PLC0415  # most events have no use for it

    try:
        said = mirroring.look(agent)
    except CharmError as error:
        return {"mirror": {"state": "unknown", "reason": error.whole}}
    copied, verified = said.control_plane.copied, said.verified
    return {
        "mirror": {
            "state": said.state,
            "message": said.message or "none",
            "since": moment(said.since),
            "mysql": said.mysql.version or "unknown",
            "endpoint": said.mysql.endpoint or "none",
            "seconds-behind": round(said.behind, 3),
            "transactions-behind": said.behind_transactions,
            "progress": str(said.progress or "none"),
            "users-and-settings-copied": moment(copied) if copied else "never",
            "verified": (
                f"{moment(verified.at)}: {'equal' if verified.equal else 'different'}"
                if verified
                else "never"
            ),
        },
        "mirrored": [
            {
                "share": store.share,
                "state": store.state,
                "rows": "unknown" if store.rows is None else store.rows,
                "seconds-behind": store.lag,
                "message": store.message or "none",
            }
            for store in said.stores
        ],
    }


def backup_detail(containers: Containers, state: State, model: ops.Model) -> Row:
    """What the agent says of backups; times as text, sizes in bytes."""
    if state.s3 is None:
        return {"backups": {"state": "no S3 storage is related"}}
    from backups import Backups  # noqa: PLC0415  # most units have no S3

    try:
        bucket = state.s3.need_bucket()
        state.need_volumes()
        with pebble_errors():
            pair = volumes.survey(containers.dittofs)
        found = Backups(containers, state, model, state.need_credentials(), pair).detail()
    except CharmError as error:
        return {"backups": {"state": "unknown", "reason": error.whole}}
    said, last = found.report, found.last
    success, failure = said.last_success, said.last_failure
    return {
        "backups": {
            "state": found.progress or "idle",
            "endpoint": bucket.endpoint or "AWS",
            "bucket": bucket.name,
            "place": f"{bucket.prefix}/{state.home}".lstrip("/"),
            "last": success.id if success else "none",
            "last-size-bytes": success.size if success else 0,
            "last-uploaded-bytes": success.uploaded if success else 0,
            "last-seconds": success.duration if success else 0,
            "last-failure": f"{moment(failure.at)}: {failure.text}" if failure else "none",
            "problem": said.standing or "none",
            "schedule": state.options.backup_schedule or "none",
            "next": moment(said.next) if said.next else "never",
            "ended-last": f"{moment(last.at)}: {last.what}: {last.text}" if last else "none",
        }
    }


def as_json(detail: object) -> str:
    """For programs."""
    return json.dumps(detail, sort_keys=True, ensure_ascii=False)


def as_text(detail: Mapping[str, Any]) -> str:
    """For people: a heading and a table for each list, a line for each value."""
    parts: list[str] = []
    for heading, value in detail.items():
        parts.append(f"{heading.capitalize()}:")
        if isinstance(value, list):
            parts += _list_lines(value)  # pyright: ignore[reportUnknownArgumentType]  # any JSON
        elif isinstance(value, Mapping):
            parts += [f"  {key}: {each}" for key, each in value.items()]  # pyright: ignore[reportUnknownVariableType]  # any JSON
        else:
            parts.append(f"  {value}")
    return "\n".join(parts)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table; a column that ends in -bytes is shown in binary units."""
    if not rows:
        return []
    columns = list(rows[0])
    cells = [[column.removesuffix("-bytes") for column in columns]]
    cells += [[_cell(column, row[column]) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _list_lines(entries: Sequence[Any]) -> Iterable[str]:
    if not entries:
        return ["  none"]
    if isinstance(entries[0], Mapping):
        return [f"  {line}" for line in table(entries)]
    return [f"  {entry}" for entry in entries]


def _cell(column: str, value: Any) -> str:  # any JSON value
    if column.endswith("-bytes"):
        return format_size(int(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or "-"  # pyright: ignore[reportUnknownVariableType]  # any JSON
    return str(value)


def _health(health: Health) -> str:
    return f"{health.status}: {health.message}" if health.message else health.status
