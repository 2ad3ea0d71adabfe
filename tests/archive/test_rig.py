"""What the tests of backups stand on: that its parts do what they are said to do."""

import datetime as dt
import os
import time
from typing import Any

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.s3 import Authority, FaultyProxy

FILES = {"a": b"a" * 5000, "b": os.urandom(200_000)}


def store(settings, *, ca=None, seconds=30.0) -> S3Store:
    """A client without any patience."""
    options: Any = {"root_certificate": ca.encode()} if ca else {"allow_http": True}
    options["timeout"] = dt.timedelta(seconds=seconds)
    return S3Store(
        settings["bucket"],
        endpoint=settings["endpoint"],
        region=settings["region"],
        access_key_id=settings["access_key"],
        secret_access_key=settings["secret_key"],
        virtual_hosted_style_request=False,
        client_options=options,
        retry_config={"max_retries": 0},
    )


def put(client, key, data):
    obstore.put(client, key, data, use_multipart=False)


def get(client, key):
    return bytes(obstore.get(client, key).bytes())


@pytest.fixture
def through(s3, bucket_name, proxy):
    """A client behind the proxy."""
    return store(s3.settings(bucket_name, endpoint=proxy.url))


def test_only_the_right_keys_are_let_in(s3, bucket_name):
    settings = s3.settings(bucket_name)
    put(store(settings), "ä b/c+d:e", b"x")
    assert s3.keys(bucket_name, "ä b/") == ["ä b/c+d:e"]
    listed = [each["path"] for page in obstore.list(store(settings), "ä b") for each in page]
    assert listed == ["ä b/c+d:e"]
    for wrong in ({"secret_key": "wrong"}, {"access_key": "AKIAWRONG"}):
        with pytest.raises(BaseError, match=r"InvalidAccessKeyId|SignatureDoesNotMatch"):
            get(store(settings | wrong), "ä b/c+d:e")


def test_a_paused_server_answers_nothing(s3, bucket_name):
    settings = s3.settings(bucket_name)
    put(store(settings), "x", b"x")
    s3.pause()
    with pytest.raises(BaseError):
        get(store(settings, seconds=0.3), "x")
    s3.resume()
    assert get(store(settings), "x") == b"x"


def test_a_killed_server_has_lost_everything(tmp_path, s3):
    with type(s3)(tmp_path) as other:
        port = other.port
        other.make_bucket("lost")
        other.kill()
        other.start()
        assert other.port == port
        with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
            put(store(other.settings("lost")), "x", b"x")


def test_the_proxy_answers_errors_as_often_as_it_is_told_to(through, proxy):
    proxy.answer("SlowDown", 2)
    proxy.answer("AccessDenied", 1, match=lambda method, _: method == "GET")
    for _ in range(2):
        with pytest.raises(BaseError, match="SlowDown"):
            put(through, "x", b"x")
    put(through, "x", b"x")
    with pytest.raises(BaseError, match="AccessDenied"):
        get(through, "x")
    assert get(through, "x") == b"x"
    assert proxy.faults == {"SlowDown": 2, "AccessDenied": 1}
    assert [(each.method, each.status) for each in proxy.requests] == [
        ("PUT", 503),
        ("PUT", 503),
        ("PUT", 200),
        ("GET", 403),
        ("GET", 200),
    ]


def test_what_is_cut_did_not_happen_and_what_is_lost_did(s3, bucket_name, through, proxy):
    big = os.urandom(3_000_000)
    proxy.cut(1)
    with pytest.raises(BaseError):
        put(through, "cut", big)
    proxy.lose_answer(1)
    with pytest.raises(BaseError):
        put(through, "lost", big)
    assert s3.sizes(bucket_name) == {"lost": len(big)}
    proxy.cut(1)
    with pytest.raises(BaseError):
        get(through, "lost")
    assert get(through, "lost") == big
    assert [each.sent for each in proxy.requests][:2] == [len(big) // 2, len(big)]


def test_damage_changes_a_bit_and_nobody_says_so(s3, bucket_name, through, proxy):
    put(through, "x", b"abc")
    proxy.damage(1)
    assert get(through, "x") == b"acc"
    proxy.shorten(1)
    assert get(through, "x") == b"a"
    assert s3.get(bucket_name, "x") == b"abc"
    s3.damage(bucket_name, "x")
    assert get(through, "x") == b"acc"


def test_a_proxy_that_refuses_is_away_until_it_is_healed(through, proxy):
    put(through, "x", b"x")
    proxy.refuse()
    with pytest.raises(BaseError):
        get(through, "x")
    proxy.heal()
    assert get(through, "x") == b"x"


def test_the_rate_is_limited(through, proxy):
    put(through, "x", bytes(1_000_000))
    proxy.limit = 2_000_000
    began = time.monotonic()
    get(through, "x")
    assert 0.4 < time.monotonic() - began < 5


def test_each_request_is_told_before_it_is_passed_on(s3, bucket_name, through, proxy):
    told = []

    def on_request(number, method, path):
        told.append((number, method, path, s3.keys(bucket_name)))

    proxy.on_request = on_request
    put(through, "x", b"x")
    get(through, "x")
    path = f"/{bucket_name}/x"
    assert told == [(1, "PUT", path, []), (2, "GET", path, ["x"])]


def test_tls_by_an_authority_of_its_own(s3, bucket_name, tmp_path):
    authority = Authority("S3")
    with FaultyProxy(s3.port, authority=authority, folder=tmp_path / "tls") as proxy:
        settings = s3.settings(bucket_name, endpoint=proxy.url, ca=proxy.ca)
        client = store(settings, ca=proxy.ca)
        put(client, "x", b"x")
        assert get(client, "x") == b"x"
        with pytest.raises(BaseError):
            get(store(settings, ca=Authority("other").pem), "x")
        proxy.refuse()
        with pytest.raises(BaseError):
            get(client, "x")


def test_a_backup_goes_into_a_bucket_and_comes_back_on_new_volumes(unit, s3, bucket_name):
    server = unit.server
    server.start()
    server.make_share()
    server.files.put("/export", FILES)
    unit.start()
    made = unit.back_up("2026-01-01T00:00:00Z")
    assert made["shares"] == ["/export"]
    assert s3.keys(bucket_name, "uuid-of-files/dittofs/backups/")
    unit.lose()
    server.new_password()
    server.start()
    unit.start()
    results = unit.restore("2026-01-01T00:00:00Z")
    assert [share["equal"] for share in results["settle"]["shares"]] == [True]
    assert server.files.get("/export", *FILES) == FILES
    assert not list(server.content.glob("aside-*"))
