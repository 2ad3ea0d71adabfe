"""Which servers may serve: releases that were tested, and never an older one than has served.

A server that is older than the one that wrote the volumes takes newer records for torn ones and
cuts them off, without a word. So it is asked what it is before it is started.
"""

import re

import said
from errors import BlockedError

# The first and the last series that were tested. This is the only place that says so.
FIRST, LAST = (0, 29), (0, 31)
TESTED = "v{}.{}.x to v{}.{}.x".format(*FIRST, *LAST)
UNKNOWN = "unknown"

Order = tuple[int, int, int, str, int]

_RELEASE = re.compile(
    r"v?([0-9]+)\.([0-9]+)\.([0-9]+)(?:-(alpha|beta|rc)[.-]?([0-9]*))?(?:\+(?!.*dirty)[\w.-]+)?",
    re.ASCII,
)
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_LINE = re.compile(r"(?:dfs|dittofs)(?: version)?:? (\S+)(?: \(.*\))?", re.IGNORECASE)
_LONGEST = 40


def order(name: str) -> Order | None:
    """A release as what releases are compared by; None for a build that is none.

    A build between two releases, such as `v0.29.0-5-g1a2b3c4`, is none either: nobody knows what
    it writes.
    """
    found = _RELEASE.fullmatch(name)
    if found is None:
        return None
    major, minor, patch, stage, number = found.groups()
    # What comes before a release sorts before the tilde.
    return int(major), int(minor), int(patch), stage or "~", int(number or 0)


def highest(*names: str) -> str:
    """The highest release among these; empty where none of them is one."""
    found = {key: name for name in names if (key := order(name))}
    return found[max(found)] if found else ""


def told(*outputs: str) -> str:
    """The name of a build out of what `dfs version` prints, or `UNKNOWN`.

    Around the line `dfs v0.29.0` there may be others. A name alone, as `--short` prints it, is
    taken where it is all there is.
    """
    for output in outputs:
        lines = said.lines(_ANSI.sub("", output))
        names = {found[1] for line in lines if (found := _LINE.fullmatch(line))}
        if not names and len(lines) == 1:
            names = {lines[0]}
        if len(names) == 1:
            return names.pop()[:_LONGEST]
    return UNKNOWN


def check(name: str, *, release: str, build: str, allow_unknown: bool) -> None:
    """Return where this server may serve.

    Args:
        name: of the server, as it says itself.
        release: the highest one that has served on the volumes; empty for none.
        build: one that is no release and has served since; empty for none.
        allow_unknown: whether a person answers for a build that is no release.

    Raises:
        BlockedError: it may not; the text names the way out.
    """
    found, least = order(name), order(release)
    if found is None:
        if not allow_unknown:
            raise BlockedError(
                "attach a released dittofs-image, or set allow-unknown-server=true: "
                f"{name!r} is no release"
            )
        return
    if least is not None and found < least:
        raise BlockedError(
            f"attach dittofs-image {release} or newer: it has served, and {name} may destroy what "
            "it wrote"
        )
    if not FIRST <= found[:2] <= LAST:
        raise BlockedError(
            f"attach a dittofs-image of {TESTED}, or refresh the charm: {name} is not tested"
        )
    if build and not allow_unknown:
        raise BlockedError(
            f"set allow-unknown-server=true if {name} is no older than {build!r}, which has served"
        )
