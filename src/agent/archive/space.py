"""Whether the content volume has space for a backup, by what the guard of the volumes says.

As long as a backup runs, the server cleans nothing of what its shares overwrite. So one begins
when the volume has been cleaned, and gives up before clients have to.
"""

import json
import time
from enum import IntEnum

from agent.archive.errors import ArchiveError
from agent.archive.progress import Progress
from agent.archive.settings import ArchiveSettings
from agent.guard.settings import STATUS

# The server cleans every 30 s, and then a segment after the other.
_CLEANED_SECONDS = 90.0
# What a guard said that has ended meanwhile.
_OLD_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class Space(IntEnum):
    """How much there is."""

    ENOUGH = 0
    TIGHT = 1  # no more than clients may need until the server has cleaned
    SHORT = 2  # files cannot grow
    NONE = 3  # nothing can be written


def wait_for_space(settings: ArchiveSettings, progress: Progress) -> Progress:
    """Return when there is space for a backup; what it returns ends a backup that takes too much.

    A volume may also be short because it is full of files, which says nothing against a backup:
    then it has only not to get worse.

    Raises:
        ArchiveError: `busy`: clients cannot write just now, and are to be able to first.
    """
    end = time.monotonic() + _CLEANED_SECONDS
    while (found := _look(settings)) is not Space.ENOUGH and time.monotonic() < end:
        progress.say("waiting for the server to clean the content volume")
        progress.wait(_LOOK_SECONDS)
    if found is Space.NONE:
        raise ArchiveError(
            "busy",
            "make room on the content volume: nothing can be written, and a backup needs more",
        )
    looked = time.monotonic()

    def check() -> None:
        nonlocal looked
        if time.monotonic() - looked < _LOOK_SECONDS:
            return
        looked = time.monotonic()
        if _look(settings) > found:
            raise ArchiveError(
                "busy",
                "back up at another time or enlarge the content volume: clients overwrite more "
                "than it has room for while a backup runs",
            )

    return progress.bounded(check)


def _look(settings: ArchiveSettings) -> Space:
    """What the guard says now; where there is none, nobody has to be spared."""
    try:
        said = json.loads((settings.run / STATUS).read_text(encoding="utf-8"))
        if time.time() - said["updated"] > _OLD_SECONDS or "content" not in said["tight"]:
            return Space.ENOUGH
        short = "content" in said["short"]
        return (Space.NONE if said["halted"] else Space.SHORT) if short else Space.TIGHT
    except (OSError, ValueError, KeyError, TypeError):
        return Space.ENOUGH
