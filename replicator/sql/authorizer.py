"""Decides what a client's statement may do on the engine's connection: read tables, and little else.

SQLite asks while it compiles a statement (sqlite.org/c3ref/set_authorizer.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from replicator.sql import functions
from replicator.sql.errors import NO_INDEXED_BY
from replicator.sql.names import fold
from replicator.sql.progress import TakesLonger

PRAGMAS = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
)
"""The PRAGMAs that describe the schema; all others are refused."""

_SCHEMA_TABLES = frozenset({"sqlite_schema", "sqlite_master"})
_TABLE_FUNCTIONS = frozenset({"json_each", "json_tree", *(f"pragma_{it}" for it in PRAGMAS)})


class Authorizer:
    def __init__(self, *, views: bool) -> None:
        """Unless `views`, a statement that reads a view raises `TakesLonger`."""
        self._views = views
        self._refusal: str | None = None  # the error message of the last statement that was refused
        self._target: str | None = None  # the table of `main` that the statement may read and write
        self.is_internal = False
        """Whether our own statements are executed, which may do everything but call other functions."""

    @contextmanager
    def internal(self) -> Iterator[None]:
        """Statements within are our own."""
        self.is_internal = True
        try:
            yield
        finally:
            self.is_internal = False

    @contextmanager
    def writing(self, table: str) -> Iterator[None]:
        """Statements within may read and write that table of `main`."""
        self._target = fold(table)
        try:
            yield
        finally:
            self._target = None

    def explain(self, error: apsw.Error) -> str:
        """The error message: that of the refusal, if it is why SQLite has failed."""
        is_refusal = isinstance(error, apsw.AuthError) or str(error).startswith("not authorized to use function")
        if is_refusal and self._refusal:
            return self._refusal
        # tables of the engine have no indexes of that name
        return NO_INDEXED_BY if str(error).startswith("no such index:") else str(error)

    def check(self, operation: int, first: str | None, second: str | None, schema: str | None, by: str | None) -> int:
        """SQLite's callback. What `first` and `second` name depends on the operation; `by` is a view or trigger."""
        if operation == apsw.SQLITE_FUNCTION:  # also of the schema, whose statements are ours
            name = fold(second or "")
            allowed = name in functions.ALLOWED
            if not allowed:
                self._refusal = functions.refusal(name)
        elif self.is_internal:
            return apsw.SQLITE_OK
        elif operation == apsw.SQLITE_READ:
            if by is not None and not self._views:
                raise TakesLonger
            allowed = self._may_read(fold(first or ""), schema)
        elif operation == apsw.SQLITE_PRAGMA:
            allowed = fold(first or "") in PRAGMAS
            if not allowed:
                self._refusal = f"PRAGMA {first} is refused: only those that describe tables and indexes are supported"
        elif operation in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE):
            allowed = self._target is not None and schema == "main" and fold(first or "") == self._target
        else:
            allowed = operation in (apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE)
            if not allowed:
                self._refusal = "this statement is refused: see docs/sql.md for what is supported"
        return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY

    def _may_read(self, table: str, schema: str | None) -> bool:
        if schema is None:  # a subquery or a WITH clause
            return True
        if schema == "temp":
            return not table.startswith("sqlite_")
        if table in _SCHEMA_TABLES or table in _TABLE_FUNCTIONS or table == self._target:
            return True
        self._refusal = f"no such table: {schema}.{table}"
        return False
