"""A PostgreSQL server, for the server's own engine of that name."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from tests.ports import HOST, free_port

_TIMEOUT = 60.0
# It does not run as root; this user is on every Debian.
_USER = "nobody"


def find() -> Path | None:
    """The folder with its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    path = shutil.which("postgres") or (str(found[-1]) if found else "")
    return Path(path).resolve().parent if path else None


class Postgres:
    """One server with its default settings; a context manager.

    Args:
        programs: the folder that `find` found.
        place: where to make its data; None: the usual place for temporary files.
    """

    def __init__(self, programs: Path, place: Path | None = None):
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(dir=place))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(_USER)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._folder, user.pw_uid, user.pw_gid)

    def __enter__(self) -> Self:
        data = str(self._folder / "data")
        subprocess.run(
            [self._programs / "initdb", "-D", data, "-U", "dittofs", "-A", "trust"],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **self._as,
        )
        port = ("-p", str(self.port))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen[bytes](
                [self._programs / "postgres", "-D", data, "-k", "", "-h", HOST, *port],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                **self._as,
            )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        assert self._process
        end = time.monotonic() + _TIMEOUT
        while True:
            try:
                socket.create_connection((HOST, self.port), 1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self._folder / "log").read_text()) from None
                time.sleep(0.1)
            else:
                return
