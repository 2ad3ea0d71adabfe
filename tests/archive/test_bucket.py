"""The bucket: what is wrong with it in a word, and never a secret in the text."""

import os
import threading

import pytest

from agent.archive import pieces
from agent.archive.bucket import Bucket, open_bucket
from agent.archive.errors import ArchiveError
from agent.archive.ledger import Ledger
from agent.archive.progress import Progress
from agent.archive.sealing import Sealer
from agent.archive.settings import S3, load
from tests import servers
from tests.archive.rig import Unit
from tests.s3 import Authority, FaultyProxy

KEY = bytes(range(32))
ID = "2026-11-24T18:00:00Z"


@pytest.fixture
def described(s3, bucket_name):
    return s3.settings(bucket_name, "pre/fix")


@pytest.fixture
def bucket(described):
    return Bucket(S3(**described), 2.0)


def test_objects_come_back_below_the_prefix(s3, bucket_name, bucket):
    bucket.put("m/a/backups/2026-11-24T18:00:00Z.json", b"hello")
    bucket.put("m/b/x", b"")
    assert bucket.get("m/a/backups/2026-11-24T18:00:00Z.json") == b"hello"
    assert s3.keys(bucket_name) == [
        "pre/fix/m/a/backups/2026-11-24T18:00:00Z.json",
        "pre/fix/m/b/x",
    ]
    assert [found.key for found in bucket.objects("m/a/")] == [
        "m/a/backups/2026-11-24T18:00:00Z.json"
    ]
    assert (bucket.folders(), bucket.folders("m/")) == (["m"], ["a", "b"])
    found = bucket.find("m/b/x")
    assert found is not None
    assert (found.key, found.size, bucket.find("m/none"), bucket.find("m/b")) == (
        "m/b/x",
        0,
        None,
        None,
    )
    for key in ("m/b/x", "m/none"):
        bucket.delete(key)
    assert bucket.find("m/b/x") is None


def test_what_is_not_there_is_missing(bucket):
    with pytest.raises(ArchiveError, match="m/none is not in the bucket") as caught:
        bucket.get("m/none")
    assert caught.value.kind == "missing"
    assert list(bucket.objects("m/")) == []


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        ({"bucket": "no-such-bucket"}, "bucket", "no-such-bucket cannot be used: NoSuchBucket"),
        ({"access_key": "AKIANOBODY"}, "credentials", "refuses the credentials: InvalidAccessKey"),
        ({"secret_key": "wrong"}, "credentials", "SignatureDoesNotMatch"),
        ({"endpoint": "http://127.0.0.1:1"}, "away", "cannot be reached"),
    ],
)
def test_what_is_wrong_is_told_without_secrets(described, wrong, kind, text):
    bucket = Bucket(S3(**{**described, **wrong}), 0.5)
    calls = (
        lambda: bucket.put("x", b"y"),
        lambda: bucket.get("x"),
        lambda: bucket.delete("x"),
        lambda: list(bucket.objects("x/")),
        bucket.folders,
    )
    for call in calls:
        with pytest.raises(ArchiveError, match=text) as caught:
            call()
        assert caught.value.kind == kind
        assert described["secret_key"] not in str(caught.value)
    assert described["secret_key"] not in repr(S3(**described))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ExpiredToken", "credentials"),
        ("AccessDenied", "credentials"),
        ("NoSuchBucket", "bucket"),
        ("SlowDown", "away"),
    ],
)
def test_what_s3_says_in_the_middle_of_it(described, proxy, code, kind):
    bucket = Bucket(S3(**{**described, "endpoint": proxy.url}), 1.0)
    bucket.put("x", b"y")
    proxy.answer(code)
    with pytest.raises(ArchiveError) as caught:
        bucket.put("x", b"y")
    assert (caught.value.kind, code in str(caught.value)) == (kind, True)
    proxy.heal()
    bucket.put("x", b"y")


def test_storms_and_cuts_are_ridden_out(described, proxy):
    bucket = Bucket(S3(**{**described, "endpoint": proxy.url}), 60.0)
    data = os.urandom(300_000)
    proxy.answer("SlowDown", rate=0.3)
    proxy.cut(rate=0.2)
    pieces.each(lambda number: bucket.put(f"p/{number}", data), range(20), Progress())
    assert {bucket.get(f"p/{number}") for number in range(20)} == {data}
    assert len(proxy.faults) == 2


@pytest.fixture
def secure_proxy(s3, tmp_path):
    with FaultyProxy(s3.port, authority=Authority("S3"), folder=tmp_path) as made:
        yield made


def test_a_certificate_of_an_own_authority(described, secure_proxy):
    given = {**described, "endpoint": secure_proxy.url, "ca": secure_proxy.ca}
    bucket = Bucket(S3(**given), 2.0)
    bucket.put("x", b"y")
    assert bucket.get("x") == b"y"
    with pytest.raises(ArchiveError, match=r"set tls-ca-chain.* is not trusted") as caught:
        Bucket(S3(**{**given, "ca": None}), 0.5).get("x")
    assert caught.value.kind == "settings"
    with pytest.raises(ArchiveError, match="make no sense"):
        Bucket(S3(**{**given, "ca": "-----BEGIN CERTIFICATE-----\nx\n"}), 0.5)


def test_without_a_bucket_there_is_nothing_to_open(tmp_path):
    with Unit(servers.standin(), tmp_path / "unit", None) as unit:
        settings = load(unit.configure(), unit.root)
    with pytest.raises(ArchiveError, match="no S3 bucket is related"):
        open_bucket(settings)


def test_a_piece_is_sent_once(bucket, s3, bucket_name):
    sealer = Sealer(KEY, encrypt=False)
    writer = pieces.Writer(bucket, "m/a", Ledger(None), ID)
    same = os.urandom(100_000)
    pieces.each(lambda _: writer.write(sealer, same), range(50), Progress())
    assert len(s3.keys(bucket_name)) == 1
    assert writer.uploaded == 100_006
    again = pieces.Writer(bucket, "m/a", Ledger(None), ID)
    name = again.write(sealer, same)
    assert (again.uploaded, pieces.reader(bucket, "m/a", sealer)(name)) == (0, same)


def test_a_piece_that_is_gone_or_changed_is_damage(bucket, s3, bucket_name):
    sealer = Sealer(KEY, encrypt=False)
    name = pieces.Writer(bucket, "m/a", Ledger(None), ID).write(sealer, b"some bytes")
    read = pieces.reader(bucket, "m/a", sealer)
    (key,) = s3.keys(bucket_name)
    s3.damage(bucket_name, key)
    with pytest.raises(ArchiveError, match=r"is not what it was|another format"):
        read(name)
    s3.delete(bucket_name, key)
    with pytest.raises(ArchiveError, match="is missing") as caught:
        read(name)
    assert caught.value.kind == "damaged"


def test_the_first_error_ends_the_work():
    done: list[int] = []

    def work(number: int) -> None:
        if number == 30:
            raise ArchiveError("away", "gone")
        done.append(number)

    with pytest.raises(ArchiveError, match="gone"):
        pieces.each(work, range(10_000), Progress())
    assert len(done) < 200


def test_the_work_ends_when_it_is_told_to():
    stop = threading.Event()

    def work(number: int) -> None:
        if number == 30:
            stop.set()

    with pytest.raises(ArchiveError, match="goes on later") as caught:
        pieces.each(work, range(10_000), Progress(None, stop))
    assert caught.value.kind == "cancelled"
    with pytest.raises(ArchiveError, match="goes on later"):
        Progress(None, stop).wait(60)
