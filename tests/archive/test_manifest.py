"""The head and the table of a backup."""

import dataclasses
import json

import pytest

from agent.archive.errors import ArchiveError
from agent.archive.manifest import File, Head, Share, read_table, write_table
from agent.archive.sealing import Sealer

SEALER = Sealer(bytes(range(32)), encrypt=False)
CONTROL_PLANE = File("controlplane.db", 5, 0o600, ("aa" * 32,))
SHARES = (
    Share(
        "/export",
        "export",
        "snapshot-1",
        (File("journal/1.seg", 9_000_000, 0o644, ("bb" * 32, None, "cc" * 32)),),
        used_bytes=7,
    ),
)
HEAD = Head(
    id="2026-11-24T18:00:00Z",
    time=1.5,
    application="dittofs",
    model="files",
    model_uuid="uuid",
    server="v0.29.0",
    charm="1",
    encrypted=False,
    key_id=SEALER.key_id,
    instance="instance",
    shares=("/export",),
    files=2,
    size=9_000_005,
    uploaded=3,
    duration=0.25,
    table="dd" * 32,
)


def test_a_head_comes_back_with_its_seal():
    head, seal = Head.parse(HEAD.as_json(SEALER))
    assert head == HEAD
    assert seal == SEALER.mac(HEAD.signed())


def test_a_table_comes_back_and_names_all_pieces():
    manifest = read_table(HEAD, write_table(CONTROL_PLANE, SHARES))
    assert (manifest.control_plane, manifest.shares) == (CONTROL_PLANE, SHARES)
    assert list(manifest.pieces()) == [each * 32 for each in ("dd", "aa", "bb", "cc")]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Head)])
def test_a_field_that_is_missing_or_changed_is_found(name):
    found = json.loads(HEAD.as_json(SEALER))
    key = name.replace("_", "-")
    without = {each: value for each, value in found.items() if each != key}
    with pytest.raises(ArchiveError, match="manifest is damaged"):
        Head.parse(json.dumps(without).encode())
    with pytest.raises(ArchiveError, match="manifest is damaged"):
        Head.parse(json.dumps(found | {key: ["other"]}).encode())


def test_a_head_with_a_new_checksum_has_the_wrong_seal():
    forged = dataclasses.replace(HEAD, table="ee" * 32)
    other = Sealer(bytes(32), encrypt=False)
    head, seal = Head.parse(forged.as_json(other))
    assert SEALER.mac(head.signed()) != seal


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b"null"])
def test_what_is_no_head_is_refused(data):
    with pytest.raises(ArchiveError, match="manifest is damaged"):
        Head.parse(data)


def test_a_later_format_is_refused():
    found = json.loads(HEAD.as_json(SEALER)) | {"format": 2}
    with pytest.raises(ArchiveError, match="refresh the charm") as caught:
        Head.parse(json.dumps(found).encode())
    assert caught.value.kind == "newer"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "journal/../../x"])
def test_a_file_outside_its_folder_is_refused(path):
    share = dataclasses.replace(SHARES[0], files=(File(path, 1, 0o644, ("aa" * 32,)),))
    with pytest.raises(ArchiveError, match="makes no sense"):
        read_table(HEAD, write_table(CONTROL_PLANE, [share]))


def test_a_table_that_makes_no_sense_is_refused():
    with pytest.raises(ArchiveError, match="makes no sense"):
        read_table(HEAD, b'{"shares": []}')
