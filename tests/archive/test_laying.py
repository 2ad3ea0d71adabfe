"""A backup is laid down beside the data: all of it, or a word on why not."""

import dataclasses
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.archive import laying
from agent.archive.errors import ArchiveError
from agent.archive.manifest import File, Share
from agent.archive.pieces import PIECE
from agent.archive.progress import Progress
from agent.archive.settings import S3, ArchiveSettings
from agent.archive.staging import BACKUP_DATABASE, StagedShare
from tests import bed, namespaces
from tests.archive.backups import BIG, ID, SEGMENT, Backup, content_of
from tests.archive.power import Power
from tests.archive.scripted import answering, describing
from tests.archive.volumes import OPERATION, SHARES, Volumes, request_for, settings_for
from tests.s3 import FaultyProxy, S3Server

_KEY, _OTHER_KEY = bytes(range(32)), bytes(range(1, 33))


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    bed.enter()
    with S3Server(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture(params=["encrypted", "plain"])
def settings(s3, tmp_path, request):
    """Volumes without data, and a bucket of their own."""
    name = s3.make_bucket(f"b{abs(hash(request.node.name)) % 10**12}")
    root = tmp_path / "unit"
    for volume in ("metadata", "content"):
        (root / "data" / volume).mkdir(parents=True)
    yield settings_for(
        root,
        s3=S3(**s3.settings(name, "some/prefix")),
        key=_KEY,
        encrypt=request.param == "encrypted",
    )
    s3.remove_bucket(name)


@pytest.fixture
def backup(settings, tmp_path):
    made = Backup(settings, tmp_path)
    made.make()
    return made


@pytest.fixture
def proxy(s3):
    with FaultyProxy(s3.port) as made:
        yield made


only_plain = pytest.mark.parametrize("settings", ["plain"], indirect=True)


def fetch(
    settings: ArchiveSettings, progress: Progress | None = None, **params: Any
) -> dict[str, Any]:
    return laying.fetch(settings, request_for("fetch", **params), progress or Progress())


def refused(settings: ArchiveSettings, kind: str, text: str, **params: Any) -> None:
    with pytest.raises(ArchiveError, match=text) as caught:
        fetch(settings, **params)
    assert caught.value.kind == kind
    assert Volumes(settings.root).staging.read() is None


def through(settings: ArchiveSettings, proxy: FaultyProxy) -> ArchiveSettings:
    """The same with the proxy between."""
    assert settings.s3
    return dataclasses.replace(settings, s3=dataclasses.replace(settings.s3, endpoint=proxy.url))


def laid(settings: ArchiveSettings) -> dict[str, bytes]:
    """The files of the shares that were laid down."""
    root = settings.content / ".restoring/shares"
    found = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def expected(*shares: StagedShare) -> dict[str, bytes]:
    return {
        f"{share.key}/{path}": data
        for share in shares
        for path, data in content_of(share.snapshot).items()
    }


class Stop:
    """Lets an operation be told to end when it has done so many bytes."""

    def __init__(self, after: int):
        self.progress = Progress(self, threading.Event())
        self._after = after

    def alive(self, silence: float) -> None:
        assert silence > 0

    def told(self, message: str, done: int | None, total: int | None) -> None:
        del message, total
        if done and done >= self._after:
            self.progress._stop.set()  # noqa: SLF001  # what a signal does


def test_everything(settings, backup):
    result = fetch(settings)
    assert laid(settings) == expected(*SHARES)
    raw = settings.metadata / ".restoring" / BACKUP_DATABASE
    assert raw.read_bytes() == backup.database.read_bytes()
    sizes = sum(len(data) for data in laid(settings).values()) + raw.stat().st_size
    assert result == {"size": sizes, "files": 15, "shares": ["/export", "/a b"]}
    staged = Volumes(settings.root).staging.of(OPERATION)
    assert (staged.full, staged.backup_id, staged.shares) == (True, ID, SHARES)
    assert fetch(settings) == result


def test_files_are_sparse_and_have_their_modes(settings, backup):
    del backup
    fetch(settings)
    path = settings.content / ".restoring/shares/export" / SEGMENT
    info = path.stat()
    assert (info.st_size, info.st_mode & 0o777) == (len(BIG), 0o640)
    assert info.st_blocks * 512 < len(BIG) - PIECE
    assert (settings.metadata / ".restoring").stat().st_mode & 0o777 == 0o700


def test_some_shares(settings, backup):
    del backup
    result = fetch(settings, shares=["/a b"])
    assert laid(settings) == expected(SHARES[1])
    assert result["shares"] == ["/a b"]
    staged = Volumes(settings.root).staging.of(OPERATION)
    assert (staged.full, staged.shares) == (False, SHARES[1:])


def test_it_goes_on_after_an_interruption(settings, backup, proxy):
    del backup
    slow = through(settings, proxy)
    with pytest.raises(ArchiveError) as caught:
        fetch(slow, Stop(9 * PIECE // 2).progress)
    assert caught.value.kind == "cancelled"
    first = [each.path for each in proxy.requests if "/pieces/" in each.path]
    assert first
    fetch(slow)
    assert laid(settings) == expected(*SHARES)
    table = first[0]
    second = [each.path for each in proxy.requests if "/pieces/" in each.path][len(first) :]
    # The table is read again, and what was in flight; not what was written.
    assert len(set(second) & set(first) - {table}) <= 8
    assert set(second) != set(first)


def test_what_a_loss_of_power_left_is_fetched_again(settings, backup, monkeypatch):
    del backup
    staging = Volumes(settings.root).staging
    with monkeypatch.context() as patched:
        patched.setattr(type(staging), "complete", lambda *_: (_ for _ in ()).throw(OSError()))
        with pytest.raises(ArchiveError):
            fetch(settings)
    path = settings.content / ".restoring/shares/export" / SEGMENT
    with path.open("r+b") as file:
        file.seek(PIECE)
        file.write(bytes(4096))
    os.truncate(path.with_name("0000000000000002.seg"), 3)
    fetch(settings)
    assert laid(settings) == expected(*SHARES)


@only_plain
def test_a_crash_at_any_call(settings, backup, monkeypatch):
    del backup
    power = Power(monkeypatch)
    calls = 0
    while power.cut(calls, fetch, settings):
        # Every other time it is cut twice in the same staging.
        if calls % 8:
            fetch(settings)
            assert laid(settings) == expected(*SHARES), calls
            Volumes(settings.root).staging.remove()
        calls += 4
    assert calls > 40
    assert laid(settings) == expected(*SHARES)


def test_what_another_operation_laid_down_goes(settings, backup):
    del backup
    laying.fetch(settings, request_for("fetch", "op-2", shares=["/export"]), Progress())
    stray = settings.content / ".restoring/shares/stray"
    stray.mkdir()
    fetch(settings, shares=["/a b"])
    assert not stray.exists()
    assert laid(settings) == expected(SHARES[1])


def test_an_interrupted_one_of_another_operation_goes(settings, backup):
    del backup
    request = request_for("fetch", "op-2")
    with pytest.raises(ArchiveError):
        laying.fetch(settings, request, Stop(1).progress)
    fetch(settings, shares=["/a b"])
    assert laid(settings) == expected(SHARES[1])


def test_from_another_application(settings, backup):
    del backup
    other = dataclasses.replace(
        settings, application="other", key=_OTHER_KEY, foreign_key=_KEY, encrypt=True
    )
    fetch(other, **{"from": settings.home})
    assert laid(settings) == expected(*SHARES)


def test_from_another_application_without_its_key(settings, backup):
    del backup
    other = dataclasses.replace(settings, application="other", key=_OTHER_KEY)
    refused(other, "key", "another key", **{"from": settings.home})


@only_plain
def test_a_backup_that_is_not_there(settings):
    refused(settings, "missing", f"no backup {ID}")


@only_plain
def test_shares_that_are_not_in_it(settings, backup):
    del backup
    refused(
        settings,
        "refused",
        "the backup has no /b, /c, it has /a b, /export",
        shares=["/c", "/export", "/b"],
    )


@only_plain
def test_without_a_bucket(settings):
    refused(dataclasses.replace(settings, s3=None), "settings", "no S3 bucket")


@only_plain
@pytest.mark.parametrize(
    ("present", "backed", "fits"),
    [
        ("v0.29.0", "v0.29.0", True),
        ("v0.31.1", "v0.29.10", True),
        ("v0.29.2", "v0.29.10", False),
        ("v0.29.0", "v0.30.0-rc1", False),
        ("v0.29.0", "v1.0.0", False),
        ("v0.29.0-dirty", "v0.29.0", True),
        ("dev", "v9.0.0", True),
        ("v0.29.0", "unknown", True),
    ],
)
def test_versions(settings, tmp_path, present, backed, fits):
    Backup(settings, tmp_path).make(server=backed)
    with answering(describing(present)) as api:
        here = dataclasses.replace(settings, api=api)
        if fits:
            fetch(here)
        else:
            refused(here, "newer", f"refresh dittofs-image first: .* {backed}, the present one")


@only_plain
def test_shares_that_are_not_here(settings, backup):
    del backup
    shares = [
        ("/export", "badger", "fs"),
        ("/ram", "memory", "memory"),
        ("/a b", "badger", "memory"),
    ]
    with answering(describing("v0.29.0", *shares)) as api:
        here = dataclasses.replace(settings, api=api)
        refused(here, "refused", "/a b here is kept in memory", shares=["/export", "/a b"])
        fetch(here, shares=["/export"])
    with answering(describing("v0.29.0", *shares[1:])) as api:
        here = dataclasses.replace(settings, api=api)
        Volumes(settings.root).staging.remove()
        refused(
            here, "refused", "list the share .*: there is no share /export", shares=["/export"]
        )
        fetch(here)


def test_a_damaged_piece(settings, backup, s3):
    del backup
    for key in _pieces(settings, s3):
        s3.damage(_bucket(settings), key)
    refused(settings, "damaged", "not what it was when it was written")


def test_a_missing_piece(settings, backup, s3):
    del backup
    s3.delete(_bucket(settings), *_pieces(settings, s3)[:1])
    refused(settings, "damaged", "is missing")


def _bucket(settings: ArchiveSettings) -> str:
    assert settings.s3
    return settings.s3.bucket


def _pieces(settings: ArchiveSettings, s3: S3Server) -> list[str]:
    """The largest pieces: those of files, not the table."""
    sizes = s3.sizes(_bucket(settings), f"some/prefix/{settings.home}/pieces/")
    return sorted(sizes, key=sizes.__getitem__)[-2:]


@only_plain
@pytest.mark.parametrize(
    ("share", "text"),
    [
        (Share("/x", "..", "1", ()), "no folder of /x"),
        (Share("/x", "a/b", "1", (File("y", 0, 0o644, ()),)), "no folder of /x"),
        (Share("/x", "x", "1", (File("../../y", 0, 0o644, ()),)), "makes no sense"),
        (Share("/x", "x", "1", (File("y", 5, 0o644, ()),)), "y is not complete"),
        (Share("/x", "x", "1", ()), "no snapshot of /x"),
    ],
)
def test_a_backup_that_makes_no_sense(settings, tmp_path, share, text):
    backup = Backup(settings, tmp_path)
    backup.write(backup.control_plane(), [share])
    refused(settings, "damaged", text)
    assert not (settings.root / "data/y").exists()


@only_plain
@pytest.mark.parametrize("change", ["no database", "damaged page"])
def test_a_control_plane_that_is_damaged(settings, tmp_path, change):
    backup = Backup(settings, tmp_path)
    data = bytearray(backup.database.read_bytes())
    if change == "no database":
        data[:16] = b"something else  "
    else:
        # A page of an index, in its head: where its cells are.
        data[2 * 4096 : 2 * 4096 + 64] = os.urandom(64)
    backup.database.write_bytes(data)
    backup.make()
    refused(settings, "damaged", "control plane")


@only_plain
def test_a_piece_of_the_wrong_size(settings, tmp_path):
    backup = Backup(settings, tmp_path)
    control_plane = backup.control_plane()
    short = dataclasses.replace(control_plane, size=control_plane.size - 1)
    backup.write(short, [])
    refused(settings, "damaged", "controlplane.db is not complete")


@pytest.fixture
def small(settings):
    """A volume without room for the backup."""

    def mount(volume: str, mib: int) -> Path:
        namespaces.mount_tmpfs(path := settings.root / "data" / volume, mib * 2**20)
        mounted.append(path)
        return path

    mounted: list[Path] = []
    yield mount
    for path in mounted:
        namespaces.unmount(path)


@only_plain
@pytest.mark.needs_namespaces("a volume without room")
@pytest.mark.parametrize(("volume", "mib"), [("content", 8), ("metadata", 16)])
def test_too_little_room(settings, backup, small, volume, mib):
    del backup
    root = small(volume, mib)
    text = rf"make room on the {volume} volume: it has {mib} MiB free, .* needs \d\d MiB beside"
    refused(settings, "space", text)
    assert laid(settings) == {}
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 100


@only_plain
@pytest.mark.needs_namespaces("a volume with little room")
def test_room_for_what_is_not_there_yet(settings, backup, small):
    del backup
    # Both shares have some 8 MiB each that are not zeros, and what the server writes once more.
    small("content", 20)
    small("metadata", 40)
    fetch(settings)
    Volumes(settings.root).staging.forget()
    fetch(settings)
    assert laid(settings) == expected(*SHARES)
