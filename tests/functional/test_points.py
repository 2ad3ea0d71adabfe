"""Something is killed, cut or full at a step of a backup or restore: what is there is complete.

Ten of the points that `make points` has hundreds of: most victims, each kind of step.
"""

import signal
from random import Random

import pytest

from tests.s3 import S3Server
from tests.soak.deployment import Site
from tests.soak.points import Point, strike
from tests.soak.victims import FULL

POINTS = [
    Point("create", "check written", "S3 refuses", 0.0),
    Point("create", "snapshots", "server", 0.0),
    Point("create", "piece", "pod ends", 0.0),
    Point("create", "manifest", "S3 cut", 0.0),
    Point("create", "sweep", "agent's container", 0.0),
    Point("delete", "pieces", "S3 503", 0.0),
    Point("restore", "piece", "content full", 0.0),
    Point("restore", "swapping", "hook", 0.0),
    Point("restore", "settling", "pod", 0.0),
    Point("restore", "settling", "pod ends", 0.0),
    Point("restore a share", "table", "S3 slow", 0.0),
    Point("restore in vain", "rollback", "metadata full", 0.0),
]


@pytest.fixture(scope="module", autouse=True)
def _late_kills():
    """A hook that has ended a moment ago cannot be killed any more."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def site(own_bed, tmp_path_factory):
    """One deployment for all points."""
    del own_bed
    root = tmp_path_factory.mktemp("points")
    with S3Server(root / "s3") as s3, Site(root, s3, "points", Random(1)) as made:  # noqa: S311  # the same each time
        if made.files.missing:
            pytest.skip(f"{made.files.missing} is not installed")
        yield made


_full = pytest.mark.needs_namespaces("a volume that is full")


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(each, id=str(each), marks=[_full] if each.victim in FULL else [])
        for each in POINTS
    ],
)
def test_what_is_there_is_complete(site, point):
    done = strike(site, point)
    assert done.step == point.step, done


def test_all_that_is_listed_restores(site):
    site.check_restores()
    site.check()
