"""Services and checks of the stand-in for Pebble: processes, kept as a plan says."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from typing import Any

DURATIONS = frozenset({"backoff-delay", "backoff-limit", "kill-delay", "period", "timeout"})
_OKAY_DELAY = 1.0
_KILLED_WAIT = 5.0
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ms|s|m|h)")


def seconds(text: str) -> float:
    """A duration such as `110s`, `500ms` or `1m50s`."""
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise ValueError(f"invalid duration {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text)) / 1000


def written(text: str) -> str:
    """A duration as Go writes it, and so Pebble's plan: `110s` is `1m50s`, `1m` is `1m0s`."""
    milliseconds = round(seconds(text) * 1000)
    if milliseconds < _UNITS["s"]:
        return f"{milliseconds}ms" if milliseconds else "0s"
    hours, rest = divmod(milliseconds, _UNITS["h"])
    minutes, rest = divmod(rest, _UNITS["m"])
    parts = f"{hours}h" if hours else ""
    parts += f"{minutes}m" if hours or minutes else ""
    return f"{parts}{rest / 1000:g}s"


class StartError(Exception):
    """The service ended within a second; `output` is what it printed."""

    def __init__(self, text: str, output: str):
        super().__init__(text)
        self.output = output


class Service:
    """One service: its process, and what becomes of it when the process ends."""

    def __init__(self, name: str, log: Callable[[str], None]):
        self.name = name
        self.config: dict[str, Any] = {}
        self.current = "inactive"
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._output: deque[str] = deque(maxlen=20)
        self._backoff = 0.0
        self._lock = threading.RLock()
        self._wanted = False
        self._ended = threading.Event()

    @property
    def running(self) -> bool:
        """Whether it shall run: it does, or waits for its next try."""
        return self._wanted

    def start(self, config: dict[str, Any]) -> None:
        """Start it and see whether it lives for a second.

        Raises:
            StartError: it does not.
        """
        with self._lock:
            self.config = config
            self._wanted = True
            self._backoff = 0.0
            self._spawn()
            ended = self._ended
        if ended.wait(_OKAY_DELAY):
            code = self._process.returncode if self._process else 0
            again = ", will restart" if self.current == "backoff" else ""
            raise StartError(
                f"service start attempt: exited quickly with code {code}{again}",
                "\n".join(self._output),
            )

    def stop(self) -> None:
        """End it: SIGTERM to its group, SIGKILL after the kill-delay."""
        with self._lock:
            self._wanted = False
            self.current = "inactive"
            process = self._process
        if process is None or process.poll() is not None:
            return
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds(self.config.get("kill-delay", "5s")))
            return
        _signal(process, signal.SIGKILL)
        process.wait(_KILLED_WAIT)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process alone; whether there was one."""
        with self._lock:
            process = self._process
            if self.current != "active" or process is None or process.poll() is not None:
                return False
            process.send_signal(number)
            return True

    def restart(self) -> None:
        """A check failed: end it and start it again."""
        config = self.config
        self.stop()
        with contextlib.suppress(StartError):
            self.start(config)

    def _spawn(self) -> None:
        self._ended = threading.Event()
        environment = os.environ | {
            name: str(value) for name, value in self.config.get("environment", {}).items()
        }
        self._process = subprocess.Popen(
            shlex.split(self.config["command"]),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.current = "active"
        threading.Thread(
            target=self._watch, args=(self._process, self._ended), daemon=True
        ).start()

    def _watch(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                text = line.decode(errors="replace").rstrip()
                self._output.append(text)
                self._log(f"[{self.name}] {text}")
        code = process.wait()
        with self._lock:
            if self._wanted and process is self._process:
                action = self.config.get("on-success" if code == 0 else "on-failure", "restart")
                if action == "restart":
                    self.current = "backoff"
                    threading.Thread(target=self._again, args=(process,), daemon=True).start()
                else:
                    self._wanted = False
                    self.current = "inactive"
        ended.set()

    def _again(self, process: subprocess.Popen[bytes]) -> None:
        factor = float(self.config.get("backoff-factor", 2))
        first = seconds(self.config.get("backoff-delay", "500ms"))
        limit = seconds(self.config.get("backoff-limit", "30s"))
        self._backoff = min(max(self._backoff * factor, first), limit)
        time.sleep(self._backoff)
        with self._lock:
            if self._wanted and process is self._process:
                self._spawn()


class Check:
    """One check, run in a thread of its own from its start until it is stopped."""

    def __init__(self, name: str, config: dict[str, Any], failed: Callable[[str], None]):
        self.name = name
        self.config = config
        self.failures = 0
        self.down = False
        self.running = False
        self._failed = failed
        self._stop = threading.Event()

    @property
    def enabled(self) -> bool:
        """Whether a plan that has it lets it run."""
        return self.config.get("startup", "enabled") == "enabled"

    def start(self) -> bool:
        """Run it; whether it did not run before."""
        if self.running:
            return False
        self.running, self.failures, self.down = True, 0, False
        self._stop = threading.Event()
        threading.Thread(target=self._loop, args=(self._stop,), daemon=True).start()
        return True

    def stop(self) -> bool:
        """Run it no more; whether it ran before."""
        ran, self.running = self.running, False
        self._stop.set()
        return ran

    def info(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "name": self.name,
            "startup": self.config.get("startup", "enabled"),
            "level": self.config.get("level", ""),
            "status": ("down" if self.down else "up") if self.running else "inactive",
            "failures": self.failures,
            "threshold": self._threshold,
            "change-id": "1",
        }

    @property
    def _threshold(self) -> int:
        return int(self.config.get("threshold", 3))

    def _loop(self, stop: threading.Event) -> None:
        while not stop.wait(seconds(self.config.get("period", "10s"))):
            if self._passes():
                self.failures, self.down = 0, False
                continue
            self.failures += 1
            if self.failures == self._threshold:
                self.down = True
                self._failed(self.name)

    def _passes(self) -> bool:
        timeout = seconds(self.config.get("timeout", "3s"))
        try:
            if "http" in self.config:
                url = self.config["http"]["url"]
                with urllib.request.urlopen(url, timeout=timeout):  # noqa: S310  # the plan's url
                    return True
            if "tcp" in self.config:
                with socket.create_connection(("localhost", self.config["tcp"]["port"]), timeout):
                    return True
            done = subprocess.run(
                shlex.split(self.config["exec"]["command"]),
                check=False,
                capture_output=True,
                timeout=timeout,
            )
        except (OSError, subprocess.TimeoutExpired, urllib.error.URLError):
            return False
        return done.returncode == 0


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
