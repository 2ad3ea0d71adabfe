"""S3 behind a network: on one machine it is as near as no bucket ever is.

Inside a namespace of its own the traffic of one port gets no more than so many bits a second. That
of all other ports is not touched.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

_ALL = "100gbit"
_BURST = "256kb"


def missing() -> str:
    """What has to be installed, empty where it is there."""
    return "" if shutil.which("tc") else "tc (iproute2)"


@contextlib.contextmanager
def limited(port: int, rate: str) -> Iterator[None]:
    """Let the traffic from and to a port of this machine have no more than a rate like `1gbit`.

    Raises:
        subprocess.CalledProcessError: the kernel cannot do that.
    """
    _tc("qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb", "default", "1", "r2q", "10000")
    try:
        for number, speed in ((1, _ALL), (2, rate)):
            _tc(
                *("class", "add", "dev", "lo", "parent", "1:", "classid", f"1:{number}"),
                *("htb", "rate", speed, "burst", _BURST, "cburst", _BURST),
            )
        for end in ("sport", "dport"):
            _tc(
                *("filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip", "prio", "1"),
                *("u32", "match", "ip", end, str(port), "0xffff", "flowid", "1:2"),
            )
        yield
    finally:
        _tc("qdisc", "del", "dev", "lo", "root")


def _tc(*words: str) -> None:
    subprocess.run(["tc", *words], check=True, capture_output=True)
