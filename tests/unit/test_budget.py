"""How the content volume is divided, and from when on the status warns."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import budget
from budget import Space
from units import GIB, MIB, TIB, parse_size

sizes = st.integers(0, 4 * TIB)
shares = st.dictionaries(st.sampled_from("abcdef"), st.just(0) | st.integers(1, TIB), max_size=6)


def of(size: int, used: int = 0) -> Space:
    return Space(used=used, free=size - used)


@pytest.mark.parametrize(
    ("size", "count", "backups", "room"),
    [
        # 4 GiB for each share and 3 GiB, or a twentieth; the rest by 2.
        (16 * GIB, 1, False, 9 * GIB // 2),
        # With backups 4 GiB more, and by 3.
        (16 * GIB, 1, True, 5 * GIB // 3),
        (16 * GIB, 2, False, 5 * GIB // 2),
        (100 * GIB, 1, False, 91 * GIB // 2),
        (1000 * GIB, 4, False, 934 * GIB // 2),
    ],
)
def test_what_files_have_room_for(size, count, backups, room):
    made = budget.divide(of(size), {f"/{n}": 0 for n in range(count)}, backups=backups)
    assert made.problem is None
    assert made.room == room


def test_what_a_share_needs_follows_from_its_quota():
    made = budget.divide(of(100 * GIB), {"/a": 0, "/b": 10 * GIB})
    assert made.needs == {"/a": 5 * GIB, "/b": 24 * GIB}
    made = budget.divide(of(100 * GIB), {"/b": 10 * GIB}, backups=True)
    assert made.needs == {"/b": 34 * GIB}


@given(size=sizes, quotas=shares, backups=st.booleans(), others=st.lists(sizes, max_size=3))
def test_what_fits_is_within_the_volume_and_the_number_that_fits_does(
    size, quotas, backups, others
):
    space = of(size, used=size // 3)
    made = budget.divide(space, quotas, others, backups=backups)
    kept = min(sum(4 * GIB + (3 if backups else 2) * each for each in others), space.used)
    if made.problem is None:
        assert not quotas or kept + sum(made.needs.values()) + made.reserve <= size
        return
    found = re.search(r": (\d+) of (\d+) fit$", str(made.problem))
    assert found
    fitting, listed = (int(each) for each in found.groups())
    assert fitting < listed == len(quotas)
    first = dict(list(quotas.items())[:fitting])
    assert budget.divide(space, first, others, backups=backups).problem is None


@given(size=sizes, quotas=shares, backups=st.booleans())
def test_the_size_that_is_named_does(size, quotas, backups):
    made = budget.divide(of(size), quotas, backups=backups)
    if made.problem is not None:
        named = re.search(r"^use a content volume of (\S+) or ", str(made.problem))
        assert named
        # Two decimals of a TiB are 10 GiB.
        enough = parse_size(named[1]) + 11 * GIB
        assert budget.divide(of(enough), quotas, backups=backups).problem is None


def test_a_volume_that_is_too_small_is_served_where_that_is_asked_for():
    space = of(GIB)
    refused = budget.divide(space, {"/a": 0})
    assert refused.problem
    assert str(refused.problem) == (
        "use a content volume of 8.00GiB or list fewer shares: 0 of 1 fit"
    )
    assert refused.problem.whole.startswith(f"{refused.problem}; this one has 1.00GiB; ")
    trial = budget.divide(space, {"/a": 0}, small=True)
    assert trial.problem is None
    assert trial.trial
    # No bound for the files: the guard has that of free space only.
    assert trial.room == 0
    assert trial.bounds == (64 * MIB, 80 * MIB, 32 * MIB, 80 * MIB)
    # What fits is no trial.
    assert not budget.divide(of(8 * GIB), {"/a": 0}, small=True).trial


@pytest.mark.parametrize(
    ("size", "freeze"), [(16 * GIB, GIB), (100 * GIB, 2 * GIB), (TIB, TIB // 50)]
)
def test_a_volume_keeps_something_free(size, freeze):
    bounds = budget.divide(of(size), {"/a": 0}).bounds
    resume = freeze * 5 // 4
    assert bounds == (freeze, resume, GIB // 2, max(freeze + 3 * GIB, resume))
    assert bounds.freeze < budget.divide(of(size), {"/a": 0}).reserve


@pytest.mark.parametrize(
    ("size", "freeze"), [(256 * MIB, 64 * MIB), (2 * GIB, 256 * MIB), (10 * GIB, GIB)]
)
def test_so_does_a_metadata_volume(size, freeze):
    assert of(size).metadata_bounds.freeze == freeze


def test_the_warning_comes_at_85_percent_and_goes():
    quiet = {"metadata": of(100 * GIB, 84 * GIB), "content": of(0)}
    assert list(budget.nearly_full(quiet)) == []
    loud = {"metadata": of(100 * GIB, 85 * GIB), "content": of(10 * GIB, 10 * GIB)}
    assert [str(each) for each in budget.nearly_full(loud)] == [
        f"{budget.REMEDIES['metadata']}: it is 85 % full, 15.00GiB are left",
        f"{budget.REMEDIES['content']}: it is 100 % full, 0B are left",
    ]


def test_blocks_that_only_root_may_use_are_not_counted(monkeypatch):
    class Info:
        f_frsize, f_blocks, f_bfree, f_bavail = 4096, 1000, 600, 550

    monkeypatch.setattr("os.statvfs", lambda _: Info)
    space = Space.of("/any")  # pyright: ignore[reportArgumentType]  # it is not looked at
    assert (space.used, space.free, space.usable) == (400 * 4096, 550 * 4096, 950 * 4096)
