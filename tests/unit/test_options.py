"""Options: what is taken, and one readable line for each mistake."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import options
from tests.juju import CHARM_ROOT
from units import GIB

DEFAULTS = {
    name: option["default"]
    for name, option in yaml.safe_load((CHARM_ROOT / "config.yaml").read_text())["options"].items()
    if "default" in option
}


def only_share(loaded: options.Loaded) -> options.ShareOptions:
    assert loaded.options.shares is not None
    (share,) = loaded.options.shares
    return share


def test_the_defaults_of_the_charm_are_one_share_on_both_protocols():
    loaded = options.load(DEFAULTS)
    assert loaded.mistakes == ()
    assert loaded.options.protocols == ("nfs", "smb")
    assert loaded.options.memory == 2 * GIB
    share = only_share(loaded)
    assert (share.name, share.metadata, share.content) == ("/export", "badger", "volume")
    assert (share.access, share.squash) == ("read-write", "root-to-guest")
    assert not share.volatile


def test_the_example_in_the_description_is_the_default():
    description = yaml.safe_load((CHARM_ROOT / "config.yaml").read_text())["options"]["shares"][
        "description"
    ]
    example = description[description.index("    - name") : description.index("All but")]
    loaded = options.load({"shares": example})
    assert loaded.mistakes == ()
    assert loaded.options.shares == options.load(DEFAULTS).options.shares


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("log-level", "loud", "log-level: 'loud' must be 'debug', 'info', 'warn' or 'error'"),
        ("protocols", "nfs,ftp", "protocols: entry 1: 'ftp' must be 'nfs' or 'smb'"),
        ("memory", "lots", "memory: 'lots' is not a size such as 500MB or 10GiB"),
        ("memory", "100Mi", "memory: '100Mi' must be at least 512.00MiB"),
        ("memory", "9999999999999Ti", "memory: '9999999999999Ti' is larger than the server"),
        ("backup-schedule", "day", "backup-schedule: 'day' must be hourly, daily, weekly"),
        ("backup-schedule", "@reboot", "backup-schedule: '@reboot' must be hourly"),
        ("backup-schedule", "0 0 * * * *", "backup-schedule: '0 0 * * * *' must be hourly"),
        ("backup-schedule", "61 * * * *", "backup-schedule: '61 * * * *' has a mistake ("),
        ("backup-schedule", "a b c d e", "it must be hourly, daily, weekly or five fields"),
        ("backup-schedule", "0 0 */8 2 mon#5", "'0 0 */8 2 mon#5' is a time that never"),
        ("backup-keep", "all", "backup-keep: 'all' must be a number of backups such as 14"),
        ("backup-keep", "0", "backup-keep: '0' must be a number of backups such as 14"),
        ("backup-keep", "14,15", "backup-keep: '14,15' must be a number of backups"),
        ("backup-keep", "1d,2d", "backup-keep: '1d,2d' must be a number of backups"),
        ("backup-keep", "1.5", "backup-keep: '1.5' must be a number of backups"),
        ("backup-keep", "3w", "an age in days such as 30d, or both: 14,30d"),
        ("shares", "export", "shares: must be a YAML list of shares"),
        ("shares", "- export", "shares: entry 1: 'export' must be a mapping with a name"),
        ("shares", "- name: [x", "shares: is not YAML: a mistake in line 1"),
        ("shares", "[" * 5000, "shares: is not YAML"),
        (
            "shares",
            "- {name: /y, nme: /x}",
            "shares: entry 1: nme: '/x' is not a key that a share has",
        ),
        ("shares", "- quota: 1G", "shares: entry 1: name: is missing"),
        ("shares", "- name: [x]", "shares: entry 1: name: must be a text"),
        ("shares", "- name: a:b", "shares: entry 1: name: 'a:b' must be one path element"),
        ("shares", "- name: /../x", "shares: entry 1: name: '/../x' must be one path element"),
        ("shares", "- name: /a/b", "shares: entry 1: name: '/a/b' must be one path element"),
        ("shares", "- name: /", "shares: entry 1: name: '/' needs a name behind the slash"),
        ("shares", '- name: "/a\\tb"', "shares: entry 1: name: '/a b' must be printable"),
        ("shares", f"- name: /{'ä' * 100}", "is too long"),
        ("shares", "- name: /a\n- name: A", "shares: entry 2 has the same name as entry 1: /A"),
        (
            "shares",
            "- name: /a\n- {name: /b, quota: 10 elephants}",
            "shares: entry 2: quota: '10 elephants' is not a size",
        ),
        (
            "shares",
            "- {name: /a, metadata: mysql}",
            "shares: entry 1: metadata: 'mysql' must be 'badger' or 'memory'",
        ),
        (
            "shares",
            "- {name: /a, trash-days: -1}",
            "shares: entry 1: trash-days: '-1' must be at least 0",
        ),
        ("shares", "- {name: /a, trash-days: 1.5}", "trash-days: '1.5' must be a whole number"),
        ("shares", "- {name: /a, read-only: maybe}", "read-only: 'maybe' must be true or false"),
        ("shares", "- {name: /a, content: memory}", "entry 1: content memory needs a quota"),
    ],
)
def test_a_mistake_is_one_line_that_names_option_value_and_what_is_allowed(option, value, line):
    loaded = options.load({**DEFAULTS, option: value})
    assert len(loaded.mistakes) == 1
    assert line in loaded.mistakes[0]
    assert "\n" not in loaded.mistakes[0]
    assert loaded.faulty == {option}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", (None, None)),
        (" , ", (None, None)),
        ("14", (14, None)),
        ("30d", (None, 30)),
        ("14,30d", (14, 30)),
        (" 30d , 14 ", (14, 30)),
    ],
)
def test_which_backups_are_kept(text, kept):
    loaded = options.load({"backup-keep": text})
    assert loaded.mistakes == ()
    assert tuple(loaded.options.backup_keep) == kept


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("", ""),
        ("  ", ""),
        ("hourly", "hourly"),
        (" daily ", "daily"),
        ("weekly", "weekly"),
        ("@daily", "daily"),
        ("30 2 * * *", "30 2 * * *"),
        ("*/15  8-18 * * mon-fri", "*/15 8-18 * * mon-fri"),
    ],
)
def test_when_backups_are_made(text, schedule):
    loaded = options.load({"backup-schedule": text})
    assert loaded.mistakes == ()
    assert loaded.options.backup_schedule == schedule


def test_every_mistake_is_named():
    loaded = options.load(
        {"log-level": "x", "memory": "y", "shares": "- {name: a:b, quota: z}\n- {name: /c, d: e}"}
    )
    assert len(loaded.mistakes) == 5
    assert loaded.faulty == {"log-level", "memory", "shares"}


def test_what_has_a_mistake_is_left_as_the_server_has_it_and_the_rest_is_used():
    loaded = options.load({**DEFAULTS, "shares": "x", "protocols": "nfs"})
    assert loaded.options.shares is None
    assert loaded.options.protocols == ("nfs",)


@pytest.mark.parametrize("text", ["", "[]", "# nothing"])
def test_an_empty_list_of_shares_is_no_mistake(text):
    assert options.load({"shares": text}).options.shares == ()


def test_names_with_unicode_and_spaces_are_taken_and_encoded_for_paths():
    loaded = options.load({"shares": "- name: Größe der Daten"})
    share = only_share(loaded)
    assert share.name == "/Größe der Daten"
    assert share.key == "Gr%C3%B6%C3%9Fe%20der%20Daten"


@pytest.mark.parametrize(
    ("text", "size"), [("none", 0), ("500MB", 500_000_000), ("1.5GiB", GIB + GIB // 2), ("7", 7)]
)
def test_quotas(text, size):
    loaded = options.load({"shares": f"- {{name: /a, quota: {text}}}"})
    share = only_share(loaded)
    assert share.quota == size


def test_a_share_in_memory_is_volatile():
    loaded = options.load(
        {"shares": "- {name: /a, metadata: memory}\n- {name: /b, content: memory, quota: 1MiB}"}
    )
    assert [share.volatile for share in loaded.options.shares or ()] == [True, True]


@given(
    st.dictionaries(
        st.sampled_from(
            ["log-level", "protocols", "shares", "memory", "backup-schedule", "backup-keep"]
        ),
        st.text(),
    )
)
def test_any_text_is_taken_or_named_and_never_raises(config):
    loaded = options.load(config)
    assert bool(loaded.mistakes) == bool(loaded.faulty)
    assert all("\n" not in line for line in loaded.mistakes)
