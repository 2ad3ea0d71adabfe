"""Every S3 as the docs have it: what a person sets leads into the bucket, by the hosts it has.

The server is one, and knows buckets in a path and in front of a host; see `tests.s3_hosts`.
"""

import base64
import secrets

import pytest

from agent.archive.bucket import Bucket
from agent.archive.errors import ArchiveError
from agent.archive.settings import S3
from relations import s3_address
from tests.s3_hosts import HostsProxy

AWS, DUAL = "https://s3.eu-west-1.amazonaws.com", "https://s3.dualstack.eu-west-1.amazonaws.com"
MINIO, RGW = "https://minio.test", "https://rgw.test"
GOOGLE = "https://storage.googleapis.com"
EU = {"region": "eu-west-1"}
# The fields, whether the bucket has dots in its name, and the host that is asked with {} for it.
DIALECTS = [
    ({}, False, "{}.s3.us-east-1.amazonaws.com"),
    (EU, False, "{}.s3.eu-west-1.amazonaws.com"),
    ({**EU, "s3-uri-style": "host"}, False, "{}.s3.eu-west-1.amazonaws.com"),
    ({**EU, "s3-uri-style": "path"}, False, "s3.eu-west-1.amazonaws.com"),
    (EU, True, "s3.eu-west-1.amazonaws.com"),
    ({**EU, "s3-uri-style": "host"}, True, "s3.eu-west-1.amazonaws.com"),
    ({"endpoint": AWS}, False, "{}.s3.eu-west-1.amazonaws.com"),
    ({"endpoint": AWS}, True, "s3.eu-west-1.amazonaws.com"),
    ({"endpoint": AWS, "s3-uri-style": "path"}, False, "s3.eu-west-1.amazonaws.com"),
    ({"endpoint": "https://s3.amazonaws.com", **EU}, False, "{}.s3.eu-west-1.amazonaws.com"),
    ({"endpoint": DUAL}, False, "{}.s3.dualstack.eu-west-1.amazonaws.com"),
    ({"endpoint": MINIO}, False, "minio.test"),
    ({"endpoint": MINIO}, True, "minio.test"),
    ({"endpoint": MINIO, "s3-uri-style": "host"}, False, "{}.minio.test"),
    ({"endpoint": "http://minio.test:9000"}, False, "minio.test:9000"),
    ({"endpoint": RGW, "region": "default"}, False, "rgw.test"),
    ({"endpoint": RGW, "s3-uri-style": "host"}, False, "{}.rgw.test"),
    ({"endpoint": GOOGLE}, False, "storage.googleapis.com"),
    ({"endpoint": GOOGLE}, True, "storage.googleapis.com"),
    ({"endpoint": GOOGLE, "s3-uri-style": "host"}, False, "{}.storage.googleapis.com"),
]


@pytest.fixture(scope="module")
def hosts(s3, tmp_path_factory):
    with HostsProxy(s3.port, tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(autouse=True)
def calm(hosts):
    hosts.asked.clear()
    hosts.login = hosts.status = None


@pytest.fixture
def names(s3):
    """A bucket without dots, and one with; and one that is called as the path is."""
    word = secrets.token_hex(6)
    made = [s3.make_bucket(f"{prefix}{word}") for prefix in ("plain-", "with.dots.", "path-")]
    yield made
    for name in made:
        s3.remove_bucket(name)


def settings(s3, hosts, fields: dict[str, str], **more: object) -> S3:
    """What the charm makes of the fields, and the agent is given."""
    found = s3_address.read(fields, "s3-integrator")
    return S3(
        bucket=found.bucket,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        endpoint=found.endpoint,
        region=found.region,
        prefix=found.prefix,
        path_style=found.path_style,
        **{"ca": hosts.ca, "proxy": hosts.url, **more},
    )


@pytest.mark.parametrize(("fields", "dots", "host"), DIALECTS)
def test_an_object_is_in_the_bucket_and_nowhere_else(s3, hosts, names, fields, dots, host):
    plain, dotted, path = names
    name = dotted if dots else plain
    given = {"bucket": name, "path": f"{path}/a", **fields}
    bucket = Bucket(settings(s3, hosts, given), 2.0)
    bucket.put("m/x y+z%", b"hello")
    assert bucket.get("m/x y+z%") == b"hello"
    assert [each.key for each in bucket.objects("m/")] == ["m/x y+z%"]
    assert bucket.folders() == ["m"]
    assert s3.keys(name) == [f"{path}/a/m/x y+z%"]
    assert [s3.keys(other) for other in names if other != name] == [[], []]
    bucket.delete("m/x y+z%")
    assert s3.keys(name) == []
    scheme = "http" if fields.get("endpoint", "").startswith("http:") else "https"
    assert set(hosts.asked) == {(scheme, host.format(name))}


def test_a_certificate_that_knows_no_dots_is_told_with_the_remedy(s3, hosts, names):
    given = {"bucket": names[1], "endpoint": MINIO, "s3-uri-style": "host"}
    with pytest.raises(
        ArchiveError, match=r"set s3-uri-style=path.* is for another name"
    ) as caught:
        Bucket(settings(s3, hosts, given), 2.0).put("x", b"y")
    assert caught.value.kind == "settings"


def test_a_proxy_that_wants_a_login(s3, hosts, names):
    hosts.login = f"Basic {base64.b64encode(b'us er:a:word').decode()}"
    with_login = hosts.url.replace("http://", "http://us%20er:a%3Aword@")
    for endpoint in (MINIO, "http://minio.test"):
        given = {"bucket": names[0], "endpoint": endpoint}
        bucket = Bucket(settings(s3, hosts, given, proxy=with_login), 2.0)
        bucket.put("x", b"y")
        assert bucket.get("x") == b"y"
        with pytest.raises(ArchiveError, match=r"the model's proxy .* status 407") as caught:
            Bucket(settings(s3, hosts, given), 2.0).get("x")
        assert caught.value.kind == "settings"


@pytest.mark.parametrize(("status", "kind"), [(403, "settings"), (503, "away")])
def test_a_proxy_that_refuses(s3, hosts, names, status, kind):
    hosts.status = status
    given = {"bucket": names[0], "endpoint": MINIO}
    with pytest.raises(ArchiveError, match=f"the model's proxy .* status {status}") as caught:
        Bucket(settings(s3, hosts, given), 0.5).get("x")
    assert caught.value.kind == kind
    assert hosts.asked == []


def test_what_the_environment_says_is_not_heard(s3, hosts, bucket_name, monkeypatch):
    """An image may have variables of its own."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, hosts.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://nowhere.test")
    bucket = Bucket(S3(**s3.settings(bucket_name)), 2.0)
    bucket.put("x", b"y")
    assert hosts.asked == []


def test_a_proxy_s_password_is_in_no_text(s3, hosts, names):
    given = {"bucket": names[0], "endpoint": MINIO}
    made = settings(s3, hosts, given, proxy="http://user:a-word@127.0.0.1:1")
    assert "a-word" not in repr(made)
    with pytest.raises(ArchiveError) as caught:
        Bucket(made, 0.5).get("x")
    assert "a-word" not in str(caught.value)
