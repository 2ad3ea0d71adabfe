"""What is in the bucket that is not ours, and what the keys may not do."""

import re
import socket
from urllib.parse import quote, urlsplit

import pytest

from agent.archive import creation, faults
from agent.archive.bucket import Bucket, open_bucket
from agent.archive.catalogue import Catalogue
from agent.archive.errors import ArchiveError
from agent.archive.progress import Progress
from agent.archive.pruning import delete
from agent.archive.settings import S3
from tests.archive.backups import ID, Backup
from tests.archive.volumes import settings_for

HOME = "uuid-of-files/dittofs"
ODD = [
    "/leading/x",
    "//x",
    "a//b",
    "a/",
    "/",
    "a/./b",
    "../x",
    "./x",
    "..",
    "a b+c%2F",
    "ü/ä",
    "u\u0308/x",
    "\U0001f4a9/x/y",
    "a\x01\x1f/b\x7f",
    "a\tb/d",
    "&<>\"'/]]>",
    "a\\b/c",
    "?#=&",
    "x" * 1024,
    "uuid-of-files",
    "uuid-of-files/",
    "uuid-of-files//backups/2026-01-01T00:00:00Z.json",
    "uuid-of-files/dittofs/",
    "uuid-of-files/dittofs/backups/",
    "uuid-of-files/dittofs//backups/2026-01-01T00:00:00Z.json",
    "/uuid-of-files/dittofs/backups/2026-01-01T00:00:00Z.json",
    "/dittofs/backups/2026-01-01T00:00:00Z.json",
    "../dittofs/backups/2026-01-01T00:00:00Z.json",
    "uuid-of-files/a\x01b/backups/2026-01-01T00:00:00Z.json",
]


@pytest.fixture
def settings(s3, bucket_name, tmp_path):
    for volume in ("metadata", "content"):
        (tmp_path / "data" / volume).mkdir(parents=True)
    made = settings_for(tmp_path, s3=S3(**s3.settings(bucket_name)))
    made.notes.mkdir()
    return made


@pytest.fixture
def backup(settings, tmp_path):
    return Backup(settings, tmp_path)


def catalogue(settings) -> Catalogue:
    return Catalogue(open_bucket(settings, 5.0), settings)


@pytest.mark.parametrize("prefix", ["", "a", "ü/a b+"])
def test_objects_of_others_cost_nothing_but_themselves(
    s3, bucket_name, settings, tmp_path, prefix
):
    given = settings_for(settings.root, s3=S3(**s3.settings(bucket_name, prefix)))
    below = [key for key in (f"{prefix}/{key}" for key in ODD) if len(key.encode()) <= 1024]
    others = {*ODD, *(below if prefix else ())}
    for key in others:
        s3.put(bucket_name, key, b"not ours")
    backup = Backup(given, tmp_path)
    backup.make()
    creation.check_bucket(given)
    found = catalogue(given)
    assert [(entry.home, entry.id) for entry in found.entries()] == [(HOME, ID)]
    everywhere = {(entry.home, entry.id): entry.head for entry in found.everywhere()}
    assert everywhere[HOME, ID] is not None
    assert all(head is None for (home, _), head in everywhere.items() if home != HOME)
    assert delete(given, found, ID, Progress()).problems == []
    assert set(s3.keys(bucket_name)) == others


def test_thousands_of_objects_of_others_on_many_pages(
    s3, bucket_name, settings, backup, monkeypatch
):
    monkeypatch.setattr("agent.archive.bucket._PAGE", 7)
    for number in range(60):
        s3.put(bucket_name, f"folder-{number}/deep/{number}", b"")
        s3.put(bucket_name, f"{HOME}/pieces/ff/{number}", b"x")
    backup.make()
    found = catalogue(settings)
    assert [entry.id for entry in found.everywhere()] == [ID]
    assert delete(settings, found, ID, Progress()).problems == []
    assert not s3.keys(bucket_name, HOME)
    assert len(s3.keys(bucket_name)) == 60


LIST = (
    "<ListBucketResult><IsTruncated>{truncated}</IsTruncated><Contents><Key>{key}</Key>"
    "<Size>3</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
    "</ListBucketResult>"
)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (LIST.format(truncated="false", key="a/b"), ["a/b"]),
        (LIST.format(truncated="false", key="a/&#x1;b"), ["a/?b"]),
        (LIST.format(truncated="false", key="a/\x02b"), ["a/?b"]),
        (LIST.format(truncated="false", key="a/%2F+b"), ["a/%2F+b"]),
        # No token to go on with: half of a list is none.
        (LIST.format(truncated="true", key="a/b"), None),
        ("<html>Log in</html>", None),
        ("", None),
        ("{}", None),
    ],
)
def test_lists_of_an_s3_that_does_what_it_likes(s3, bucket_name, monkeypatch, text, keys):
    bucket = Bucket(S3(**s3.settings(bucket_name)), 0.5)
    connection = bucket._connection  # noqa: SLF001  # the border: what S3 answers
    answer = connection.request("LIST", "", {"list-type": "2"})
    monkeypatch.setattr(
        connection, "request", lambda *_, **__: answer._replace(body=text.encode())
    )
    if keys is not None:
        assert [each.key for each in bucket.objects("a/")] == keys
        return
    with pytest.raises(ArchiveError, match="there is no S3") as caught:
        list(bucket.objects("a/"))
    assert caught.value.kind == "bucket"


def test_a_list_that_is_damaged_on_its_way_is_asked_for_again(s3, bucket_name, monkeypatch):
    s3.put(bucket_name, "a/b", b"x")
    bucket = Bucket(S3(**s3.settings(bucket_name)), 0.5)
    connection = bucket._connection  # noqa: SLF001  # the border: what S3 answers
    ask, broken = connection.request, [b"<ListBuck", b""]

    def damaged(*args, **kwargs):
        answer = ask(*args, **kwargs)
        return answer._replace(body=broken.pop()) if broken else answer

    monkeypatch.setattr(connection, "request", damaged)
    assert [each.key for each in bucket.objects("a/")] == ["a/b"]


def denying(work: str):
    """A match for one kind of request on the bucket."""

    def match(method: str, path: str) -> bool:
        is_list = "list-type" in (urlsplit(path).query or "")
        return (
            (method == "GET" and is_list) if work == "LIST" else (method == work and not is_list)
        )

    return match


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("LIST", r"give these keys the right s3:ListBucket .* list the bucket .*: AccessDenied"),
        ("DELETE", r"the right s3:DeleteObject .* delete objects in the bucket .*: AccessDenied"),
        ("PUT", r"the right s3:PutObject .* write objects in the bucket .*: AccessDenied"),
        ("GET", r"the right s3:GetObject .* read objects in the bucket .*: AccessDenied"),
    ],
)
def test_a_right_that_is_missing_is_named_and_nothing_is_left(
    s3, bucket_name, settings, proxy, work, words
):
    through = settings_for(settings.root, s3=S3(**s3.settings(bucket_name, endpoint=proxy.url)))
    proxy.answer("AccessDenied", match=denying(work))
    with pytest.raises(ArchiveError, match=words) as caught:
        creation.check_bucket(through)
    assert caught.value.kind == "credentials"
    assert s3.keys(bucket_name) == []


def test_what_a_check_that_was_killed_has_left_goes_with_the_next(s3, bucket_name, settings):
    s3.put(bucket_name, f"{HOME}/check/0011223344556677", b"left")
    creation.check_bucket(settings)
    assert s3.keys(bucket_name) == []


def test_an_answer_that_was_lost_leaves_nothing(s3, bucket_name, settings, proxy, monkeypatch):
    monkeypatch.setattr(creation, "_CHECK_PATIENCE", 0.3)
    through = settings_for(settings.root, s3=S3(**s3.settings(bucket_name, endpoint=proxy.url)))
    proxy.lose_answer(match=denying("PUT"))
    with pytest.raises(ArchiveError, match="was cut"):
        creation.check_bucket(through)
    assert s3.keys(bucket_name) == []


@pytest.mark.parametrize("code", ["NotImplemented", "AccessDenied", "MethodNotAllowed"])
def test_an_s3_without_bulk_delete(s3, bucket_name, settings, backup, proxy, code):
    """What is asked with ?delete is never asked."""
    backup.make()
    through = settings_for(settings.root, s3=S3(**s3.settings(bucket_name, endpoint=proxy.url)))
    proxy.answer(code, match=lambda method, path: method == "POST" or path.endswith("?delete"))
    assert delete(through, catalogue(through), ID, Progress()).problems == []
    assert s3.keys(bucket_name) == []
    assert proxy.faults == {}


CODES = [
    ("AccessDenied", "credentials", "give these keys the right s3:PutObject"),
    ("AuthorizationHeaderMalformed", "bucket", "set region and endpoint at the provider"),
    ("EntityTooLarge", "bucket", "EntityTooLarge"),
    ("ExpiredToken", "credentials", "set access-key and secret-key anew"),
    ("InvalidAccessKeyId", "credentials", "set access-key and secret-key anew"),
    ("InvalidBucketName", "bucket", "name another bucket"),
    ("InvalidObjectState", "refused", "bring back in S3 what is in a cold class"),
    ("MethodNotAllowed", "bucket", "this one does not allow what is asked"),
    ("NoSuchBucket", "bucket", "make the bucket or name another"),
    ("NotImplemented", "bucket", "this one cannot do what is asked"),
    ("PermanentRedirect", "bucket", "set region and endpoint"),
    ("QuotaExceeded", "bucket", "make room in the bucket"),
    ("RequestTimeTooSkewed", "credentials", "set the clock of S3 or of this node"),
    ("SignatureDoesNotMatch", "credentials", "set access-key and secret-key anew"),
    ("UserSuspended", "credentials", "ask who runs this S3"),
    ("XMinioStorageFull", "bucket", "make room in the bucket"),
    ("BadDigest", "away", "BadDigest"),
    ("InternalError", "away", "InternalError"),
    ("OperationAborted", "away", "OperationAborted"),
    ("RequestTimeout", "away", "RequestTimeout"),
    ("ServiceUnavailable", "away", "ServiceUnavailable"),
    ("SlowDown", "away", "SlowDown"),
    ("TooManyRequests", "away", "TooManyRequests"),
]


@pytest.mark.parametrize(("code", "kind", "words"), CODES)
def test_the_code_of_s3_is_named_with_what_to_do(s3, bucket_name, proxy, code, kind, words):
    bucket = Bucket(S3(**s3.settings(bucket_name, endpoint=proxy.url)), 0.5)
    proxy.answer(code)
    with pytest.raises(ArchiveError, match=re.escape(words)) as caught:
        bucket.put("x", b"y")
    assert (caught.value.kind, code in str(caught.value)) == (kind, True)
    # What passes is asked again, and nothing else is.
    assert (len(proxy.requests) > 1) == (kind == "away")
    proxy.heal()
    proxy.answer(code, 2)
    if kind == "away":
        bucket.put("x", b"y")


@pytest.mark.parametrize("status", [200, 301, 400, 404])
def test_what_is_no_s3_is_told(status):
    """A web server at the endpoint, or the port that wants TLS."""
    from tests.archive.scripted import answering  # noqa: PLC0415

    with answering(lambda _: (status, b"<html>Hello</html>")) as api:
        made = S3("backups", "key", "word", endpoint=api.url)
        with pytest.raises(ArchiveError, match=r"set endpoint .* there is no S3") as caught:
            list(Bucket(made, 0.5).objects("x/"))
    assert caught.value.kind == "bucket"


@pytest.mark.parametrize(
    ("endpoint", "kind", "words"),
    [
        ("http://127.0.0.1:1", "away", "127.0.0.1 takes no connections"),
        ("ftp://x", "settings", "make no sense"),
        ("http://", "settings", "make no sense"),
        ("http://x:y", "settings", "make no sense"),
    ],
)
def test_an_endpoint_that_does_not_answer(endpoint, kind, words):
    with pytest.raises(ArchiveError, match=words) as caught:
        Bucket(S3("backups", "key", "word", endpoint=endpoint), 0.3).get("x")
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("number", "kind"),
    [(socket.EAI_NONAME, "settings"), (socket.EAI_AGAIN, "away"), (socket.EAI_FAIL, "away")],
)
def test_a_name_that_is_not_known_and_a_name_server_that_is_away(number, kind):
    place = faults.Place("GET", "backups", "s3.example.com", "x")
    found = faults.broken(place, socket.gaierror(number, "words of the system"))
    assert (found.error.kind, found.passes) == (kind, True)
    assert "s3.example.com" in str(found.error)


def test_tls_asked_of_a_port_without_it(s3, bucket_name):
    given = s3.settings(bucket_name, endpoint=s3.url.replace("http:", "https:"))
    with pytest.raises(ArchiveError, match=r"set endpoint .* does not speak TLS") as caught:
        Bucket(S3(**given), 0.5).get("x")
    assert caught.value.kind == "settings"


def test_a_key_with_a_line_in_it_is_no_header(s3, bucket_name):
    given = s3.settings(bucket_name, access_key="A\nX: y")
    with pytest.raises(ArchiveError, match="have a character too much") as caught:
        Bucket(S3(**given), 0.5).get("x")
    assert caught.value.kind == "settings"
    assert s3.secret_key not in str(caught.value)


def test_a_bucket_whose_objects_are_locked_gets_the_checksum_it_wants(
    s3, bucket_name, proxy, monkeypatch
):
    bucket = Bucket(S3(**s3.settings(bucket_name, endpoint=proxy.url)), 0.5)
    connection = bucket._connection  # noqa: SLF001  # the border: what S3 answers
    sent = connection._sent  # noqa: SLF001  # the same
    asked: list[bool] = []

    def locked(*call):
        asked.append("content-md5" in call[3])
        answer = sent(*call)
        if asked[-1]:
            return answer
        text = (
            b"<Error><Code>InvalidRequest</Code><Message>Content-MD5 is required</Message></Error>"
        )
        return answer._replace(status=400, body=text)

    monkeypatch.setattr(connection, "_sent", locked)
    for _ in range(2):
        bucket.put("x", b"y")
    assert asked == [False, True, True]


def test_quoted_keys_are_what_they_were(s3, bucket_name):
    bucket = Bucket(S3(**s3.settings(bucket_name)), 2.0)
    for key in ("a b", "a+b", "a%20b", "ü~-_.", "a:b@c,d;e=f&g$h!i*j'k(l)"):
        bucket.put(f"m/{key}", quote(key).encode())
        assert bucket.get(f"m/{key}") == quote(key).encode()
        found = bucket.find(f"m/{key}")
        assert found is not None
    assert len(list(bucket.objects("m/"))) == 5
