"""What is damaged in the bucket costs itself: the next backup is whole, and the rest goes on."""

import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

import httpx
import pytest

from agent.archive import pieces
from agent.archive.bucket import Bucket, open_bucket
from agent.archive.catalogue import Catalogue
from agent.archive.errors import ArchiveError
from agent.archive.ledger import Ledger, Seen
from agent.archive.progress import Progress
from agent.archive.pruning import outdated, prune
from agent.archive.sealing import Sealer
from agent.archive.settings import LEDGER, S3, UNSWEPT, Keep
from tests.archive.backups import Backup
from tests.archive.volumes import settings_for

ONE, TWO, THREE, FOUR = (f"2026-11-24T18:00:0{number}Z" for number in (1, 2, 3, 4))
HOME = "uuid-of-files/dittofs"
ALONE = pytest.mark.parametrize("program", ["stand-in"], indirect=True)


@pytest.fixture
def serving(unit):
    """A unit that serves a share with some files, and its agent."""
    unit.server.start()
    unit.server.make_share("/export")
    unit.server.files.put("/export", {"a": b"a" * 50_000, "b": secrets.token_bytes(200_000)})
    unit.start()
    return unit


DAMAGES = {
    "a bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "too long": lambda data: data + b"x",
    "another's content": lambda data: secrets.token_bytes(len(data)),
    "zeros": lambda data: bytes(len(data)),
}


def damage(s3, bucket_name, how) -> str:
    """Damage the largest piece; return its key."""
    sizes = {key: size for key, size in s3.sizes(bucket_name).items() if "/pieces/" in key}
    key = max(sizes, key=lambda each: sizes[each])
    s3.put(bucket_name, key, how(s3.get(bucket_name, key)))
    return key


@ALONE
@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_in_the_bucket_is_sent_anew_by_the_next_backup(
    serving, s3, bucket_name, how
):
    serving.back_up(ONE)
    damage(s3, bucket_name, how)
    serving.back_up(TWO)
    for number, backup in enumerate((TWO, ONE)):
        # The older one needs the same object.
        found = serving.perform("verify", f"v{number}", backup_id=backup)["result"]
        assert found["problems"] == []


@ALONE
def test_what_only_verification_finds_is_sent_anew_too(serving, s3, bucket_name):
    """A disk of S3's that rots changes nothing in a list."""
    serving.back_up(ONE)
    key = damage(s3, bucket_name, DAMAGES["a bit"])
    name = key.rpartition("/")[2]
    bucket = Bucket(S3(**s3.settings(bucket_name)), 5.0)
    found = bucket.find(key)
    assert found is not None
    notes = serving.server.metadata / ".dittofs-backup"
    ledger = Ledger(notes / LEDGER)
    ledger.note(name, Seen(found.size, found.tag, ""))
    assert ledger.right(name, found)
    problems = serving.perform("verify", "v1", backup_id=ONE)["result"]["problems"]
    assert any("is not what it was" in each for each in problems)
    serving.back_up(TWO)
    assert serving.perform("verify", "v2", backup_id=TWO)["result"]["problems"] == []


def forget(serving) -> None:
    """Lose what the agent remembers."""
    serving.stop()
    for path in (serving.server.metadata / ".dittofs-backup").iterdir():
        path.unlink()
    serving.start()


@ALONE
def test_a_new_pod_on_new_volumes_takes_nothing_for_right(serving, s3, bucket_name):
    serving.back_up(ONE)
    forget(serving)
    # It is read back, and not sent.
    assert serving.back_up(TWO)["uploaded"] < 20_000
    damage(s3, bucket_name, DAMAGES["cut"])
    forget(serving)
    assert serving.back_up(THREE)["uploaded"] > 200_000
    assert serving.perform("verify", "v1", backup_id=THREE)["result"]["problems"] == []


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


def pruned(settings, made=FOUR):
    return prune(settings, catalogue(settings), made, datetime.now(UTC), Progress())


NOT_MANIFESTS = {
    "empty": b"",
    "cut": b'{"format": 1, "id": "20',
    "another's": b"<html></html>",
    "deep": b"[" * 100_000,
    "endless": b'{"format": Infinity}',
    "newer": b'{"format": 2}',
    "list": b"[]",
    "number": b"7",
}


@pytest.mark.parametrize("data", NOT_MANIFESTS.values(), ids=NOT_MANIFESTS)
def test_a_manifest_that_cannot_be_read_costs_only_itself(settings, backup, s3, bucket_name, data):
    for each in (ONE, TWO, FOUR):
        backup.make(id=each)
    s3.put(bucket_name, f"{HOME}/backups/{THREE}.json", data)
    found = {entry.id: entry.head is not None for entry in catalogue(settings).entries()}
    assert found == {ONE: True, TWO: True, THREE: False, FOUR: True}
    done = pruned(settings_for(settings.root, s3=settings.s3, keep=Keep(count=2)))
    assert done.backups == [ONE]
    (problem,) = done.freed.problems
    if b"2}" in data:
        assert problem.startswith("refresh the charm: the backup was made by a newer one; ")
    else:
        assert problem.startswith(f"mend or delete backup {THREE}: it cannot be read (")


def test_who_may_not_read_a_backup_is_not_told_to_delete_it(
    settings, backup, s3, bucket_name, proxy
):
    for each in (ONE, TWO, FOUR):
        backup.make(id=each)
    given = S3(**s3.settings(bucket_name, endpoint=proxy.url))
    through = settings_for(settings.root, s3=given, keep=Keep(count=9))
    denied = quote(f"{TWO}.json")
    proxy.answer("AccessDenied", match=lambda method, path: method == "GET" and denied in path)
    (settings.notes / UNSWEPT).touch()
    problems = pruned(through).freed.problems
    assert problems
    for problem in problems:
        assert problem.startswith("give these keys the right s3:GetObject or take others: ")
        assert problem.endswith(f"; backup {TWO} cannot be read")


def sent(settings, backup_id: str, *words: bytes) -> set[str]:
    """Send pieces for a backup that is not there any more; their keys."""
    ledger = Ledger(settings.notes / LEDGER)
    writer = pieces.Writer(open_bucket(settings, 5.0), HOME, ledger, backup_id)
    sealer = Sealer(settings.key, encrypt=False)
    (settings.notes / UNSWEPT).touch()
    return {pieces.key_of(HOME, writer.write(sealer, word)) for word in words}


def test_space_does_not_grow_for_ever_beside_a_damaged_manifest(settings, backup, s3, bucket_name):
    """What was sent for a later backup is not its own."""
    before = sent(settings, ONE, b"sent before")
    backup.make(id=TWO)
    s3.put(bucket_name, f"{HOME}/backups/{TWO}.json", b"damaged")
    old = set(s3.keys(bucket_name))
    young = sent(settings, THREE, *(bytes([number]) * 1000 for number in range(20)))
    freed = pruned(settings).freed
    assert freed.objects == len(young)
    assert set(s3.keys(bucket_name)) == old >= before
    assert (settings.notes / UNSWEPT).exists()


def test_a_bucket_that_was_moved_loses_nothing_of_a_damaged_one(settings, backup, s3, bucket_name):
    """All times are new, and what was damaged on the way is sent anew."""
    backup.make(id=ONE)
    keys = s3.keys(bucket_name)
    for key in keys:
        s3.put(bucket_name, key, b"damaged" if ONE in key else s3.get(bucket_name, key))
    again = pieces.key_of(HOME, Sealer(settings.key, encrypt=False).name(b"the same"))
    s3.put(bucket_name, again, b"not right")
    assert sent(settings, THREE, b"the same") == {again}
    assert pruned(settings).freed.objects == 0
    assert set(s3.keys(bucket_name)) == {*keys, again}


def test_what_could_not_be_deleted_is_deleted_after_the_next_backup(
    settings, backup, s3, bucket_name, proxy
):
    backup.make(id=ONE)
    backup.make(id=FOUR)
    (settings.notes / UNSWEPT).touch()
    orphan = f"{HOME}/pieces/00/{'0' * 64}"
    s3.put(bucket_name, orphan, b"nobody's")
    through = settings_for(settings.root, s3=S3(**s3.settings(bucket_name, endpoint=proxy.url)))
    proxy.answer("AccessDenied", match=lambda method, _: method == "DELETE")
    done = pruned(through)
    assert "1 objects could not be deleted" in done.freed.problems[0]
    assert "s3:DeleteObject" in done.freed.problems[0]
    proxy.heal()
    assert pruned(through).freed.problems == []
    assert orphan not in s3.keys(bucket_name)
    assert not (settings.notes / UNSWEPT).exists()


def test_one_backup_that_cannot_be_deleted_keeps_no_other(
    settings, backup, s3, bucket_name, proxy
):
    for each in (ONE, TWO, FOUR):
        backup.make(id=each)
    through = settings_for(
        settings.root,
        s3=S3(**s3.settings(bucket_name, endpoint=proxy.url)),
        keep=Keep(count=1),
    )
    proxy.answer(
        "AccessDenied", match=lambda method, path: method == "DELETE" and quote(ONE) in path
    )
    done = pruned(through)
    assert done.backups == [TWO]
    assert f"backup {ONE} could not be deleted" in done.freed.problems[0]
    assert [entry.id for entry in catalogue(settings).entries()] == [ONE, FOUR]


def test_a_forged_manifest_of_senseless_values_breaks_no_list(settings, backup, s3, bucket_name):
    """A checksum needs no key: anybody can write one that fits."""
    good = backup.make(id=ONE)
    wrongs = {"time": float("nan"), "size": -1, "files": "x", "shares": (1,), "application": None}
    for number, (name, value) in enumerate(wrongs.items()):
        each = f"2026-11-25T18:00:0{number}Z"
        forged = replace(good, id=each, **{name: value})
        data = forged.as_json(Sealer(bytes(32), encrypt=False))
        s3.put(bucket_name, f"{HOME}/backups/{each}.json", data)
    entries = list(catalogue(settings).entries())
    assert [entry.head is not None for entry in entries] == [True, *[False] * len(wrongs)]


def test_a_ledger_that_was_cut_is_of_use(tmp_path, s3, bucket_name):
    bucket = Bucket(S3(**s3.settings(bucket_name)), 5.0)
    tag = bucket.put("a", b"one")
    found = bucket.find("a")
    assert found is not None
    assert found.tag == tag
    path = tmp_path / "ledger"
    ledger = Ledger(path)
    ledger.note("a", Seen(3, tag, ONE))
    with path.open("a") as file:
        file.write("b 12")
    again = Ledger(path)
    assert again.right("a", found)
    assert [again.is_younger("a", each) for each in ("2020-01-01T00:00:00Z", ONE, TWO)] == [
        True,
        False,
        False,
    ]
    again.forget("a")
    assert not Ledger(path).right("a", found)
    path.write_bytes(b"\xff\x00")
    assert not Ledger(path).right("a", found)


def test_an_object_of_another_size_or_tag_is_doubtful(s3, bucket_name):
    bucket = Bucket(S3(**s3.settings(bucket_name)), 5.0)
    bucket.put("a", b"one")
    found = bucket.find("a")
    assert found is not None
    ledger = Ledger(None)
    assert not ledger.right("a", found)
    ledger.note("a", Seen(3, found.tag, ""))
    assert ledger.right("a", found)
    assert not ledger.right("a", found._replace(size=4))
    assert not ledger.right("a", found._replace(tag="other"))


def test_what_is_under_way_counts_for_nothing(settings, backup):
    del backup
    assert outdated([], Keep(count=1), ONE, datetime.now(UTC)) == []
    with pytest.raises(ArchiveError, match="is no id of a backup"):
        catalogue(settings).remove("../../x")


@ALONE
def test_a_standing_problem_is_in_the_status_file_and_a_metric(serving, s3, bucket_name):
    serving.back_up(ONE)
    s3.put(bucket_name, f"{HOME}/backups/{ONE}.json", b"damaged")
    serving.back_up(TWO)
    assert f"backup {ONE}: it cannot be read" in serving.status["standing"]
    address = f"http://127.0.0.1:{serving._http}/metrics"  # noqa: SLF001  # the rig's own port
    assert "dittofs_backup_problem 1" in httpx.get(address).text
    said = serving.perform("delete", "d1", backup_id=ONE)
    assert said["result"]["problem"] == ""
    assert json.loads((serving.run / "backup-status.json").read_text())["standing"] == ""
    assert "dittofs_backup_problem 0" in httpx.get(address).text
