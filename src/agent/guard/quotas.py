"""Which quota a share gets from the server.

The server refuses a file's growth beyond the quota with "no space", at once and before anything is
written; writing in place it never refuses. It counts removed files as used (`removed.py`), so the
quota that it is given is what the option asks for and what they count for.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent.archive.server import Usage
from agent.guard.settings import GuardedShare

_NEARLY_FULL = 0.9
_NEARLY_FULL_BYTES = 64 * 2**20
_COUNT_EVERY = 10.0
# Of the time, at most, the stores are read to count removed files.
_COUNTING_PART = 0.1


@dataclass
class ShareQuota:
    """The quota of one share.

    Attributes:
        share: as it was asked for.
        count: sums up the sizes of the removed files that the server still counts, in bytes.
    """

    share: GuardedShare
    count: Callable[[], int]
    usage: Usage = field(default=Usage(0, ""))
    removed: int = 0
    frozen_at: int | None = None
    _counted_used: int = 0
    _count_from: float = 0.0
    _applied: int | None = None
    _applied_text: str | None = None

    @property
    def wanted(self) -> int:
        """What the server is to enforce, in bytes; 0 for no bound."""
        normal = self.share.quota + self.removed if self.share.quota else 0
        if self.frozen_at is None:
            return normal
        # The server takes 0 for no bound.
        return max(min(normal or self.frozen_at, self.frozen_at), 1)

    @property
    def nearly_full(self) -> bool:
        """Whether the share is near its own quota, so that removed files have to be counted."""
        if not self.share.quota:
            return False
        bound = self.share.quota + self.removed
        used = self.usage.used_bytes
        return used >= bound * _NEARLY_FULL or bound - used < _NEARLY_FULL_BYTES

    def look(self, usage: Usage, *, freeze: bool) -> None:
        """Take what the server says now; `freeze`: no file may grow."""
        self.usage = usage
        if not freeze:
            self.frozen_at = None
        elif self.frozen_at is None:
            self.frozen_at = usage.used_bytes
        if usage.used_bytes < self._counted_used:
            # Something was truncated, or the share restored: what was counted may be gone.
            self.removed, self._counted_used, self._count_from = 0, 0, 0.0
        if self.nearly_full and time.monotonic() >= self._count_from:
            self._recount()

    def differs(self) -> bool:
        """Whether the server has to be told; somebody else may have changed it."""
        if self._applied != self.wanted:
            return True
        if self._applied_text is None:
            self._applied_text = self.usage.quota
        return self._applied_text != self.usage.quota

    def applied(self) -> None:
        """The server has taken what is wanted."""
        self._applied, self._applied_text = self.wanted, None

    def as_json(self) -> dict[str, Any]:
        """For the status file; bytes."""
        return {
            "quota": self.share.quota,
            "removed": self.removed,
            "limit": self.wanted,
            "used": self.usage.used_bytes,
        }

    def _recount(self) -> None:
        began = time.monotonic()
        self.removed = self.count()
        self._counted_used = self.usage.used_bytes
        now = time.monotonic()
        self._count_from = now + max(_COUNT_EVERY, (now - began) / _COUNTING_PART)
