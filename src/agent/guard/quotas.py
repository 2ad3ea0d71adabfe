"""Which quota a share gets from the server, and whether it may be written at all.

The server refuses a file's growth beyond the quota with "no space", at once and before anything is
written; writing in place it refuses only where the share is read-only. It counts removed files as
used (`removed.py`), so the quota that it is given is what the option asks for and what they count
for.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from enum import IntEnum
from typing import Any

from agent.archive.server import Server, Usage
from agent.guard.settings import GuardedShare

_NEARLY_FULL = 0.9
_NEARLY_FULL_BYTES = 64 * 2**20
_COUNT_EVERY = 5.0
# Of the time, at most, that a store is read to count removed files.
_COUNTING_PART = 0.1


class Level(IntEnum):
    """What clients may do."""

    OPEN = 0
    FROZEN = 1  # no file may grow
    HALTED = 2  # nothing may be written or removed


class ShareQuota:
    """What one share gets.

    Args:
        share: as it was asked for.
        count: sums up the sizes of the removed files that the server still counts, in bytes; None
            where that cannot be told now.
        executor: runs it, since it takes seconds where there are millions of files.
    """

    def __init__(self, share: GuardedShare, count: Callable[[], int | None], executor: Executor):
        self._share = share
        self._count = count
        self._executor = executor
        self._usage = Usage(0, "", read_only=False, default_permission="none")
        self._removed = 0
        self._known = False
        self._matters = False
        self._level = Level.OPEN
        self._frozen_at = 0
        self._counting: Future[int | None] | None = None
        self._counted_used = 0
        self._counted_from = self._count_at = 0.0
        self._applied: int | None = None
        self._applied_text: str | None = None

    @property
    def removed(self) -> int:
        """What removed files count for, in bytes, as far as that is known."""
        return self._removed

    @property
    def live(self) -> int:
        """The bytes of the files that are there; more, where files were removed lately."""
        return self._usage.used_bytes - self._removed

    @property
    def uncertain(self) -> bool:
        """Whether it matters what removed files count for, and that was not counted yet."""
        return self._matters and not self._known and self._usage.used_bytes > 0

    @property
    def counting_since(self) -> float | None:
        """When the count that has not ended yet was asked for, in unix time."""
        if self._counting is None or self._counting.done():
            return None
        return time.time() - (time.monotonic() - self._counted_from)

    @property
    def nearly_full(self) -> bool:
        """Whether the share is near its own quota, so that removed files have to be counted."""
        quota = self._share.quota
        left = quota - self.live
        return bool(quota) and (left < quota * (1 - _NEARLY_FULL) or left < _NEARLY_FULL_BYTES)

    @property
    def limit(self) -> int:
        """The quota that the server is to enforce, in bytes; 0 for none."""
        normal = self._share.quota + self._removed if self._share.quota else 0
        if self._level is Level.OPEN:
            return normal
        # The server takes 0 for no quota.
        return max(min(normal or self._frozen_at, self._frozen_at), 1)

    def look(self, usage: Usage, *, crowded: bool) -> None:
        """Take what the server says now.

        Args:
            usage: of this share.
            crowded: whether it matters how much of it are removed files.
        """
        self._usage = usage
        if usage.used_bytes < self._counted_used:
            # Something was truncated, or the share restored: it is counted anew at once. Until
            # then a little much may be let in, rather than everything refused.
            self._removed = min(self._removed, usage.used_bytes)
            self._counted_used, self._count_at = usage.used_bytes, 0.0
        if self._counting is not None and self._counting.done():
            counted, self._counting = self._counting.result(), None
            # What was counted last holds where it cannot be told now.
            if counted is not None:
                self._known = True
                self._removed = min(counted, usage.used_bytes)
                self._counted_used = usage.used_bytes
            now = time.monotonic()
            pause = (now - self._counted_from) / _COUNTING_PART
            self._count_at = now + max(_COUNT_EVERY, pause)
        self._matters = crowded or self.nearly_full
        due = self._counting is None and time.monotonic() >= self._count_at
        if due and self._matters:
            self._counted_from = time.monotonic()
            self._counting = self._executor.submit(self._count)

    def apply(self, server: Server, name: str, level: Level) -> None:
        """Let the server enforce what follows, where it does not yet.

        Raises:
            ServerError: it does not take it.
        """
        if self._level is Level.OPEN:
            self._frozen_at = self._usage.used_bytes
        self._level = level
        read_only = self._share.read_only or level is Level.HALTED
        if read_only != self._usage.read_only:
            server.set_read_only(name, read_only, self._usage.default_permission)
        # What an earlier guard has set holds as long as this one does not know better.
        if self._differs() and not (level is Level.OPEN and self.uncertain):
            server.set_quota(name, self.limit)
            self._applied, self._applied_text = self.limit, None

    def as_json(self) -> dict[str, Any]:
        """For the status file; bytes."""
        return {
            "quota": self._share.quota,
            "removed": self._removed,
            "limit": self.limit,
            "used": self._usage.used_bytes,
        }

    def _differs(self) -> bool:
        """Whether the quota has to be set; somebody else may have changed it."""
        if self._applied != self.limit:
            return True
        if self._applied_text is None:
            self._applied_text = self._usage.quota
        return self._applied_text != self._usage.quota
