"""One row: a fresh system, the two commands in it, and what they said."""

import dataclasses
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fresh import systems
from tests.fresh.rows import PACKAGES, USER, Row

LOGS = systems.CACHE / "logs"
_COUNTS = re.compile(r"=* ?(\d+ \w+(?:, \d+ \w+)*) in [\d.]+s")
_VERSIONS = re.compile(r"fresh: (Python|MariaDB) (\S+)")
_LIMITS = {"prepare": 900.0, "demo": 1200.0, "test": 3600.0}

# The first process of the system waits for all that lose their parent, as an init does.
_PREPARE = """
set -e
export DEBIAN_FRONTEND=noninteractive
. /fresh/environment
update-ca-certificates >/dev/null 2>&1
useradd --create-home --shell /bin/bash {user} 2>/dev/null || true
chown -R {account}: /fresh
{prepare}
"""
_INSTALL = """
apt-get -qq update
apt-get -qq install -y --no-install-recommends {packages}
rm -rf /var/lib/apt/lists/*
"""
_STEP = """
runuser --login {account} -c "bash /fresh/typed" </dev/null
code=$?
left=$(find /tmp /var/tmp /dev/shm -mindepth 1 -maxdepth 1 -newer /fresh/typed | tr '\\n' ' ')
[ -z "$left" ] || echo "fresh: left behind: $left"
for each in /proc/[0-9]*; do
    [ "$each" = /proc/1 ] || [ ! -s "$each/cmdline" ] ||
        echo "fresh: still running: $(tr '\\0' ' ' <"$each/cmdline")"
done 2>/dev/null
exit "$code"
"""
_TYPED = """
. /fresh/environment
place=$HOME/{folder!r}
[ -d "$place" ] || {{ cd && {git} "$place"; }}
{environment}
cd "$place"
{command}
code=$?
[ -x .venv/bin/python ] && echo "fresh: $(.venv/bin/python --version)"
[ -x /usr/sbin/mariadbd ] &&
    /usr/sbin/mariadbd --no-defaults --version | sed "s/.* Ver /fresh: MariaDB /; s/-.*//"
exit "$code"
"""


@dataclasses.dataclass
class Step:
    """What became of one command: `failed` says why, empty where it passed.

    `first_line` is when the demo said its first word, in seconds; `counts` are those of pytest.
    """

    failed: str = ""
    code: int = 1
    seconds: float = 0.0
    first_line: float | None = None
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    counted: set[str] = dataclasses.field(default_factory=set)

    def __str__(self) -> str:
        passed = f"{self.counts['passed']} passed" if self.counts else "passed"
        return self.failed or passed


@dataclasses.dataclass
class Result:
    """What became of a row; `steps` by `demo` and `test`."""

    row: Row
    log: Path
    steps: dict[str, Step] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: str = ""
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything did what it should."""
        return not self.failed and not any(step.failed for step in self.steps.values())


class Runner:
    """Runs rows; `stop` ends all of them from another thread.

    Args:
        commands: what is typed, by `demo` and `test`.
        say: prints a line.
        steps: which of the commands, in each row that can work; empty: what rows.py says.
        keep: whether the systems stay.
    """

    def __init__(
        self,
        commands: dict[str, str],
        say: Callable[[str], None],
        *,
        steps: tuple[str, ...],
        keep: bool,
    ):
        self.commands = commands
        self.say = say
        self.steps = steps
        self.keep = keep
        self._unmade: dict[str, str] = {}
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """End everything that runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def make(self, release: str) -> None:
        """Make the system that rows are copies of; without it they fail and say why."""
        LOGS.mkdir(parents=True, exist_ok=True)
        try:
            systems.base(release, LOGS / f"{release}.log")
        except systems.SystemsError as error:
            self._unmade[release] = str(error)

    def run(self, row: Row) -> Result:
        """Make the system, type the commands in it, and remove it."""
        result = Result(row, LOGS / f"{row.name}.log", failed=self._unmade.get(row.system, ""))
        if result.failed:
            return result
        folder = systems.CACHE / "rows" / row.name
        try:
            systems.copy(row.system, folder)
            systems.clone_into(folder)
            if row.details.python and not systems.put_python(folder, row.details.python):
                result.skipped = f"this machine has no Python {row.details.python}"
                return result
            self._run(result, folder)
        except (OSError, subprocess.CalledProcessError) as error:
            result.failed = str(error)
        finally:
            if not self.keep:
                systems.remove(folder)
        return result

    def _run(self, result: Result, folder: Path) -> None:
        who = result.row.details
        with result.log.open("w", buffering=1, encoding="utf-8") as log:
            install = _INSTALL.format(packages=PACKAGES) if who.installed else ""
            script = _PREPARE.format(
                user=USER, account=who.user, prepare=f"{install}\n{who.prepare}"
            )
            prepared = self._step(result, folder, "prepare", script, log.write)
            if prepared.failed:
                result.failed = f"not prepared: {prepared.failed}"
                return
            steps = who.steps if who.says or not self.steps else self.steps
            for name in steps:
                command = self.commands[name]
                self.say(f"{result.row.name}: {command}")
                typed = _TYPED.format(
                    folder=who.folder, git=who.git, environment=who.environment, command=command
                )
                (folder / "fresh/typed").write_text(typed)
                step = self._step(result, folder, name, _STEP.format(account=who.user), log.write)
                result.steps[name] = step
                self.say(f"{result.row.name}: {command}: {step} ({step.seconds:.0f} s)")

    def _step(
        self, result: Result, folder: Path, name: str, script: str, write: Callable[[str], object]
    ) -> Step:
        """Run a script as the first process of the system."""
        who = result.row.details
        (folder / "fresh/script").write_text(script)
        entry = "machine" if name == "prepare" else who.entry
        command = [*systems.CONFINED, "--ipc", "--uts"]
        if not who.network and name != "prepare":
            command.append("--net")
        command += ["bash", str(systems.ENTER), entry, str(folder), "bash", "/fresh/script"]
        step = Step()
        traceback = said = False
        write(f"==== {name}\n")
        begin = time.monotonic()
        for line in self._lines(command, _LIMITS[name]):
            write(line)
            step.seconds = time.monotonic() - begin
            if name == "demo" and line.startswith("demo: ") and step.first_line is None:
                step.first_line = step.seconds
            traceback = traceback or line.startswith("Traceback ")
            said = said or (bool(who.says) and who.says in line)
            self._note(result, step, line)
        step.seconds = time.monotonic() - begin
        step.failed = self._judge(step, bool(who.says) and name != "prepare", said, traceback)
        return step

    def _judge(self, step: Step, refuses: bool, said: bool, traceback: bool) -> str:
        if self._stopped:
            return "interrupted"
        if refuses:
            wrong = "passed" if step.code == 0 else "a traceback" if traceback else ""
            return wrong or ("" if said else "does not say what to do")
        return f"exit code {step.code}" if step.code else ""

    def _note(self, result: Result, step: Step, line: str) -> None:
        """Take versions and counts out of a line of output."""
        if re.fullmatch(r"exit code -?\d+\n", line):
            step.code = int(line.removeprefix("exit code "))
        if found := _VERSIONS.match(line):
            result.versions[found[1]] = found[2]
        if (found := _COUNTS.match(line)) and line not in step.counted:
            # The last lines of all sets are printed once more at the end.
            step.counted.add(line)
            for count in found[1].split(", "):
                number, word = count.split()
                step.counts[word] += int(number)

    def _lines(self, command: list[str], limit: float) -> Iterator[str]:
        """What it prints, then a line `exit code N`; it is killed after `limit` seconds."""
        with self._lock:
            if self._stopped:
                return
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C is for this program, which then ends the others.
                start_new_session=True,
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            )
            self._running.add(process)
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            yield from process.stdout
            yield f"exit code {process.wait()}\n"
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)
