"""`make limits`: the content volume is filled, overwritten, emptied and killed, then compared.

    python -m tests.limits [--seconds N] [--seed N] [--volume MIB] [--times N] [--rate MB]
                           [--plain]

The charm is deployed with its mirror and its backups on a content volume that is a file system of
its own. Every byte of every file is compared with what was acknowledged. Exits with 1 where a byte
is wrong, or where a write was refused although the budget of the volume says that there was room.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import budget
from budget import OVERWRITTEN, Space
from tests import bed, servers
from tests.limits import volume
from tests.limits.index import Pattern
from tests.limits.run import Run, say
from tests.limits.site import SHARE, Site, deployed
from tests.limits.writers import Writers

_MB, _MIB, _GIB = 10**6, 2**20, 2**30
# Of the time, for filling, refilling and what is looked at in the end.
_REST = 0.25
_CLIENTS, _BLOCKS, _BLOCK = 4, 4, _MIB


def main() -> int:
    """Run it; 0 where nothing is wrong."""
    parser = argparse.ArgumentParser(prog="limits", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--volume", type=int, default=14 * 1024, help="its size in MiB")
    parser.add_argument("--times", type=float, default=20, help="volumes to write, at most")
    parser.add_argument("--rate", type=float, default=OVERWRITTEN / _MB, help="MB/s")
    parser.add_argument(
        "--plain", action="store_true", help="the default deployment alone, and nothing is killed"
    )
    asked = parser.parse_args()
    server = servers.server()
    if not server.real:
        say("limits: there is no real server: see tests/limits/test_limits.py for the stand-in")
        return 0
    bed.enter_or_exit()
    began = time.monotonic()
    random = Random(asked.seed)  # noqa: S311  # the same each time
    with (
        tempfile.TemporaryDirectory() as directory,
        deployed(Path(directory), asked.volume * _MIB, {}) as site,
    ):
        if not asked.plain:
            site.relate()
        usable = volume.usable(site.content)
        say(
            f"limits: {server}, {usable / _MIB:.0f} MiB of {site.file_system}, "
            f"{asked.seconds:.0f} s, seed {asked.seed}"
        )
        stated = budget.divide(Space.of(site.content), {SHARE: 0}, backups=not asked.plain)
        run = Run(
            site,
            _writers(site, asked.seed),
            stated,
            random,
            rate=asked.rate * _MB,
            plain=asked.plain,
        )
        run.run(began + asked.seconds * (1 - _REST), asked.times * usable)
        return report(run, time.monotonic() - began)


def _writers(site: Site, seed: int) -> Writers:
    return Writers(site.connect, Pattern(_BLOCK), blocks=_BLOCKS, threads=_CLIENTS, seed=seed)


def report(run: Run, seconds: float) -> int:
    """Print what was written and found; the exit code."""
    counts = run.writers.counts
    kinds: dict[str, int] = {}
    for each in counts.refusals:
        room = "there was room" if run.was_room(each) else "no room"
        kinds[f"{each.status} ({room})"] = kinds.get(f"{each.status} ({room})", 0) + 1
    kills = ", ".join(f"{count} x {what}" for what, count in sorted(run.site.kills.items()))
    backups = ", ".join(f"{count} {what}" for what, count in sorted(run.site.backups.items()))
    done = ", ".join(f"{count} x {what}" for what, count in sorted(counts.operations.items()))
    say(
        f"limits: {counts.written / _GIB:.1f} GiB written in {seconds:.0f} s, "
        f"{counts.written / run.budget.usable:.1f} volumes; {counts.reads / _GIB:.1f} GiB compared"
    )
    say(f"limits: {done}")
    say(f"limits: longest pause of a client {counts.longest_pause:.1f} s; {'; '.join(run.notes)}")
    say(f"limits: most that was used: {run.peak / _MIB:.0f} MiB of {run.budget.usable / _MIB:.0f}")
    say(f"limits: kills: {kills or 'none'}; backups: {backups or 'none'}")
    for text, count in sorted(kinds.items()):
        say(f"limits: {count} refused: {text}")
    for each in run.problems:
        say(f"limits: WRONG: {each}")
    say(
        f"limits: {len(counts.wrong)} blocks wrong, {run.refused_in_vain} writes refused although "
        f"there was room, {len(run.problems)} problems"
    )
    return 1 if run.problems or run.refused_in_vain else 0


if __name__ == "__main__":
    sys.exit(main())
