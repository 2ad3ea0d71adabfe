"""A network and mount namespace of its own for the process that runs the tests.

Inside, the only interface is loopback, so a server under test may keep its real ports and listen
"on all interfaces" without being seen from outside, and file systems mounted for a test go away
with the process. Works as root, and as any user where unprivileged user namespaces are allowed.
`DITTOFS_TEST_BED=plain` does without them, as a machine does that allows none.
"""

import ctypes
import errno
import fcntl
import os
import re
import socket
import struct
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_RDONLY = 1
MS_REMOUNT = 32
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

_libc = ctypes.CDLL(None, use_errno=True)
_entered = False
_refused: str | None = None


class NamespaceError(RuntimeError):
    """The kernel or a policy does not allow namespaces here; the text says which call failed."""


def enter() -> None:
    """Move the calling process (and what it starts later) into namespaces of its own; idempotent.

    Call it from the main thread before other threads exist. Where it is not possible the process
    is as it was.

    Raises:
        NamespaceError: this machine does not allow it.
    """
    global _entered, _refused  # noqa: PLW0603  # a process has one set of namespaces, see below
    if _entered:
        return
    if _refused is None:
        _refused = _try()
    if _refused:
        raise NamespaceError(_refused)
    _enter()
    _entered = True


def entered() -> bool:
    """Whether this process is in namespaces of its own."""
    return _entered


def _try() -> str:
    """Why they cannot be entered, or "": a process of its own tries, nothing could be undone."""
    if os.environ.get("DITTOFS_TEST_BED") == "plain":
        return "DITTOFS_TEST_BED=plain asks for none"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _enter()
        except BaseException as error:  # noqa: BLE001  # nothing of this process may go on
            os.write(writing, str(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as said:  # noqa: PTH123  # a descriptor
        text = said.read().decode(errors="replace")
    _, code = os.waitpid(child, 0)
    return text or ("it ends the process that tries" if code else "")


def _enter() -> None:
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | CLONE_NEWNET
    if uid != 0:
        flags |= CLONE_NEWUSER
    _check(_libc.unshare(flags), "unshare")
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")
    _raise_loopback()


def mount_tmpfs(path: Path, size_bytes: int) -> None:
    """Mount an empty file system of `size_bytes` at `path`; it is full when they are used up."""
    options = f"size={size_bytes},mode=0775".encode()
    _check(_libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, options), f"mount {path}")


def remount(path: Path, *, read_only: bool) -> None:
    """Make the whole file system at `path` read-only, or writable again."""
    flags = MS_REMOUNT | (MS_RDONLY if read_only else 0)
    _check(_libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, None), f"remount {path}")


def unmount(path: Path) -> None:
    """Unmount what is mounted at `path`, also while something still uses it."""
    mnt_detach = 2
    _check(_libc.umount2(os.fsencode(path), mnt_detach), f"umount {path}")


def mounted_below(folder: Path) -> list[Path]:
    """What is mounted at a folder or below it, the innermost first."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    # Blanks and the like are written as \\040.
    places = [
        Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4]))
        for line in lines
    ]
    return [place for place in reversed(places) if place.is_relative_to(folder.resolve())]


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        reply = fcntl.ioctl(sock, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("16xH", reply)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        # What the kernel says where no more of them are allowed, or none at all.
        text = "no namespaces are left" if code == errno.ENOSPC else os.strerror(code)
        raise NamespaceError(f"{what}: {text}")
