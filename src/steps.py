"""The steps of a plan: each is one call of the server, and what it answers is looked at."""

from dataclasses import dataclass, field

import names
from api import Api, ShareFields
from errors import BlockedError, WaitingError
from options import ShareOptions
from present import opens
from stores import StoreSpec
from units import MIB

READ_BUFFER = 32 * MIB


@dataclass(frozen=True)
class CreateStore:
    """Make a store."""

    spec: StoreSpec

    def __str__(self) -> str:
        """What it does, for the log."""
        return f"make the {self.spec.kind} store {self.spec.name} ({self.spec.type})"

    def apply(self, api: Api) -> None:
        """Call the server; what it answers is what was asked for."""
        made, spec = api.create_store(self.spec), self.spec
        if (made.name, made.type) != (spec.name, spec.type) or any(
            made.config.get(key) != value for key, value in spec.config.items()
        ):
            raise WaitingError(f"the server made the store {made.name} otherwise than asked")


@dataclass(frozen=True)
class CreateShare:
    """Make a share on its two stores."""

    share: ShareOptions
    metadata: str
    content: str

    def __str__(self) -> str:
        """What it does, for the log."""
        return f"make the share {self.share.name}"

    def apply(self, api: Api) -> None:
        """Call the server; it answers 201 also where the share could not be opened."""
        name, fields = self.share.name, fields_of(self.share)
        made = api.create_share(name, self.metadata, self.content, fields, READ_BUFFER)
        if made.name != name:
            api.enable_share(made.name, enabled=False)
            raise BlockedError(
                f"use another name than {name}: the server made {made.name} of it, which is closed"
            )
        if not opens(made):
            raise WaitingError(f"share {name} does not open: {made.status.message}")
        other = fields.changes(ShareFields.of(made))
        if other:
            raise WaitingError(f"share {name} was made with another {', '.join(sorted(other))}")


@dataclass(frozen=True)
class TakeOutShare:
    """Take a share out of the server because of its name; its files stay on the volumes."""

    name: str

    def __str__(self) -> str:
        """What it does, for the log."""
        return f"take the share {names.as_told(self.name)} out of the server, its files stay"

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.delete_share(self.name)


@dataclass(frozen=True)
class ChangeShare:
    """Change the live fields of a share."""

    name: str
    body: dict[str, object] = field(hash=False)

    def __str__(self) -> str:
        """What it does, for the log."""
        return f"change {', '.join(sorted(self.body))} of the share {self.name}"

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.change_share(self.name, self.body)


@dataclass(frozen=True)
class SetSquash:
    """Change how NFS maps users."""

    name: str
    squash: str

    def __str__(self) -> str:
        """What it does, for the log."""
        return f"set squash {self.squash} for the share {self.name}"

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.set_squash(self.name, self.squash)


@dataclass(frozen=True)
class EnableShare:
    """Serve a share or no longer serve it."""

    name: str
    enabled: bool

    def __str__(self) -> str:
        """What it does, for the log."""
        return f"{'serve' if self.enabled else 'close'} the share {self.name}"

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.enable_share(self.name, self.enabled)


@dataclass(frozen=True)
class SetAdapter:
    """Serve a protocol on its port, or not."""

    protocol: str
    enabled: bool
    port: int

    def __str__(self) -> str:
        """What it does, for the log."""
        return (
            f"serve {self.protocol} on port {self.port}"
            if self.enabled
            else f"stop {self.protocol}"
        )

    def apply(self, api: Api) -> None:
        """Call the server."""
        api.set_adapter(self.protocol, self.enabled, self.port)


Step = (
    CreateStore | CreateShare | TakeOutShare | ChangeShare | SetSquash | EnableShare | SetAdapter
)


def fields_of(share: ShareOptions) -> ShareFields:
    """What an entry of the option says of the fields that can be changed."""
    return ShareFields(
        read_only=share.read_only,
        default_permission=share.access,
        quota=share.quota,
        trash_enabled=share.trash_days > 0,
        trash_retention_days=share.trash_days,
    )
