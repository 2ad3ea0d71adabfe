"""`make fresh`: the README's two commands on fresh systems, for everybody who might type them.

Prints a table; the exit code is 0 when every row passes. Needs root, debootstrap and nothing but
Python's own library: the packages of the tests are installed in the systems, not here.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.fresh import rows, systems
from tests.fresh.run import Result, Runner, Step

_LAST_LINES = 15


def main() -> int:
    """Run the rows that were asked for."""
    arguments = _arguments()
    if missing := _missing() or _taken():
        say(missing)
        return 1
    asked = [rows.parse(name) for name in arguments.rows.split(",")]
    commands = {"demo": "make demo", "test": "make test"}
    if arguments.tests:
        commands["test"] = f"make setup charmcraft && .venv/bin/python -m pytest {arguments.tests}"
    steps = tuple(arguments.steps.split(",")) if arguments.steps else ()
    if _git("status", "--porcelain"):
        say("what is not committed is not in the clones")
    runner = Runner(commands, say, steps=steps, keep=arguments.keep)
    # An exception in the main thread, as Ctrl-C makes one.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    results = _run(runner, asked, arguments.jobs)
    for line in table(results):
        print(line)  # noqa: T201  # the program's output
    passed = sum(result.passed for result in results)
    say(f"{passed} rows passed, {len(asked) - passed} failed")
    return 0 if passed == len(asked) else 1


def say(text: str) -> None:
    """Print a line at once."""
    print(f"fresh: {text}", flush=True)  # noqa: T201  # the program's output


def _run(runner: Runner, asked: list[rows.Row], jobs: int) -> list[Result]:
    results: list[Result] = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for release in dict.fromkeys(row.system for row in asked):
                say(f"a fresh {release}")
                runner.make(release)
            for done in as_completed([pool.submit(runner.run, row) for row in asked]):
                results.append(done.result())
                _report(results[-1])
        except KeyboardInterrupt:
            say("interrupted: ending what runs")
            runner.stop()
            pool.shutdown(cancel_futures=True)
    order = {row: number for number, row in enumerate(asked)}
    return sorted(results, key=lambda result: order[result.row])


def _report(result: Result) -> None:
    """Say where the log of a row is, and its last lines where it failed."""
    name = result.row.name
    if result.skipped:
        say(f"{name}: left out: {result.skipped}")
        return
    say(f"{name}: {'passed' if result.passed else 'FAILED'}, its log: {result.log}")
    if not result.passed:
        if result.failed:
            say(f"{name}: {result.failed}")
        if result.log.exists():
            for line in result.log.read_text(encoding="utf-8").splitlines()[-_LAST_LINES:]:
                print(f"    {line}")  # noqa: T201  # the program's output


def table(results: Iterable[Result]) -> list[str]:
    """The lines of the table, in Markdown."""
    lines = ["| system | who | demo | first line | test | seconds | skipped |", "|" + "---|" * 7]
    for result in results:
        who = result.row.details
        versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        demo, test = (result.steps.get(name) for name in ("demo", "test"))
        first = demo.first_line if demo else None
        cells = [
            f"{result.row.system}{versions and f' ({versions})'}",
            who.title,
            result.failed or result.skipped or _cell(demo, who.says),
            "-" if first is None else f"{first:.0f} s",
            _cell(test, who.says),
            " + ".join(f"{step.seconds:.0f}" for step in (demo, test) if step) or "-",
            str(test.counts["skipped"]) if test else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(step: Step | None, says: str) -> str:
    if step is None:
        return "-"
    return "says what to do" if says and not step.failed else str(step)


def _missing() -> str:
    """What this machine lacks to make systems, in a sentence."""
    if os.geteuid() != 0:
        return "only root can make systems: sudo make fresh"
    for program in ("debootstrap", "setpriv", "unshare", "git"):
        if not shutil.which(program):
            return f"{program} is missing: apt-get install debootstrap util-linux git"
    if not (systems.ROOT / ".git").exists():
        return "this is no checkout of git, so nothing can be cloned from it"
    tried = subprocess.run([*systems.CONFINED, "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "this machine does not let root make namespaces"


def _taken() -> str:
    """Take the folder of the systems for this run; says so where another run has it."""
    systems.CACHE.mkdir(parents=True, exist_ok=True)
    lock = os.open(systems.CACHE, os.O_RDONLY)
    try:
        # Until this program ends, however it does.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "another make fresh of this checkout runs; JOBS=2 runs two rows at a time"
    return ""


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", systems.ROOT, *words], capture_output=True, text=True, check=True
    ).stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fresh", description=__doc__)
    parser.add_argument("--rows", default=",".join(rows.USUAL), help="names, with commas between")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument(
        "--steps", default="", help="demo, test, or both with a comma, in all rows; see rows.py"
    )
    parser.add_argument("--tests", default="", help="folders of tests instead of make test")
    parser.add_argument("--keep", action="store_true", help="do not remove the systems")
    arguments = parser.parse_args()
    try:
        for name in arguments.rows.split(","):
            rows.parse(name)
    except ValueError as error:
        parser.error(str(error))
    return arguments


if __name__ == "__main__":
    sys.exit(main())
