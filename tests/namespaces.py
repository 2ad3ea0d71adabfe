"""A network and mount namespace of its own for the process that runs the tests.

Inside, the only interface is loopback, so a server under test may keep its real ports and listen
"on all interfaces" without being seen from outside, and file systems mounted for a test go away
with the process. Works as root, and as any user where unprivileged user namespaces are allowed.
"""

import ctypes
import fcntl
import os
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


class NamespaceError(RuntimeError):
    """The kernel or a policy does not allow namespaces here; the text says which call failed."""


def enter() -> None:
    """Move the calling process (and what it starts later) into namespaces of its own; idempotent.

    Call it from the main thread before other threads exist.

    Raises:
        NamespaceError: this machine does not allow it.
    """
    global _entered  # noqa: PLW0603  # a process has one set of namespaces, this remembers it
    if _entered:
        return
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
    _entered = True


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


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        reply = fcntl.ioctl(sock, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("16xH", reply)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise NamespaceError(f"{what}: {os.strerror(code)}")
