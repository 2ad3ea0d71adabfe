"""A log that is held open while it is followed, so that its inode tells it from another one."""

import os
from pathlib import Path

import google_crc32c

from agent.badger import HEADER_SIZE
from agent.position import UNKNOWN


class OpenLog:
    """How far a log was read, and the checksum of what was."""

    def __init__(self, path: Path):
        self.path = path
        self.number = int(path.stem)
        self.offset = HEADER_SIZE
        self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.checksum = self._checksum_of(0, HEADER_SIZE, 0)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.file)

    def replaced(self) -> bool:
        """Whether another file has its name."""
        try:
            return self.path.stat().st_ino != os.fstat(self.file).st_ino
        except FileNotFoundError:
            return False

    def gone(self) -> bool:
        """Whether it was removed, or truncated because it is about to be."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return True
        return stat.st_size < self.offset or stat.st_ino != os.fstat(self.file).st_ino

    def seek(self, offset: int, checksum: int) -> bool:
        """Go to an offset if what stands before it has this checksum."""
        if self._checksum_of(0, offset, 0) != checksum:
            return False
        self.offset, self.checksum = offset, checksum
        return True

    def advance(self, end: int) -> None:
        """What stands before `end` was read."""
        if self.checksum != UNKNOWN:
            self.checksum = self._checksum_of(self.offset, end - self.offset, self.checksum)
        self.offset = end

    def _checksum_of(self, offset: int, size: int, checksum: int) -> int:
        while size > 0:
            data = os.pread(self.file, min(size, 2**20), offset)
            if not data:
                return UNKNOWN
            checksum = int(google_crc32c.extend(checksum, data))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # it has no types
            offset, size = offset + len(data), size - len(data)
        return checksum


def open_log(path: Path) -> OpenLog | None:
    """Hold a log; None where it is gone, or has no header yet or any more.

    Badger makes a log of zeros and then writes its header. It truncates one before it removes it,
    and leaves it empty where it is killed in between.
    """
    try:
        log = OpenLog(path)
    except FileNotFoundError:
        return None
    if any(os.pread(log.file, HEADER_SIZE, 0)) and not log.gone():
        return log
    log.close()
    return None
