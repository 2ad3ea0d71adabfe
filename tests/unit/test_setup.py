"""What `make setup` does and says where something is missing; apt and sudo are scripts here."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    *("awk", "bash", "cat", "chmod", "cmp", "cut", "env", "grep", "mkdir", "mktemp", "nice", "rm"),
    *("sort", "tail"),
)
INSTALLS = """
echo "$*" >>"$MACHINE/apt.log"
case "$*" in *install*)
    for package in "$@"; do
        if [ "$package" = "$UNKNOWN" ]; then echo "E: Unable to locate package"; exit 100; fi
    done
    for package in "$@"; do printf '#!/bin/sh\\n' >"$MACHINE/bin/has-$package"; done
    chmod +x "$MACHINE"/bin/has-*
esac
"""


class Machine:
    """A machine that has nothing but what a test puts into its `bin`."""

    def __init__(self, root: Path):
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.checkout = root / "a checkout"
        shutil.copytree(ROOT / "scripts", self.checkout / "scripts")
        (self.checkout / "requirements.txt").write_text("anything\n")
        self.environment = {"PATH": str(self.bin), "MACHINE": str(root), "UNKNOWN": ""}
        for name in TOOLS:
            found = shutil.which(name)
            assert found
            (self.bin / name).symlink_to(found)
        self.put("id", 'echo "${USER_ID:-0}"')
        self.put("sleep", ":")

    def put(self, name: str, script: str) -> None:
        """Put a program there."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def put_python(self, name: str, version: str, script: str = "exit 1") -> None:
        """A Python that says where it is if it is new enough, and does `script` for all else."""
        minor = version.split(".")[1]
        self.put(
            name,
            f'case "$*" in *sys.executable*) [ {minor} -ge "${{3#3.}}" ] && '
            f'echo "$MACHINE/bin/{name}" ;;\n'
            f"--version) echo Python {version} ;;\n*) {script} ;;\nesac",
        )

    def run(
        self, script: str, *words: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of the project there, in a folder that has nothing but the scripts."""
        return subprocess.run(
            [str(self.bin / "bash"), f"scripts/{script}", *words],
            cwd=self.checkout,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def install(self, *packages: str, **environment: str) -> str:
        """Have the packages installed and return what is said about it; that is no error."""
        words = [
            word for name in packages for word in (name, f"no {name}s", f"command -v has-{name}")
        ]
        done = self.run("apt-install.sh", *words, **environment)
        assert (done.returncode, done.stdout) == (0, "")
        return done.stderr

    @property
    def asked(self) -> list[str]:
        """What apt-get was asked, without its options."""
        lines = (self.root / "apt.log").read_text(encoding="utf-8").splitlines()
        return [line.split("Timeout=20 ")[-1] for line in lines]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_nothing_is_asked_of_apt_where_everything_is_there(machine):
    machine.put("apt-get", INSTALLS)
    machine.put("has-this", "")
    assert machine.install("this") == ""
    assert not (machine.root / "apt.log").exists()


def test_all_that_is_missing_is_installed_at_once(machine):
    machine.put("apt-get", INSTALLS)
    said = machine.install("this", "that")
    assert said == "setup: installing the system packages this that\n"
    assert machine.asked == ["install -y --no-install-recommends this that"]


def test_the_lists_are_fetched_where_a_package_is_not_known_yet(machine):
    machine.put(
        "apt-get",
        f'[ -e "$MACHINE/lists" ] || case "$*" in *install*) exit 100 ;;\n'
        f'*) : >"$MACHINE/lists" ;; esac\n{INSTALLS}',
    )
    assert machine.install("this") == "setup: installing the system packages this\n"
    assert machine.asked == ["update", "install -y --no-install-recommends this"]


def test_one_package_that_cannot_be_had_keeps_no_other_away(machine):
    machine.put("apt-get", INSTALLS)
    said = machine.install("this", "unknown", "that", UNKNOWN="unknown")
    assert "missing: unknown (no unknowns)" in said
    assert "this (" not in said
    assert "that (" not in said
    assert said.endswith("to install it: apt-get update && apt-get install unknown\n")


@pytest.mark.parametrize(
    ("sudo", "why", "command"),
    [
        (None, "only root may, and there is no sudo", "as root, apt-get install this"),
        ("exit 1", "sudo wants a password", "sudo apt-get update && sudo apt-get install this"),
    ],
)
def test_a_user_who_may_not_install_is_told_what_to_ask_for(machine, sudo, why, command):
    machine.put("apt-get", INSTALLS)
    if sudo:
        machine.put("sudo", sudo)
    said = machine.install("this", USER_ID="1000")
    assert why in said
    assert said.endswith(f"setup: to install it: {command}\n")
    assert not (machine.root / "apt.log").exists()


def test_a_user_with_sudo_installs_with_it(machine):
    machine.put("apt-get", INSTALLS)
    machine.put("sudo", 'shift; [ "$1" = true ] || exec "$@"')
    assert machine.install("this", USER_ID="1000").count("\n") == 1


def test_a_machine_without_apt_is_told(machine):
    assert "there is no apt-get here" in machine.install("this")


def test_no_network_is_said_and_no_package_is_tried_alone(machine):
    machine.put(
        "apt-get",
        'echo "$*" >>"$MACHINE/apt.log"\n'
        'case "$*" in *install*) echo "E: Unable to locate package"; exit 100 ;; esac\n'
        'echo "W: Failed to fetch it  Temporary failure resolving it"',
    )
    said = machine.install("this", "that")
    assert "apt-get does not reach its package servers" in said
    assert said.count("missing: ") == 2
    assert len(machine.asked) == 3


def test_another_apt_is_waited_for(machine):
    machine.put(
        "apt-get",
        'if [ ! -e "$MACHINE/free" ]; then : >"$MACHINE/free"; echo "E: Could not get lock"; '
        f"exit 100; fi\n{INSTALLS}",
    )
    assert machine.install("this").splitlines() == [
        "setup: installing the system packages this",
        "setup: another program uses apt; waiting up to two minutes for it",
    ]


def test_another_apt_that_does_not_end_is_not_waited_for_forever(machine):
    machine.put("apt-get", 'echo "E: Could not get lock"; exit 100')
    said = machine.install("this")
    assert "setup: not everything could be installed: another program uses apt" in said
    assert said.endswith("when that has ended: apt-get update && apt-get install this\n")


def test_a_python_that_is_too_old_is_said_and_a_newer_one_of_the_system_is_taken(machine):
    machine.put_python("python3", "3.10.12")
    machine.put("bwrap", "")
    machine.put("mariadbd", "")
    machine.put("apt-cache", "printf '%s - Python\\n' python3.9 python3.10 python3.12 python3.11")
    machine.put("apt-get", INSTALLS)
    said = machine.run("system-packages.sh", "3.11").stderr
    assert "setup: Python 3.10.12 is too old: python3.11 is taken\n" in said
    assert machine.asked[-1].endswith(" python3.11 python3.11-venv")


def test_the_module_for_environments_is_the_one_of_the_python_that_is_there(machine):
    machine.put_python(
        "python3",
        "3.13.1",
        'case "$*" in *venv*format*) echo python3.13-venv ;; *) exit 1 ;; esac',
    )
    machine.put("bwrap", "")
    machine.put("mariadbd", "")
    machine.put("apt-get", INSTALLS)
    machine.run("system-packages.sh", "3.11")
    assert machine.asked[0].endswith(" python3.13-venv")


@pytest.mark.parametrize("can", ["uv", "ensurepip", "-m pip"])
def test_no_package_is_asked_for_where_environments_can_be_made(machine, can):
    machine.put_python(
        "python3", "3.13.1", f'case "$*" in *format*|*"{can}"*) ;; *) exit 1 ;; esac'
    )
    for name in ("bwrap", "mariadbd", *(["uv"] if can == "uv" else [])):
        machine.put(name, "")
    machine.put("apt-get", INSTALLS)
    done = machine.run("system-packages.sh", "3.11")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_python_at_all_is_one_line(machine):
    done = machine.run("venv.sh", ".venv", "3.11", "requirements.txt")
    assert done.returncode == 1
    assert done.stderr == "setup: Python 3.11 or newer is needed and was not found\n"


def test_a_python_without_venv_and_pip_is_said(machine):
    machine.put_python("python3", "3.12.1")
    done = machine.run("venv.sh", ".venv", "3.11", "requirements.txt")
    assert done.returncode == 1
    assert "has neither venv nor pip" in done.stderr


def test_a_package_index_that_is_not_reached_is_said(machine):
    machine.put_python(
        "python3",
        "3.12.1",
        'case "$*" in *"pip install"*) echo "WARNING: no"; '
        'echo "ERROR: no uv"; exit 1 ;; *ensurepip*) exit 1 ;; esac',
    )
    done = machine.run("venv.sh", ".venv", "3.11", "requirements.txt")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1] == "ERROR: no uv"
    assert "with a connection to it, try again: make setup" in done.stderr


def test_a_home_that_cannot_be_written_to_is_not_needed(machine):
    machine.put_python("python3", "3.12.1")
    machine.put("cp", ":")
    machine.put("uv", 'echo "$UV_CACHE_DIR" >"$MACHINE/cache"')
    done = machine.run("venv.sh", ".venv", "3.11", "requirements.txt", HOME="/proc/nobody")
    assert done.returncode == 0, done.stderr
    assert (machine.root / "cache").read_text().endswith("/a checkout/.cache/uv\n")


@pytest.fixture
def fit(machine):
    """The folder that is taken where none is asked for."""
    found = machine.run("tmpdir.sh").stdout.strip()
    assert os.access(found, os.W_OK)
    return found


def test_a_temporary_folder_is_taken_as_it_is_where_it_is_fit(machine, fit):
    done = machine.run("tmpdir.sh", TMPDIR=fit)
    assert (done.stdout, done.stderr) == (f"{fit}\n", "")


@pytest.mark.parametrize("unfit", ["/nonexistent", "/proc", f"/{'too-long/' * 6}"])
def test_a_temporary_folder_that_is_not_fit_is_replaced_and_that_is_said(machine, fit, unfit):
    done = machine.run("tmpdir.sh", TMPDIR=unfit)
    assert done.stdout == f"{fit}\n"
    assert done.stderr == f"setup: {unfit} is not fit for temporary programs: {fit} is used\n"


def test_a_temporary_folder_whose_name_would_end_a_word_is_replaced(machine, fit):
    with tempfile.TemporaryDirectory(dir=fit, prefix="a b") as unfit:
        assert machine.run("tmpdir.sh", TMPDIR=unfit).stdout == f"{fit}\n"


def test_a_temporary_folder_where_nothing_can_be_started_is_replaced(fit):
    with tempfile.TemporaryDirectory(dir=fit) as unfit:
        script = f"mount -t tmpfs -o noexec none {unfit} && exec bash scripts/tmpdir.sh"
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "bash", "-c", script],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": unfit},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    assert done.stdout == f"{fit}\n"
    assert "is not fit" in done.stderr


def test_scripts_are_bash_that_parses():
    for path in (ROOT / "scripts").iterdir():
        subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize(
    ("said", "minimum"),
    [
        ("functional: namespaces: everything", 95),
        ("functional: plain: no namespaces", 0),
        ("SKIPPED [72] tests/mysql: there is no mariadbd", 0),
    ],
)
def test_coverage_is_judged_where_every_test_can_run(machine, said, minimum):
    machine.put(
        "coverage", f'case "$1" in run) echo "{said}"; echo 1 passed ;; *) echo "$*" ;; esac'
    )
    programs = machine.checkout / ".venv/bin"
    programs.mkdir(parents=True)
    (machine.bin / "coverage").rename(programs / "coverage")
    done = machine.run("test.sh", "95", "tests/unit", "tests/mysql")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"report --fail-under={minimum}\n" in done.stdout
    assert done.stdout.endswith("1 passed\n1 passed\n")
