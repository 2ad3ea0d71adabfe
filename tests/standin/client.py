"""A client of files: over NFS to the real server, over HTTP to the stand-in."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Self
from urllib.parse import quote

import httpx

from tests import nfs

HOST = "127.0.0.1"


class ClientError(Exception):
    """The server refused or did not answer; the text is the client's."""


class Files:
    """Writes and reads whole files of shares, such as `/export`, past everything else.

    Args:
        real: whether it is the real server.
        port: of the API, where the stand-in's files are.
        nfs_port: where the real server's are.
    """

    def __init__(self, *, real: bool, port: int, nfs_port: int):
        self._real = real
        self._port = port
        self._nfs_port = nfs_port
        self.missing = nfs.missing() if real else ""

    def put(self, share: str, files: Mapping[str, bytes]) -> None:
        """Write files by their names; they are acknowledged when this returns.

        Raises:
            ClientError: not all were.
        """
        with self._connected(share) as client:
            for name, data in files.items():
                client.create(f"/{name}", data)

    def get(self, share: str, *names: str) -> dict[str, bytes]:
        """Read files.

        Raises:
            ClientError: one is not there, or not served.
        """
        with self._connected(share) as client:
            return {name: client.read(f"/{name}") for name in names}

    def remove(self, share: str, *names: str) -> None:
        """Remove files.

        Raises:
            ClientError: one could not be.
        """
        with self._connected(share) as client:
            for name in names:
                client.unlink(f"/{name}")

    @contextlib.contextmanager
    def _connected(self, share: str) -> Iterator["nfs.Client | _Http"]:
        try:
            with self._client(share) as client:
                yield client
        except (nfs.NfsError, httpx.HTTPError) as error:
            raise ClientError(str(error)) from error

    def _client(self, share: str) -> "nfs.Client | _Http":
        if self._real:
            return nfs.Client(share, self._nfs_port)
        return _Http(f"http://{HOST}:{self._port}/standin/files/{quote(share[1:], safe='')}")


class _Http:
    """The stand-in's route, as if it were NFS."""

    def __init__(self, url: str):
        self._url = url
        self._client = httpx.Client(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def create(self, path: str, data: bytes) -> None:
        """Write a file."""
        self._ask("PUT", path, data)

    def read(self, path: str) -> bytes:
        """Read a file."""
        return self._ask("GET", path)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, data: bytes = b"") -> bytes:
        answer = self._client.request(method, self._url + quote(path), content=data)
        if not answer.is_success:
            raise ClientError(f"{answer.status_code} {answer.text}")
        return answer.content
