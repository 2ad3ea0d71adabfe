"""How the stand-in writes the names of a share for a snapshot."""

import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.standin.stores import SnapshotDamagedError

_MAGIC = b"STANDIN\1"
_LENGTH, _CHECKSUM = struct.Struct("<I"), struct.Struct("<I")


def dump(entries: Mapping[bytes, bytes]) -> list[bytes]:
    """Lengths, keys and values in order, and a checksum over all of it."""
    parts = [_MAGIC]
    for key, value in sorted(entries.items()):
        parts += [_LENGTH.pack(len(key)), key, _LENGTH.pack(len(value)), value]
    parts.append(_LENGTH.pack(0))
    return [*parts, _CHECKSUM.pack(zlib.crc32(b"".join(parts)))]


def undump(data: bytes) -> dict[bytes, bytes]:
    """What `dump` wrote; SnapshotDamagedError where it is not that."""
    body, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    if not body.startswith(_MAGIC) or _CHECKSUM.pack(zlib.crc32(body)) != checksum:
        raise SnapshotDamagedError
    entries: dict[bytes, bytes] = {}
    place = len(_MAGIC)
    while (size := _LENGTH.unpack_from(body, place)[0]) > 0:
        key = body[place + _LENGTH.size :][:size]
        place += _LENGTH.size + size
        (size,) = _LENGTH.unpack_from(body, place)
        entries[key] = body[place + _LENGTH.size :][:size]
        place += _LENGTH.size + size
    return entries


def write(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file that is whole, or not there."""
    temporary = path.with_suffix(".new")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
