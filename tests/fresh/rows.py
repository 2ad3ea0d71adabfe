"""The rows of the table: on which system who types the two commands, and in what circumstances."""

from dataclasses import dataclass
from typing import Literal

# What the README tells an administrator to install for people who may not.
PACKAGES = "git make python3 python3-venv bubblewrap mariadb-server-core"
USER = "somebody"


@dataclass(frozen=True)
class Who:
    """Somebody who types the two commands.

    Attributes:
        title: for the table.
        user: the account; everybody but root is a normal user.
        entry: how the system is entered: `machine` by pivot_root with everything that root may
            do; `chroot`; `container` without any privilege, where no namespace can be made.
        installed: whether an administrator has installed the packages before.
        network: whether there is one.
        prepare: shell commands that root has run in the system before.
        environment: shell commands that are typed before the commands.
        folder: where the checkout is, in the home of the user.
        git: how it is made; the last argument is the folder.
        says: what the commands say where they cannot work; they are to fail then.
        brief: whether the demo says enough, since the tests are run by somebody who is alike.
        python: a version of Python of this machine, first on PATH in there.
    """

    title: str
    user: str = USER
    entry: Literal["machine", "chroot", "container"] = "machine"
    installed: bool = False
    network: bool = True
    prepare: str = ""
    environment: str = ""
    folder: str = "dittofs"
    git: str = "git clone -q file:///fresh/project.git"
    says: str = ""
    brief: bool = False
    python: str = ""

    @property
    def steps(self) -> tuple[str, ...]:
        """The commands that are typed where nobody asks for others."""
        return ("demo",) if self.says or self.brief else ("demo", "test")


_SUDO = (
    "apt-get -qq update && apt-get -qq install -y --no-install-recommends sudo && "
    "rm -rf /var/lib/apt/lists/* && "
)
_ODD = """
umask 077
export LANG=C LC_ALL=C CI=true TMPDIR="$HOME/temporary files"
mkdir -p "$TMPDIR"
export HOME=/nonexistent
"""

EVERYBODY = {
    "root": Who("root", user="root"),
    "sudo": Who(
        "user with sudo",
        prepare=_SUDO + f"echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/fresh",
    ),
    "user": Who("user, packages installed before", installed=True),
    "container": Who("root, container without privileges", user="root", entry="container"),
    "container-user": Who(
        "user, container without privileges", entry="container", installed=True, brief=True
    ),
    "chroot": Who("root, chroot", user="root", entry="chroot", brief=True),
    "odd": Who(
        "user; worktree with spaces, umask 077, no HOME, LANG=C",
        installed=True,
        brief=True,
        environment=_ODD,
        folder="a work tree",
        git=(
            "git clone -q file:///fresh/project.git first && git -C first worktree add -q --detach"
        ),
    ),
    "odd-container": Who(
        "the same, container without privileges",
        entry="container",
        installed=True,
        brief=True,
        environment=_ODD,
        folder="a checkout",
    ),
    "old-python": Who("root, Python 3.10 first on PATH", user="root", python="3.10", brief=True),
    "python3.12": Who("root, Python 3.12 first on PATH", user="root", python="3.12", brief=True),
    "bare": Who("user without sudo, nothing installed", says="apt-get install"),
    "password": Who(
        "user, sudo asks for a password",
        prepare=_SUDO + f"echo '{USER} ALL=(ALL) ALL' >/etc/sudoers.d/fresh",
        says="apt-get install",
    ),
    "offline": Who("root without a network", user="root", network=False, says="apt-get install"),
    "no-index": Who(
        "user without a network, packages installed before",
        installed=True,
        network=False,
        says="package index",
    ),
}

SYSTEMS = ("bookworm", "trixie", "forky")
# What a plain `make fresh` runs.
USUAL = (
    *("bookworm-root", "bookworm-sudo", "bookworm-user"),
    *("bookworm-container", "bookworm-container-user", "bookworm-chroot", "bookworm-old-python"),
    *("trixie-root", "trixie-sudo", "trixie-user", "trixie-odd"),
    *("trixie-container", "trixie-container-user"),
    "forky-root",
    *("bookworm-bare", "bookworm-password", "bookworm-offline", "bookworm-no-index"),
)


@dataclass(frozen=True)
class Row:
    """One row: a system by the name of its release, and who types there."""

    system: str
    who: str

    @property
    def name(self) -> str:
        """What `ROWS=` takes."""
        return f"{self.system}-{self.who}"

    @property
    def details(self) -> Who:
        """Who it is."""
        return EVERYBODY[self.who]


def parse(name: str) -> Row:
    """The row of a name.

    Raises:
        ValueError: there is none; the text names those there are.
    """
    system, _, who = name.partition("-")
    if system not in SYSTEMS or who not in EVERYBODY:
        raise ValueError(
            f"there is no row {name!r}: it is one of {', '.join(SYSTEMS)}, then -, then one of "
            f"{', '.join(EVERYBODY)}"
        )
    return Row(system, who)
