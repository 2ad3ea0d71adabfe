#!/usr/bin/env python3
"""Files over NFS 3, as a command: it prints a JSON object, whose `error` says what went wrong.

    files.py put HOST SHARE NAME SEED SIZE     writes a file, and makes it safe
    files.py get HOST SHARE NAME               tells its size and the SHA-256 of what is in it
    files.py remove HOST SHARE NAME
    files.py watch HOST SHARE NAME PLACE SECONDS
                                               reads it again and again, until PLACE.stop is there
    files.py reach HOST PORT...                tells which ports take a connection
    files.py login HOST                        tells whether the REST API takes the password of
                                               admin that is on standard input

A seed stands for the content of a file: `content` makes it anew wherever it is compared.
"""

import hashlib
import http.client
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tests.limits.nfs3 import Client, LostError, RefusedError

_PIECE = 256 * 1024
_API_PORT = 8080
# How long a client waits for an answer that does not come, and between two reads.
_PATIENCE, _PAUSE = 2.0, 0.1
_OK, _UNAUTHORIZED = 200, 401


def content(seed: str, size: int) -> bytes:
    """The content that a seed stands for."""
    return hashlib.shake_256(seed.encode()).digest(size)


def put(host: str, share: str, name: str, seed: str, size: str) -> dict[str, Any]:
    """Write a file, in place of another one of this name; it is safe when this returns."""
    data = content(seed, int(size))
    with Client(share, host=host) as client:
        handle = client.create(name)
        client.truncate(handle, 0)
        for start in range(0, len(data), _PIECE):
            client.write(handle, start, data[start : start + _PIECE])
        client.commit(handle)
    return {"size": len(data)}


def get(host: str, share: str, name: str) -> dict[str, Any]:
    """Tell what is in a file."""
    with Client(share, host=host) as client:
        data = _read(client, name)
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def remove(host: str, share: str, name: str) -> dict[str, Any]:
    """Remove a file; tell whether it was there."""
    with Client(share, host=host) as client:
        return {"removed": client.remove(name)}


def watch(host: str, share: str, name: str, place: str, seconds: str) -> dict[str, Any]:
    """Read a file again and again, and tell how often, and how long each outage was.

    An outage begins with the last read before it and ends with the first one after it. What is
    watched is said by the file PLACE.started.
    """
    end = time.monotonic() + float(seconds)
    stop, started = Path(f"{place}.stop"), Path(f"{place}.started")
    reads, outages, last, failed = 0, list[float](), time.monotonic(), False
    while not stop.exists() and time.monotonic() < end:
        if _readable(host, share, name):
            now = time.monotonic()
            if failed and reads:
                outages.append(round(now - last, 2))
            reads, last, failed = reads + 1, now, False
            started.touch()
        else:
            failed = True
        time.sleep(_PAUSE)
    return {"reads": reads, "outages": outages, "served-at-the-end": not failed}


def reach(host: str, *ports: str) -> dict[str, Any]:
    """Tell which ports take a connection."""
    return {port: _connects(host, int(port)) for port in ports}


def login(host: str) -> dict[str, Any]:
    """Tell whether admin is let in with the password of standard input."""
    body = json.dumps({"username": "admin", "password": sys.stdin.readline().rstrip("\n")})
    connection = http.client.HTTPConnection(host, _API_PORT, timeout=30)
    headers = {"Content-Type": "application/json"}
    try:
        connection.request("POST", "/api/v1/auth/login", body, headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status not in {_OK, _UNAUTHORIZED}:
        return {"error": f"the server answered {status}"}
    return {"accepted": status == _OK}


def _read(client: Client, name: str) -> bytes:
    handle = client.lookup(name)
    if handle is None:
        raise FileNotFoundError(f"there is no file {name}")
    parts: list[bytes] = []
    while part := client.read(handle, _PIECE * len(parts), _PIECE):
        parts.append(part)
    return b"".join(parts)


def _readable(host: str, share: str, name: str) -> bool:
    """Whether a client that comes now can read the file."""
    try:
        with Client(share, host=host, timeout=_PATIENCE) as client:
            _read(client, name)
    except (LostError, RefusedError, OSError):
        return False
    return True


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


_COMMANDS = {
    "put": put,
    "get": get,
    "remove": remove,
    "watch": watch,
    "reach": reach,
    "login": login,
}


def main(command: str, *arguments: str) -> None:
    """Do what the command says and print what came of it."""
    try:
        found = _COMMANDS[command](*arguments)
    except (LostError, RefusedError, OSError, http.client.HTTPException) as error:
        found = {"error": str(error) or type(error).__name__}
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
