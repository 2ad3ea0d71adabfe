"""Files of the real server that share their segments.

The server spreads files over 16 segments of 256 MiB by a hash of their ids, and cleans only full
segments. Files of one shard fill one with few bytes.
"""

import os

from tests.limits.nfs3 import Client

MIB = 2**20
SEGMENT = 256 * MIB
SHARDS = 16


def make(share: str, count: int) -> list[str]:
    """Make so many empty files of one shard; their names."""
    names: list[str] = []
    with Client(share) as client:
        number = 0
        while len(names) < count:
            number += 1
            handle = client.create(f"shard-{number}").decode()
            if _shard(handle.removeprefix("/").replace(":", "/")) == 0:
                names.append(f"shard-{number}")
            else:
                client.remove(f"shard-{number}")
    return names


def write(share: str, name: str, size: int) -> bytes:
    """Write a file in place; what is in it."""
    data = os.urandom(size)
    with Client(share) as client:
        handle = client.lookup(name)
        assert handle
        for place in range(0, size, MIB):
            client.write(handle, place, data[place : place + MIB])
        client.commit(handle)
    return data


def read(share: str, name: str, size: int) -> bytes:
    """What is in a file."""
    with Client(share) as client:
        handle = client.lookup(name)
        assert handle
        return client.read(handle, 0, size)


def _shard(payload: str) -> int:
    """FNV-1a of a file's id in the journal, which is `share/uuid`."""
    number = 14695981039346656037
    for byte in payload.encode():
        number = (number ^ byte) * 1099511628211 % 2**64
    return number % SHARDS
