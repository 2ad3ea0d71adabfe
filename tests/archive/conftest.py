"""An S3 server for all tests, a bucket for each, and units on servers of both kinds."""

import secrets

import pytest

from tests import bed, servers
from tests.archive.rig import Unit
from tests.s3 import FaultyProxy, S3Server

_RAN: set[str] = set()


@pytest.fixture(scope="session", autouse=True)
def own_namespaces():
    """Nothing here is seen from outside, where the machine allows it; before all else."""
    bed.enter()


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A server that runs for all tests; they leave it running."""
    with S3Server(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture
def bucket_name(s3):
    """A bucket of the test's own, gone with it."""
    made = s3.make_bucket(f"test-{secrets.token_hex(6)}")
    yield made
    s3.resume()
    s3.remove_bucket(made)


@pytest.fixture
def proxy(s3):
    """A proxy in front of S3, without faults at first."""
    with FaultyProxy(s3.port) as made:
        yield made


@pytest.fixture(params=["stand-in", "real"])
def program(request):
    """The stand-in, and the real server where there is one."""
    found = servers.standin() if request.param == "stand-in" else servers.server()
    if request.param == "real" and not found.real:
        pytest.skip("no real server on this machine")
    _RAN.add(str(found))
    return found


@pytest.fixture
def unit(program, s3, bucket_name, tmp_path):
    """A unit with a bucket, of which nothing is started yet."""
    with Unit(program, tmp_path / "unit", s3.settings(bucket_name)) as made:
        if made.server.files.missing:
            pytest.skip(f"{made.server.files.missing} is not installed")
        yield made


def pytest_terminal_summary(terminalreporter):
    """Say what it was that was tested."""
    if _RAN:
        terminalreporter.write_line(f"archive: ran against {', '.join(sorted(_RAN))}")
