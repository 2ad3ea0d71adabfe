"""An NFS client as a process of its own: file operations at random, until it is killed.

    python -m tests.soak.client HOME SEED LEDGER

The library may end the process when the server goes in the middle of a call: whoever started it
starts it again, with another seed.
"""

import contextlib
import sys
from pathlib import Path
from random import Random
from typing import Any

from tests.nfs import Client, NfsError
from tests.soak.ledger import Ledger, written

_FILES = 4000
_OPERATIONS = {"create": 60, "rename": 10, "link": 10, "truncate": 10, "unlink": 10}
_SIZES = (0, 10, 500, 4096, 20_000)
# A file that is not there, and one that is.
_ORDINARY = {2, 17}


def main() -> int:
    """Work until the end."""
    home, seed, notes = sys.argv[1:]
    random = Random(seed)  # noqa: S311  # the same each time
    ledger = Ledger(Path(notes))
    with Client("/export") as client:
        with contextlib.suppress(NfsError):
            client.mkdir(home)
        ledger.began()
        number = 0
        while True:
            number += 1
            operate(client, ledger, *choose(random, home, f"{seed} {number}"))


def choose(random: Random, home: str, seed: str) -> tuple[str, list[Any]]:
    """An operation and its arguments, as the ledger has them."""
    name = random.choices(list(_OPERATIONS), list(_OPERATIONS.values()))[0]
    path = f"{home}/f{random.randrange(_FILES)}"
    other = f"{home}/ü{random.randrange(_FILES)}"
    if name == "create":
        return name, [path, seed, random.choice(_SIZES)]
    if name == "truncate":
        return name, [path, random.randrange(5000)]
    if name == "unlink":
        return name, [random.choice((path, other))]
    return name, [path, other]


def operate(client: Client, ledger: Ledger, name: str, arguments: list[Any]) -> None:
    """Do one operation, and note what became of it."""
    ledger.begin(name, *arguments)
    try:
        if name == "create":
            path, seed, size = arguments
            client.create(path, written(seed, size))
        else:
            getattr(client, name)(*arguments)
    except NfsError as error:
        if error.errno not in _ORDINARY:
            raise
        ledger.refused(error.errno)
    else:
        ledger.done()


if __name__ == "__main__":
    sys.exit(main())
