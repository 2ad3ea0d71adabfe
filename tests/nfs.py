"""An NFS client in this process, by the library that the command-line clients use as well.

Only for the real server: it makes thousands of files a second, which a process for each cannot.
"""

import ctypes
import ctypes.util
import errno
import os
from collections.abc import Iterator
from typing import Self
from urllib.parse import quote

_LIBRARY = ctypes.util.find_library("nfs")
_URL = "nfs://127.0.0.1{share}?version=3&nfsport={port}&mountport={port}&uid=1000&gid=1000"
# From this version of the library on, the buffer comes before its size.
_BUFFER_FIRST = 16
# The most that a server takes in one call.
_AT_ONCE = 1024 * 1024


def missing() -> str:
    """What has to be installed, empty where it is there."""
    return "" if _LIBRARY else "libnfs (apt-get install libnfs-utils)"


class NfsError(OSError):
    """The server refused, or did not answer."""


class _Url(ctypes.Structure):
    _fields_ = [  # the form that ctypes wants
        ("server", ctypes.c_char_p),
        ("path", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
    ]


class _Entry(ctypes.Structure):
    """The beginning of the library's entry of a directory."""


_Entry._fields_ = [  # the form that ctypes wants
    ("next", ctypes.POINTER(_Entry)),
    ("name", ctypes.c_char_p),
    ("inode", ctypes.c_uint64),
    ("type", ctypes.c_uint32),
]
_DIRECTORY = 2
_BROKEN = {errno.EIO, errno.EINTR, errno.ETIMEDOUT, errno.ECONNRESET, errno.EFAULT, errno.EPIPE}


class Client:
    """One connection to a share; a context manager, for one thread."""

    def __init__(self, share: str, port: int = 12049):
        assert _LIBRARY
        self._nfs = ctypes.CDLL(_LIBRARY)
        self._broken = False
        version = int(_LIBRARY.rpartition(".")[2])
        self._buffer_first = version >= _BUFFER_FIRST
        for name in ("nfs_init_context", "nfs_parse_url_dir", "nfs_readdir", "nfs_get_error"):
            getattr(self._nfs, name).restype = ctypes.c_void_p
        self._nfs.nfs_get_error.restype = ctypes.c_char_p
        self._nfs.nfs_parse_url_dir.restype = ctypes.POINTER(_Url)
        self._nfs.nfs_readdir.restype = ctypes.POINTER(_Entry)
        self._context = ctypes.c_void_p(self._nfs.nfs_init_context())
        text = _URL.format(share=quote(share), port=port)
        self._url = self._nfs.nfs_parse_url_dir(self._context, text.encode())
        if hasattr(self._nfs, "nfs_set_timeout"):
            self._nfs.nfs_set_timeout(self._context, 10_000)
        self._nfs.nfs_set_autoreconnect(self._context, 0)
        # Not the path of the URL: it is not decoded by every version of the library.
        server = self._url.contents.server
        self._check(self._nfs.nfs_mount(self._context, server, share.encode()), "mount")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        # The library does not survive being asked anything about a connection that broke.
        if not self._broken:
            self._nfs.nfs_destroy_context(self._context)
            self._broken = True

    def create(self, path: str, data: bytes) -> None:
        """Make a file with this content, or replace its content."""
        handle = ctypes.c_void_p()
        name = path.encode("utf-8", "surrogateescape")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        made = self._nfs.nfs_open2(self._context, name, flags, 0o644, ctypes.byref(handle))
        self._check(made, f"create {path}")
        try:
            while data:
                part = data[:_AT_ONCE]
                size = ctypes.c_uint64(len(part))
                given = (part, size) if self._buffer_first else (size, part)
                written = self._nfs.nfs_write(self._context, handle, *given)
                data = data[self._check(written, f"write {path}") :]
        finally:
            closed = 0 if self._broken else self._nfs.nfs_close(self._context, handle)
        self._check(closed, f"close {path}")

    def read(self, path: str) -> bytes:
        """The whole content of a file."""
        handle = ctypes.c_void_p()
        name = path.encode("utf-8", "surrogateescape")
        self._check(
            self._nfs.nfs_open(self._context, name, os.O_RDONLY, ctypes.byref(handle)),
            f"open {path}",
        )
        parts: list[bytes] = []
        try:
            buffer = ctypes.create_string_buffer(256 * 1024)
            size = ctypes.c_uint64(len(buffer))
            given = (buffer, size) if self._buffer_first else (size, buffer)
            while count := self._check(
                self._nfs.nfs_read(self._context, handle, *given), f"read {path}"
            ):
                parts.append(buffer.raw[:count])
        finally:
            if not self._broken:
                self._nfs.nfs_close(self._context, handle)
        return b"".join(parts)

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        self._call("nfs_mkdir", path)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        self._call("nfs_unlink", path)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, over another one if there is one."""
        self._call("nfs_rename", old, new)

    def link(self, old: str, new: str) -> None:
        """Give a file a second name."""
        self._call("nfs_link", old, new)

    def truncate(self, path: str, size: int) -> None:
        """Cut a file off."""
        name = path.encode("utf-8", "surrogateescape")
        result = self._nfs.nfs_truncate(self._context, name, ctypes.c_uint64(size))
        self._check(result, f"truncate {path}")

    def walk(self, path: str = "/") -> Iterator[str]:
        """The paths of all files below a directory."""
        handle = ctypes.c_void_p()
        name = path.encode("utf-8", "surrogateescape")
        self._check(
            self._nfs.nfs_opendir(self._context, name, ctypes.byref(handle)), f"open {path}"
        )
        directories: list[str] = []
        files: list[str] = []
        try:
            while entry := self._nfs.nfs_readdir(self._context, handle):
                found = entry.contents
                child = found.name.decode("utf-8", "surrogateescape")
                if child in {".", ".."}:
                    continue
                (directories if found.type == _DIRECTORY else files).append(
                    f"{path.rstrip('/')}/{child}"
                )
        finally:
            self._nfs.nfs_closedir(self._context, handle)
        yield from files
        for directory in directories:
            yield from self.walk(directory)

    def _call(self, function: str, *paths: str) -> None:
        names = [path.encode("utf-8", "surrogateescape") for path in paths]
        result = getattr(self._nfs, function)(self._context, *names)
        self._check(result, f"{function} {' '.join(paths)}")

    def _check(self, result: int, what: str) -> int:
        if result < 0:
            self._broken = -result in _BROKEN
            said = self._nfs.nfs_get_error(self._context) or b""
            code = errno.errorcode.get(-result, str(result))
            raise NfsError(-result, f"{what}: {code} {said.decode(errors='replace')}")
        return result
