"""Read ahead: what comes slowly is fetched by a thread while what came before is worked on."""

import queue
import threading
from collections.abc import Generator, Iterator
from itertools import islice
from typing import TypeVar

_CHUNK = 2000
_CHUNKS = 4
_LOOK_EVERY = 0.2

_Item = TypeVar("_Item")


def ahead(source: Iterator[_Item]) -> Generator[_Item, None, None]:
    """The same items, some thousands of them ahead; `source` is used by one other thread alone.

    Raises:
        Exception: what the source raises; the last items before it may be missing.
    """
    chunks: queue.Queue[list[_Item] | BaseException] = queue.Queue(_CHUNKS)
    ended = threading.Event()

    def put(what: list[_Item] | BaseException) -> None:
        while not ended.is_set():
            try:
                chunks.put(what, timeout=_LOOK_EVERY)
            except queue.Full:
                continue
            return

    def fetch() -> None:
        try:
            while (chunk := list(islice(source, _CHUNK))) and not ended.is_set():
                put(chunk)
            put([])
        except BaseException as error:  # noqa: BLE001  # it is raised where the items are wanted
            put(error)

    thread = threading.Thread(target=fetch, name="ahead", daemon=True)
    thread.start()
    try:
        while chunk := chunks.get():
            if isinstance(chunk, BaseException):
                raise chunk
            yield from chunk
    finally:
        ended.set()
        thread.join()
