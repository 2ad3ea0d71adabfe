"""The packed charm on a real Juju; what cannot be had there is skipped with the reason.

    make pack && make integration

| variable | what |
|---|---|
| `$CHARM` | the packed charm; without it the one in the project's folder |
| `$DITTOFS_IMAGE`, `$AGENT_IMAGE`, … | an image in the place of the one that a charm names |
| `$DATA_PLATFORM_LIBS` | a folder with lib/charms/…, for where charmcraft cannot fetch libraries |
| `$KUBECTL` | the command that reaches the cluster, such as `microk8s kubectl` |
| `$KEEP_MODEL` | not empty: models are kept |
| `$REPORT` | a file for the times as JSON |

Each file is a chapter of the docs, and has a model of its own.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import jubilant
import pytest
import yaml

from tests.integration import counterparts
from tests.integration.application import SERVED, Application
from tests.integration.client import Client
from tests.integration.cluster import Cluster, kubectl
from tests.integration.packing import ROOT, PackingError
from tests.integration.report import Chapter, Report

_TIMEOUT = 15 * 60
_LOG_LINES = 1000
_REPORT = pytest.StashKey[Report]()
Models = Callable[[], jubilant.Juju]


def pytest_configure(config: pytest.Config) -> None:
    """The report of the run."""
    config.stash[_REPORT] = Report()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell the times, and keep them where `$REPORT` says."""
    report = config.stash[_REPORT]
    if not report.steps:
        return
    terminalreporter.section("times")
    for line in report.lines():
        terminalreporter.write_line(line)
    chosen = os.environ.get("REPORT")
    if chosen:
        report.write(Path(chosen))
        terminalreporter.write_line(f"written to {chosen}")


@pytest.fixture
def times(request: pytest.FixtureRequest) -> Chapter:
    """Where the tests of this chapter report how long something took."""
    return request.config.stash[_REPORT].chapter(request.module.__name__)


@pytest.fixture(scope="session")
def charm() -> Path:
    """The packed charm, where there is a Juju to deploy it on."""
    if not shutil.which("juju"):
        pytest.skip("there is no juju on this machine")
    try:
        jubilant.Juju().cli("show-controller", include_model=False)
    except jubilant.CLIError as error:
        pytest.skip(f"juju reaches no controller: {error.stderr.strip()}")
    chosen = os.environ.get("CHARM")
    found = [Path(chosen)] if chosen else sorted(ROOT.glob("*.charm"))
    if not found or not found[0].is_file():
        pytest.skip(f"there is no {chosen}" if chosen else "there is no packed charm: make pack")
    return found[0].absolute()


@pytest.fixture(scope="session")
def resources() -> dict[str, str]:
    """The images of the charm."""
    return counterparts.images(
        yaml.safe_load((ROOT / "metadata.yaml").read_text(encoding="utf-8"))
    )


@pytest.fixture(scope="module")
def models(request: pytest.FixtureRequest, charm: Path) -> Iterator[Models]:
    """Makes models on the current controller, which go when the chapter ends."""
    del charm  # what has to be there before a model is made
    made: list[jubilant.Juju] = []

    def make() -> jubilant.Juju:
        juju = jubilant.Juju(wait_timeout=_TIMEOUT)
        juju.add_model(f"dittofs-{uuid4().hex[:8]}")
        made.append(juju)
        return juju

    failed = request.session.testsfailed
    yield make
    for juju in made:
        if juju.model is None:
            continue  # a test has destroyed it
        if request.session.testsfailed > failed:
            print(juju.debug_log(limit=_LOG_LINES))  # noqa: T201  # pytest shows it with the failure
        if not os.environ.get("KEEP_MODEL"):
            with suppress(jubilant.CLIError):
                juju.destroy_model(juju.model, destroy_storage=True, force=True, timeout=600)


@pytest.fixture(scope="module")
def juju(request: pytest.FixtureRequest, models: Models) -> jubilant.Juju:
    """The model of the chapter."""
    made = models()
    versions = request.config.stash[_REPORT].versions
    versions["Juju client"] = str(made.version())
    versions["Juju model"] = made.status().model.version
    return made


@pytest.fixture(scope="module")
def application(juju: jubilant.Juju, charm: Path, resources: dict[str, str]) -> Application:
    """The application, deployed without any configuration and not waited for."""
    made = Application(juju)
    made.deploy(charm, resources)
    return made


@pytest.fixture(scope="session")
def client_charm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The charm of the client, packed."""
    return _packed("nfs-client", tmp_path_factory)


@pytest.fixture(scope="session")
def mysql_charm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The charm of the database, packed."""
    return _packed("mysql-provider", tmp_path_factory)


@pytest.fixture(scope="session")
def s3_charm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The charm of the bucket, packed."""
    return _packed("s3-provider", tmp_path_factory)


def _packed(name: str, folders: pytest.TempPathFactory) -> Path:
    """Pack a charm of the tests, or skip what needs it."""
    try:
        return counterparts.pack(name, folders.mktemp("charms"))
    except PackingError as error:
        pytest.skip(f"{name} cannot be packed: {error}")


@pytest.fixture(scope="module")
def files(client_charm: Path, juju: jubilant.Juju) -> Client:
    """A client in the model of the chapter; it asks the application's Service."""
    counterparts.deploy(juju, client_charm)
    return Client(juju)


@pytest.fixture(scope="module")
def serving(application: Application) -> Application:
    """The application as soon as it serves."""
    application.wait_for(SERVED)
    return application


@pytest.fixture(scope="module")
def cluster(juju: jubilant.Juju) -> Iterator[Cluster]:
    """The namespace of the model, for what Juju itself cannot do."""
    made = Cluster(juju.show_model().short_name, kubectl())
    missing = made.missing()
    if missing:
        pytest.skip(missing)
    yield made
    made.close()
