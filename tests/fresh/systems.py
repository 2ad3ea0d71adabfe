"""Fresh systems in folders: made by debootstrap once, copied for each row.

A copy gets what a user of this machine would need there: its name servers, certificates, and where
apt and pip have packages from. Nothing else of the machine is in it.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "fresh"
ENTER = Path(__file__).with_name("enter.sh")
# Started programs die with the one that started them, and whatever they started with them.
DIES = ("setpriv", "--pdeathsig", "KILL")
CONFINED = (*DIES, "unshare", "--mount", "--pid", "--fork", "--kill-child")
# The README says that these are needed to get and to start the project.
INCLUDED = "ca-certificates,git,make"
_ENVIRONMENT = re.compile(
    r"(https?|ftp|all|no)_proxy|(PIP|UV)_.*(INDEX|TIMEOUT|CERT|TLS|TRUSTED_HOST).*|"
    r"SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|GIT_SSL_CAINFO|NODE_EXTRA_CA_CERTS",
    re.IGNORECASE,
)
_APT = re.compile(r"Acquire::(https?|ftp|Check-|Retries|Force)")
_CERTIFICATES = "usr/local/share/ca-certificates"


class SystemsError(Exception):
    """A system cannot be made; the text says why."""


def base(release: str, log: Path) -> Path:
    """The folder with an untouched system, made where there is none yet.

    Raises:
        SystemsError: debootstrap failed.
    """
    folder = CACHE / "base" / release
    if folder.exists():
        return folder
    making = folder.with_name(f"{release}.making")
    remove(making)
    making.mkdir(parents=True)
    command = [*CONFINED, "debootstrap", "--variant=minbase", f"--include={INCLUDED}"]
    # All of Debian's releases are made alike, also those this debootstrap has not heard of.
    command += [release, str(making), _mirror(), "sid"]
    with log.open("wb") as output:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        ).returncode
    if code != 0:
        raise SystemsError(f"debootstrap could not make {release}, see {log}")
    shutil.rmtree(making / "var/lib/apt/lists")
    making.rename(folder)
    return folder


def copy(release: str, folder: Path) -> None:
    """A system for one row in `folder`, with what a user of this machine has."""
    remove(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*DIES, "cp", "-a", CACHE / "base" / release, folder], check=True)
    (folder / "fresh").mkdir()
    (folder / "fresh/environment").write_text("".join(_environment()))
    if _mirror():
        (folder / "etc/apt/sources.list").write_text("".join(_sources(release)))
    (folder / "etc/apt/apt.conf.d/90machine").write_text("".join(_apt()))
    for name in ("etc/resolv.conf", "etc/hosts", "etc/pip.conf"):
        if Path("/", name).exists():
            (folder / name).unlink(missing_ok=True)
            shutil.copy(Path("/", name), folder / name)
    if Path("/", _CERTIFICATES).is_dir():
        shutil.copytree(Path("/", _CERTIFICATES), folder / _CERTIFICATES, dirs_exist_ok=True)


def clone_into(folder: Path) -> None:
    """Put the checkout's commits there, for `git clone file:///fresh/project.git`."""
    target = folder / "fresh/project.git"
    command = ["git", "-c", "advice.detachedHead=false", "clone", "-q", "--bare", "--no-local"]
    subprocess.run([*command, str(ROOT), str(target)], check=True)


def put_python(folder: Path, version: str) -> bool:
    """Put a version of Python that this machine has beside the system's own; False without one."""
    found = sorted(
        Path(os.environ.get("PYENV_ROOT", "/nonexistent")).glob(f"versions/{version}.*")
    )
    if not found:
        return False
    # Where it is on this machine, because its programs name that place.
    target = folder / found[-1].relative_to("/")
    target.parent.mkdir(parents=True)
    subprocess.run([*DIES, "cp", "-a", found[-1], target], check=True)
    with (folder / "fresh/environment").open("a") as file:
        file.write(f"export PATH={shlex.quote(str(found[-1] / 'bin'))}:$PATH\n")
    return True


def remove(folder: Path) -> None:
    """Remove a system; nothing is mounted in it outside the namespaces of its processes."""
    if folder.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


def _mirrors() -> dict[str, str]:
    """Where this machine's apt has Debian's `main` from, by the release's name."""
    asked = [
        "apt-get",
        "indextargets",
        "--format",
        "$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)",
    ]
    try:
        said = subprocess.run(
            [*asked, "Created-By: Packages"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    rows = [line.split() for line in said.splitlines()]
    return {row[1]: row[3] for row in rows if len(row) == 4 and row[::2] == ["Debian", "main"]}


def _mirror() -> str:
    """Where to take Debian from; "" on another distribution: from where debootstrap would."""
    return next(iter(_mirrors().values()), "")


def _sources(release: str) -> Iterator[str]:
    """The lines of sources.list, for a release from the places that this machine's apt uses."""
    yield f"deb {_mirror()} {release} main\n"
    for name, place in _mirrors().items():
        if name.endswith("-security") and release in {"bookworm", "trixie"}:
            yield f"deb {place} {release}-security main\n"


def _apt() -> Iterator[str]:
    """How this machine's apt reaches its packages."""
    said = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    for line in said.stdout.splitlines():
        if _APT.match(line):
            yield line + "\n"


def _environment() -> Iterator[str]:
    """What this machine's environment says about proxies, certificates and package indexes."""
    for name, value in sorted(os.environ.items()):
        if _ENVIRONMENT.fullmatch(name):
            yield f"export {name}={shlex.quote(value)}\n"
