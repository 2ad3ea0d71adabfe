"""Large stores, with the rows that the real server writes for a file of 4 KiB.

Seen in a store of the server's own after some creations. A creation is three transactions with ten
entries: the file with the names of both directions, and twice the inode again for its data.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import UUID

from agent.rebuild import StoreWriter

Row = tuple[bytes, int, bytes]
"""Key, version, value."""

ENTRIES = 10
TRANSACTIONS = 3
KEYS = 6
_FILES_IN_DIRECTORY = 1000
_TIME = bytes.fromhex("0f010000000ee297acdb13a8594100 00")
_LINKS = struct.pack(">I", 1)


def _inode(identity: bytes, name: bytes, size: bytes) -> bytes:
    times = b"".join(bytes([tag]) + _TIME for tag in b"\t\n\x0b\x0c")
    return (
        b"\xd5\xf5\x01\x01\x10%b\x02\x07/export\x03\x01\x00\x04\x02\xa4\x03\x05\x02\xe8\x07"
        b"\x06\x02\xe8\x07\x08\x02%b%b\r+export/%b\x0f\x01\x00\x13\x01\x00"
    ) % (identity, size, times, name)


def creation(number: int, directory: bytes, identity: bytes) -> list[dict[bytes, bytes | None]]:
    """The transactions of a creation, for a writer of logs.

    Args:
        number: makes the file's name.
        directory: its identity, 16 bytes.
        identity: the file's, 16 bytes.
    """
    parent, name = _text(directory), _text(identity)
    label = b"file-%07d" % number
    first, last = (_inode(identity, name, size) for size in (b"\x00\x00", b"\x80\x20"))
    payload: dict[bytes, bytes | None] = {b"pl:export/" + name: identity}
    return [
        {
            b"c:%b:%b" % (parent, label): identity,
            b"cn:%b:%b" % (parent, name): label,
            b"f:" + name: first,
            b"l:" + name: _LINKS,
            b"p:" + name: directory,
            **payload,
        },
        {b"f:" + name: first, **payload},
        {b"f:" + name: last, **payload},
    ]


def rows(files: int) -> Iterator[Row]:
    """The rows of a store with so many files, in key order; the same each time."""
    random = Random(files)  # noqa: S311  # no secret
    directories = sorted(random.randbytes(16) for _ in range(-(-files // _FILES_IN_DIRECTORY)))
    identities = sorted(random.randbytes(16) for _ in range(files))
    names = [_text(identity) for identity in identities]
    parents = [_text(directory) for directory in directories]
    count = len(directories)
    # File i is in directory i % count.
    for at, parent in enumerate(parents):
        for file in range(at, files, count):
            yield b"c:%b:file-%07d" % (parent, file), 3 * file + 1, identities[file]
    for at, parent in enumerate(parents):
        for file in range(at, files, count):
            yield b"cn:%b:%b" % (parent, names[file]), 3 * file + 1, b"file-%07d" % file
    for file, name in enumerate(names):
        yield b"f:" + name, 3 * file + 3, _inode(identities[file], name, b"\x80\x20")
    for file, name in enumerate(names):
        yield b"l:" + name, 3 * file + 1, _LINKS
    for file, name in enumerate(names):
        yield b"p:" + name, 3 * file + 1, directories[file % count]
    for file, name in enumerate(names):
        yield b"pl:export/" + name, 3 * file + 3, identities[file]


def make(directory: Path, files: int) -> int:
    """Make a store; the number of its rows."""
    count = 0
    with StoreWriter(directory) as writer:
        for key, version, value in rows(files):
            writer.add(key, value, version)
            count += 1
    return count


def write_for_load(path: Path, files: int) -> None:
    """Write the same rows as a file for LOAD DATA: copy, name, version, size, value."""
    with path.open("wb", buffering=2**20) as file:
        for key, version, value in rows(files):
            file.write(b"1\t%b\t%d\t%d\t%b\n" % (key, version, len(value), _escaped(value)))


def _escaped(value: bytes) -> bytes:
    value = value.replace(b"\\", b"\\\\").replace(b"\t", b"\\\t").replace(b"\n", b"\\\n")
    return value.replace(b"\0", b"\\0")


def _text(identity: bytes) -> bytes:
    return str(UUID(bytes=identity)).encode()
