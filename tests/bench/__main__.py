"""`make bench`: the figures of the README, measured on this machine in one run.

    python -m tests.bench [core|mirror|backups] [--files N] [--only ROW[,ROW...]]

Prints progress, and the rows as the README has them. Exits non-zero where a bound was missed.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator

from tests import bed
from tests.bench import backups, core, mirror
from tests.bench.rows import Row, say


def main() -> int:
    """Measure and print; 0 when no bound was missed."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument(
        "part", choices=["core", "mirror", "backups"], nargs="?", help="only this part"
    )
    parser.add_argument("--files", type=int, default=1_000_000, help="of the large store")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[*mirror.PARTS, *backups.PARTS],
        help=f"of the mirror's part: {', '.join(mirror.PARTS)};"
        f" of the backups': {', '.join(backups.PARTS)}",
    )
    asked = parser.parse_args()
    # What was started ends with this process, also when somebody ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bed.enter_or_exit()
    say(f"bench: Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    parts: list[Iterator[Row]] = []
    if asked.part in {None, "core"}:
        parts.append(core.measure())
    if asked.part in {None, "mirror"}:
        parts.append(mirror.measure(asked.files, asked.only))
    if asked.part in {None, "backups"}:
        parts.append(backups.measure(asked.only))
    rows: list[Row] = []
    for part in parts:
        for row in part:
            say(f"bench: {row}")
            rows.append(row)
    say("\n| what | measured | bound |\n|---|---|---|")
    for row in rows:
        say(str(row))
    missed = sum(row.good is False for row in rows)
    say(f"\nbench: {f'{missed} bounds were missed' if missed else 'no bound was missed'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
