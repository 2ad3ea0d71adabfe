"""The database servers of the tests themselves: they start for everybody, of every version."""

import os
import subprocess
import sys

import pytest

from tests import databases
from tests.databases import ROOT, DatabaseServer

_BECOMES_ROOT = """
import os, sys
from pathlib import Path
real, os.geteuid = os.geteuid, lambda: 1000
from tests import databases
os.geteuid = real  # as in a user namespace that was entered since
databases.ROOT = Path(sys.argv[1])
with databases.DatabaseServer(Path(sys.argv[1]) / "server") as server:
    server.execute("DO 0")
"""


def test_a_server_starts_for_who_became_root_since_the_import(own_namespaces, tmp_path):
    """Inside the user namespace of the tests everybody is called root."""
    del own_namespaces
    databases.program()
    done = subprocess.run(
        [sys.executable, "-c", _BECOMES_ROOT, tmp_path],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_server_that_has_no_system_tables_says_which(own_namespaces, tmp_path, monkeypatch):
    del own_namespaces
    if not databases.program().mariadb:
        pytest.skip("MySQL makes its system tables itself")
    monkeypatch.setattr(databases, "ROOT", tmp_path)
    monkeypatch.setattr(databases, "_SYSTEM_TABLES", ("_of_the_future.sql",))
    with pytest.raises(databases.ServerError, match=r"MariaDB .* has no m\*_of_the_future.sql in"):
        DatabaseServer(tmp_path / "server").start()
