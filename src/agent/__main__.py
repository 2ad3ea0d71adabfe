"""The agent's commands; see `python3 -m agent --help`.

Every command reads one configuration file (`settings.py`). Exit codes: 0 done, 1 failed or
different, 2 it could not be told or the call was wrong.
"""

import argparse
import dataclasses
import json
import logging
import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from agent.badger import BadgerError
from agent.control_plane import ControlPlaneError
from agent.mirror import Mirror, store_directories
from agent.mysql import AwayError, Database, DatabaseError
from agent.recovery import RecoveryError, recover
from agent.report import PORT, Report, listen, read_status
from agent.settings import Settings, SettingsError, load
from agent.verification import StoreReport, UncertainError, note_verified, verify

logger = logging.getLogger("agent")

_STOP_SECONDS = 0.9
_SWITCH_SECONDS = 0.001
_RETRY_SECONDS = 2.0
_BACKUPS = ("backup", "backup-list", "backup-swap", "backup-rollback", "backup-discard")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code."""
    asked = _parser().parse_args(arguments)
    # One thread works while another waits for the database: it is not to wait for 5 ms more.
    sys.setswitchinterval(_SWITCH_SECONDS)
    if asked.command == "status":
        status = read_status(asked.config.parent)
        _say(status)
        return 0 if status else 2
    if asked.command in _BACKUPS:
        return _backups(asked)
    if asked.command == "guard":
        return _guard(asked)
    try:
        settings = load(asked.config, asked.root)
    except SettingsError as error:
        _say({"error": {"kind": "settings", "text": str(error)}})
        return 2
    _log(settings.log_level)
    return {"mirror": _mirror, "recover": _recover, "verify": _verify, "inspect": _inspect}[
        asked.command
    ](settings, asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agent", description=__doc__)
    parser.add_argument(
        "command",
        choices=["mirror", "recover", "verify", "inspect", "status", "guard", *_BACKUPS],
        help="mirror: keep MySQL up to date until SIGTERM; recover: rebuild the metadata volume; "
        "verify: compare both sides; inspect: whose mirror MySQL holds; status: of the service; "
        "guard: keep the volumes from running full until SIGTERM; "
        "backup: make and restore backups until SIGTERM; backup-list: those in the bucket; "
        "backup-swap, backup-rollback, backup-discard: steps of a restore",
    )
    parser.add_argument("--config", type=Path, required=True, help="the configuration file")
    parser.add_argument("--root", type=Path, default=Path("/"), help="in front of the volumes")
    parser.add_argument("--port", type=int, help="of /health and /metrics")
    parser.add_argument("--all", action="store_true", help="backup-list: of all applications")
    parser.add_argument("--from", dest="instance", help="recover: the mirror must be this one's")
    parser.add_argument(
        "--stay", action="store_true", help="recover: answer /health afterwards until SIGTERM"
    )
    return parser


def _mirror(settings: Settings, asked: argparse.Namespace) -> int:
    stop = _stopped_by_signals()
    report = Report(settings.run, settings.max_lag)
    server = listen(report, PORT if asked.port is None else asked.port)
    Mirror(settings, report, stop).run()
    if server:
        server.close()
    return 0


def _recover(settings: Settings, asked: argparse.Namespace) -> int:
    stop = _stopped_by_signals()
    report = Report(settings.run, settings.max_lag)
    server = listen(report, PORT if asked.port is None else asked.port)
    result = _try_recovery(settings, report, asked, stop)
    report.flush(now=True)
    _say(result)
    while asked.stay and not stop.wait(1.0):
        report.flush()
    if server:
        server.close()
    return 1 if "error" in result else 0


def _try_recovery(
    settings: Settings, report: Report, asked: argparse.Namespace, stop: threading.Event
) -> dict[str, Any]:
    """Recover; a database that is away is waited for where the command stays."""
    while True:
        report.state("recovering", message="connecting")
        try:
            with closing(Database(settings.server)) as database:
                database.connect()
                mirror = recover(settings, database, report, asked.instance)
        except AwayError as error:
            report.state("recovering", error.kind, str(error))
            report.flush(now=True)
            if not asked.stay or stop.wait(_RETRY_SECONDS):
                report.state("failed", error.kind, str(error))
                return _error(error.kind, error)
        except DatabaseError as error:
            report.state("failed", error.kind, str(error))
            return _error(error.kind, error)
        except (RecoveryError, ControlPlaneError, BadgerError, OSError) as error:
            report.state("failed", "recovery", str(error))
            return _error("recovery", error)
        else:
            report.state("recovered", message=f"recovered {mirror.instance}", progress=None)
            return {"recovered": dataclasses.asdict(mirror)}


def _verify(settings: Settings, _: argparse.Namespace) -> int:
    reports: list[StoreReport] = []
    try:
        with closing(Database(settings.server)) as database:
            database.connect()
            for name, directory in sorted(store_directories(settings.stores).items()):
                reports.append(verify(name, directory, database))
    except DatabaseError as error:
        return _uncertain(error.kind, error)
    except (UncertainError, BadgerError) as error:
        return _uncertain("uncertain", error)
    note_verified(settings.run, reports)
    equal = all(report.equal for report in reports)
    _say({"equal": equal, "stores": [report.as_json() for report in reports], "error": None})
    return 0 if equal else 1


def _uncertain(kind: str, error: Exception) -> int:
    _say({"equal": False, "stores": [], **_error(kind, error)})
    return 2


def _inspect(settings: Settings, _: argparse.Namespace) -> int:
    result: dict[str, Any] = {"mirror": None, "stores": {}, "error": None}
    try:
        with closing(Database(settings.server)) as database:
            database.connect()
            mirror = database.inspect()
            if mirror:
                result["mirror"] = dataclasses.asdict(mirror)
                result["stores"] = {
                    name: {"complete": bool(row.copy and row.position)}
                    for name, row in database.stores().items()
                }
    except DatabaseError as error:
        result |= _error(error.kind, error)
    _say(result)
    return 1 if result["error"] else 0


def _guard(asked: argparse.Namespace) -> int:
    from agent.guard.daemon import Guard  # noqa: PLC0415  # the mirror has no use for it
    from agent.guard.settings import load as load_guard  # noqa: PLC0415  # the same

    try:
        settings = load_guard(asked.config, asked.root)
    except SettingsError as error:
        _say(_error("settings", error))
        return 2
    _log(settings.log_level)
    Guard(settings, _stopped_by_signals()).run()
    return 0


def _backups(asked: argparse.Namespace) -> int:
    from agent.archive import commands  # noqa: PLC0415  # the mirror has no use for it

    _log(logging.INFO)
    code, said = commands.run(asked, _stopped_by_signals)
    if said is not None:
        _say(said)
    return code


def _log(level: int) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )


def _stopped_by_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; the process is gone a moment later in any case."""
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        # What the database is in the middle of is rolled back, and done again at the next start.
        timer = threading.Timer(_STOP_SECONDS, os._exit, (0,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    return stop


def _error(kind: str, error: Exception) -> dict[str, Any]:
    return {"error": {"kind": kind, "text": str(error)}}


def _say(result: object) -> None:
    sys.stdout.write(json.dumps(result, sort_keys=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
