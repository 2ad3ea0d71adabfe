"""Badger's tables and MANIFEST, made by the plainest means, as tests want them."""

import struct

from agent import badger
from agent.badger import crc32c, uvarint
from agent.manifest import MANIFEST_HEADER, table_path


def with_checksum(data):
    """Data and its checksum."""
    checksum = b"\x10" + uvarint(crc32c(data))
    return data + checksum + len(checksum).to_bytes(4, "big")


def with_footer(index):
    """The index and what stands behind it."""
    return index + len(index).to_bytes(4, "big") + with_checksum(index)[len(index) :]


def block_of(entries):
    """A block in the plainest form: each key is stored in full but for what is 0 in common."""
    parts = []
    for key, meta, value, version in entries:
        stored = key + (2**64 - 1 - version).to_bytes(8, "big")
        parts.append(struct.pack("<HH", 0, len(stored)) + stored + bytes([meta, 0, 0]) + value)
    starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
    count = len(parts).to_bytes(4, "big")
    return with_checksum(b"".join([*parts, struct.pack(f"<{len(starts)}I", *starts), count]))


def index_of(blocks, firsts, version):
    """The index as flatbuffers: here each table has its own list of fields in front of it."""
    shape = struct.pack("<9H", 18, 32, 4, 0, 8, 16, 20, 24, 28)
    head = struct.pack("<I", 24) + shape + bytes(2)
    end_of_root = 24 + 32
    entries, references, offset = b"", [], 0
    place = end_of_root + 4 + 4 * len(blocks)
    for number, (block, first) in enumerate(zip(blocks, firsts, strict=True)):
        start = place + len(entries) + 12
        references.append(start - (end_of_root + 4 + 4 * number))
        shape = struct.pack("<5H2x", 10, 16, 4, 8, 12)
        entries += shape + struct.pack("<iIII", 12, 12, offset, len(block))
        entries += struct.pack("<I", len(first)) + first
        entries += bytes(-len(entries) % 4)
        offset += len(block)
    root = struct.pack("<iIQIIII", 20, 28, version, 0, 0, 0, 0)
    count = struct.pack("<I", len(blocks))
    return head + root + count + struct.pack(f"<{len(blocks)}I", *references) + entries


def table_of(rows, per_block=2):
    """The bytes of a table with rows of key, meta, value, version in order."""
    rows = sorted(rows, key=lambda row: (row[0], -row[3]))
    pieces = [rows[at : at + per_block] for at in range(0, len(rows), per_block)]
    blocks = [block_of(piece) for piece in pieces]
    firsts = [piece[0][0] + (2**64 - 1 - piece[0][3]).to_bytes(8, "big") for piece in pieces]
    index = index_of(blocks, firsts, max(row[3] for row in rows))
    return b"".join(blocks) + with_footer(index)


def change(number, operation=0, level=0, **more):
    """A change of the MANIFEST."""
    fields = {1: number, 2: operation, 3: level, 4: more.get("key", 0), 6: more.get("packed", 0)}
    body = b"".join(uvarint(field << 3) + uvarint(value) for field, value in fields.items())
    return b"\x0a" + uvarint(len(body)) + body


def change_set(*changes):
    """A set of them, which is atomic."""
    body = b"".join(changes)
    return len(body).to_bytes(4, "big") + crc32c(body).to_bytes(4, "big") + body


def put(store, *tables, first=1):
    """Put tables, pairs of level and rows, into a store and its MANIFEST."""
    manifest = store / "MANIFEST"
    if not manifest.exists():
        manifest.write_bytes(MANIFEST_HEADER)
    for number, (level, rows) in enumerate(tables, first):
        table_path(store, number).write_bytes(table_of(rows))
        with manifest.open("ab") as file:
            file.write(change_set(change(number, level=level)))


def row(key, value, version):
    """A row of a table; a value of None is a deletion."""
    return key, badger.DELETE if value is None else 0, value or b"", version
