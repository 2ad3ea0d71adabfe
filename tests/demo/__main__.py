"""`make demo`: the whole life of the charm on real processes, as its user would see it.

Prints what a user would type and what Juju would show. Ends with `demo: N steps passed, M failed`.
`python -m tests.demo --traceback` shows more of a step that fails.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests import bed, folders

if TYPE_CHECKING:
    from tests.databases import DatabaseServer
    from tests.demo.steps import Demo


def _show(text: str) -> None:
    sys.stdout.write(f"demo: {text}\n")
    sys.stdout.flush()


def _database(stack: contextlib.ExitStack, directory: Path) -> "DatabaseServer | None":
    """A database server that runs; None, and a word, where this machine has none."""
    from tests.databases import DatabaseServer, ServerError, find_program  # noqa: PLC0415  # see main

    found = find_program()
    if isinstance(found, str):
        _show(f"the steps with MySQL are left out: {found}")
        return None
    try:
        database = stack.enter_context(DatabaseServer(directory))
    except ServerError as error:
        _show(f"the steps with MySQL are left out, {found} does not start: {error}")
        return None
    _show(str(found))
    return database


def _prepare(stack: contextlib.ExitStack) -> "Demo":
    """Start what the demo needs, and say what it is; `stack` ends it."""
    from tests import nfs, servers  # noqa: PLC0415  # see main
    from tests.demo.steps import Demo, StepError  # noqa: PLC0415
    from tests.functional.bucket import BucketProvider  # noqa: PLC0415
    from tests.functional.mysql import Provider  # noqa: PLC0415
    from tests.functional.pod import Pod  # noqa: PLC0415
    from tests.s3 import S3Server  # noqa: PLC0415

    server = servers.server()
    _show(f"{server} under {servers.pebble()}")
    if server.real and (missing := nfs.missing()):
        raise StepError(f"files are written to the real server with {missing}")
    root = stack.enter_context(folders.temporary())
    database = _database(stack, root / "mysql")
    s3 = stack.enter_context(S3Server(root))
    pod = Pod(root / "pod", server)
    stack.callback(pod.close)
    pod.start()
    provider = Provider(database) if database else None
    bucket = BucketProvider(s3, "backups")
    return Demo(pod, provider, bucket, traceback="--traceback" in sys.argv)


def main() -> int:
    """Run the demo; 0 when every step passed."""
    # Before the imports that take a second, or ten on a machine that is busy.
    _show(f"the whole life of the charm in 1 to 3 minutes. The bed is {bed.bed()}")
    with contextlib.ExitStack() as stack:
        try:
            demo = _prepare(stack)
        except Exception as error:  # what is missing is said in a line
            if "--traceback" in sys.argv or isinstance(error, BrokenPipeError):
                raise
            _show(f"it cannot begin: {str(error).strip() or type(error).__name__}")
            return 1
        demo.run()
    sys.stdout.write("\n")
    _show(f"{demo.passed} steps passed, {demo.failed} failed")
    return 1 if demo.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, BrokenPipeError):
        # Nobody reads what is still to be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(130)
