"""The agent's commands; see `python3 -m agent --help`.

Every command reads one configuration file (`settings.py`). Exit codes: 0 done, 1 failed or
different, 2 it could not be told or the call was wrong.
"""

import argparse
import dataclasses
import json
import logging
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from agent.badger import BadgerError
from agent.control_plane import ControlPlaneError
from agent.mirror import Mirror, store_directories
from agent.mysql import AwayError, Database, DatabaseError
from agent.process import end_with_any_thread, stopped_by_signals
from agent.recovery import RecoveryError, recover
from agent.report import PORT, Report, Server, listen, read_status
from agent.settings import Settings, SettingsError, load
from agent.verification import note_verified, overall, verify_all

logger = logging.getLogger("agent")

# Of the 30 s that a pod has for its end the server needs 16 at most, see the charm's layers.
_PATIENCE = 20.0
_SWITCH_SECONDS = 0.001
_RETRY_SECONDS = 2.0
_VERIFIED = {"equal": 0, "different": 1, "uncertain": 2}
_GUARD = ("guard", "make-writable")
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
    if asked.command in _GUARD:
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
        choices=["mirror", "recover", "verify", "inspect", "status", *_GUARD, *_BACKUPS],
        help="mirror: keep MySQL up to date until SIGTERM and the server's end; recover: rebuild "
        "the metadata volume; verify: compare both sides; inspect: whose mirror MySQL holds; "
        "status: of the service; guard: keep the volumes from running full until SIGTERM; "
        "make-writable: take back what a server that is down noted against writing; "
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
    parser.add_argument(
        "--patience",
        type=float,
        default=_PATIENCE,
        help="mirror: seconds after SIGTERM for what the server writes last; SIGINT ends at once",
    )
    return parser


def _mirror(settings: Settings, asked: argparse.Namespace) -> int:
    stop = stopped_by_signals(asked.patience)
    report, server = _reported(settings, asked)
    Mirror(settings, report, stop).run()
    if server:
        server.close()
    return 0


def _recover(settings: Settings, asked: argparse.Namespace) -> int:
    stop = stopped_by_signals().now
    report, server = _reported(settings, asked)
    result = _try_recovery(settings, report, asked, stop)
    report.flush(now=True)
    _say(result)
    while asked.stay and not stop.wait(1.0):
        report.flush()
    if server:
        server.close()
    return 1 if "error" in result else 0


def _reported(settings: Settings, asked: argparse.Namespace) -> tuple[Report, Server | None]:
    """What a service says of itself, also when it ends by an error."""
    report = Report(settings.run, settings.max_lag)

    def crashed(text: str) -> None:
        report.state("crashed", "internal", text)
        report.flush(now=True)

    end_with_any_thread(crashed)
    return report, listen(report, PORT if asked.port is None else asked.port)


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
    try:
        with closing(Database(settings.server)) as database:
            database.connect()
            reports = verify_all(store_directories(settings.stores), database)
    except DatabaseError as error:
        _say({"result": "uncertain", "stores": [], **_error(error.kind, error)})
        return _VERIFIED["uncertain"]
    note_verified(settings.run, reports)
    result = overall(reports)
    stores = [report.as_json() for report in reports]
    _say({"result": result, "stores": stores, "error": None})
    return _VERIFIED[result]


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
    from agent.guard import read_only  # noqa: PLC0415  # the mirror has no use for it
    from agent.guard.daemon import Guard  # noqa: PLC0415  # the same
    from agent.guard.settings import load as load_guard  # noqa: PLC0415  # the same

    try:
        settings = load_guard(asked.config, asked.root)
    except SettingsError as error:
        _say(_error("settings", error))
        return 2
    _log(settings.log_level)
    if asked.command == "make-writable":
        try:
            _say({"writable": read_only.make_writable(settings), "error": None})
        except BadgerError as error:
            _say(_error("store", error))
            return 1
        return 0
    stop = stopped_by_signals().now
    end_with_any_thread(lambda _: None)
    Guard(settings, stop).run()
    return 0


def _backups(asked: argparse.Namespace) -> int:
    from agent.archive import commands  # noqa: PLC0415  # the mirror has no use for it

    _log(logging.INFO)
    code, said = commands.run(asked)
    if said is not None:
        _say(said)
    return code


def _log(level: int) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )


def _error(kind: str, error: Exception) -> dict[str, Any]:
    return {"error": {"kind": kind, "text": str(error)}}


def _say(result: object) -> None:
    sys.stdout.write(json.dumps(result, sort_keys=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
