"""For all tests: where their files are, and what is skipped where there are no namespaces."""

import math
import signal

import pytest

from deadline import EVENT
from tests import bed, folders


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Keep nothing in a folder that others use, too; `--basetemp` keeps it where one wants it."""
    config.addinivalue_line(
        "markers", "needs_namespaces(what): skipped, with this reason, where there are none"
    )
    # A container's processes begin with it, but not those of a shell's job in the background.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not config.option.basetemp:
        config.option.basetemp = str(folders.of_this_run() / "t")


def pytest_runtest_setup(item):
    """Skip what needs namespaces where there are none; no test has the time of another's event."""
    EVENT.begin(math.inf)
    for marker in item.iter_markers("needs_namespaces"):
        if reason := bed.enter():
            pytest.skip(f"needs namespaces for {marker.args[0]}: {reason}")
