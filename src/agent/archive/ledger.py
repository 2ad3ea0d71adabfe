"""Which objects of the bucket were found right, and by what S3 tells whether they still are.

S3 gives the size and the ETag of an object in each list. An object is right whose list says the
same as when it was sent or read back; any other is doubtful, and read before it is relied on. It
is only a help: what is lost of it is read back once.
"""

import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path

from agent.archive.bucket import Object

_FORGOTTEN = "-"


class Ledger:
    """Objects by name, for any number of threads; a file that each change is appended to.

    Args:
        path: of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, str]] = {}
        with contextlib.suppress(OSError, UnicodeError):
            for line in path.read_text(encoding="ascii").splitlines() if path else ():
                if line:
                    self._take(line.split(" "))

    def right(self, name: str, found: Object) -> bool:
        """Whether an object is as it was when it was right."""
        with self._lock:
            known = self._known.get(name)
        return known is not None and known[0] == found.size and known[1] in {found.tag, ""}

    def note(self, name: str, size: int, tag: str) -> None:
        """An object is right: it was sent, or read back."""
        with self._lock:
            self._known[name] = (size, tag)
            self._append(f"{name} {size} {tag}")

    def forget(self, name: str) -> None:
        """An object is not right, whatever S3 says of it."""
        with self._lock:
            self._known.pop(name, None)
            self._append(f"{name} {_FORGOTTEN}")

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others, which are not in the bucket any more."""
        with self._lock:
            kept = {name: self._known[name] for name in names if name in self._known}
            self._known = kept
            if self._path is None:
                return
            temporary = self._path.with_suffix(".new")
            text = "".join(f"{name} {size} {tag}\n" for name, (size, tag) in kept.items())
            with contextlib.suppress(OSError):
                temporary.write_text(text, encoding="ascii", errors="replace")
                temporary.replace(self._path)

    def _take(self, words: list[str]) -> None:
        match words:
            case [name, size, tag] if size.isascii() and size.isdigit():
                self._known[name] = (int(size), tag)
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
