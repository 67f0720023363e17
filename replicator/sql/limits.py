"""SQLite's own limits (sqlite.org/limits.html), and its settings for statements of clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from replicator.limits import MAX_SQL_BYTES, MAX_SQL_MEMORY_BYTES, MAX_VALUE_BYTES

MAX_VALUE = 2 * MAX_VALUE_BYTES
"""Bytes of a value that a statement computes."""

KEPT_CHARS = 4_000
"""Of a statement, with the names of its columns, that a cache keeps: caches are limited by their number."""

_LIMITS = {
    apsw.SQLITE_LIMIT_LENGTH: MAX_VALUE,
    apsw.SQLITE_LIMIT_SQL_LENGTH: 8 * MAX_SQL_BYTES,  # parameters have longer names than in the client's text
    apsw.SQLITE_LIMIT_COLUMN: 500,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 200,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    apsw.SQLITE_LIMIT_FUNCTION_ARG: 50,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 256,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}


_LIMITS_AT_ONCE = {
    apsw.SQLITE_LIMIT_LENGTH: 1 << 10,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 32,
    apsw.SQLITE_LIMIT_VDBE_OP: 700,
}
"""So that SQLite takes at most some milliseconds between two calls of the progress handler, or to compile."""


_SCHEMA_OPERATIONS = 20_000
"""Instructions of the engine. Generated columns that use each other become exponentially many."""


@contextmanager
def limit_of_schemas(connection: apsw.Connection) -> Iterator[None]:
    """In the block, a statement that needs too many instructions raises `apsw.NoMemError`."""
    before = connection.limit(apsw.SQLITE_LIMIT_VDBE_OP, _SCHEMA_OPERATIONS)
    try:
        yield
    finally:
        connection.limit(apsw.SQLITE_LIMIT_VDBE_OP, before)


def set_limits_at_once(connection: apsw.Connection) -> None:
    """Of a connection that executes statements at once. Others have to be executed in steps."""
    for limit, value in _LIMITS_AT_ONCE.items():
        connection.limit(limit, value)


def is_of_limits_at_once(error: apsw.Error) -> bool:
    """Whether the error may be one of these limits, or have a message that is too long for them."""
    message = str(error)
    return (
        isinstance(error, (apsw.TooBigError, apsw.NoMemError))
        or "pattern too complex" in message
        or message == "SQL logic error"
    )


_more_memory = 0  # blocks of `more_memory` that are executed


@contextmanager
def more_memory() -> Iterator[None]:
    """In the block, there is as much again: what was executed with all of it can be executed next to other queries."""
    global _more_memory
    _more_memory += 1
    _set_heap_limit()
    try:
        yield
    finally:
        _more_memory -= 1
        _set_heap_limit()


def _set_heap_limit() -> None:
    """Of all connections of the process."""
    apsw.hard_heap_limit(MAX_SQL_MEMORY_BYTES * (2 if _more_memory else 1))


def set_limits(connection: apsw.Connection) -> None:
    _set_heap_limit()
    for limit, value in _LIMITS.items():
        connection.limit(limit, value)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
