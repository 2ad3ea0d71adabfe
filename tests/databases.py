"""Real MySQL and MariaDB servers for tests, and a proxy that gets between them and a client.

The server is, in this order: `$DITTOFS_TEST_MYSQLD` (a mysqld or mariadbd, or the folder of a
Debian or Ubuntu that has one), mariadbd on PATH or in /usr/sbin. A test that finds none is
skipped and says so.
"""

import contextlib
import functools
import hashlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pymysql
import pytest

from tests import folders, namespaces
from tests.ports import HOST, free_port

ROOT = Path(__file__).parents[1]
RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE"
_ADMIN = "admin"
_START_TIMEOUT = 120.0
_STOP_TIMEOUT = 30.0
_SETUP_TIMEOUT = 120
# What MariaDB's own script feeds to a server that has no system tables yet, in each of its files'
# names behind "mysql" or, from 11 on, "mariadb".
_SYSTEM_TABLES = (
    "_system_tables.sql",
    "_performance_tables.sql",
    "_system_tables_data.sql",
)

Option = str | int | Path


class ServerError(RuntimeError):
    """The database server did not do what a test wants; the text has the end of its log."""


@dataclass(frozen=True)
class Program:
    """A database server that can be run; `command` says where its files are too."""

    command: tuple[str, ...]
    mariadb: bool
    version: str

    def __str__(self) -> str:
        return f"{'MariaDB' if self.mariadb else 'MySQL'} {self.version}"


@functools.cache
def find_program() -> Program | str:
    """The database server of this machine, or a sentence that says why there is none."""
    chosen = os.environ.get("DITTOFS_TEST_MYSQLD", "")
    if chosen:
        path = Path(chosen).resolve()
        if path.is_dir():
            return _in_folder(path)
        return _as_program((str(path),), path.parent.parent)
    found = shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not found:
        return "there is no mariadbd: apt-get install mariadb-server-core"
    return _as_program((found,), Path("/usr"))


def program() -> Program:
    """The database server of this machine; skips the test that asks where there is none.

    Raises:
        ServerError: the one that `$DITTOFS_TEST_MYSQLD` asks for is none.
    """
    found = find_program()
    if isinstance(found, str) and os.environ.get("DITTOFS_TEST_MYSQLD"):
        raise ServerError(found)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def _in_folder(root: Path) -> Program | str:
    """The server in the folder of another system, run by that system's own loader: no chroot."""
    loaders = sorted(root.glob("usr/lib*/ld-linux*.so.*"))
    servers = [root / "usr/sbin" / name for name in ("mysqld", "mariadbd")]
    server = next((path for path in servers if path.exists()), None)
    if not loaders or not server:
        return f"there is no server in {root}"
    libraries = ":".join(str(path) for path in sorted(root.glob("usr/lib/*-linux-gnu*")))
    return _as_program((str(loaders[0]), "--library-path", libraries, str(server)), root / "usr")


def _as_program(command: tuple[str, ...], base: Path) -> Program | str:
    try:
        said = subprocess.run(
            [*command, "--no-defaults", "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{command[-1]} cannot be run: {error}"
    words = said.split()
    if "Ver" not in words:
        return f"{command[-1]} --version says {said.strip()!r}"
    version = words[words.index("Ver") + 1]
    return Program(
        (*command, "--no-defaults", f"--basedir={base}"),
        "MariaDB" in version,
        version,
    )


class DatabaseServer:
    """One server on 127.0.0.1 with a data directory of its own; a context manager that starts it.

    Args:
        directory: an empty folder, or one that is to be made.
        size: bytes of the file system that the data is on; the process has to be in a mount
            namespace (tests/namespaces.py). Without it the data is simply in `directory`.
        durable: whether a commit is on the disk before it is answered.
        options: further options of the server, with underscores: `max_allowed_packet=2**20`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        size: int | None = None,
        durable: bool = False,
        **options: Option,
    ):
        self.program = program()
        self.directory = directory
        self.port = free_port()
        self.options: dict[str, Option] = {**self._defaults(durable=durable), **options}
        self._data = directory / "data"
        self._size = size
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def log(self) -> Path:
        """What the server wrote; it is added to at each start."""
        return self.directory / "log"

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended since, by itself or otherwise."""
        return self._process is not None and self._process.poll() is None

    def start(self, **options: Option) -> None:
        """Start the server, with further options from now on, and wait until it answers."""
        if not self._data.exists():
            self._prepare()
        self.options.update(options)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.program.command, *_as_arguments(self.options | _as_user())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._data,
            )
        self._wait()

    def stop(self) -> None:
        """Stop it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does, but for what the system has in its memory."""
        self._end(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send it a signal, such as SIGSTOP and SIGCONT."""
        assert self._process
        self._process.send_signal(number)

    def restart(self, **options: Option) -> None:
        """Stop it and start it, with further options from now on."""
        self.stop()
        self.start(**options)

    def close(self) -> None:
        """Stop it; what it had on a file system of its own is gone."""
        if self._process:
            self.kill()
        if self._size is not None and self._data.is_mount():
            namespaces.unmount(self._data)

    def execute(self, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Execute statements as an administrator and give the rows of the last one."""
        with self.connection(database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    @contextlib.contextmanager
    def connection(self, database: str | None = None) -> Iterator["pymysql.Connection[Any]"]:
        """An administrator's connection; each statement commits."""
        connection = pymysql.connect(
            host=HOST,
            port=self.port,
            user=_ADMIN,
            database=database,
            autocommit=True,
            connect_timeout=5,
        )
        try:
            yield connection
        finally:
            with contextlib.suppress(pymysql.MySQLError):
                connection.close()

    def create(
        self, database: str, user: str, password: str, rights: str = RIGHTS, host: str = "%"
    ) -> None:
        """Create a database where it is missing, and a user with these rights on it alone."""
        account = f"'{user}'@'{host}'"
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{database}`")
            cursor.execute(f"DROP USER IF EXISTS {account}")
            cursor.execute(f"CREATE USER {account} IDENTIFIED BY {connection.escape(password)}")
            if rights:
                cursor.execute(f"GRANT {rights} ON `{database}`.* TO {account}")

    def set_global(self, name: str, value: str | int) -> None:
        """Set a global variable; an administrator may write in spite of `read_only`."""
        self.execute(f"SET GLOBAL {name} = {value}")

    def kill_connections(self, user: str) -> None:
        """End all the connections of a user, as an administrator may."""
        found = self.execute(
            f"SELECT id FROM information_schema.processlist WHERE user = '{user}'"  # noqa: S608  # the name is the test's own
        )
        for (number,) in found:
            with contextlib.suppress(pymysql.MySQLError):
                self.execute(f"KILL {number}")

    def fill_disk(self, left: int = 0) -> None:
        """Fill the file system that the data is on, but for `left` bytes."""
        assert self._size is not None
        with (self._data / "ballast").open("wb") as ballast:
            while True:
                system = os.statvfs(self._data)
                more = system.f_bavail * system.f_frsize - left
                if more <= 0:
                    return
                # The server uses some meanwhile.
                with contextlib.suppress(OSError):
                    start = ballast.seek(0, os.SEEK_END)
                    os.posix_fallocate(ballast.fileno(), start, max(more // 2, system.f_frsize))

    def free_disk(self) -> None:
        """Undo `fill_disk`."""
        (self._data / "ballast").unlink()

    def _defaults(self, *, durable: bool) -> dict[str, Option]:
        options: dict[str, Option] = {
            "port": self.port,
            "bind_address": HOST,
            "skip_name_resolve": 1,
            "datadir": self.directory / "data",
            "tmpdir": self.directory / "tmp",
            # Relative to the data: a socket's path is at most 107 bytes long.
            "socket": "socket",
            "pid_file": "pid",
            "init_file": self.directory / "init.sql",
            "secure_file_priv": "",
            "innodb_buffer_pool_size": "96M",
            "innodb_flush_log_at_trx_commit": 1 if durable else 2,
        }
        if self.program.mariadb:
            return {**options, "innodb_log_file_size": "48M"}
        return {
            **options,
            "innodb_redo_log_capacity": "96M",
            "mysqlx": 0,
            "log_bin": 0,
            "sync_binlog": 1 if durable else 0,
            "log_error_verbosity": 2,
        }

    def _prepare(self) -> None:
        self._data.mkdir(parents=True)
        (self.directory / "tmp").mkdir()
        if self._size is not None:
            namespaces.mount_tmpfs(self._data, self._size)
        (self.directory / "init.sql").write_text(
            f"CREATE USER IF NOT EXISTS '{_ADMIN}'@'{HOST}' IDENTIFIED BY '';\n"
            f"GRANT ALL ON *.* TO '{_ADMIN}'@'{HOST}' WITH GRANT OPTION;\n",
            encoding="ascii",
        )
        # On a disk that is to be full, what the server has is its own.
        sparse = "always" if self._size is None else "never"
        subprocess.run(
            ["cp", "-a", f"--sparse={sparse}", f"{_template(self.program)}/.", self._data],
            check=True,
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            assert self._process
            try:
                self.execute("DO 0")
            except pymysql.MySQLError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._end(signal.SIGKILL)
                    raise ServerError(f"{error}\n{self.log.read_text()[-3000:]}") from error
                time.sleep(0.02)
            else:
                return

    def _end(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _as_user() -> dict[str, Option]:
    """Both servers refuse to run as root unless they are told to.

    Asked at each start: whoever enters a user namespace is root from then on.
    """
    return {"user": "root"} if os.geteuid() == 0 else {}


def _as_arguments(options: Mapping[str, Option]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def _template(found: Program) -> Path:
    """A data directory with the system tables, made once for each version of each server."""
    digest = hashlib.sha256("\n".join(found.command).encode()).hexdigest()[:8]
    name = f"{found.version}-{digest}"
    shared = ROOT / ".cache/databases" / name
    try:
        _make_template(found, shared)
        # Somebody else's: of root, say, who ran the tests in this checkout before.
        (shared / "ibdata1").open("rb").close()
    except PermissionError:
        own = folders.of_this_run() / "databases" / name
        _make_template(found, own)
        return own
    return shared


def _make_template(found: Program, path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as folder:
        made = Path(folder) / "data"
        made.mkdir()
        options: dict[str, Option] = {"datadir": made, **_as_user()}
        if found.mariadb:
            options["innodb_log_file_size"] = "10M"
            _run_setup([*found.command, "--bootstrap", *_as_arguments(options)], _sql(found))
        else:
            options["innodb_redo_log_capacity"] = "8M"
            _run_setup([*found.command, "--initialize-insecure", *_as_arguments(options)], b"")
        with contextlib.suppress(FileExistsError, OSError):  # another run was quicker
            made.rename(path)


def _sql(found: Program) -> bytes:
    parts = [b"CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n"]
    share = _share(found)
    for name in _SYSTEM_TABLES:
        try:
            parts.append(next(share.glob(f"m*{name}")).read_bytes())
        except StopIteration:
            raise ServerError(f"{found} has no m*{name} in {share}") from None
    return b"".join(parts)


def _share(found: Program) -> Path:
    """Where the server has its own files, as it says itself."""
    command = [*found.command, *_as_arguments(_as_user()), "--help", "--verbose"]
    said = _run_setup(command, b"").decode(errors="replace")
    for line in said.splitlines():
        name, _, value = line.partition(" ")
        if name == "character-sets-dir":
            return Path(value.strip()).parent
    raise ServerError(f"{found} does not say where its files are")


def _run_setup(command: list[str], text: bytes) -> bytes:
    """Run the server until it ends by itself; what it printed."""
    done = subprocess.run(
        command, input=text, capture_output=True, timeout=_SETUP_TIMEOUT, check=False
    )
    if done.returncode:
        raise ServerError((done.stdout + done.stderr).decode(errors="replace")[-3000:])
    return done.stdout


class TcpProxy:
    """Stands between clients and a server on 127.0.0.1, and does what networks do to them.

    A context manager that ends it; `sent` is how many bytes went to the server.
    """

    def __init__(self, target: int):
        self.target = target
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self.sent = 0
        self._left: int | None = None
        self._deaf = False
        self._refusing = False
        self._closed = False
        self._start(self._listen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> int:
        """Cut all connections and say how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _shut(end)
        return len(pairs)

    def cut_after(self, count: int) -> None:
        """Cut all connections when `count` more bytes have gone to the server."""
        with self._lock:
            self._left = count

    def lose_answer_after(self, count: int) -> None:
        """Pass `count` more bytes on to the server, and cut instead of passing on its answer."""
        with self._lock:
            self._left, self._deaf = count, True

    def pause(self) -> None:
        """Let nothing through, as a network that is split does."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let through what waited."""
        self._flowing.set()

    def refuse(self) -> None:
        """Cut all connections and take no more."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Undo `refuse`."""
        self._refusing = False

    def close(self) -> None:
        """End it."""
        self._closed = True
        _shut(self._listener)
        self._listener.close()
        self.resume()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            try:
                server = socket.create_connection((HOST, self.target), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.append((client, server))
            self._start(self._forward, client, server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError, ValueError):
            while self._pass_on(client, server):
                pass
        with self._lock:
            self._pairs = [pair for pair in self._pairs if pair[0] is not client]

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Pass on what came from either side; whether more may come."""
        ready = select.select([client, server], [], [])[0]
        self._flowing.wait()
        for source in ready:
            data = source.recv(2**16)
            if not data:
                return False
            if source is server:
                if self._answer_is_lost():
                    self.cut()
                    return False
                client.sendall(data)
                continue
            allowed = self._allowed(len(data))
            server.sendall(data[:allowed])
            if allowed < len(data):
                self.cut()
                return False
        return True

    def _answer_is_lost(self) -> bool:
        with self._lock:
            lost = self._deaf and self._left == 0
            if lost:
                self._left, self._deaf = None, False
            return lost

    def _allowed(self, size: int) -> int:
        with self._lock:
            self.sent += size
            if self._left is None:
                return size
            allowed = min(size, self._left)
            self._left -= allowed
            if allowed < size:
                self._left = None
            return allowed


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
