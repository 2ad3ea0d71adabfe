"""Sizes as people and the server write them, in bytes as whole numbers."""

import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4

_FACTORS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1000,
    "ki": KIB,
    "kib": KIB,
    "m": 1000**2,
    "mb": 1000**2,
    "mi": MIB,
    "mib": MIB,
    "g": 1000**3,
    "gb": 1000**3,
    "gi": GIB,
    "gib": GIB,
    "t": 1000**4,
    "tb": 1000**4,
    "ti": TIB,
    "tib": TIB,
}
_SIZE = re.compile(
    r"(?P<number>(?:0|[1-9]\d*)(?:\.\d+)?)\s*(?P<unit>[a-z]*)", re.IGNORECASE | re.ASCII
)
_LARGEST = 2**62  # the server counts in signed 64-bit numbers


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `500MB`, `2Gi` or `1.50GiB`.

    Raises:
        ValueError: it is no size, or larger than the server can count. A zero in front, as in
            `010`, and a part of a byte are none.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _FACTORS.get(match["unit"].lower()) if match else None
    if match is None or factor is None or (factor == 1 and "." in match["number"]):
        raise ValueError("is not a size such as 500MB or 10GiB")
    # Not by way of a float, which has 53 bits.
    whole, _, part = match["number"].partition(".")
    size = int(whole + part) * factor // 10 ** len(part)
    if size > _LARGEST:
        raise ValueError("is larger than the server can count")
    return size


def format_size(size: int) -> str:
    """Write a size the way the server does: two decimals of the largest binary unit that fits."""
    for factor, unit in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= factor:
            return f"{size / factor:.2f}{unit}"
    return f"{size}B"
