"""What was laid down changes places with what is there, whenever the machine is cut off."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.archive import swapping
from agent.archive.errors import ArchiveError
from agent.archive.staging import Staged
from tests.archive.power import Power
from tests.archive.volumes import BACKUP, OPERATION, PRESENT, SHARES, Volumes, request_for


@pytest.fixture
def power(monkeypatch):
    return Power(monkeypatch)


@pytest.fixture(params=["full", "shares"])
def template(request, tmp_path, power):
    """Volumes with everything laid down, to be copied."""
    del power  # nothing of it is really written to the disk
    return Volumes.make(tmp_path / "template", full=request.param == "full")


def swap(volumes: Volumes) -> None:
    swapping.swap(volumes.settings, request_for("swap"))


def rollback(volumes: Volumes) -> None:
    swapping.rollback(volumes.settings, request_for("rollback"))


def discard(volumes: Volumes) -> None:
    swapping.discard(volumes.settings, request_for("discard"))


def served(volumes: Volumes) -> None:
    """What a server and the charm do with what was swapped in."""
    volumes.write("metadata/stores/export/log", "made anew")
    volumes.write("metadata/controlplane.db-wal", "a side file")
    volumes.write("metadata/.dittofs-charm.json", "the next generation")
    volumes.write("content/shares/export/journal/2.seg", "written by the server")


@contextmanager
def refused(kind: str, text: str):
    with pytest.raises(ArchiveError, match=text) as caught:
        yield
    assert caught.value.kind == kind


@pytest.mark.parametrize("template", ["full"], indirect=True)
def test_full_swap_replaces_everything_but_what_is_not_data(template):
    swap(template)
    found = template.tree()
    database = template.rows(template.settings.database)
    assert database["users"] == [("backup-2", "user of backup")]
    assert [row[0] for row in database["snapshots"]] == ["snap-1", "snap-2"]
    assert database["restore_markers"] == []
    assert {row[2] for row in database["shares"]} == {0}
    assert found["content/shares/export/journal/1.seg"] == BACKUP
    assert "content/else/file" not in found
    assert not any(name.startswith("metadata/stores") for name in found)
    assert found["metadata/.dittofs-charm.json"] == ".dittofs-charm.json of before"
    assert found["content/aside-1/old"] == "aside-1/old of before"
    assert {"metadata/deleted-stores/gone", "content/lost+found"} <= set(found)


@pytest.mark.parametrize("template", ["shares"], indirect=True)
def test_swap_of_a_share_touches_nothing_else(template):
    before = template.tree()
    swap(template)
    found = template.tree()
    changed = {name for name in before | found if before.get(name) != found.get(name)}
    assert changed == {
        "metadata/controlplane.db",
        "metadata/stores/export",
        "metadata/stores/export/log",
        "content/shares/export/journal/1.seg",
        "content/shares/export/snapshots",
        "content/shares/export/snapshots/snap-1",
        "content/shares/export/snapshots/snap-1/metadata.dump",
    }
    rows = template.rows(template.settings.database)
    assert [row[1] for row in rows["users"]] == ["admin", "user of present"]
    # Columns that only one of the servers has are left empty.
    assert rows["snapshots"] == [
        ("other", PRESENT, "/a b", "ready", 7, PRESENT),
        ("snap-1", BACKUP, "/export", "ready", 7, None),
        ("third", PRESENT, "/else", "ready", 7, PRESENT),
    ]
    assert rows["shares"] == [("present-/a b", "/a b", 1), ("present-/export", "/export", 0)]
    assert rows["restore_markers"] == []


def test_rollback_brings_everything_back(template):
    before = template.tree()
    swap(template)
    served(template)
    rollback(template)
    assert template.tree() == before
    discard(template)
    assert (template.tree(), template.leftovers()) == (before, [])


def test_discard_leaves_only_what_was_swapped_in(template):
    swap(template)
    after = template.tree()
    discard(template)
    assert (template.tree(), template.leftovers()) == (after, [])


def test_discard_of_what_was_fetched_in_vain(template):
    before = template.tree()
    discard(template)
    assert (template.tree(), template.leftovers()) == (before, [])


def test_rollback_before_a_swap_does_nothing(template):
    before = template.tree()
    rollback(template)
    assert template.tree() == before
    swap(template)


def every_cut(
    template: Volumes, power: Power, work: Callable[[Volumes], None], every: int = 1
) -> Iterator[Volumes]:
    """Volumes on which the power went off before each call of some work, and after the last."""
    root = template.root.with_name("cut")
    for calls in itertools.count(0, every):
        volumes = template.copy(root)
        cut = power.cut(calls, work, volumes)
        yield volumes
        if not cut:
            # Otherwise it counts no calls.
            assert calls > 20
            return


def test_swap_again_after_a_crash_at_any_call(template, tmp_path, power):
    before = template.tree()
    done = template.copy(tmp_path / "done")
    swap(done)
    after = done.tree()
    for volumes in every_cut(template, power, swap):
        swap(volumes)
        assert volumes.tree() == after
        rollback(volumes)
        assert volumes.tree() == before


def test_rollback_after_a_crash_of_the_swap_at_any_call(template, power):
    before = template.tree()
    for volumes in every_cut(template, power, swap):
        rollback(volumes)
        assert volumes.tree() == before
        discard(volumes)
        assert (volumes.tree(), volumes.leftovers()) == (before, [])


def test_rollback_again_after_a_crash_at_any_call(template, tmp_path, power):
    before = template.tree()
    swapped = template.copy(tmp_path / "swapped")
    swap(swapped)
    served(swapped)
    for volumes in every_cut(swapped, power, rollback):
        rollback(volumes)
        assert volumes.tree() == before


def test_rollback_after_two_crashes(template, power):
    before = template.tree()
    for once in every_cut(template, power, swap, every=9):
        for calls in itertools.count(1, 5):
            volumes = once.copy(once.root.with_name("twice"))
            again = power.cut(calls, rollback, volumes)
            rollback(volumes)
            assert volumes.tree() == before
            if not again:
                break


def test_discard_again_after_a_crash_at_any_call(template, tmp_path, power):
    swapped = template.copy(tmp_path / "swapped")
    swap(swapped)
    after = swapped.tree()
    for volumes in every_cut(swapped, power, discard):
        discard(volumes)
        assert (volumes.tree(), volumes.leftovers()) == (after, [])


def test_discard_and_a_new_restore_wait_for_the_end_of_a_swap(template, power):
    waited = 0
    for volumes in every_cut(template, power, swap):
        plan = volumes.staging.notes / "plan.json"
        if not plan.exists() or '"phase": "swapped"' in plan.read_text():
            continue
        waited += 1
        with refused("refused", "neither done nor undone"):
            discard(volumes)
        with refused("busy", "neither done nor undone"):
            swapping.make_way(volumes.settings, request_for("fetch", "op-2"))
    assert waited > 10


def test_nothing_comes_back_after_discard_began(template, power):
    swap(template)
    assert power.cut(12, discard, template)
    with refused("refused", "removed already"):
        rollback(template)
    with refused("refused", "underway"):
        swap(template)


def test_no_swap_of_what_is_not_laid_down_completely(template):
    before = template.tree()
    template.staging.forget()
    with refused("refused", "not there completely"):
        swap(template)
    assert template.tree() == before


def test_no_swap_of_what_another_operation_has_laid_down(template):
    with refused("refused", "not there completely"):
        swapping.swap(template.settings, request_for("swap", "op-2"))


def test_no_second_operation_over_a_swap(template):
    swap(template)
    with refused("refused", "underway"):
        swapping.swap(template.settings, request_for("swap", "op-2"))
    before = template.tree()
    swapping.rollback(template.settings, request_for("rollback", "op-2"))
    assert template.tree() == before


def test_no_swap_on_the_way_back(template, power):
    swap(template)
    assert power.cut(8, rollback, template)
    with refused("refused", "way back"):
        swap(template)


def test_after_a_rollback_it_is_laid_down_anew(template):
    swap(template)
    rollback(template)
    with refused("refused", "not there completely"):
        swap(template)
    swapping.make_way(template.settings, request_for("fetch"))
    assert template.leftovers() == []


def test_a_restore_makes_way_for_the_next_when_it_is_done(template):
    swap(template)
    with refused("busy", "neither done nor undone"):
        swapping.make_way(template.settings, request_for("fetch"))
    after = template.tree()
    swapping.make_way(template.settings, request_for("fetch", "op-2"))
    assert (template.tree(), template.leftovers()) == (after, [])


@pytest.mark.parametrize("template", ["full"], indirect=True)
def test_nothing_is_written_over(template, power):
    """What somebody has put into the way is no reason to lose it."""
    before = template.tree()
    plan = template.staging.notes / "plan.json"
    for calls in itertools.count():
        assert power.cut(calls, swap, template)
        if plan.exists() and '"phase": "arriving"' in plan.read_text():
            break
    template.write("content/shares/mine", "put here by hand")
    with refused("refused", "shares is in the way"):
        swap(template)
    rollback(template)
    assert template.tree() == before
    left = template.settings.content / ".restoring/left/shares/mine"
    assert left.read_text() == "put here by hand"


def test_what_is_gone_is_told(template):
    swap(template)
    aside = template.settings.metadata / f"aside-restore-{OPERATION}"
    (aside / "controlplane.db").unlink()
    with refused("refused", "controlplane.db is neither where it was nor where it goes"):
        rollback(template)


def test_volumes_without_markers_have_none_after_a_rollback(template):
    for volume in (template.settings.metadata, template.settings.content):
        (volume / swapping.MARKER).unlink()
    before = template.tree()
    swap(template)
    served(template)
    rollback(template)
    assert template.tree() == before


@pytest.mark.parametrize("template", ["shares"], indirect=True)
def test_what_is_only_in_the_side_file_is_in_the_merged_control_plane(template, tmp_path):
    database = template.settings.database
    writer = sqlite3.connect(database)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO users VALUES ('late', 'late')")
    writer.commit()
    # As a server leaves it that was killed.
    volumes = template.copy(tmp_path / "killed")
    writer.close()
    assert volumes.settings.database.with_name("controlplane.db-wal").stat().st_size
    swap(volumes)
    assert ("late", "late") in volumes.rows(volumes.settings.database)["users"]
    assert not volumes.settings.database.with_name("controlplane.db-wal").exists()
    rollback(volumes)
    assert volumes.settings.database.with_name("controlplane.db-wal").stat().st_size


@pytest.mark.parametrize("template", ["shares"], indirect=True)
def test_a_share_that_is_not_here_is_not_restored(template):
    with sqlite3.connect(template.settings.database) as database:
        database.execute("DELETE FROM shares WHERE name = '/export'")
    database.close()
    before = template.tree()
    with refused("refused", "no share /export"):
        swap(template)
    assert template.tree() == before


def test_a_backup_without_shares(tmp_path):
    volumes = Volumes.make(tmp_path, full=True)
    before = volumes.tree()
    staging = volumes.staging
    staging.complete(Staged(OPERATION, "2026-01-01T00:00:00Z", True, 1, 1, ()))
    for share in SHARES:
        swapping.remove(staging.share(share.key))
    swap(volumes)
    assert "content/shares" in volumes.tree()
    assert volumes.rows(volumes.settings.database)["snapshots"] == []
    rollback(volumes)
    assert volumes.tree() == before


def test_a_volume_that_refuses_is_told(template, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/data/content/aside-restore-op-1")

    monkeypatch.setattr(Path, "rename", full)
    with refused("space", "make room on the .*: No space left on device: aside-restore-op-1"):
        swap(template)
    monkeypatch.undo()
    rollback(template)
