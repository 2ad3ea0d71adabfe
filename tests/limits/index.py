"""What every block of every file may hold: kept by those who write, apart from the server.

A block that was acknowledged holds exactly that. One that was being written when the server went,
or refused it, holds what it held or what was being written. Nothing else is right: no zeros, no
other block, no older version.
"""

import os
from dataclasses import dataclass, field

_HEAD = "{:08x}{:08x}{:08x}"
_HEAD_SIZE = 24
_POOL = 2**22
# A block of this version was never written: a hole, which is read as zeros.
HOLE = 0


class Pattern:
    """What blocks hold: different for each file, place and version, and made at memory's speed."""

    def __init__(self, block_size: int):
        self.block_size = block_size
        self._pool = os.urandom(_POOL + block_size)

    def block(self, file: int, place: int, version: int) -> bytes:
        """A block's content; zeros for `HOLE`."""
        if version == HOLE:
            return bytes(self.block_size)
        begin = (file * 7919 + place * 104_729 + version * 1_299_709) % _POOL
        head = _HEAD.format(file, place, version).encode()
        return head + self._pool[begin : begin + self.block_size - len(head)]

    def version(self, data: bytes) -> int | None:
        """Which version a block claims to be; None for none."""
        head = data[:_HEAD_SIZE]
        if not head.strip(b"\0"):
            return HOLE
        try:
            return int(head[16:], 16)
        except ValueError:
            return None


@dataclass
class File:
    """What a file may be; `blocks` holds the versions that each block may have.

    Attributes:
        certain: it exists; else it may also be missing.
        sizes: how many blocks it may have.
    """

    number: int
    certain: bool = False
    blocks: list[set[int]] = field(default_factory=list[set[int]])
    sizes: set[int] = field(default_factory=lambda: {0})

    @property
    def name(self) -> str:
        """Its name in the share."""
        return f"file-{self.number}"

    def writing(self, place: int, version: int) -> None:
        """A block is going to be written; until `written` it may be old or new."""
        while len(self.blocks) <= place:
            self.blocks.append({HOLE})
        self.blocks[place].add(version)
        self.sizes |= {max(size, place + 1) for size in self.sizes}

    def written(self, place: int, version: int) -> None:
        """A block was acknowledged."""
        self.blocks[place] = {version}
        self.sizes = {size for size in self.sizes if size > place}

    def truncated(self) -> None:
        """It was acknowledged that it is empty."""
        self.blocks, self.sizes = [], {0}

    def truncating(self) -> None:
        """It is going to be emptied: everything may be gone."""
        self.sizes.add(0)
        for versions in self.blocks:
            versions.add(HOLE)

    def problems(self, pattern: Pattern, data: bytes) -> list[str]:
        """What is wrong with its content."""
        size = pattern.block_size
        count, rest = divmod(len(data), size)
        if rest or count not in self.sizes:
            return [f"{self.name} has {len(data)} bytes, not {sorted(self.sizes)} x {size}"]
        found: list[str] = []
        for place in range(count):
            block = data[place * size : (place + 1) * size]
            version = pattern.version(block)
            right = version in self.blocks[place]
            if not right or block != pattern.block(self.number, place, version or HOLE):
                found.append(
                    f"{self.name} block {place}: {_what(block, version)}, "
                    f"not {sorted(self.blocks[place])}"
                )
        return found

    def seen(self, pattern: Pattern, data: bytes) -> None:
        """Its content was read and is right: from now on it is known."""
        size = pattern.block_size
        self.sizes = {len(data) // size}
        self.blocks = [
            {pattern.version(data[place : place + size]) or HOLE}
            for place in range(0, len(data), size)
        ]
        self.certain = True


def _what(block: bytes, version: int | None) -> str:
    if not block.strip(b"\0"):
        return "zeros"
    return "something else" if version is None else f"version {version}"
