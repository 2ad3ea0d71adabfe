"""A backup that the first version made is restored by this one: its objects are in golden.json.

The files in it are those of `backups.golden_content_of`, so they are not kept a second time. Never
made anew: where this fails, backups that users have cannot be restored any more.
"""

import base64
import json
from pathlib import Path

import pytest

from agent.archive import checking, laying
from agent.archive.bucket import open_bucket
from agent.archive.catalogue import Catalogue
from agent.archive.progress import Progress
from agent.archive.request import Request
from agent.archive.settings import S3
from tests.archive.backups import golden_content_of
from tests.archive.volumes import SHARES, request_for, settings_for

_GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
# Of the application that never was.
_KEY = bytes(range(32))


@pytest.fixture(params=["plain", "encrypted"])
def settings(request, s3, bucket_name, tmp_path):
    for key, data in _GOLDEN["objects"][request.param].items():
        s3.put(bucket_name, key, base64.b64decode(data))
    for volume in ("metadata", "content"):
        (tmp_path / "data" / volume).mkdir(parents=True)
    # How new backups are made says nothing of the old ones.
    return settings_for(tmp_path, s3=S3(**s3.settings(bucket_name)), key=_KEY, encrypt=True)


def test_it_is_listed(settings):
    (entry,) = Catalogue(open_bucket(settings), settings).entries()
    assert entry.head is not None
    assert (entry.id, entry.head.shares) == (_GOLDEN["id"], ("/export", "/a b"))


def test_it_is_verified(settings):
    asked = Request("v", "verify", "verify", {"backup-id": _GOLDEN["id"], "deep": True})
    assert checking.verify(settings, asked, Progress())["problems"] == []


def test_every_file_comes_back(settings):
    asked = request_for("fetch", **{"backup-id": _GOLDEN["id"]})
    laying.fetch(settings, asked, Progress())
    for share in SHARES:
        place = settings.content / ".restoring" / "shares" / share.key
        for path, data in golden_content_of(share.snapshot).items():
            assert (place / path).read_bytes() == data
