"""The bed for the whole run, and a pod and a unit for each test, gone when it ends."""

import pytest

from tests import servers
from tests.bed import bed
from tests.functional.files import Files
from tests.functional.pod import Pod
from tests.functional.unit import Unit


def pytest_report_header():
    """Say first which bed it is, and how to get the better one."""
    return f"functional: {bed()}"


@pytest.fixture(scope="session", autouse=True)
def own_bed():
    """It is entered before anything is started."""
    return bed()


@pytest.fixture
def pod(tmp_path):
    """A pod that is up."""
    made = Pod(tmp_path / "pod")
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def unit(pod):
    """A unit that is not deployed yet."""
    return Unit(pod)


@pytest.fixture
def deployed(unit):
    """A unit that serves NFS; the server would take 5 s to say that SMB listens on its port."""
    unit.change(config={"protocols": "nfs"})
    status = unit.deploy()
    assert str(status) == "ActiveStatus('nfs: /export')", unit.log()[-3000:]
    return unit


@pytest.fixture
def files(pod):
    """Writes and reads files as a client does."""
    return Files(real=pod.server.real)


@pytest.fixture
def client_program(files):
    """What a test needs that is nothing without a client: it is skipped where there is none."""
    if files.missing:
        pytest.skip(f"{files.missing} is not installed")


def pytest_terminal_summary(terminalreporter):
    """Say what it was that was tested."""
    terminalreporter.write_line(f"functional: {servers.server()} under {servers.pebble()}")
    terminalreporter.write_line(f"functional: {bed()}")
