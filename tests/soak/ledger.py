"""What clients were told: each operation is noted before it begins and after its answer.

From the notes follows what the share has to hold. Of an operation without an answer it is not
known whether it was done, nor of one that was answered shortly before a node died with its volume:
the names it had to do with are left out.

A server that is ending answers "no such file" for files that it has (seen on v0.29.0). That is no
loss: it is not held against it, and the file has to be there afterwards.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

_NOT_THERE = 2
_DONE = "+"
_LOST = "lost"
_BEGAN, _ENDING = "began", "ending"


class Ledger:
    """The notes of one client; appended to, also by the client's next life."""

    def __init__(self, path: Path):
        self._file = path.open("a")

    def begin(self, operation: str, *arguments: object) -> None:
        """An operation is about to be asked for."""
        self._write([operation, time.time(), *arguments])

    def done(self) -> None:
        """It was acknowledged."""
        self._write([_DONE, time.time()])

    def refused(self, error: int) -> None:
        """The server said that it cannot be done."""
        self._write(["-", error])

    def lost(self, seconds: float) -> None:
        """Node and volume were lost, and with them perhaps what was done for so long."""
        self._write([_LOST, time.time() - seconds])

    def began(self) -> None:
        """A client begins, on a server that serves."""
        self._write([_BEGAN])

    def ending(self) -> None:
        """The server is about to be told to end."""
        self._write([_ENDING])

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, note: list[Any]) -> None:
        self._file.write(json.dumps(note) + "\n")
        self._file.flush()


@dataclass
class _File:
    """Where its content comes from, and to which sizes it was cut afterwards.

    `at` is when the last operation on it was acknowledged.
    """

    seed: str
    size: int
    at: float
    cuts: list[int] = field(default_factory=list[int])

    def digest(self) -> str:
        data = written(self.seed, self.size)
        for cut in self.cuts:
            data = data[:cut].ljust(cut, b"\0")
        return hashlib.sha256(data).hexdigest()


# Of a name of which it is not known whether it is there, and what it holds.
_UNKNOWN = _File("", 0, 0.0)


def written(seed: str, size: int) -> bytes:
    """The content that a client writes."""
    return Random(seed).randbytes(size)  # noqa: S311  # the same each time


class Known:
    """What the share has to hold by the notes in these files.

    Attributes:
        operations: how many were acknowledged, by name.
        wrong: what the server answered that cannot be.
    """

    def __init__(self, paths: Iterable[Path]):
        self.operations: dict[str, int] = {}
        self.wrong: list[str] = []
        self._names: dict[str, _File] = {}
        self._gone: set[str] = set()
        self._recent: list[tuple[float, list[str]]] = []
        self._lost_since = 0.0
        self._ending = False
        for path in paths:
            self._replay(path)

    def differences(self, tree: dict[str, str]) -> list[str]:
        """What is not as it has to be in a tree of digests by path."""
        found = list(self.wrong)
        for name, file in self._names.items():
            if file is _UNKNOWN:
                continue
            if name not in tree:
                found.append(f"{name} is missing")
            elif tree[name] != file.digest():
                found.append(f"{name} has another content")
        return found + [f"{name} is there" for name in self._gone & tree.keys()]

    def __len__(self) -> int:
        """How many files have to be there."""
        return sum(file is not _UNKNOWN for file in self._names.values())

    def _replay(self, path: Path) -> None:
        self._recent, self._lost_since, self._ending = [], 0.0, False
        asked: list[Any] | None = None
        with path.open() as lines:
            for line in lines:
                try:
                    note = json.loads(line)
                except ValueError:
                    # The client was killed while it wrote; nothing was asked for yet.
                    continue
                if note[0] in {_DONE, "-"}:
                    if asked and note[0] == _DONE:
                        # It may have waited for long, and be younger than its question.
                        self._recent.append((note[1], _names(asked)))
                        self._apply(asked[0], note[1], *asked[2:])
                    elif asked:
                        self._refused(note[1], *asked)
                    asked = None
                    continue
                if note[0] == _ENDING:
                    self._ending = True
                    continue
                self._forget(asked)
                asked = None if note[0] in {_LOST, _BEGAN} else note
                if note[0] == _BEGAN:
                    self._ending = False
                if note[0] == _LOST:
                    self._lose(note[1])
        self._forget(asked)

    def _apply(self, operation: str, at: float, name: str, *more: Any) -> None:
        self.operations[operation] = self.operations.get(operation, 0) + 1
        file = self._names.get(name)
        if file not in (None, _UNKNOWN):
            file.at = at
        if operation == "create":
            self._create(name, file, at, *more)
        elif file is None:
            self.wrong.append(f"{operation} of {name}, which cannot be there")
            self._unknown(name)
        elif operation == "truncate":
            file.cuts.append(more[0])
        elif operation == "unlink":
            del self._names[name]
            self._gone.add(name)
        else:
            self._move(name, file, more[0], keep=operation == "link")

    def _create(self, name: str, file: _File | None, at: float, seed: str, size: int) -> None:
        if file is None:
            self._names[name] = _File(seed, size, at)
            self._gone.discard(name)
        elif file is not _UNKNOWN:
            # Its other names show the same.
            file.seed, file.size = seed, size
            file.cuts.clear()

    def _move(self, name: str, file: _File, other: str, *, keep: bool) -> None:
        if file is _UNKNOWN or self._names.get(other) is file:
            self._unknown(name)
            self._unknown(other)
            return
        self._names[other] = file
        self._gone.discard(other)
        if not keep:
            del self._names[name]
            self._gone.add(name)

    def _refused(self, error: int, operation: str, _: float, name: str, *more: Any) -> None:
        del more
        file = self._names.get(name)
        if operation == "create":
            # It may have been emptied before it could not be written.
            self._unknown(name)
        elif error == _NOT_THERE and not self._ending and file not in (None, _UNKNOWN):
            # It has to be there in the end all the same: that tells a loss from a wrong answer.
            self.wrong.append(f"{operation} of {name}: it is not there{self._age(file)}")

    def _age(self, file: _File) -> str:
        """How much longer than it had to be the last change of a file was acknowledged."""
        if not self._lost_since:
            return ""
        return f" (changed {self._lost_since - file.at:.1f} s before what a loss may take)"

    def _forget(self, asked: list[Any] | None) -> None:
        for name in _names(asked) if asked else []:
            self._unknown(name)

    def _lose(self, since: float) -> None:
        self._lost_since = since
        for at, names in self._recent:
            if at >= since:
                for name in names:
                    self._unknown(name)
        self._recent.clear()

    def _unknown(self, name: str) -> None:
        """Nothing is known of a name any more, nor of others of the same file."""
        file = self._names.get(name)
        if file is not None and file is not _UNKNOWN:
            for each, found in self._names.items():
                if found is file:
                    self._names[each] = _UNKNOWN
        self._names[name] = _UNKNOWN
        self._gone.discard(name)


def _names(note: list[Any]) -> list[str]:
    """The names that an operation has to do with."""
    count = 2 if note[0] in {"rename", "link"} else 1
    return note[2 : 2 + count]
