"""An NFSv3 client in Python: it gives the server's own status of each call (RFC 1813, RFC 5531).

The library that `tests.nfs` uses hides it, and may end the process when the server goes away.
"""

import contextlib
import itertools
import socket
import struct
from typing import Self

_NFS, _MOUNT, _VERSION = 100003, 100005, 3
_LAST_FRAGMENT = 0x80000000
_TIMEOUT = 300.0
_UNSTABLE, _UNCHECKED = 0, 0
_SIZES = struct.Struct(">QII")

OK, NO_ENTRY, IO_ERROR, NO_SPACE, READ_ONLY, OVER_QUOTA = 0, 2, 5, 28, 30, 69
NAMES = {
    IO_ERROR: "NFS3ERR_IO",
    NO_SPACE: "NFS3ERR_NOSPC",
    READ_ONLY: "NFS3ERR_ROFS",
    OVER_QUOTA: "NFS3ERR_DQUOT",
}


class RefusedError(Exception):
    """The server answered with a status that is not OK."""

    def __init__(self, what: str, status: int):
        super().__init__(f"{what}: {NAMES.get(status, f'status {status}')}")
        self.status = status


class LostError(Exception):
    """The connection broke: whether the call was done is not known."""


class Client:
    """One connection to a share, for one thread; a context manager.

    Methods raise `RefusedError` and `LostError`.
    """

    def __init__(
        self,
        share: str,
        port: int = 12049,
        uid: int = 1000,
        host: str = "127.0.0.1",
        timeout: float = _TIMEOUT,
    ):
        self._ids = itertools.count(1)
        body = struct.pack(">I", 0) + _opaque(b"limits") + struct.pack(">III", uid, uid, 0)
        self._identity = struct.pack(">I", 1) + _opaque(body) + struct.pack(">II", 0, 0)
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout)
        except OSError as error:
            raise LostError(str(error)) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = self._call(_MOUNT, 1, _opaque(share.encode()))
        self._root = _handle(_checked(answer, "mount"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def lookup(self, name: str) -> bytes | None:
        """The handle of a file in the root; None where there is none."""
        answer = self._call(_NFS, 3, self._name(name))
        if _status(answer) == NO_ENTRY:
            return None
        return _handle(_checked(answer, "lookup"))

    def create(self, name: str) -> bytes:
        """Make an empty file where there is none; its handle."""
        # How, and the attributes: the mode, and none of the other five.
        how = struct.pack(">8I", _UNCHECKED, 1, 0o644, 0, 0, 0, 0, 0)
        answer = _checked(self._call(_NFS, 8, self._name(name) + how), "create")
        return _handle(answer[4:])

    def write(self, handle: bytes, offset: int, data: bytes) -> None:
        """Write; it is safe after `commit`."""
        head = _opaque(handle) + _SIZES.pack(offset, len(data), _UNSTABLE)
        answer = _checked(self._call(_NFS, 7, head, data), "write")
        count = struct.unpack_from(">I", answer, _skip_changes(answer))[0]
        if count != len(data):
            raise RefusedError(f"write of {count} of {len(data)} bytes", IO_ERROR)

    def commit(self, handle: bytes) -> None:
        """Make safe what was written."""
        _checked(self._call(_NFS, 21, _opaque(handle) + struct.pack(">QI", 0, 0)), "commit")

    def truncate(self, handle: bytes, size: int) -> None:
        """Set the size of a file."""
        attributes = struct.pack(">4I", 0, 0, 0, 1) + struct.pack(">QIII", size, 0, 0, 0)
        _checked(self._call(_NFS, 2, _opaque(handle) + attributes), "truncate")

    def read(self, handle: bytes, offset: int, size: int) -> bytes:
        """Read up to so many bytes; fewer only at the end of the file."""
        parts: list[bytes] = []
        while size > 0:
            arguments = _opaque(handle) + struct.pack(">QI", offset, size)
            answer = _checked(self._call(_NFS, 6, arguments), "read")
            place = _skip_attributes(answer, 0)
            count, end, length = struct.unpack_from(">III", answer, place)
            parts.append(answer[place + 12 : place + 12 + length])
            offset, size = offset + count, size - count
            if end or not count:
                break
        return b"".join(parts)

    def remove(self, name: str) -> bool:
        """Remove a file of the root; whether it was there."""
        answer = self._call(_NFS, 12, self._name(name))
        if _status(answer) == NO_ENTRY:
            return False
        _checked(answer, "remove")
        return True

    def _name(self, name: str) -> bytes:
        return _opaque(self._root) + _opaque(name.encode())

    def _call(self, program: int, procedure: int, arguments: bytes, data: bytes = b"") -> bytes:
        """The procedure's result; `data` is an opaque at the end of the arguments."""
        head = struct.pack(">6I", next(self._ids), 0, 2, program, _VERSION, procedure)
        text = head + self._identity + arguments
        if data:
            text += struct.pack(">I", len(data))
        padding = bytes(-len(data) % 4)
        size = len(text) + len(data) + len(padding)
        try:
            self._socket.sendall(struct.pack(">I", _LAST_FRAGMENT | size) + text)
            if data:
                self._socket.sendall(data)
                self._socket.sendall(padding) if padding else None
            answer = self._receive()
        except OSError as error:
            raise LostError(str(error)) from error
        denied, verifier = struct.unpack_from(">I4xI", answer, 8)
        (accepted,) = struct.unpack_from(">I", answer, 20 + verifier)
        if denied or accepted:
            raise RefusedError(f"RPC status {denied}/{accepted}", IO_ERROR)
        return answer[24 + verifier :]

    def _receive(self) -> bytes:
        parts: list[bytes] = []
        while True:
            (mark,) = struct.unpack(">I", self._exactly(4))
            parts.append(self._exactly(mark & ~_LAST_FRAGMENT))
            if mark & _LAST_FRAGMENT:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        buffer = bytearray(size)
        view, place = memoryview(buffer), 0
        while place < size:
            count = self._socket.recv_into(view[place:])
            if not count:
                raise ConnectionResetError("the server closed the connection")
            place += count
        return bytes(buffer)


def _opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def _status(answer: bytes) -> int:
    return struct.unpack_from(">I", answer)[0]


def _checked(answer: bytes, what: str) -> bytes:
    """What follows the status."""
    if _status(answer) != OK:
        raise RefusedError(what, _status(answer))
    return answer[4:]


def _handle(answer: bytes) -> bytes:
    (size,) = struct.unpack_from(">I", answer)
    return answer[4 : 4 + size]


def _skip_attributes(answer: bytes, place: int) -> int:
    (there,) = struct.unpack_from(">I", answer, place)
    return place + 4 + (84 if there else 0)


def _skip_changes(answer: bytes) -> int:
    (there,) = struct.unpack_from(">I", answer)
    return _skip_attributes(answer, 4 + (24 if there else 0))
