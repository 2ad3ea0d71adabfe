"""Whether two snapshots of a share hold the same, however the server writes them down.

A dump is an envelope (magic, version, engine) around pairs of keys and values, each with its
length in front, and a checksum. Another version of the server may write the pairs in another
order, and stamps its format into a store that it loads: what clients wrote is compared, and the
stamp is not.
"""

import hashlib
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

DUMP, HASHES = "metadata.dump", "manifest.hashes"
_MAGIC = b"DFBK"
_WORD, _HALF = struct.Struct("<I"), struct.Struct("<H")
_LARGEST = 256 * 1024 * 1024
# Records are counted in so many groups: only groups that differ are looked at one by one.
_GROUPS = 4096
_FEW = 8
_STAMP = re.compile(rb"format|version|schema|stamp", re.IGNORECASE)
_STAMP_SIZE = 256
# Keys of what clients have written begin so; none of them is a stamp, whatever a file is called.
_CLIENTS = (
    b"f:",
    b"fm:",
    b"p:",
    b"c:",
    b"cn:",
    b"s:",
    b"l:",
    b"obj:",
    b"pl:",
    b"br:",
    b"fb:",
    b"fb-hash:",
    b"fb-file:",
    b"synced:",
)
# And so the server's own.
_SERVERS = (b"cfg:", b"cap:", b"nsm:", b"dh:", b"lock:", b"lk", b"srvepoch")

Record = tuple[bytes, bytes]
Reader = Callable[[Path], Iterator[Record]]
_UNEXPLAINED = Counter[Record]({(b"", b""): 1})


class _UnreadableError(Exception):
    """It is not what this program knows."""


def differing(before: Path, after: Path) -> list[str]:
    """The names of the files in which two snapshots differ, which are folders; none: the same."""
    different: list[str] = []
    gone, came = _difference(before / DUMP, after / DUMP, _pairs)
    if not _only_stamped(gone, came):
        different.append(DUMP)
    if any(_difference(before / HASHES, after / HASHES, _lines)):
        different.append(HASHES)
    return different


def _difference(
    before: Path, after: Path, read: Reader
) -> tuple[Counter[Record], Counter[Record]]:
    """What is only in one of two files: all that is gone, and all that came.

    Where that is much, or one cannot be read, it is told by one record that nothing explains.
    """
    if _digest(before) == _digest(after):
        return Counter(), Counter()
    try:
        sums = _sums(read(before)), _sums(read(after))
        groups = {number for number in range(_GROUPS) if sums[0][number] != sums[1][number]}
        if len(groups) > _FEW:
            return _UNEXPLAINED, Counter()
        was, is_now = (_of(groups, read(path)) for path in (before, after))
    except _UnreadableError:
        return _UNEXPLAINED, Counter()
    return was - is_now, is_now - was


def _only_stamped(gone: Counter[Record], came: Counter[Record]) -> bool:
    """Whether all that differs are stamps, of which none was lost."""
    before = {key for key, _ in gone}
    return before <= {key for key, _ in came} and all(
        len(value) <= _STAMP_SIZE and _may_be_stamp(key, is_new=key not in before)
        for key, value in came
    )


def _may_be_stamp(key: bytes, *, is_new: bool) -> bool:
    """A key that says so, or one more of a kind that no server had yet."""
    if key.startswith(_CLIENTS):
        return False
    return bool(_STAMP.search(key)) or (is_new and not key.startswith(_SERVERS))


def _sums(records: Iterator[Record]) -> list[int]:
    """A sum for each group of records, whatever their order."""
    sums = [0] * _GROUPS
    for key, value in records:
        sums[_group(key)] += int.from_bytes(_record_digest(key, value)[:16])
    return sums


def _of(groups: set[int], records: Iterator[Record]) -> Counter[Record]:
    return Counter(record for record in records if _group(record[0]) in groups)


def _group(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=2).digest()) % _GROUPS


def _record_digest(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(_WORD.pack(len(key)) + key + value, digest_size=16).digest()


def _pairs(path: Path) -> Iterator[Record]:
    """The keys and values of a dump; its checksum is the server's own business."""
    with path.open("rb") as file:
        if _read(file, len(_MAGIC)) != _MAGIC:
            raise _UnreadableError
        _read(file, _WORD.size)
        (engine,) = _HALF.unpack(_read(file, _HALF.size))
        _read(file, engine + _WORD.size)
        while key := _sized(file):
            yield key, _sized(file)
        if len(file.read(_WORD.size + 1)) != _WORD.size:
            raise _UnreadableError


def _lines(path: Path) -> Iterator[Record]:
    """The lines of a list of hashes."""
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line.strip(), b""


def _sized(file: BinaryIO) -> bytes:
    (size,) = _WORD.unpack(_read(file, _WORD.size))
    if size > _LARGEST:
        raise _UnreadableError
    return _read(file, size)


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise _UnreadableError
    return data


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
