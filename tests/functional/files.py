"""A client: over NFS to the real server, over HTTP to the stand-in."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import httpx

_NFS = "version=3&nfsport=12049&mountport=12049&uid=1000&gid=1000"
_URL = "http://localhost:8080/standin/files"


class ClientError(Exception):
    """The server refused or did not answer; the text is the client's."""


class Files:
    """Puts and gets whole files of a share, such as `/export`."""

    def __init__(self, *, real: bool):
        self._real = real
        self.missing = "nfs-cp (libnfs-utils)" if real and not shutil.which("nfs-cp") else ""

    def put(self, share: str, name: str, data: bytes) -> None:
        """Write a file; it is acknowledged when this returns.

        Raises:
            ClientError: it was not.
        """
        if not self._real:
            self._http("PUT", share, name, data)
            return
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory) / "source"
            source.write_bytes(data)
            self._nfs(["nfs-cp", str(source), self._url(share, name)])

    def get(self, share: str, name: str) -> bytes:
        """Read a file.

        Raises:
            ClientError: it is not there, or not served.
        """
        if not self._real:
            return self._http("GET", share, name, b"")
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory) / "target"
            self._nfs(["nfs-cp", self._url(share, name), str(target)])
            return target.read_bytes()

    def remove(self, share: str, name: str) -> None:
        """Remove a file; over NFS with the server's Python-free tool it is emptied.

        Raises:
            ClientError: it did not work.
        """
        if self._real:
            self.put(share, name, b"")
        else:
            self._http("DELETE", share, name, b"")

    def _url(self, share: str, name: str) -> str:
        return f"nfs://127.0.0.1{share}/{name}?{_NFS}"

    def _nfs(self, command: list[str]) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except subprocess.TimeoutExpired as error:
            raise ClientError("no answer in 30 s") from error
        # The tools end with 0 after some errors, but say what went wrong.
        said = done.stdout + done.stderr
        if done.returncode != 0 or "Failed" in said or "error" in said.lower():
            raise ClientError(said.strip())

    def _http(self, method: str, share: str, name: str, data: bytes) -> bytes:
        try:
            answer = httpx.request(
                method, f"{_URL}/{quote(share[1:])}/{name}", content=data, timeout=30
            )
        except httpx.HTTPError as error:
            raise ClientError(str(error)) from error
        if not answer.is_success:
            raise ClientError(f"{answer.status_code} {answer.text}")
        return answer.content
