"""Cuts the power off while something changes a volume."""

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

Subject = TypeVar("Subject")
_CALLS = ("rename", "replace", "mkdir", "unlink", "rmdir", "open", "fsync")


class Cut(BaseException):
    """The power goes off."""


class Power:
    """Goes off before the n-th call that changes a volume; counts from 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self._left: int | None = None
        for name in _CALLS:
            monkeypatch.setattr(os, name, self._guarded(getattr(os, name), name))

    def _guarded(self, real: Callable[..., object], name: str) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if self._left is not None:
                if not self._left:
                    raise Cut
                self._left -= 1
            # Nobody cuts the real power of the machine that runs the tests.
            return None if name == "fsync" else real(*arguments, **named)

        return call

    def cut(self, calls: int, work: Callable[[Subject], object], subject: Subject) -> bool:
        """Do something with so many calls; whether the power went off."""
        self._left = calls
        try:
            work(subject)
        except Cut:
            return True
        finally:
            self._left = None
        return False
