"""Which servers may serve, and what their programs say of themselves."""

import pytest
import yaml

import releases
from errors import BlockedError
from tests.juju import CHARM_ROOT

FULL = "dfs v0.29.0\n  Commit:     5c30c801\n  Built:      unknown\n  Go version: go1.26.8\n"


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        (("", FULL), "v0.29.0"),
        ((FULL, ""), "v0.29.0"),
        (("v0.30.0\n", ""), "v0.30.0"),
        (("0.30.0", ""), "0.30.0"),
        (("dfs version 0.31.1 (1a2b3c4, 2026-09-01)\n",), "0.31.1"),
        (("WARNING: a key is unknown\n\ndfs v0.31.0-rc1\n",), "v0.31.0-rc1"),
        (("\x1b[32mdfs\x1b[0m \x1b[1mv0.31.1\x1b[0m\r\n",), "v0.31.1"),
        (("\x1b]0;title\x07dfs v0.31.1",), "v0.31.1"),
        (("dfs v0.31.1", "WARNING: something"), "v0.31.1"),
        (("WARNING: something", "dfs v0.31.1"), "WARNING: something"),
        (("dfs dev\n  Commit:     none\n  Go version: go1.26.8\n",), "dev"),
        (("dfs dev (based on v0.29.0)",), "dev"),
        (("5c30c801\n",), "5c30c801"),
        (("dfs v0.29.0\ndfs v0.31.0\n",), "unknown"),
        (("", ""), "unknown"),
        ((" \n\t\r\n", "\x1b[0m"), "unknown"),
        (("panic: x\n\ngoroutine 1 [running]:\n",), "unknown"),
        (("dfs " + "x" * 1000,), "x" * 40),
        (("dfs v0.2\u0669.0",), "v0.2\u0669.0"),
    ],
)
def test_the_name_is_told_from_what_is_around_it(outputs, name):
    assert releases.told(*outputs) == name


IN_ORDER = [
    "v0.9.12",
    "v0.28.7",
    "v0.29.0-alpha",
    "v0.29.0-alpha.2",
    "v0.29.0-beta1",
    "v0.29.0-rc.1",
    "v0.29.0-rc2",
    "v0.29.0-rc10",
    "0.29.0",
    "v0.29.1+build.5",
    "v0.29.10",
    "v0.31.0",
    "v1.0.0",
]


def test_releases_have_an_order():
    orders = [releases.order(name) for name in IN_ORDER]
    assert None not in orders
    assert orders == sorted(orders, key=lambda each: each or ())
    assert len(set(orders)) == len(orders)
    assert releases.order("v0.29.0") == releases.order("0.29.0")
    assert releases.highest(*IN_ORDER, "dev", "") == "v1.0.0"
    assert releases.highest("dev", "") == ""


BUILDS = [
    "dev",
    "unknown",
    "",
    "5c30c801",
    "v0.29",
    "v0.29.0.1",
    "v0.29.0-5-g1a2b3c4",
    "v0.29.0-dirty",
    "v0.29.0+dirty",
    "v0.31.2-0.20260901120000-1a2b3c4d5e6f",
    "vv0.29.0",
    "v0.29.x",
    "v0.2\u0669.0",
    "v0.29.0\n",
    "latest",
]


@pytest.mark.parametrize("name", BUILDS)
def test_a_build_that_is_no_release_is_told_from_one(name):
    assert releases.order(name) is None
    with pytest.raises(BlockedError, match=r"or set allow-unknown-server=true: .* is no release"):
        releases.check(name, release="", build="", allow_unknown=False)
    releases.check(name, release="v0.31.0", build="", allow_unknown=True)


def check(name: str, release: str = "", build: str = "", allow_unknown: bool = False) -> str:
    """What is said of a server; empty where it may serve."""
    try:
        releases.check(name, release=release, build=build, allow_unknown=allow_unknown)
    except BlockedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["v0.29.0", "0.29.0", "v0.30.99", "v0.31.0-rc1", "v0.31.5"])
def test_a_tested_release_serves(name):
    assert check(name) == ""
    assert check(name, release=name) == ""


@pytest.mark.parametrize("name", ["v0.28.9", "v0.9.0", "v0.32.0", "v0.32.0-rc1", "v1.0.0"])
@pytest.mark.parametrize("allow_unknown", [True, False])
def test_one_that_is_not_tested_does_not(name, allow_unknown):
    text = check(name, allow_unknown=allow_unknown)
    assert text == (
        f"attach a dittofs-image of v0.29.x to v0.31.x, or refresh the charm: {name} is not tested"
    )


@pytest.mark.parametrize(
    ("name", "release"),
    [("v0.29.0", "v0.29.1"), ("v0.31.0-rc1", "v0.31.0"), ("v0.30.9", "v0.31.0-rc1")],
)
@pytest.mark.parametrize("allow_unknown", [True, False])
def test_an_older_one_than_has_served_never_does(name, release, allow_unknown):
    assert check(name, release, allow_unknown=allow_unknown) == (
        f"attach dittofs-image {release} or newer: it has served, and {name} may destroy what it "
        "wrote"
    )
    assert check(release, name) == ""


def test_after_a_build_of_ones_own_a_release_needs_a_word():
    assert check("v0.31.0", "v0.30.0", "dev") == (
        "set allow-unknown-server=true if v0.31.0 is no older than 'dev', which has served"
    )
    assert check("v0.31.0", "v0.30.0", "dev", allow_unknown=True) == ""


def test_what_the_charm_deploys_is_in_the_table():
    metadata = yaml.safe_load((CHARM_ROOT / "metadata.yaml").read_text())
    image = metadata["resources"]["dittofs-image"]["upstream-source"]
    assert check(image.partition(":")[2]) == ""
