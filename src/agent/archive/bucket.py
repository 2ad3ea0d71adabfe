"""The bucket: objects by key below a prefix. What is wrong with S3 is told by `faults`."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from agent.archive import faults
from agent.archive.connection import Connection
from agent.archive.errors import ArchiveError
from agent.archive.settings import S3, ArchiveSettings

_PAGE = 1000
_ATTEMPTS = 3
# XML has no word for most control characters, and some write them into it nevertheless.
_UNSPEAKABLE = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|&#(?:x0*[0-9a-fA-F]|x0*1[0-9a-fA-F]|0*[12]?[0-9]|0*3[01]);"
)
_OWN_DIGITS = "%Y-%m-%dT%H:%M:%S"


class Object(NamedTuple):
    """An object of the bucket; `size` in bytes, `modified` by S3's clock, `tag`: its ETag."""

    key: str
    size: int
    modified: datetime
    tag: str


class _Page(NamedTuple):
    objects: list[Object]
    folders: list[str]
    following: Mapping[str, str] | None


class Bucket:
    """Objects below a prefix. For any number of threads; every method raises `ArchiveError`.

    Args:
        s3: where it is.
        patience: seconds for which a request that fails is tried again.
    """

    def __init__(self, s3: S3, patience: float):
        self._name = s3.bucket
        self._prefix = f"{s3.prefix}/" if s3.prefix else ""
        self._connection = Connection(s3, patience)

    def get(self, key: str) -> bytes:
        """The content of an object; `missing` where there is none."""
        return self._connection.request("GET", self._prefix + key).body

    def put(self, key: str, data: bytes) -> str:
        """Write an object, or write it anew; its ETag, empty where S3 gives none."""
        answer = self._connection.request("PUT", self._prefix + key, body=data)
        return _tag(answer.headers.get("ETag"))

    def find(self, key: str) -> Object | None:
        """An object without its content, None where there is none."""
        page = self._page({"prefix": self._prefix + key, "max-keys": "1"})
        return next((each for each in page.objects if each.key == key), None)

    def objects(self, prefix: str) -> Iterator[Object]:
        """The objects whose keys begin with a folder such as `a/b/`."""
        for page in self._pages({"prefix": self._prefix + prefix}):
            yield from page.objects

    def folders(self, prefix: str = "") -> list[str]:
        """The names of the folders in a folder such as `a/b/`; those without one are left out."""
        place = self._prefix + prefix
        found = [
            folder.removeprefix(place).removesuffix("/")
            for page in self._pages({"prefix": place, "delimiter": "/"})
            for folder in page.folders
        ]
        return [name for name in found if name]

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there any more is of no interest."""
        try:
            self._connection.request("DELETE", self._prefix + key)
        except ArchiveError as error:
            if error.kind != "missing":
                raise

    def _pages(self, query: Mapping[str, str]) -> Iterator[_Page]:
        following: Mapping[str, str] | None = {}
        while following is not None:
            page = self._page({**query, "max-keys": str(_PAGE), **following})
            following = page.following
            yield page

    def _page(self, query: Mapping[str, str]) -> _Page:
        asked = {**query, "list-type": "2", "encoding-type": "url"}
        for _ in range(_ATTEMPTS):
            answer = self._connection.request("LIST", query["prefix"], asked)
            # It may have been damaged on its way.
            with contextlib.suppress(ET.ParseError, ValueError, TypeError):
                return self._parsed(ET.fromstring(_UNSPEAKABLE.sub(b"?", answer.body)))  # noqa: S314  # of the S3 that is trusted with the data; no entity is fetched
        raise faults.nonsense(faults.Place("LIST", self._name, "", query["prefix"]))

    def _parsed(self, root: ET.Element) -> _Page:
        if root.tag.rpartition("}")[2] != "ListBucketResult":
            raise ValueError("no list")
        space = root.tag.removesuffix("ListBucketResult")
        encoded = root.findtext(f"{space}EncodingType") == "url"

        def name(element: ET.Element, tag: str) -> str:
            text = element.findtext(f"{space}{tag}") or ""
            return unquote_plus(text) if encoded else text

        objects = [
            Object(
                key.removeprefix(self._prefix),
                int(each.findtext(f"{space}Size") or 0),
                _moment(each.findtext(f"{space}LastModified") or ""),
                _tag(each.findtext(f"{space}ETag")),
            )
            for each in root.iter(f"{space}Contents")
            if (key := name(each, "Key")).startswith(self._prefix)
        ]
        folders = [name(each, "Prefix") for each in root.iter(f"{space}CommonPrefixes")]
        if root.findtext(f"{space}IsTruncated") != "true":
            return _Page(objects, folders, None)
        token = root.findtext(f"{space}NextContinuationToken")
        if not token:
            # What is needed is told from what is not by a list: half of one is none.
            raise ValueError("a list that does not go on")
        return _Page(objects, folders, {"continuation-token": token})


def open_bucket(settings: ArchiveSettings, patience: float = 180.0) -> Bucket:
    """The bucket of the settings; nothing is asked yet.

    Raises:
        ArchiveError: `settings`: no bucket is related, or it cannot be used as it is described.
    """
    if settings.s3 is None:
        raise ArchiveError("settings", "integrate s3-backup: no S3 bucket is related")
    return Bucket(settings.s3, patience)


def _tag(text: str | None) -> str:
    return (text or "").strip('"')


def _moment(text: str) -> datetime:
    """S3 writes fractions of a second in one answer and none in another."""
    return datetime.strptime(text[:19], _OWN_DIGITS).replace(tzinfo=UTC)
