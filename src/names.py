"""Names of shares: those that the server, NFS, SMB, a file system and a URL all read alike.

The server decodes `%` in a name, SMB keeps some names for itself and compares without case, a file
system stops at 255 bytes, an NFS file handle of this server has 64 with the share's name in them.
A name that one of them reads differently is refused before anything is made under it.
"""

import re
import unicodedata
from urllib.parse import quote, unquote

# A file handle of the server is "/name:uuid" in 64 bytes at most. A longer name makes a share that
# is never served or, with metadata in memory, a server that does not start any more.
LONGEST = 64 - len("/:") - 36
_REASONS = {
    "%": "the server takes it for an escape",
    "\\": "SMB takes it for a separator",
    "$": "SMB keeps such names for itself",
    **dict.fromkeys('"*+,;<=>?[]|', "no share of SMB can have it"),
    **dict.fromkeys("&@", "the server writes it in another way in the name of a folder"),
}
# SMB and Windows keep these, also with an ending.
_RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[\d¹²³])(\..*)?|pipe|mailslot", re.IGNORECASE)
# Characters that show nothing, beside those that Python says are not printable.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffd\U000e0100-\U000e01ef]"
)
_ESCAPES = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*", re.DOTALL)
_FOLDERS_OWN = frozenset({"", ".", ".."})
# What Go leaves as it is in one part of a path, beside what Python leaves.
_GO_SAFE = "$&+=:@"


def canonical(name: str) -> str:
    """The name with one slash, composed (NFC): two spellings of one text are one name."""
    return "/" + unicodedata.normalize("NFC", name.removeprefix("/"))


def check(name: str) -> str:
    """Return the canonical form of a name that may be given to a share.

    Raises:
        ValueError: it may not; the text says why.
    """
    bare = canonical(name).removeprefix("/")
    if not bare.strip():
        raise ValueError("needs a name behind the slash, such as /export")
    if bare == "." or ".." in bare or ":" in bare or "/" in bare:
        raise ValueError('must be one path element such as /export, without ":", ".." and "/"')
    if not bare.isprintable() or bare != bare.strip() or _INVISIBLE.search(bare):
        raise ValueError(
            "must be printable, without spaces at its ends and characters that cannot be seen"
        )
    for character in bare:
        if character in _REASONS:
            raise ValueError(f'must not have "{character}": {_REASONS[character]}')
    if bare.endswith("."):
        raise ValueError("must not end with a dot: clients of SMB leave it out")
    if _RESERVED.fullmatch(bare):
        raise ValueError("is a name that SMB or Windows keeps for itself")
    size = len(bare.encode())
    if size > LONGEST:
        raise ValueError(
            f"is too long: it has {size} bytes in UTF-8 behind the slash, and the server's file "
            f"handles have room for {LONGEST}"
        )
    return f"/{bare}"


def small(name: str) -> bool:
    """Whether SMB reaches it: the server looks for what a client asks for in small letters."""
    return all(character.lower() == character for character in name)


def key(name: str) -> str:
    """A name as it stands in paths and in the names of stores; any name gives one path element.

    Raises:
        ValueError: it would be a folder's own name or that of the folder above.
    """
    return _element(quote(name.removeprefix("/"), safe="", errors="surrogateescape"))


def folder(name: str) -> str:
    """The name of the folder in which the server keeps the content of a share.

    Raises:
        ValueError: as with `key`.
    """
    return _element(quote(name.removeprefix("/"), safe=_GO_SAFE, errors="surrogateescape"))


def as_read(name: str) -> str:
    """The name that the server has of a share which it was asked to make under this one.

    It decodes escapes; what is no UTF-8 then is kept as Python keeps it, by `surrogateescape`.
    """
    whole = _ESCAPES.fullmatch(name) is not None
    return "/" + (unquote(name, errors="surrogateescape") if whole else name).lstrip("/")


def as_told(name: str) -> str:
    """What the API's JSON shows of a name: one mark for what is not UTF-8."""
    text = name.encode(errors="surrogateescape").decode(errors="replace")
    return re.sub("\ufffd+", "\ufffd", text)


def readable(name: str) -> bool:
    """Whether what the API told is a name in UTF-8: of others its metrics page dies."""
    return "\ufffd" not in name


def asked(store: str) -> str | None:
    """The name for which the charm made a metadata store; None where it made no such store."""
    name = "/" + unquote(store)
    try:
        return name if key(name) == store else None
    except ValueError:
        return None


def _element(name: str) -> str:
    if name in _FOLDERS_OWN:
        raise ValueError(f"{name!r} is no name")
    return name
