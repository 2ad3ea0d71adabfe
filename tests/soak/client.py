"""An NFS client as a process of its own: file operations at random, until it is killed.

    python -m tests.soak.client NUMBER SEED COUNTS

Each acknowledged operation adds its first letter to the file COUNTS. The library may end the
process when the server goes in the middle of a call: whoever started it starts it again.
"""

import contextlib
import sys
import time
from pathlib import Path
from random import Random

from tests.nfs import Client, NfsError

_FILES = 4000
_OPERATIONS = {"create": 60, "rename": 10, "link": 10, "truncate": 10, "unlink": 10}
# A file that is not there, and one that is.
_ORDINARY = {2, 17}


def main() -> int:
    """Work until the end."""
    number, seed, counts = sys.argv[1:]
    random = Random(f"{seed} {number} {time.time_ns()}")  # noqa: S311  # no secret
    home = f"/client-{number}"
    with Path(counts).open("a") as done, Client("/export") as client:
        with contextlib.suppress(NfsError):
            client.mkdir(home)
        while True:
            name = random.choices(list(_OPERATIONS), list(_OPERATIONS.values()))[0]
            if operate(client, name, home, random):
                done.write(name[0])
                done.flush()


def operate(client: Client, name: str, home: str, random: Random) -> bool:
    """Do one operation; whether there was something to do."""
    path = f"{home}/f{random.randrange(_FILES)}"
    other = f"{home}/ü{random.randrange(_FILES)}"
    try:
        if name == "create":
            client.create(path, random.randbytes(random.choice((0, 10, 500, 4096, 20_000))))
        elif name == "rename":
            client.rename(path, other)
        elif name == "link":
            client.link(path, other)
        elif name == "truncate":
            client.truncate(path, random.randrange(5000))
        else:
            client.unlink(random.choice((path, other)))
    except NfsError as error:
        if error.errno in _ORDINARY:
            return False
        raise
    return True


if __name__ == "__main__":
    sys.exit(main())
