"""What a statement may take: SQLite's own limits (sqlite.org/limits.html), and time."""

from __future__ import annotations

import apsw

from replicator.limits import MAX_SQL_BYTES, MAX_SQL_MEMORY_BYTES, MAX_VALUE_BYTES

_LIMITS = {
    apsw.SQLITE_LIMIT_LENGTH: 2 * MAX_VALUE_BYTES,
    apsw.SQLITE_LIMIT_SQL_LENGTH: MAX_SQL_BYTES,
    apsw.SQLITE_LIMIT_COLUMN: 500,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 200,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    apsw.SQLITE_LIMIT_FUNCTION_ARG: 100,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 256,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}


def set_limits(connection: apsw.Connection) -> None:
    apsw.hard_heap_limit(MAX_SQL_MEMORY_BYTES)  # of all connections of the process
    for limit, value in _LIMITS.items():
        connection.limit(limit, value)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
