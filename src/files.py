"""Files in a container."""

import ops
from ops import pebble


def read(container: ops.Container, path: str) -> bytes | None:
    """Return the content of a file, None where there is none.

    Raises:
        ops.pebble.PathError: it is there and cannot be read.
    """
    try:
        with container.pull(path, encoding=None) as file:
            return file.read()
    except pebble.PathError as error:
        if error.kind == "not-found":
            return None
        raise
