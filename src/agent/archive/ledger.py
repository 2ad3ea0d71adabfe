"""Which objects of the bucket were found right, and by what S3 tells whether they still are.

S3 gives the size and the ETag of an object in each list. An object is right whose list says the
same as when it was sent or read back; any other is doubtful, and read before it is relied on. It
is only a help: what is lost of it is read back once.
"""

import contextlib
import threading
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from agent.archive.bucket import Object

_FORGOTTEN = "-"


class Seen(NamedTuple):
    """An object as S3 listed it when it was right.

    Attributes:
        size: in bytes.
        tag: its ETag, empty where S3 gives none.
        sent_for: the backup that it was sent for, because it was not in the bucket: no backup made
            before can need it. Empty where it was there already.
    """

    size: int
    tag: str
    sent_for: str


class Ledger:
    """Objects by name, for any number of threads; a file that each change is appended to.

    Args:
        path: of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, Seen] = {}
        with contextlib.suppress(OSError, UnicodeError):
            for line in path.read_text(encoding="ascii").splitlines() if path else ():
                if line:
                    self._take(line.split(" "))

    def right(self, name: str, found: Object) -> bool:
        """Whether an object is as it was when it was right."""
        with self._lock:
            known = self._known.get(name)
        return known is not None and known.size == found.size and known.tag in {found.tag, ""}

    def is_younger(self, name: str, backup_id: str) -> bool:
        """Whether an object was sent for a backup that was asked for after this one."""
        with self._lock:
            known = self._known.get(name)
        return known is not None and known.sent_for > backup_id

    def note(self, name: str, seen: Seen) -> None:
        """An object is right: it was sent, or read back."""
        with self._lock:
            self._known[name] = seen
            self._append(_line(name, seen))

    def forget(self, name: str) -> None:
        """An object is not right, whatever S3 says of it."""
        with self._lock:
            self._known.pop(name, None)
            self._append(f"{name} {_FORGOTTEN}")

    def keep(self, names: Container[str]) -> None:
        """Forget all others, which are not in the bucket any more, or not right."""
        with self._lock:
            self._known = {name: seen for name, seen in self._known.items() if name in names}
            if self._path is None:
                return
            temporary = self._path.with_suffix(".new")
            text = "".join(f"{_line(*each)}\n" for each in self._known.items())
            with contextlib.suppress(OSError):
                temporary.write_text(text, encoding="ascii", errors="replace")
                temporary.replace(self._path)

    def _take(self, words: list[str]) -> None:
        match words:
            case [name, size, tag, sent_for] if size.isascii() and size.isdigit():
                self._known[name] = Seen(int(size), tag, sent_for)
            case [name, *_]:
                # Cut in the middle by a crash, or forgotten.
                self._known.pop(name, None)
            case _:
                pass

    def _append(self, line: str) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError), self._path.open("a", encoding="ascii") as file:
                # One that a crash has cut is in front of it, and not joined to it.
                file.write(f"\n{line}\n")


def _line(name: str, seen: Seen) -> str:
    return f"{name} {seen.size} {seen.tag} {seen.sent_for}"
