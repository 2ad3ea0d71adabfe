"""What a backup consists of: a small head that is read to list backups, and a table of files.

The head is one JSON object in the bucket, written last. It names the table, which is kept like a
piece: compressed, encrypted where the backup is, named by its content. A checksum tells a damaged
head from a whole one, a seal that needs the key tells one that was tampered with.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

from agent.archive.errors import ArchiveError
from agent.archive.sealing import Sealer

FORMAT = 1
_LARGEST = 2**63
# In seconds since 1970, while a year has four digits.
_LAST = 2.5e11


@dataclass(frozen=True)
class File:
    """A file: `pieces` in order, None for one that is all zeros; `size` in bytes."""

    path: str
    size: int
    mode: int
    pieces: tuple[str | None, ...]


@dataclass(frozen=True)
class Share:
    """A share at the moment of its snapshot.

    Attributes:
        name: with its slash, such as `/export`.
        key: the name of its folder.
        snapshot: the id of the server's snapshot.
        files: paths relative to the share's folder on the content volume.
        used_bytes: what the server said of it.
        enabled: whether it was served.
    """

    name: str
    key: str
    snapshot: str
    files: tuple[File, ...]
    used_bytes: int = 0
    enabled: bool = True


@dataclass(frozen=True)
class Head:
    """What is told of a backup without its table; sizes in bytes, `duration` in seconds.

    Attributes:
        time: unix time at which it began.
        shares: their names.
        key_id: which key it was made with.
        table: the name of the table's piece.
    """

    id: str
    time: float
    application: str
    model: str
    model_uuid: str
    server: str
    charm: str
    encrypted: bool
    key_id: str
    instance: str
    shares: tuple[str, ...]
    files: int
    size: int
    uploaded: int
    duration: float
    table: str

    @classmethod
    def parse(cls, data: bytes) -> tuple["Head", str]:
        """Read a head; return it with its seal.

        Raises:
            ArchiveError: `damaged`, or `newer`: of a later format.
        """
        try:
            found = json.loads(data)
            if int(found["format"]) > FORMAT:
                raise ArchiveError(
                    "newer", "refresh the charm: the backup was made by a newer one"
                )
            names = [field.name for field in fields(cls)]
            values: dict[str, Any] = {name: found[_dashed(name)] for name in names}
            values["shares"] = tuple(values["shares"])
            head, checksum, seal = cls(**values), str(found["checksum"]), str(found["seal"])
            right = _is_sound(values) and hmac.compare_digest(head.checksum(), checksum)
        except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError):
            raise _damaged() from None
        if not right:
            raise _damaged()
        return head, seal

    def checksum(self) -> str:
        """Tells a damaged head from a whole one."""
        return hashlib.sha256(self.signed()).hexdigest()

    def signed(self) -> bytes:
        """What checksum and seal are made of."""
        return _canonical(self._fields())

    def as_json(self, sealer: Sealer) -> bytes:
        """The object in the bucket."""
        whole = self._fields() | {"checksum": self.checksum(), "seal": sealer.mac(self.signed())}
        return json.dumps(whole, indent=1, sort_keys=True).encode()

    def _fields(self) -> dict[str, Any]:
        found = {_dashed(name): value for name, value in asdict(self).items()}
        return {"format": FORMAT} | found | {"shares": list(self.shares)}


@dataclass(frozen=True)
class Manifest:
    """A backup with all its files."""

    head: Head
    control_plane: File
    shares: tuple[Share, ...]

    def pieces(self) -> Iterator[str]:
        """The names of all pieces it needs, with repetitions, the table's among them."""
        yield self.head.table
        yield from pieces_of((self.control_plane, *files_of(self.shares)))


def files_of(shares: Iterable[Share]) -> Iterator[File]:
    """The files of shares."""
    for share in shares:
        yield from share.files


def pieces_of(files: Iterable[File]) -> Iterator[str]:
    """The names of the files' pieces that are not all zeros."""
    for file in files:
        for piece in file.pieces:
            if piece is not None:
                yield piece


def write_table(control_plane: File, shares: Iterable[Share]) -> bytes:
    """The table as it is kept in a piece."""
    table = {"control-plane": asdict(control_plane), "shares": [asdict(each) for each in shares]}
    return _canonical(table)


def read_table(head: Head, data: bytes) -> Manifest:
    """The way back.

    Raises:
        ArchiveError: `damaged`.
    """
    try:
        table = json.loads(data)
        shares = [_share(found) for found in table["shares"]]
        return Manifest(head, _file(table["control-plane"]), tuple(shares))
    except (KeyError, TypeError, ValueError):
        raise ArchiveError("damaged", f"the table of {head.id} makes no sense") from None


def _share(found: Mapping[str, Any]) -> Share:
    values: dict[str, Any] = {**found, "files": tuple(_file(file) for file in found["files"])}
    return Share(**values)


def _file(found: Mapping[str, Any]) -> File:
    path = PurePosixPath(found["path"])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("a file outside its folder")
    values: dict[str, Any] = {**found, "pieces": tuple(found["pieces"])}
    return File(**values)


def _is_sound(values: Mapping[str, Any]) -> bool:
    """Whether all values of a head are of their kind: a checksum fits to any, and needs no key."""
    for name in ("time", "duration"):
        if not isinstance(values[name], int | float) or not 0 <= values[name] < _LAST:
            return False
    for name in ("files", "size", "uploaded"):
        if not isinstance(values[name], int) or not 0 <= values[name] < _LARGEST:
            return False
    others = ("shares", "encrypted", "time", "duration", "files", "size", "uploaded")
    texts = [*values["shares"], *(each for name, each in values.items() if name not in others)]
    return isinstance(values["encrypted"], bool) and all(isinstance(each, str) for each in texts)


def _damaged() -> ArchiveError:
    return ArchiveError("damaged", "the manifest is damaged")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
