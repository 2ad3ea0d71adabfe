"""A client of the server in the pod: one file at a time."""

from tests import bed
from tests.standin import client
from tests.standin.client import ClientError

__all__ = ["ClientError", "Files"]


class Files:
    """Puts and gets whole files of a share, such as `/export`. Methods raise `ClientError`."""

    def __init__(self, *, real: bool):
        self._client = client.Files(real=real, port=bed.port(bed.API), nfs_port=bed.port(bed.NFS))
        self.missing = self._client.missing

    def put(self, share: str, name: str, data: bytes) -> None:
        """Write a file; it is acknowledged when this returns."""
        self._client.put(share, {name: data})

    def get(self, share: str, name: str) -> bytes:
        """Read a file."""
        return self._client.get(share, name)[name]

    def remove(self, share: str, name: str) -> None:
        """Remove a file."""
        self._client.remove(share, name)
