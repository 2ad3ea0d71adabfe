"""What can go wrong with MySQL, by what is to be done about it."""

import re
import ssl

import pymysql

from agent.mysql_statements import CONNECTIONS, RIGHTS


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
    "storage", "busy" (too many connections), "stopping", "rewound" (MySQL lost writes that it had
    acknowledged) and "emptied" (somebody removed rows or tables of the mirror: `claim` again).
    """


class RefusedError(DatabaseError):
    """A person has to act; the text begins with what to do, where MySQL said it.

    Kinds: those of `REMEDIES`, "schema" (one of a newer version), "packet", "key", "config" and
    "foreign".
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
        1203,  # too many connections of this user, of which `claim` saw that they are enough
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
    "refused": (2002, 2003, 2005),
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
    "password": (1045, 1698),
    "login": (1251, 2059, 2061),
    "locked": (
        3118,
        3955,  # locked for some days, as a wrong password was given too often
        4150,  # MariaDB: locked as a wrong password was given too often
        4151,
    ),
    "expired": (1820, 1862),
    "rights": (1044, 1142, 1143, 1227, 1370),
    "host": (1130,),
    "host-blocked": (1129,),
    "database": (1046, 1049),
    "tls": (2026, 3159),
    "binlog": (1665,),
    "tables": (
        1034,  # a damaged index
        1035,  # an index of a version long ago
        1054,  # a column is missing
        1136,  # there is a column more
        1194,  # marked as crashed
        1195,  # marked as crashed, and could not be repaired
        1364,  # there is a column more
        1406,  # a column became too short
        1712,  # a damaged index
        1785,  # GTIDs, and a table whose engine has no transactions
        1812,  # the file of the table is missing
        1814,  # the same
        1877,  # the file of the table is damaged
        1878,  # the same
        1932,  # InnoDB does not know the table
    ),
    "transaction": (
        1197,  # larger than max_binlog_cache_size
        1206,  # more locks than the buffer pool has room for
    ),
    "engine": (1286, 3161),
}
REMEDIES = {
    "password": "relate MySQL anew, or give {account} the relation's password",
    "login": "let {account} log in by mysql_native_password, or caching_sha2_password with TLS",
    "locked": "ALTER USER {account} ACCOUNT UNLOCK, or FLUSH PRIVILEGES on MariaDB",
    "expired": "ALTER USER {account} PASSWORD EXPIRE NEVER",
    "rights": f"GRANT {RIGHTS} ON `{{database}}`.* TO {{account}}",
    "host": "let {account} log in from the pod's address, such as from '%'",
    "host-blocked": "run mysqladmin flush-hosts for MySQL",
    "database": "relate MySQL anew, or CREATE DATABASE `{database}`",
    "tls": "mend the TLS of MySQL or relate it anew, as the connection cannot be encrypted",
    "binlog": "SET GLOBAL binlog_format = ROW",
    "connections": f"ALTER USER {{account}} WITH MAX_USER_CONNECTIONS {CONNECTIONS}",
    "limit": "ALTER USER {account} WITH {limit} 0",
    "tables": "DROP all TABLEs dittofs_* of `{database}`, which are filled anew, or repair them",
    "transaction": "raise max_binlog_cache_size, wsrep_max_ws_size or innodb_buffer_pool_size",
    "engine": "allow InnoDB on MySQL",
}
"""What a person can do, by kind."""

_LIMITS = {"max_questions": "MAX_QUERIES_PER_HOUR", "max_updates": "MAX_UPDATES_PER_HOUR"}
_MOST_CONNECTIONS = "max_user_connections"
_KINDS: dict[int, tuple[type[DatabaseError], str]] = {
    number: (error, kind)
    for error, kinds in ((AwayError, _AWAY), (RefusedError, _REFUSED))
    for kind, numbers in kinds.items()
    for number in numbers
}
_DENIED = re.compile(r"^(.+?) command denied to user")
_EXCEEDED = re.compile(r"exceeded the '(\w+)' resource \(current value: (\d+)\)")
_USER_LIMIT, _COMMIT, _STORAGE_ENGINE = 1226, 1180, 1030
_DISK_FULL, _TOO_LARGE = "error 28 ", "error 90 "


def translate(error: Exception, where: str, database: str, account: str) -> DatabaseError:
    """What an error of the driver means.

    Args:
        error: what PyMySQL raised; other exceptions are what it makes of a broken greeting.
        where: the server's address.
        database: the name of the mirror's database.
        account: the user as MySQL has it (`'user'@'%'`).
    """
    cause = getattr(error, "original_exception", error)
    named = {"database": database, "account": account}
    if isinstance(cause, ssl.SSLError) and not _is_cut(cause):
        return refused("tls", f"{where}: {cause}", **named)
    number = error.args[0] if error.args else 0
    if _is_of_login(error, number):
        return refused("login", f"{where}: {number}", **named)
    if not isinstance(error, pymysql.MySQLError):
        kind = "lost" if isinstance(error, OSError) else "protocol"
        return AwayError(kind, f"{where}: {error!r}")
    number = number if isinstance(number, int) else 0
    said = str(error.args[-1]) if error.args else "the connection is closed"
    text = f"{where}: {said} ({number})"
    if number == _USER_LIMIT and (exceeded := _EXCEEDED.search(said)):
        return _exceeded(exceeded[1], int(exceeded[2]), text, named)
    found, kind = _KINDS.get(number, (DatabaseError, "sql"))
    if number == 0:
        found, kind = AwayError, "lost"
    elif number == _STORAGE_ENGINE and _DISK_FULL not in said:
        kind = "storage"
    elif number == _COMMIT and _TOO_LARGE in said:
        found, kind = RefusedError, "transaction"
    if found is RefusedError:
        denied = _DENIED.match(said)
        lacks = f"the user lacks {denied[1]}: " if denied else ""
        return refused(kind, lacks + text, **named)
    return found(kind, text)


def refused(kind: str, why: str, **named: str) -> RefusedError:
    """What is said of a fault with a remedy; `named`: what stands in it."""
    return RefusedError(kind, f"{REMEDIES[kind].format(**named)}: {why}")


def few_connections(allowed: int, where: str, account: str) -> RefusedError:
    """The account may have fewer connections than the agent needs."""
    why = f"{where}: the user may have {allowed} at a time, and {CONNECTIONS} are needed"
    return refused("connections", why, account=account)


def _exceeded(name: str, allowed: int, text: str, named: dict[str, str]) -> DatabaseError:
    """A limit of the account was reached."""
    if name != _MOST_CONNECTIONS:
        return refused("limit", text, limit=_LIMITS.get(name, name.upper()), **named)
    if allowed >= CONNECTIONS:
        return AwayError("busy", text)
    return refused("connections", f"{text}; {CONNECTIONS} are needed", **named)


def _is_of_login(error: Exception, number: object) -> bool:
    """Whether PyMySQL cannot log in as the server asks it to: it says so without a number."""
    wordless = isinstance(error, (pymysql.OperationalError, RuntimeError))
    return wordless and isinstance(number, str)


def _is_cut(error: ssl.SSLError) -> bool:
    """Whether it says no more than that the connection ended."""
    ended = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return isinstance(error, ended) or error.reason == "UNEXPECTED_EOF_WHILE_READING"
