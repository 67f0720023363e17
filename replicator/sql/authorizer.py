"""What a statement of a client may do to the connection of the engine: read the tables, and little else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from replicator.sql.functions import REFUSED

PRAGMAS = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
)
"""Those that describe the schema."""

_SCHEMA_TABLES = frozenset({"sqlite_schema", "sqlite_master"})
_TABLE_FUNCTIONS = frozenset({"json_each", "json_tree", *(f"pragma_{it}" for it in PRAGMAS)})


class Authorizer:
    """Its `check` is called while SQLite compiles a statement."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        """Why the last statement that was refused was."""
        self._target: str | None = None  # the table in `main` that the statement may use
        self.is_internal = False
        """Whether what is executed is not of a client."""

    @contextmanager
    def internal(self) -> Iterator[None]:
        """What is executed within is not of a client."""
        self.is_internal = True
        try:
            yield
        finally:
            self.is_internal = False

    @contextmanager
    def writing(self, table: str) -> Iterator[None]:
        """A statement within may write that table of `main`."""
        self._target = table.lower()
        try:
            yield
        finally:
            self._target = None

    def check(self, operation: int, first: str | None, second: str | None, schema: str | None, by: str | None) -> int:
        if self.is_internal:
            return apsw.SQLITE_OK
        if operation == apsw.SQLITE_READ:
            allowed = self._may_read((first or "").lower(), schema)
        elif operation == apsw.SQLITE_FUNCTION:
            allowed = (second or "").lower() not in REFUSED
            if not allowed:
                name = (second or "").lower()
                self.refusal = f"{name}() is refused: {REFUSED[name]}"
        elif operation == apsw.SQLITE_PRAGMA:
            allowed = (first or "").lower() in PRAGMAS
            if not allowed:
                self.refusal = f"PRAGMA {first} is refused: only those that describe tables and indexes are supported"
        elif operation in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE):
            allowed = self._target is not None and schema == "main" and (first or "").lower() == self._target
        else:
            allowed = operation in (apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE)
            if not allowed:
                self.refusal = "this statement is refused: see docs/sql.md for what is supported"
        return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY

    def _may_read(self, table: str, schema: str | None) -> bool:
        if schema is None:  # of a query or a WITH clause
            return True
        if schema == "temp":
            return not table.startswith("sqlite_")
        if table in _SCHEMA_TABLES or table in _TABLE_FUNCTIONS or table == self._target:
            return True
        self.refusal = f"no such table: {schema}.{table}"
        return False
