"""The real Badger: the program beside this file, built with both of its versions.

Its modules come from the Go module proxy when `make setup` runs.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = {"4.5.2": "go.mod", "4.9.6": "badger-4.9.6.mod"}


class Peer:
    """The real Badger; of each key it tells version and value."""

    def __init__(self, program: Path):
        self._program = program

    def dump(self, directory):
        """Open and close a store: afterwards it has tables."""
        return self._run("dump", directory)

    def write(self, directory, seed, transactions):
        """Write random transactions and end without closing the store."""
        return self._run("write", directory, str(seed), str(transactions))

    def busy(self, directory, seed, transactions):
        """The same with small memtables and large values."""
        return self._run("busy", directory, str(seed), str(transactions))

    def drop(self, directory, seed, transactions):
        """Drop all data before writing."""
        return self._run("drop", directory, str(seed), str(transactions))

    def collect(self, directory, seed, rounds):
        """Write large values and collect the garbage of the value log."""
        return self._run("collect", directory, str(seed), str(rounds))

    def digest(self, directory):
        """As `dump`, but the number of keys and a checksum."""
        return self._output("digest", directory).strip()

    def start(self, how, directory, seed=1, transactions=1_000_000):
        remove_empty_logs(directory)
        command = [self._program, how, directory, str(seed), str(transactions)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def _run(self, *arguments):
        items = [json.loads(line) for line in self._output(*arguments).splitlines()]
        return {
            bytes.fromhex(each["key"]): (each["version"], bytes.fromhex(each["value"]))
            for each in items
        }

    def _output(self, *arguments):
        remove_empty_logs(arguments[1])
        done = subprocess.run(
            [self._program, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def remove_empty_logs(directory):
    """Do what Badger needs after a kill.

    It truncates a log before it removes it. When it ends between the two, it does not open the
    store any more until somebody has removed the empty file.
    """
    for pattern in ("*.mem", "*.vlog"):
        for log in Path(directory).glob(pattern):
            if log.stat().st_size == 0:
                log.unlink()


@pytest.fixture(scope="session", params=MODULES)
def peer(request, tmp_path_factory):
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no Go to build the real Badger with")
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}
    module = f"-modfile={MODULES[request.param]}"
    program = tmp_path_factory.mktemp("peer") / "badger-peer"
    # The list needs all packages and no compiler: what it says is about modules.
    for command, timeout in (
        ([go, "list", module, "-deps", "."], 60),
        ([go, "build", module, "-o", program, "."], 300),
    ):
        try:
            done = subprocess.run(
                command, cwd=HERE, env=environment, timeout=timeout, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            pytest.skip(f"Badger {request.param} could not be built in {timeout} s")
        if command[1] == "list" and done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1]
            pytest.skip(f"the modules of Badger {request.param} cannot be had: {reason}")
        assert done.returncode == 0, done.stderr
    return Peer(program)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    return path
