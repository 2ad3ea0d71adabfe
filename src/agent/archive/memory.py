"""Memory for pieces, which come and go all the time."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_MIB = 1024 * 1024


def reuse() -> None:
    """Let the C library use memory again that was given back; call it before there are threads.

    By itself it returns large blocks to the kernel at once, and the kernel clears each new one:
    that takes as long as to hash a piece. Where there is no glibc, nothing changes.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_ARENA_MAX, 1)
        library.mallopt(_MMAP_THRESHOLD, 64 * _MIB)
        library.mallopt(_TRIM_THRESHOLD, 128 * _MIB)
