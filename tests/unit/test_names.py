"""Names of shares, and YAML: what a person wrote is what is meant, or it is refused."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import names
import options


def load(text: str, **more: str) -> options.Loaded:
    return options.load({"shares": text, **more})


def share(entry: str) -> options.ShareOptions:
    loaded = load(f"- {{name: /a, {entry}}}")
    assert loaded.mistakes == ()
    assert loaded.options.shares is not None
    return loaded.options.shares[0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/caf%e9", 'must not have "%"'),
        ("/x%20y", 'must not have "%"'),
        ("/%2e%2e%2fshares%2fexport", 'must not have "%"'),
        ("/a%2Fb", 'must not have "%"'),
        ("/100%", 'must not have "%"'),
        ("/IPC$", 'must not have "$": SMB keeps'),
        ("/admin$", 'must not have "$"'),
        ("/c$", 'must not have "$"'),
        ("/a\\b", "SMB takes it for a separator"),
        ("/a*b", "no share of SMB can have it"),
        ("/a?b", "no share of SMB can have it"),
        ("/a,b", "no share of SMB can have it"),
        ("/R&D", "in the name of a folder"),
        ("/me@home", "in the name of a folder"),
        ("/con", "is a name that SMB or Windows keeps"),
        ("/COM1.txt", "is a name that SMB or Windows keeps"),
        ("/lpt³", "is a name that SMB or Windows keeps"),
        ("/Nul.txt", "is a name that SMB or Windows keeps"),
        ("/COM1", "is a name that SMB or Windows keeps"),
        ("/pipe", "is a name that SMB or Windows keeps"),
        ("/end.", "must not end with a dot"),
        ("/end ", "must be printable"),
        ("/.", "must be one path element"),
        ("/..", "must be one path element"),
        ("/a\u202eb", "must be printable"),
        ("/a\u200bb", "must be printable"),
        ("/a\u200db", "must be printable"),
        ("/a\ufeffb", "must be printable"),
        ("/a\u034fb", "characters that cannot be seen"),
        ("/\u3164", "characters that cannot be seen"),
        ("/a\ufe0f", "characters that cannot be seen"),
        ("/a\ufffd", "characters that cannot be seen"),
        ("/a\u00a0b", "must be printable"),
        ("/a\x7fb", "must be printable"),
        ("/a\ud800b", "must be printable"),
        # One text in another spelling: checked as it is used.
        ("/a\u037eb", 'must not have ";"'),
        ("/" + "x" * 27, "is too long: it has 27 bytes in UTF-8 behind the slash"),
        ("/" + "é" * 14, "is too long: it has 28 bytes"),
        ("/" + "e\u0301" * 14, "is too long: it has 28 bytes"),
    ],
)
def test_a_name_that_somebody_would_read_differently_is_refused_with_the_reason(name, reason):
    with pytest.raises(ValueError, match=r".*") as raised:
        names.check(name)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "name",
    ["/" + "x" * 26, "/" + "é" * 13, "/" + "e\u0301" * 13, "/a'(b)!#^{}~`_-.c", "/.a", "/日本"],
)
def test_a_name_that_all_read_alike_is_taken(name):
    taken = names.check(name)
    assert taken == unicodedata.normalize("NFC", name)
    assert names.key(taken) == names.folder(taken)
    assert names.as_read(taken) == names.as_told(taken) == taken


@given(st.text(max_size=30))
def test_whatever_is_taken_is_one_element_that_the_server_reads_as_it_is(text):
    try:
        name = names.check(text)
    except ValueError:
        return
    assert names.check(name) == name
    assert names.as_read(name) == names.as_told(name) == name
    assert names.key(name) == names.folder(name)
    assert names.asked(names.key(name)) == name
    assert len(name.encode()) <= 27


@pytest.mark.parametrize(
    ("one", "other"),
    [("/caf\u00e9", "/cafe\u0301"), ("/data", "/DATA"), ("/stra\u00dfe", "/STRASSE"), ("/a", "a")],
)
def test_two_spellings_of_one_name_are_one(one, other):
    loaded = load(f"- name: {one}\n- name: {other}", protocols="nfs")
    assert len(loaded.mistakes) == 1
    assert "entry 2 has the same name as entry 1" in loaded.mistakes[0]


@pytest.mark.parametrize("name", ["/Data", "/GRÖSSE", "/İstanbul"])
def test_capital_letters_are_for_nfs_alone(name):
    """The server looks for what a client of SMB asks for in small letters only."""
    loaded = load(f"- name: /small\n- name: {name}", protocols="nfs,smb")
    assert loaded.faulty == {"shares"}
    assert loaded.options.shares is None
    assert f"shares: entry 2: name: '{name}' has capital letters" in loaded.mistakes[0]
    assert load(f"- name: {name}", protocols="nfs").mistakes == ()


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("010", "/010"),
        ("5", "/5"),
        ("1e3", "/1e3"),
        ("1_000", "/1_000"),
        ("0x1f", "/0x1f"),
        ("yes", "/yes"),
        ("on", "/on"),
        ("true", "/true"),
        ("2024-01-01", "/2024-01-01"),
        (".5", "/.5"),
        ("1.10", "/1.10"),
        (".inf", "/.inf"),
        ('"null"', "/null"),
        ("'010'", "/010"),
        (r'"\u00e9"', "/é"),
        ("a#b", "/a#b"),
    ],
)
def test_a_name_is_the_text_that_was_written(written, name):
    loaded = load(f"- name: {written}")
    assert loaded.mistakes == ()
    assert [each.name for each in loaded.options.shares or ()] == [name]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "- name: /a\n  access: read\n  access: none",
            "has 'access' twice in one entry, again in",
        ),
        ("- {name: /a, read-only: true, read_only: false}", "has 'read_only' twice in one entry"),
        ("- {name: /a, name: /b}", "has 'name' twice in one entry, again in line 1"),
        ("- {name: /a, 'name': /b}", "has 'name' twice"),
        ("- name: 12:30:00", "name: '12:30:00' must be one path element such as /export"),
        ("- name: ~", "shares: entry 1: name: must be a text"),
        ("- name: null", "shares: entry 1: name: must be a text"),
        ("- name:", "shares: entry 1: name: must be a text"),
        ("- {name: /a, quota: 010}", "quota: '010' is not a size"),
        ("- {name: /a, quota: 12:30:00}", "quota: '12:30:00' is not a size"),
        ("- {name: /a, quota: 1_000}", "quota: '1_000' is not a size"),
        ("- {name: /a, quota: 1e3}", "quota: '1e3' is not a size"),
        ("- {name: /a, quota: no}", "quota: 'no' is not a size"),
        ("- {name: /a, quota: 0x10}", "quota: '0x10' is not a size"),
        ("- {name: /a, quota: 0.5}", "quota: '0.5' is not a size"),
        ("- {name: /a, trash-days: 010}", "trash-days: '010' must be a whole number"),
        ("- {name: /a, trash-days: 1:30}", "trash-days: '1:30' must be a whole number"),
        ("- {name: /a, trash-days: 1_0}", "trash-days: '1_0' must be a whole number"),
        ("- {name: /a, trash-days: 1e1}", "trash-days: '1e1' must be a whole number"),
        ("- {name: /a, trash-days: yes}", "trash-days: 'yes' must be a whole number"),
        ("- {name: /a, read-only: 2}", "read-only: '2' must be true or false"),
        ("- &x {name: /a}\n- *x", "has an anchor or an alias (& or *) in line 1"),
        ("- {name: /a, <<: {access: none}}", "<<: is not a key that a share has"),
        ("- name: !!str /a", "has a tag (!) in line 1"),
        ("- !share {name: /a}", "has a tag (!) in line 1"),
        ("- name: /a\n---\n- name: /b", "has more than one YAML document"),
        ("- name: /a\n    read-only", "has a text in line 1 that goes on in the next"),
        ("- name: /a\n\taccess: none", "is not YAML: a tab, where YAML has spaces, in line 2"),
        ("-\tname: /a\n\tb: /b", "is not YAML: a tab, where YAML has spaces, in line 1"),
        ("- ? [a]\n  : b", "has a key in line 1 that is no word"),
        ("- name: /a\x00b", "it has a character that YAML does not allow"),
        ("- name: |\n    /a\n", "name: '/a' must be printable"),
        ("name: /a", "shares: must be a YAML list of shares"),
    ],
)
def test_what_may_mean_something_else_is_refused_with_the_reason(text, reason):
    loaded = load(text)
    assert loaded.faulty == {"shares"}
    assert any(reason in line for line in loaded.mistakes), loaded.mistakes


@pytest.mark.parametrize(
    ("entry", "field", "value"),
    [
        ("read-only: yes", "read_only", True),
        ("read-only: off", "read_only", False),
        ("read-only: True", "read_only", True),
        ("trash-days: 30", "trash_days", 30),
        ("trash-days: '7'", "trash_days", 7),
        ("quota: 0", "quota", 0),
        ("quota: none", "quota", 0),
        ("quota: 9007199254740993", "quota", 2**53 + 1),
        ("access: none", "access", "none"),
    ],
)
def test_fields_are_what_was_written(entry, field, value):
    assert getattr(share(entry), field) == value


@given(st.text())
def test_any_yaml_is_taken_or_refused_and_never_raises(text):
    loaded = load(text)
    assert bool(loaded.mistakes) == bool(loaded.faulty)
