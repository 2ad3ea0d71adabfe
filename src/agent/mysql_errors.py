"""What can go wrong with MySQL, by what is to be done about it."""

import re
import ssl

import pymysql

from agent.mysql_statements import RIGHTS


class DatabaseError(Exception):
    """Something about the mirror in MySQL is not as it should be.

    Attributes:
        kind: a short word for metrics and the status.
    """

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


class AwayError(DatabaseError):
    """MySQL cannot be written to now; later it can, without anybody doing something here.

    Kinds: "refused" (nobody answers), "lost" (the connection broke), "read-only", "disk", "lock",
    "storage",
    "busy" (too many connections), "stopping", "rewound" (MySQL lost writes that it had
    acknowledged) and "emptied" (somebody removed rows or tables of the mirror: `claim` again).
    """


class RefusedError(DatabaseError):
    """A person has to act.

    Kinds: "password", "rights", "database", "schema" (one of a newer version), "packet", "tls",
    "key" and "foreign".
    """


class SupersededError(DatabaseError):
    """Kind "superseded": a newer agent has the mirror. This one must never write again."""


# Numbers of errors, from both servers' lists.
_AWAY = {
    "read-only": (
        1015,  # innodb_force_recovery, innodb_read_only
        1036,  # a table that was opened for reading only
        1290,  # --read-only, --super-read-only
        1792,  # a transaction for reading only
        1836,  # read_only mode
        3098,  # Group Replication: no member of a majority
        3100,  # Group Replication: the transaction cannot be certified now
    ),
    "disk": (
        3,  # error when writing a file
        1021,  # disk full
        1026,  # error when writing a file
        1030,  # "Got error 28 from storage engine"
        1114,  # the table is full
        1534,  # the binary log could not be written
        1598,  # the same
        3019,  # the undo log could not be extended
    ),
    "lock": (
        1020,  # the record changed since it was read
        1062,  # two agents made the mirror's first row
        1180,  # the cluster could not commit
        1205,  # waited too long for a lock
        1213,  # deadlock
        3101,  # Group Replication: another member won
        3572,  # NOWAIT
    ),
    "busy": (
        1037,  # out of memory
        1038,  # out of memory for sorting
        1040,  # too many connections
        1041,  # out of memory
        1135,  # no thread can be created
        1203,  # too many connections of this user
        1226,  # the user's limit
        1969,  # the statement took too long
        3024,  # the same
    ),
    "stopping": (
        1047,  # Galera: the node is not ready
        1053,  # shutdown
        1077,  # the same
        1079,  # the same
        3032,  # offline mode
        4031,  # the server closes idle connections
    ),
    "refused": (1129, 2002, 2003, 2005),
    "lost": (
        1153,  # max_allowed_packet became smaller: the next connection asks for it
        1158,
        1159,
        1160,
        1161,
        1184,
        1317,  # somebody killed the statement
        1927,  # somebody killed the connection
        2006,
        2013,
        2014,
        2027,
        2055,
    ),
    "emptied": (1146,),
}
_REFUSED = {
    "password": (1045, 1251, 1698, 1820, 1862, 2059, 2061, 3118, 3955, 4151),
    "rights": (1044, 1130, 1142, 1143, 1227, 1370),
    "database": (1049,),
    "tls": (2026, 3159),
}
_KINDS: dict[int, tuple[type[DatabaseError], str]] = {
    number: (error, kind)
    for error, kinds in ((AwayError, _AWAY), (RefusedError, _REFUSED))
    for kind, numbers in kinds.items()
    for number in numbers
}
_DENIED = re.compile(r"^(.+?) command denied to user")
_STORAGE_ENGINE, _DISK_FULL = 1030, 28
_REMEDIES = {
    "password": "MySQL does not take the user's password",
    "database": "the database does not exist, or its user may not see it",
    "tls": "the connection cannot be encrypted as the relation says",
}


def translate(error: Exception, where: str, database: str, account: str) -> DatabaseError:
    """What an error of the driver means.

    Args:
        error: what PyMySQL raised; other exceptions are what it makes of a broken greeting.
        where: the server's address.
        database: the name of the mirror's database.
        account: the user as MySQL has it (`'user'@'%'`).
    """
    cause = getattr(error, "original_exception", error)
    if isinstance(cause, ssl.SSLError) and not _is_cut(cause):
        return RefusedError("tls", f"{where}: {_REMEDIES['tls']}: {cause}")
    if not isinstance(error, pymysql.MySQLError):
        kind = "lost" if isinstance(error, OSError) else "protocol"
        return AwayError(kind, f"{where}: {error!r}")
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    said = str(error.args[-1]) if error.args else "the connection is closed"
    found, kind = _KINDS.get(number, (DatabaseError, "sql"))
    if number == 0:
        found, kind = AwayError, "lost"
    if kind == "rights":
        said = f"{said}. {_grant(said, database, account)}"
    elif number == _STORAGE_ENGINE and f"error {_DISK_FULL} " not in said:
        kind = "storage"
    elif kind in _REMEDIES:
        said = f"{_REMEDIES[kind]}: {said}"
    return found(kind, f"{where}: {said} ({number})")


def _is_cut(error: ssl.SSLError) -> bool:
    """Whether it says no more than that the connection ended."""
    ended = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return isinstance(error, ended) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


def _grant(said: str, database: str, account: str) -> str:
    denied = _DENIED.match(said)
    missing = f"The user lacks {denied[1]} on its database" if denied else "The user lacks rights"
    return f"{missing}; what it needs: GRANT {RIGHTS} ON `{database}`.* TO {account}"
