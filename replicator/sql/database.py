"""A connection of SQLite's engine for one version of the schema.

    temp.T    the virtual table: what statements read
    main.T    an empty table as its CREATE TABLE says: it converts and checks the rows that are to be written

A name without a schema is that of `temp`, which SQLite searches first. `main.sqlite_schema` and the PRAGMAs describe
the tables as they were created.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import apsw

from replicator.sql import functions
from replicator.sql.authorizer import Authorizer
from replicator.sql.catalog import SchemaObject
from replicator.sql.description import describe
from replicator.sql.functions import Calls
from replicator.sql.limits import set_limits
from replicator.sql.tables import Table
from replicator.sql.tokens import Bindings, quote
from replicator.sql.virtual_table import MODULE, Source, StoreModule

ResultColumn = tuple[str, str | None]
"""Name and declared type."""

_DESCRIBED = 500  # statements
_INSTRUCTIONS = 2_000
"""Of the engine's virtual machine between two calls of a limit; less than 0.1 ms."""


class Database:
    def __init__(self, objects: Sequence[SchemaObject], calls: Calls) -> None:
        """`objects`: tables, then indexes, then views. Raises `apsw.Error` if one is not valid."""
        self.source = Source()
        self.tables: dict[str, Table] = {}
        """By name in lower case."""
        self.calls = calls
        self.prepared: dict[str, Any] = {}
        """Statements that write, by their text (`writing.Prepared`)."""
        self.authorizer = Authorizer()
        self._columns: dict[str, Sequence[ResultColumn]] = {}
        self.connection = connection = apsw.Connection(":memory:", statementcachesize=200)
        module: Any = StoreModule(self.tables, self.source)
        connection.create_module(MODULE, module, use_bestindex_object=True, iVersion=2)
        functions.register(connection, calls)
        set_limits(connection)
        connection.authorizer = self.authorizer.check
        connection.set_progress_handler(self._on_instructions, _INSTRUCTIONS)
        with self.authorizer.internal():
            for it in objects:
                connection.execute(it.sql)
            for it in objects:
                if it.type == "table":
                    self.tables[it.name.lower()] = describe(connection, it.name)
                    connection.execute(f"CREATE VIRTUAL TABLE temp.{quote(it.name)} USING {MODULE}")
                elif it.type == "view":
                    connection.execute(it.sql.replace("CREATE VIEW", "CREATE TEMP VIEW", 1))
            connection.execute("BEGIN")  # rows of `main` are never committed, and no statement begins a transaction

    def execute(self, sql: str, bindings: Bindings) -> tuple[Sequence[ResultColumn], apsw.Cursor]:
        """The columns of the result, and its rows. Raises `apsw.Error`."""
        return self.describe(sql, bindings), self.connection.execute(sql, bindings)

    def describe(self, sql: str, bindings: Bindings) -> Sequence[ResultColumn]:
        """The columns of the result. Raises `apsw.Error` if the statement is not valid."""
        columns = self._columns.get(sql)
        if columns is not None:
            return columns
        found: list[ResultColumn] = []

        def stop(cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
            found.extend(cursor.get_description())
            return False

        cursor = self.connection.cursor()
        cursor.exec_trace = stop  # a cursor that has read its last row knows no columns
        with suppress(apsw.ExecTraceAbort):
            cursor.execute(sql, bindings)
        if len(self._columns) == _DESCRIBED:
            self._columns.clear()
        self._columns[sql] = found
        return found

    def _on_instructions(self) -> bool:
        """What is executed besides the statement of a client is not interrupted: it empties the tables of `main`."""
        return not self.authorizer.is_internal and self.source.on_instructions()

    def close(self) -> None:
        self.connection.close()
