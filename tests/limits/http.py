"""The stand-in's route for files as a client of blocks: a file has one block there."""

import contextlib
from typing import Self

import httpx

from tests.limits.nfs3 import IO_ERROR, NO_SPACE, READ_ONLY, LostError, RefusedError

_STATUS = {507: NO_SPACE, 403: READ_ONLY}
_NOT_THERE = 404


class Client:
    """Files of a share; see `nfs3.Client`, whose errors it raises."""

    def __init__(self, share: str, port: int = 8080):
        self._url = f"http://127.0.0.1:{port}/standin/files/{share.strip('/')}/"
        self._client = httpx.Client(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(httpx.HTTPError):
            self._client.close()

    def lookup(self, name: str) -> bytes | None:
        """The name is the handle, where there is such a file."""
        return None if self._ask("GET", name).status_code == _NOT_THERE else name.encode()

    def create(self, name: str) -> bytes:
        """Make an empty file."""
        self._ask("PUT", name)
        return name.encode()

    def write(self, handle: bytes, offset: int, data: bytes) -> None:
        """Write the whole file."""
        assert offset == 0, "a file has one block"
        self._ask("PUT", handle.decode(), data)

    def commit(self, handle: bytes) -> None:
        """What was answered is safe."""

    def truncate(self, handle: bytes, size: int) -> None:
        """Empty the file."""
        assert size == 0
        self._ask("PUT", handle.decode())

    def read(self, handle: bytes, offset: int, size: int) -> bytes:
        """Read a part of the file."""
        return self._ask("GET", handle.decode()).content[offset : offset + size]

    def remove(self, name: str) -> bool:
        """Remove the file."""
        self._ask("DELETE", name)
        return True

    def _ask(self, method: str, name: str, data: bytes = b"") -> httpx.Response:
        try:
            answer = self._client.request(method, self._url + name, content=data)
        except httpx.HTTPError as error:
            raise LostError(str(error)) from error
        if answer.is_success or answer.status_code == _NOT_THERE:
            return answer
        raise RefusedError(method, _STATUS.get(answer.status_code, IO_ERROR))
