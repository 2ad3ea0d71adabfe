"""When the next backup is due."""

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

_WORDS = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 0"}
_RETRY_SECONDS = 3600.0


class Schedule:
    """A word such as `daily` or a cron expression, in UTC; empty: never. Times are unix times."""

    def __init__(self, text: str):
        self._expression = _WORDS.get(text.strip(), text.strip())

    def following(self, moment: float) -> float | None:
        """The first time after a moment, None where there is none."""
        if not self._expression:
            return None
        try:
            found = next(CronSim(self._expression, datetime.fromtimestamp(moment, UTC)))
        except (CronSimError, StopIteration):
            return None
        return found.timestamp()

    def next(self, since: float, succeeded: float | None, failed: float | None) -> float | None:
        """When the next backup is due; in the past where it is due now.

        Args:
            since: when there was a schedule first.
            succeeded: when the last backup was made.
            failed: when the last one failed.
        """
        following = self.following(max(since, succeeded or 0.0))
        if following is None or failed is None or failed < (succeeded or 0.0):
            return following
        # One that failed is tried again before its next turn, but not all the time.
        return max(following, failed + _RETRY_SECONDS)

    def overdue(self, since: float, succeeded: float | None, now: float) -> bool:
        """Whether two turns have passed without a backup."""
        first = self.following(max(since, succeeded or 0.0))
        second = self.following(first) if first is not None else None
        return second is not None and second < now
