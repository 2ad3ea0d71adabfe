"""The options of the charm, typed, with one readable line for each mistake in them."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

import entries
import names
import stores
from units import MIB, format_size, parse_size

Protocol = Literal["nfs", "smb"]
Access = Literal["none", "read", "read-write"]
Squash = Literal["none", "root-to-admin", "root-to-guest", "all-to-admin", "all-to-guest"]

_MINIMUM_MEMORY = 512 * MIB
_TURNS = frozenset({"hourly", "daily", "weekly"})
_CRON_FIELDS = 5
_SCHEDULES = "hourly, daily, weekly or five fields of cron in UTC, such as '30 2 * * *'"
_BOUND = re.compile(r"(?P<number>[0-9]{1,6})(?P<days>d?)")
_BOUNDS = "a number of backups such as 14, an age in days such as 30d, or both: 14,30d"
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")


def _quota(value: object) -> int:
    if value is None or value == "none":
        return 0
    return parse_size(str(value))


def _memory(value: object) -> int:
    size = parse_size(str(value))
    if size < _MINIMUM_MEMORY:
        raise ValueError(f"must be at least {format_size(_MINIMUM_MEMORY)}")
    return size


def _protocols(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(sorted({part.strip() for part in value.split(",") if part.strip()}))


def _shares(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = entries.read(value)
    return [] if found is None else found


def _whole(value: object) -> object:
    """A number as people write it: `010` may be eight or ten, `1_0` and `1e1` are none either."""
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("must be a whole number, without a zero in front")
    return value


def _schedule(text: str) -> str:
    wanted = " ".join(text.split())
    # Cron writes them with an `@`; `juju config` would read a file of that name.
    word = wanted.removeprefix("@")
    if not wanted or word in _TURNS:
        return word
    if len(wanted.split()) != _CRON_FIELDS:
        raise ValueError(f"must be {_SCHEDULES}")
    from cronsim import CronSim, CronSimError  # noqa: PLC0415  # most units have no such schedule

    try:
        next(CronSim(wanted, datetime.now(UTC)))
    except CronSimError as error:
        raise ValueError(f"has a mistake ({error}): it must be {_SCHEDULES}") from None
    except StopIteration:
        raise ValueError(f"is a time that never comes: it must be {_SCHEDULES}") from None
    return wanted


class Keep(NamedTuple):
    """Which backups stay. Where both are given one goes when it is beyond both; None: no bound."""

    number: int | None = None
    days: int | None = None


def _keep(value: object) -> object:
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    days: list[int] = []
    for part in filter(None, (each.strip() for each in value.split(","))):
        found = _BOUND.fullmatch(part)
        if found is None or int(found["number"]) < 1:
            raise ValueError(f"must be {_BOUNDS}")
        (days if found["days"] else numbers).append(int(found["number"]))
    if len(numbers) > 1 or len(days) > 1:
        raise ValueError(f"must be {_BOUNDS}")
    return Keep(next(iter(numbers), None), next(iter(days), None))


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class ShareOptions(BaseModel):
    """One entry of the option `shares`. Sizes in bytes, 0 for no quota."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_dashed, populate_by_name=True
    )

    name: Annotated[str, AfterValidator(names.check)]
    metadata: stores.MetadataName = "badger"
    content: stores.ContentName = "volume"
    access: Access = "read-write"
    squash: Squash = "root-to-guest"
    read_only: bool = False
    quota: Annotated[int, BeforeValidator(_quota), Field(ge=0)] = 0
    trash_days: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=3650)] = 0

    @model_validator(mode="after")
    def _bounded(self) -> "ShareOptions":
        if stores.CONTENT[self.content].needs_quota and not self.quota:
            raise ValueError(f"content {self.content} needs a quota: it uses the server's memory")
        return self

    @property
    def key(self) -> str:
        """The name as it stands in paths and in the names of stores."""
        return names.key(self.name)

    @property
    def volatile(self) -> bool:
        """Whether a restart of the server loses its files."""
        return stores.volatile(self.metadata, self.content)


def _distinct(shares: tuple[ShareOptions, ...]) -> tuple[ShareOptions, ...]:
    seen: dict[str, int] = {}
    for number, share in enumerate(shares, start=1):
        # SMB clients do not tell upper from lower case.
        first = seen.setdefault(share.name.casefold(), number)
        if first != number:
            raise ValueError(f"entry {number} has the same name as entry {first}: {share.name}")
    return shares


class Options(BaseModel):
    """All options; None in `protocols` or `shares` means: leave them as the server has them."""

    model_config = ConfigDict(frozen=True, alias_generator=_dashed, populate_by_name=True)

    log_level: Literal["debug", "info", "warn", "error"] = "info"
    protocols: Annotated[tuple[Protocol, ...], BeforeValidator(_protocols)] | None = None
    shares: (
        Annotated[tuple[ShareOptions, ...], BeforeValidator(_shares), AfterValidator(_distinct)]
        | None
    ) = None
    memory: Annotated[int, BeforeValidator(_memory)] = 2048 * MIB
    allow_small_content_volume: bool = False
    allow_unknown_server: bool = False
    mirror_max_lag: Annotated[int, Field(ge=5, le=86400)] = 60
    backup_schedule: Annotated[str, AfterValidator(_schedule)] = ""
    backup_keep: Annotated[Keep, BeforeValidator(_keep)] = Keep()
    backup_encryption: bool = False


class Loaded(NamedTuple):
    """What `load` found: options, the names of those not usable, a line for each mistake."""

    options: Options
    faulty: frozenset[str]
    mistakes: tuple[str, ...]


def load(config: Mapping[str, Any]) -> Loaded:
    """Read the charm's options; an option with a mistake is left out and keeps its default.

    Args:
        config: option name to value, as Juju gives it.
    """
    known = {name: config[name] for name in _NAMES if name in config}
    mistakes: tuple[str, ...] = ()
    faulty: frozenset[str] = frozenset()
    try:
        options = Options.model_validate(known)
    except ValidationError as error:
        details = error.errors(include_url=False)
        mistakes = tuple(dict.fromkeys(_line(dict(detail)) for detail in details))
        faulty = frozenset(str(detail["loc"][0]) for detail in details)
        good = {name: value for name, value in known.items() if name not in faulty}
        options = Options.model_validate(good)
    unreached = tuple(_unreached(options))
    if unreached:
        faulty |= {"shares"}
        options = options.model_copy(update={"shares": None})
    return Loaded(options, faulty, mistakes + unreached)


def _unreached(options: Options) -> Iterator[str]:
    """A line for each share that would be called served by SMB and could not be reached."""
    if "smb" not in (options.protocols or ()):
        return
    for number, share in enumerate(options.shares or (), start=1):
        if not names.small(share.name):
            yield (
                f"shares: entry {number}: name: {share.name!r} has capital letters, and the "
                "server lets clients of SMB reach small ones only: write it small, or take smb "
                "out of the option protocols"
            )


_NAMES = tuple(_dashed(name) for name in Options.model_fields)


def _line(detail: Mapping[str, Any]) -> str:
    """One mistake as one line: the option, the entry and the key, the value, what is allowed."""
    option, *rest = detail["loc"]
    where = str(option)
    # pydantic adds elements that name the branch of a union; they say nothing to a user.
    for part in rest:
        if isinstance(part, int):
            where += f": entry {part + 1}"
        elif "[" not in part:
            where += f": {part}"
    known = _SHORT.get(detail["type"], "").format(**detail.get("ctx", {}))
    text = known or detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    # Of the whole list only the entry says something, and the text names it.
    whole = option == "shares" and not rest
    if isinstance(value, str | int | float | bool) and not whole:
        return f"{where}: {_clip(str(value))!r} {text}"
    return f"{where}: {text}"


_SHORT = {
    "literal_error": "must be {expected}",
    "extra_forbidden": "is not a key that a share has",
    "missing": "is missing",
    "tuple_type": "must be a YAML list of shares",
    "model_type": "must be a mapping with a name",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be a text",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _clip(text: str, limit: int = 40) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
