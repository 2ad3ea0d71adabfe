"""Free ports of this machine."""

import contextlib
import secrets
import socket

HOST = "127.0.0.1"
# Above the ports of the programs under test, below Linux' ports of connections.
_LOWEST_PORT, _CONNECTIONS_FROM = 20_000, 32_768


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now.

    It is below those that connections are made from, of which one could take it meanwhile.
    """
    while True:
        port = _LOWEST_PORT + secrets.randbelow(_CONNECTIONS_FROM - _LOWEST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
