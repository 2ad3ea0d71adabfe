"""What removed files still count for in a share's use.

The server (seen on v0.29.0) keeps the record of a file whose last link was removed, with its size
and a link count of 0, and goes on counting it as used. Only a file that was truncated first counts
for nothing. So a share that files come to and go from reaches its quota with nothing in it.

A record is `f:<uuid>`: two bytes of magic, a version, and then fields, each `uvarint(id)
uvarint(length) payload`; the type (3, 0 for a regular file) and the size (8) are uvarints, too.
The link count is `l:<uuid>`, four bytes, big-endian (pkg/metadata/store/badger/encoding.go).
"""

from pathlib import Path

from agent.badger import read_uvarint
from agent.guard.rows import logged, rows

_FILE, _LINKS = b"f:", b"l:"
_HEAD = b"\xd5\xf5\x01"
_TYPE, _SIZE = 3, 8
_REGULAR = 0


def removed_bytes(directory: Path) -> int:
    """Sum up the sizes of the removed files that a store still has, in bytes.

    The store is read while the server writes it. What is not committed yet, and records of a kind
    that this does not know, count for nothing: a quota is then kept a little too strictly.

    Args:
        directory: of the Badger store.

    Raises:
        BadgerError: the store cannot be read, or not now.
    """
    changes = logged(directory, _FILE, _LINKS)
    files = rows(directory, changes, _FILE)
    total = 0
    # Both are in the order of the ids, so that nothing has to be remembered.
    size_of = next(files, None)
    for key, _, links in rows(directory, changes, _LINKS):
        if any(links):
            continue
        wanted = _FILE + key[len(_LINKS) :]
        while size_of is not None and size_of[0] < wanted:
            size_of = next(files, None)
        if size_of is not None and size_of[0] == wanted:
            total += _regular_size(size_of[2])
    return total


def _regular_size(record: bytes) -> int:
    """The size in a file's record; 0 for what is no regular file or is not understood."""
    if not record.startswith(_HEAD):
        return 0
    offset, found = len(_HEAD), dict[int, int]()
    while offset < len(record):
        field, offset = read_uvarint(record, offset)
        length, payload = read_uvarint(record, offset) if offset else (0, 0)
        if not payload:
            return 0
        if field in (_TYPE, _SIZE):
            found[field], _ = read_uvarint(record, payload)
        offset = payload + length
    return found.get(_SIZE, 0) if found.get(_TYPE) == _REGULAR else 0
