"""Which files are kept, and which are not read again."""

import os

import pytest

from agent.archive import pieces, scanning
from agent.archive.errors import ArchiveError
from agent.archive.scanning import Cache


@pytest.fixture
def folder(tmp_path):
    """A share's folder with two segments and two snapshots."""
    made = tmp_path / "content" / "shares" / "with%20space"
    for name in ("journal/2.seg", "journal/1.seg", "journal/1.idx", "journal/x.seg/no"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(name.encode() * 100)
    for snapshot in ("old", "mine"):
        place = made / "snapshots" / snapshot
        place.mkdir(parents=True)
        (place / "metadata.dump").write_text(snapshot)
    return made


def test_segments_and_the_snapshots_own_files_are_kept(folder):
    found = list(scanning.sources(folder, "mine"))
    names = ["journal/1.seg", "journal/2.seg", "snapshots/mine/metadata.dump"]
    assert [source.relative for source in found] == names
    assert [source.size for source in found] == [1300, 1300, 4]


def test_what_a_newer_server_has_beside_its_segments_is_kept(folder):
    for name in ("cold.log", "format", "format.tmp", "lock", "cold.log.1"):
        (folder / "journal" / name).write_text(name)
    found = [source.relative for source in scanning.sources(folder, "mine")]
    assert found == [
        "journal/1.seg",
        "journal/2.seg",
        "journal/cold.log",
        "journal/format",
        "snapshots/mine/metadata.dump",
    ]


def test_the_share_is_found_by_its_snapshot(folder, tmp_path):
    assert scanning.share_folder(tmp_path / "content", "mine") == folder
    for content in (tmp_path / "content", tmp_path / "nothing"):
        with pytest.raises(ArchiveError, match="is not on the content volume"):
            scanning.share_folder(content, "other")


def test_a_piece_is_what_was_there_when_it_was_scanned(folder):
    source = next(scanning.sources(folder, "mine"))
    before = source.path.read_bytes()
    with source.path.open("ab") as file:
        file.write(b"more")
    assert scanning.read(source, 0) == before
    os.truncate(source.path, 10)
    with pytest.raises(ArchiveError, match="got shorter"):
        scanning.read(source, 0)
    source.path.unlink()
    with pytest.raises(ArchiveError, match="cannot be read"):
        scanning.read(source, 0)
    with pytest.raises(ArchiveError, match="cannot be read"):
        scanning.source(source.path, "journal/1.seg")


def test_pieces_of_a_large_file(tmp_path):
    path = tmp_path / "a.seg"
    data = os.urandom(pieces.PIECE + 10)
    path.write_bytes(data)
    source = scanning.source(path, "a.seg")
    assert pieces.count(source.size) == 2
    assert scanning.read(source, 0) + scanning.read(source, 1) == data


def old(path):
    """Let a file be as it is for long."""
    os.utime(path, (1_700_000_000, 1_700_000_000))


def test_only_a_file_that_is_as_it_was_is_not_read_again(folder, tmp_path):
    cache = Cache(tmp_path / "cache.json", "key")
    segments = sorted((folder / "journal").glob("[12].seg"))
    old(segments[0])
    for path in segments:
        cache.note(scanning.source(path, path.name), ["name", None])
    cache.save()

    def find(basis: str = "key"):
        cache = Cache(tmp_path / "cache.json", basis)
        return [cache.find(scanning.source(path, path.name)) for path in segments]

    # The second was written a moment before it was read.
    assert find() == [["name", None], None]
    assert find("other") == [None, None]
    segments[0].write_bytes(b"same size!"[:1] * 1300)
    assert find() == [None, None]


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 0, "basis": "key"}'])
def test_a_cache_that_cannot_be_read_is_empty(tmp_path, folder, text):
    (tmp_path / "cache.json").write_text(text)
    source = next(scanning.sources(folder, "mine"))
    assert Cache(tmp_path / "cache.json", "key").find(source) is None
    Cache(tmp_path / "no" / "folder", "key").save()
