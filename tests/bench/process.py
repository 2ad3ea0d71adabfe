"""What the kernel knows of a process."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_RESET_PEAK = "5"


def cpu_seconds(process: int) -> float:
    """Of all its threads, in user and kernel mode."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def reset_peak(process: int) -> None:
    """The peak of its memory is what it has now."""
    Path(f"/proc/{process}/clear_refs").write_text(_RESET_PEAK)


def peak_memory(process: int) -> float:
    """The most memory it had, in MiB."""
    text = Path(f"/proc/{process}/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


@contextlib.contextmanager
def pinned(cores: set[int] | None) -> Iterator[None]:
    """What is started in here runs on these cores; None changes nothing."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
