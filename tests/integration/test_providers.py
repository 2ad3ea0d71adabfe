"""The charms of these tests, packed, against the charm's own side of each relation.

The real libraries are in what was packed. Nothing is deployed, so that this needs no Juju; it
needs the package index and, for the library of MySQL, Charmhub or `$DATA_PLATFORM_LIBS`.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import zipfile
from typing import Any

import ops
import pytest
import yaml
from moto.server import ThreadedMotoServer
from ops import testing

from relations import mysql, s3
from tests.databases import DatabaseServer, program

# What the libraries call is not this project's to mend.
pytestmark = pytest.mark.filterwarnings("ignore:JujuVersion.from_environ:DeprecationWarning")

FILES = testing.Model("files", type="kubernetes")


class MysqlRequirer(ops.CharmBase):
    """The charm's own code of the endpoint `mysql`."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.found: mysql.Related | None = None
        framework.observe(self.on.start, self._on_start)

    def _on_start(self, _: ops.EventBase) -> None:
        mysql.request(self.model, leader=True)
        self.found = mysql.read(self.model)


class S3Requirer(ops.CharmBase):
    """The charm's own code of the endpoint `s3-backup`."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.found: s3.Related | None = None
        framework.observe(self.on.start, self._on_start)

    def _on_start(self, _: ops.EventBase) -> None:
        s3.request(self.model, leader=True)
        self.found = s3.read(self.model)


class Packed:
    """A packed charm, unpacked and loaded."""

    def __init__(self, packed, folder, monkeypatch):
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        for place in ("lib", "venv"):
            # Behind what is installed here: ops is the one of the tests.
            monkeypatch.setattr(sys, "path", [*sys.path, str(folder / place)])
        specification = importlib.util.spec_from_file_location(
            packed.stem, folder / "src/charm.py"
        )
        assert specification
        assert specification.loader
        self.module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(self.module)
        self.metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
        options = folder / "config.yaml"
        self.options = yaml.safe_load(options.read_text()) if options.exists() else None

    def context(self, name: str) -> testing.Context:
        """To run events of the class of this name."""
        charm = getattr(self.module, name)
        return testing.Context(charm, meta=self.metadata, config=self.options)


def ask(
    requirer, endpoint: str, interface: str, given=None, secret=None
) -> tuple[dict[str, str], Any]:
    """What the charm writes for a provider that has given this, and what it understands."""
    context = testing.Context(
        requirer, meta={"name": "dittofs", "requires": {endpoint: {"interface": interface}}}
    )
    relation = testing.Relation(endpoint, interface=interface, remote_app_data=dict(given or {}))
    state = testing.State(leader=True, relations=[relation], secrets=[secret] if secret else [])
    with context(context.on.start(), state) as manager:
        after = manager.run()
        found = manager.charm.found
    return dict(after.get_relation(relation.id).local_app_data), found


def given_secret(state, databag, field: str):
    """The secret that a provider names, as the one that it is granted to sees it."""
    identifier = databag[field]
    content = next(
        each.latest_content or each.tracked_content
        for each in state.secrets
        if each.id == identifier or each.id.endswith(identifier.rpartition("/")[2])
    )
    return testing.Secret(dict(content), id=identifier)


def databag_of(state, relation) -> dict[str, str]:
    """What a provider has written for the application."""
    return dict(state.get_relation(relation.id).local_app_data)


@pytest.fixture
def mariadb(tmp_path_factory):
    """A database server at hand."""
    program()
    with DatabaseServer(tmp_path_factory.mktemp("mariadb")) as made:
        yield made


@pytest.fixture
def moto(monkeypatch):
    """Starts an S3 in the place of the one in the pod of a charm; its port."""
    server = ThreadedMotoServer("127.0.0.1", 0)

    def start(module) -> int:
        server.start()
        _, port = server.get_host_and_port()
        monkeypatch.setattr(module, "_PORT", port)
        return port

    yield start
    server.stop()


def test_mysql_provider_gives_the_charm_what_it_understands(
    mysql_charm, tmp_path, monkeypatch, mariadb
):
    asked, found = ask(MysqlRequirer, "mysql", "mysql_client")
    assert found.database is None
    context = Packed(mysql_charm, tmp_path / "charm", monkeypatch).context("MysqlProvider")
    relation = testing.Relation("database", interface="mysql_client", remote_app_data=asked)
    container = testing.Container(
        "mariadb", can_connect=True, execs={testing.Exec(["mariadb"], stdout="10.11.9-MariaDB")}
    )
    before = testing.State(leader=True, relations=[relation], containers=[container], model=FILES)
    state = context.run(context.on.relation_changed(relation), before)
    assert state.opened_ports == {testing.TCPPort(3306)}
    databag = databag_of(state, relation)
    secret = given_secret(state, databag, "secret-user")
    _, found = ask(MysqlRequirer, "mysql", "mysql_client", databag, secret)
    assert found.database.name == "dittofs"
    assert found.database.endpoints == (("mysql-provider.files.svc.cluster.local", 3306),)
    assert found.database.password.get_secret_value() not in json.dumps(databag)

    user = found.database.user.get_secret_value()
    said = "".join(str(each.stdin or "") for each in context.exec_history["mariadb"])
    mariadb.execute(*(each for each in said.split(";") if each.startswith(("CREATE", "GRANT"))))
    rows = mariadb.execute(f"SHOW GRANTS FOR '{user}'@'%'")
    assert any("ALL PRIVILEGES ON `dittofs`.*" in row[0] for row in rows)
    # A second event makes no second user.
    assert databag_of(context.run(context.on.update_status(), state), relation) == databag


def test_s3_provider_gives_the_charm_what_it_understands(s3_charm, tmp_path, monkeypatch, moto):
    asked, found = ask(S3Requirer, "s3-backup", "s3")
    assert found.bucket is None
    provider = Packed(s3_charm, tmp_path / "charm", monkeypatch)
    port = moto(provider.module)
    context = provider.context("S3ProviderCharm")
    relation = testing.Relation("s3-credentials", interface="s3", remote_app_data=asked)
    container = testing.Container("moto", can_connect=True)
    state = testing.State(leader=True, relations=[relation], containers=[container], model=FILES)
    state = context.run(context.on.relation_created(relation), state)
    state = context.run(context.on.relation_changed(state.get_relation(relation.id)), state)
    databag = databag_of(state, relation)
    secret = given_secret(state, databag, "secret-extra")
    _, found = ask(S3Requirer, "s3-backup", "s3", databag, secret)
    assert found.missing == ""
    assert (found.bucket.name, found.bucket.path_style) == ("backups", True)
    assert found.bucket.endpoint == f"http://s3-provider.files.svc.cluster.local:{port}"
    assert found.bucket.secret_key.get_secret_value() not in json.dumps(databag)
    # The bucket is there, and a second event says nothing new.
    assert databag_of(context.run(context.on.update_status(), state), relation) == databag

    other = {"endpoint": "http://s3-provider.other.svc.cluster.local:5000", "bucket": "b"}
    state = context.run(context.on.config_changed(), dataclasses.replace(state, config=other))
    assert databag_of(state, relation) == databag | other


def test_the_client_shows_the_address_that_it_is_given(client_charm, tmp_path, monkeypatch):
    context = Packed(client_charm, tmp_path / "charm", monkeypatch).context("NfsClient")
    uri = "nfs://(dittofs-0.dittofs-endpoints.files.svc.cluster.local:12049)/export"
    relation = testing.Relation("filesystem", remote_app_data={"endpoint": uri})
    state = context.run(context.on.relation_changed(relation), testing.State(relations=[relation]))
    assert state.unit_status == testing.ActiveStatus(uri)
    state = context.run(context.on.start(), testing.State())
    assert state.unit_status == testing.ActiveStatus("")


def test_the_client_has_all_that_its_program_imports(client_charm, tmp_path):
    with zipfile.ZipFile(client_charm) as archive:
        archive.extractall(tmp_path)
    finished = subprocess.run(
        [sys.executable, "-S", "src/files.py", "reach", "127.0.0.1", "1"],
        cwd=tmp_path,
        env={"PYTHONPATH": "lib:venv"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(finished.stdout) == {"1": False}
