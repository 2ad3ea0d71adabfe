"""Plain copies of files to and from S3, as fast as a program can: what backups are measured by.

Each is made by a process of its own, as one by another program would be.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self

import boto3
import obstore
from botocore.config import Config
from obstore.store import S3Store
from s3transfer.manager import TransferConfig, TransferManager

_MIB = 2**20
_THREADS = 8
_PART = 8 * _MIB


Settings = Mapping[str, Any]
"""Of a bucket, as the agent gets them."""


class Copy(Protocol):
    """A way to copy files: each becomes an object of its name in the bucket."""

    def up(self, files: Sequence[Path]) -> None: ...

    def down(self, files: Sequence[Path], folder: Path) -> None: ...


class Boto:
    """What boto3's `upload_file` is made of, for all files at once, as the AWS CLI does."""

    def __init__(self, s3: Settings):
        self._bucket: str = s3["bucket"]
        self._client = boto3.client(
            "s3",
            endpoint_url=s3["endpoint"],
            region_name=s3["region"],
            aws_access_key_id=s3["access_key"],
            aws_secret_access_key=s3["secret_key"],
            config=Config(
                s3={"addressing_style": "path"},
                max_pool_connections=_THREADS,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._config = TransferConfig(
            multipart_threshold=_PART,
            multipart_chunksize=_PART,
            max_request_concurrency=_THREADS,
        )

    def up(self, files: Sequence[Path]) -> None:
        """Copy files to S3."""
        with TransferManager(self._client, self._config) as manager:
            _finish([manager.upload(str(path), self._bucket, path.name) for path in files])

    def down(self, files: Sequence[Path], folder: Path) -> None:
        """Copy them back into a folder."""
        with TransferManager(self._client, self._config) as manager:
            _finish(
                [
                    manager.download(self._bucket, path.name, str(folder / path.name))
                    for path in files
                ]
            )


def _finish(underway: list[Any]) -> None:
    for each in underway:
        each.result()


class Obstore:
    """Several files at a time, in parts, by the library that the agent has."""

    in_parts = True

    def __init__(self, s3: Settings):
        self._store = S3Store(
            s3["bucket"],
            endpoint=s3["endpoint"],
            region=s3["region"],
            access_key_id=s3["access_key"],
            secret_access_key=s3["secret_key"],
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def up(self, files: Sequence[Path]) -> None:
        """Copy files to S3."""

        def put(path: Path) -> None:
            obstore.put(
                self._store, path.name, path, use_multipart=self.in_parts, chunk_size=_PART
            )

        self._each(put, files)

    def down(self, files: Sequence[Path], folder: Path) -> None:
        """Copy them back into a folder."""

        def get(path: Path) -> None:
            with (folder / path.name).open("wb") as file:
                for part in obstore.get(self._store, path.name).stream(min_chunk_size=_MIB):
                    file.write(part)

        self._each(get, files)

    def _each(self, work: Callable[[Path], None], files: Sequence[Path]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(work, files))


class Whole(Obstore):
    """Several files at a time, each with one request."""

    in_parts = False


COPIES: Mapping[str, Callable[[Settings], Copy]] = {
    "boto3": Boto,
    "obstore, in parts": Obstore,
    "obstore, whole files": Whole,
}
"""The ways to copy, by what they are called."""


class Copier:
    """A way to copy, in a process of its own; a context manager that ends it.

    Args:
        name: of COPIES.
        s3: where to.
    """

    def __init__(self, name: str, s3: Settings):
        self._name = name
        self._s3 = s3
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        # What it imports takes it no time later.
        self._process.submit(_copy, self._name, self._s3, "up", []).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def up(self, files: Sequence[Path]) -> float:
        """Copy files to S3; the seconds that it took."""
        return self._process.submit(_copy, self._name, self._s3, "up", files).result()

    def down(self, files: Sequence[Path], folder: Path) -> float:
        """Copy them back into a folder; the seconds that it took."""
        return self._process.submit(_copy, self._name, self._s3, "down", files, folder).result()


def _copy(name: str, s3: Settings, way: str, files: Sequence[Path], *folder: Path) -> float:
    copy = COPIES[name](s3)
    begin = time.monotonic()
    getattr(copy, way)(files, *folder)
    return time.monotonic() - begin
