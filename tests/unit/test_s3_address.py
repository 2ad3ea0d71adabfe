"""Where a bucket is: what a person may write has one meaning, or is refused with the remedy."""

import pytest
from ops import testing

from errors import BlockedError
from relations import s3_address
from tests.unit import archives

OWN = "https://s3.example.com"
GOOGLE = "https://storage.googleapis.com"


def address(**fields: str) -> s3_address.Address:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return s3_address.read({"bucket": "backups", **named}, "s3-integrator")


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("", ""),
        ("/", ""),
        ("//a//b//", "a/b"),
        ("./a/./b", "a/b"),
        ("a.b/..c", "a.b/..c"),
        ("a b/%2e%2e/ü", "a b/%2e%2e/ü"),
        ("u\u0308", "ü"),
    ],
)
def test_a_path_is_brought_into_one_form(path, prefix):
    assert address(endpoint=OWN, path=path).prefix == prefix


@pytest.mark.parametrize(
    "path", ["..", "a/../b", "../../x", "a/..", "a\x00b", "a\nb", "\x7f", "x" * 601, "ü" * 301]
)
def test_a_path_that_means_two_things_is_refused(path):
    with pytest.raises(BlockedError, match=r"its path .*; run: juju config s3-integrator path="):
        address(endpoint=OWN, path=path)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("HTTP://S3.Example.COM", "http://s3.example.com"),
        ("HTTPS://s3.example.com:443/", "https://s3.example.com"),
        ("http://s3.example.com:80", "http://s3.example.com"),
        ("http://s3.example.com:443", "http://s3.example.com:443"),
        ("https://s3.example.com.", "https://s3.example.com"),
        ("https://s3.example.com//", "https://s3.example.com"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[FD00:0::7]:9000", "http://[fd00::7]:9000"),
        ("http://minio", "http://minio"),
        ("https://x.supabase.co/storage//v1/s3/", "https://x.supabase.co/storage/v1/s3"),
    ],
)
def test_an_endpoint_is_brought_into_one_form(endpoint, expected):
    assert address(endpoint=endpoint).endpoint == expected


@pytest.mark.parametrize(
    "endpoint",
    [
        "s3.example.com",
        "//s3.example.com",
        "ftp://s3.example.com",
        "https://",
        "https://:443",
        "https://s3.example.com:0",
        "https://s3.example.com:65536",
        "https://s3.example.com:x",
        "https://s3 .example.com",
        "https://s3.exa\tmple.com",
        "https://s3.example.com\\x",
        "https://s3..example.com",
        "https://s3.example.com?",
        "https://s3.example.com#",
        "https://s3.example.com/?x=y",
        "https://s3.example.com/#x",
        "https://user:word@s3.example.com",
        "https://s3.example.com/a%2Fb",
        "https://s3.example.com/../x",
        "https://s3.example.com/backups",
        "https://s3.example.com/s3/backups/",
        "http://[fd00::7",
        "http://[nonsense]",
    ],
)
def test_an_endpoint_that_means_two_things_is_refused(endpoint):
    with pytest.raises(BlockedError, match=r"its endpoint .*; run: juju config s3-integrator end"):
        address(endpoint=endpoint)


@pytest.mark.parametrize(
    "bucket",
    [
        "s3://backups",
        "backups/",
        "a/b",
        "../x",
        "a b",
        "ab",
        "a..b",
        "a.-b",
        "-ab",
        "ab-",
        "10.1.2.3",
        "ü-backups",
        "x" * 256,
        "a\nb",
        "a?b",
        "a%2fb",
    ],
)
@pytest.mark.parametrize("endpoint", ["", OWN])
def test_a_bucket_that_is_none_is_refused(endpoint, bucket):
    with pytest.raises(BlockedError, match=r"its bucket .*; run: juju config s3-integrator buc"):
        address(endpoint=endpoint, bucket=bucket)


@pytest.mark.parametrize("bucket", ["Backups", "back_ups", "x" * 64, "tenant:backups"])
def test_what_only_others_take_for_a_bucket(bucket):
    found = address(endpoint=OWN, bucket=bucket, s3_uri_style="host")
    # It is no name of a host.
    assert (found.bucket, found.path_style) == (bucket, bucket != "x" * 64)
    with pytest.raises(BlockedError, match="is no name of a bucket at AWS"):
        address(bucket=bucket)


@pytest.mark.parametrize("region", ["eu west", "eu/west", "eu\nwest", "-x", "x" * 64, "eü"])
def test_a_region_that_is_none_is_refused(region):
    with pytest.raises(BlockedError, match=r"its region .*; run: juju config s3-integrator reg"):
        address(endpoint=OWN, region=region)


# Each S3 as the docs have it: what is given, and which host and style it becomes.
DIALECTS = [
    # AWS.
    ({}, "backups.s3.us-east-1.amazonaws.com", "us-east-1"),
    ({"region": "EU-West-1"}, "backups.s3.eu-west-1.amazonaws.com", "eu-west-1"),
    ({"region": "eu-west-1", "s3_uri_style": "path"}, "s3.eu-west-1.amazonaws.com", "eu-west-1"),
    ({"bucket": "my.bucket", "region": "eu-west-1"}, "s3.eu-west-1.amazonaws.com", "eu-west-1"),
    (
        {"bucket": "my.bucket", "region": "eu-west-1", "s3_uri_style": "host"},
        "s3.eu-west-1.amazonaws.com",
        "eu-west-1",
    ),
    (
        {"endpoint": "https://s3.amazonaws.com", "region": "eu-west-1"},
        "backups.s3.eu-west-1.amazonaws.com",
        "eu-west-1",
    ),
    (
        {"endpoint": "https://s3.eu-west-1.amazonaws.com"},
        "backups.s3.eu-west-1.amazonaws.com",
        "eu-west-1",
    ),
    (
        {"endpoint": "https://s3-eu-west-1.amazonaws.com", "s3_uri_style": "path"},
        "s3.eu-west-1.amazonaws.com",
        "eu-west-1",
    ),
    (
        {"endpoint": "https://backups.s3.eu-west-1.amazonaws.com"},
        "backups.s3.eu-west-1.amazonaws.com",
        "eu-west-1",
    ),
    (
        {"endpoint": "https://s3.dualstack.eu-west-1.amazonaws.com"},
        "backups.s3.dualstack.eu-west-1.amazonaws.com",
        "eu-west-1",
    ),
    (
        {"endpoint": "https://s3.cn-north-1.amazonaws.com.cn"},
        "backups.s3.cn-north-1.amazonaws.com.cn",
        "cn-north-1",
    ),
    # MinIO and Ceph: path where nothing is said.
    ({"endpoint": OWN}, "s3.example.com", None),
    ({"endpoint": OWN, "s3_uri_style": "host"}, "backups.s3.example.com", None),
    ({"endpoint": OWN, "bucket": "my.bucket"}, "s3.example.com", None),
    (
        {"endpoint": OWN, "bucket": "my.bucket", "s3_uri_style": "HOST"},
        "my.bucket.s3.example.com",
        None,
    ),
    ({"endpoint": "http://10.1.2.3:9000", "s3_uri_style": "host"}, "10.1.2.3", None),
    ({"endpoint": "http://[fd00::7]:9000", "s3_uri_style": "host"}, "fd00::7", None),
    ({"endpoint": OWN, "region": "RegionOne"}, "s3.example.com", "RegionOne"),
    # Google.
    ({"endpoint": GOOGLE}, "storage.googleapis.com", "auto"),
    ({"endpoint": GOOGLE, "s3_uri_style": "host"}, "backups.storage.googleapis.com", "auto"),
]


@pytest.mark.parametrize(("fields", "host", "region"), DIALECTS)
def test_every_s3_is_asked_where_its_bucket_is(fields, host, region):
    found = address(**fields)
    assert (found.host, found.region) == (host, region)
    assert found.path_style is not host.startswith(f"{found.bucket}.")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"endpoint": "https://other.s3.eu-west-1.amazonaws.com"}, "that of the bucket other"),
        (
            {"endpoint": "https://s3.eu-west-1.amazonaws.com", "region": "us-east-2"},
            "us-east-2 is not the one of its endpoint; run: juju config .* region=eu-west-1",
        ),
        ({"region": "RegionOne"}, "regionone is no name of a region at AWS; run: juju config"),
        ({"endpoint": "https://s3.amazonaws.com/x"}, "has a path, which AWS has not"),
        ({"s3_uri_style": "both"}, "'both' is neither path nor host"),
    ],
)
def test_what_contradicts_itself_is_refused(fields, text):
    with pytest.raises(BlockedError, match=text):
        address(**fields)


def test_the_status_says_what_is_to_be_mended_and_the_server_serves(deployed):
    status = deployed.relate_s3(archives.V1 | {"path": "a/../b"})
    assert status == testing.BlockedStatus(
        "s3-backup: s3-integrator: its path has a part .., which S3 takes for a name; run: juju "
        "config s3-integrator path=<a/b>"
    )
    assert deployed.agent.archive.starts == []
    assert deployed.relate_s3(archives.V1 | {"path": "//a//b/"}).name == "active"
    assert deployed.agent.archive.config["s3"]["prefix"] == "a/b"


def test_an_endpoint_in_capitals_is_an_endpoint(deployed):
    databag = archives.V1 | {"endpoint": "HTTP://S3.Example.com:80/"}
    assert deployed.relate_s3(databag).name == "active"
    assert deployed.agent.archive.config["s3"]["endpoint"] == "http://s3.example.com"


@pytest.mark.parametrize("key", ["a b", "a\nb", "ä", "a\x00"])
def test_an_access_key_that_cannot_be_sent_is_refused(deployed, key):
    status = deployed.relate_s3(archives.V0 | {"access-key": key})
    assert status == testing.BlockedStatus(
        "s3-backup: s3-integrator: its access-key has a character that no key has: set it anew "
        "there"
    )
