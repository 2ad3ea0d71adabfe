"""Sizes: read what people and the server write, and write them as the server does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from units import GIB, KIB, MIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("12", 12),
        ("12 B", 12),
        ("1k", 1000),
        ("1Ki", KIB),
        ("1KB", 1000),
        ("2Gi", 2 * GIB),
        ("2GiB", 2 * GIB),
        ("9007199254740993", 2**53 + 1),
        ("0.5KB", 500),
        ("953.67MiB", int(953.67 * MIB)),
        (" 1tib ", 1024**4),
    ],
)
def test_sizes_that_are_understood(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1", "1,5G", "1 X", "1e9", "٣", "9999999999TiB", "010", "00.5MB", "1.5", "1_0"],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"^is "):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1023, "1023B"), (KIB, "1.00KiB"), (1_000_000_000, "953.67MiB"), (GIB, "1.00GiB")],
)
def test_written_as_the_server_writes(size, text):
    assert format_size(size) == text


@given(st.integers(min_value=0, max_value=2**60))
def test_what_is_written_is_read_again_within_the_two_decimals(size):
    assert abs(parse_size(format_size(size)) - size) <= max(size * 0.006, 1)
