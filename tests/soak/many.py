"""Several soaks, each a process with namespaces of its own: a line for each."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Over the time that a soak was asked for: its start, and the comparisons at its end.
_MORE_SECONDS = 600


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def many(seeds: Sequence[int], at_once: int, seconds: float, load: str | None) -> int:
    """Run a soak for each seed, some at once; 0 where all were well. What they print is kept."""
    place = Path(tempfile.mkdtemp(prefix="dittofs-soak-"))

    def run(seed: int) -> bool:
        log = place / f"{seed}.log"
        command = [sys.executable, "-m", "tests.soak", "--seed", str(seed)]
        command += ["--seconds", str(seconds), *(["--load", load] if load else [])]
        with log.open("wb") as file:
            try:
                code = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    timeout=seconds + _MORE_SECONDS,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        lines = log.read_text(errors="replace").splitlines() or ["it printed nothing"]
        wrong = [line for line in lines if "DIFFERENT" in line]
        last = lines[-1].removeprefix("soak: ")
        hung = "hung; " if code == -1 else ""
        say(f"seed {seed}: {'well' if code == 0 else 'NOT WELL'}: {hung}{last}")
        for line in wrong[:3]:
            say(f"seed {seed}: {line}")
        return code == 0

    with ThreadPoolExecutor(at_once) as hands:
        results = list(hands.map(run, seeds))
    say(f"{sum(results)} of {len(results)} soaks were well; logs: {place}")
    return 0 if all(results) else 1
