"""Which bed the tests and the demo run in, and the ports that programs have there.

The better one has containers (bubblewrap), volumes that can be full and a network of its own. The
plain one needs nothing that a machine could refuse: containers are folders, ports are free ones of
this machine, and processes are simply started and ended. What cannot be shown there is skipped.
"""

import functools
import shutil
import subprocess
import sys
from dataclasses import dataclass

from tests import namespaces
from tests.ports import free_port

API, NFS, SMB, METRICS = 8080, 12049, 12445, 9090
MIRROR, BACKUP = 9091, 9092
_TRY = ("bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--", "true")


@dataclass(frozen=True)
class Bed:
    """What this machine allows; `reason` and `remedy` say why it is not more."""

    contained: bool
    reason: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        if self.contained:
            return "namespaces: containers, volumes and a network of its own"
        return (
            f"plain: folders and free ports instead of containers, because {self.reason}. "
            f"For the better one: {self.remedy}"
        )


@functools.cache
def bed() -> Bed:
    """The best one that this machine allows; the first call enters it, see `enter`."""
    if reason := enter():
        return Bed(contained=False, reason=reason, remedy=_remedy(reason))
    if not shutil.which("bwrap"):
        return Bed(
            contained=False,
            reason="bubblewrap is not installed",
            remedy="apt-get install bubblewrap",
        )
    done = subprocess.run(_TRY, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"it ends with {done.returncode}").splitlines()[-1]
        return Bed(
            contained=False, reason=f"bubblewrap cannot run ({said})", remedy=_remedy("unshare")
        )
    return Bed(contained=True)


@functools.cache
def enter() -> str:
    """Enter namespaces where this machine allows them; why it does not, or "".

    Call it from the main thread before other threads exist.
    """
    try:
        namespaces.enter()
    except namespaces.NamespaceError as error:
        return str(error)
    return ""


def enter_or_exit() -> None:
    """Enter namespaces, for a command that cannot do without them.

    Raises:
        SystemExit: this machine does not allow it; the text says so, and what would help.
    """
    if reason := enter():
        helps = _remedy(reason)
        sys.exit(f"namespaces are needed and refused here: {reason}. What helps: {helps}")


@functools.cache
def port(usual: int) -> int:
    """The port for what has this one in a pod: a free one where the network is not our own."""
    return usual if namespaces.entered() else free_port()


def _remedy(reason: str) -> str:
    if "DITTOFS_TEST_BED" in reason:
        return "unset DITTOFS_TEST_BED"
    if reason.startswith("mount"):
        return "run it as a user of the system itself, not in a chroot"
    return (
        "run it as root, or where users may make namespaces (outside of an unprivileged "
        "container; on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
    )
