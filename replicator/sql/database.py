"""A connection of SQLite's engine for one version of the schema.

    temp.T    the virtual table: what statements read
    main.T    an empty table as its CREATE TABLE says: it converts and checks the rows that are to be written

A name without a schema is that of `temp`, which SQLite searches first. `main.sqlite_schema` and the PRAGMAs describe
the tables as they were created.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import apsw

from replicator.limits import MAX_SQL_NAMES_BYTES
from replicator.sql import functions
from replicator.sql.authorizer import Authorizer
from replicator.sql.catalog import SchemaObject
from replicator.sql.description import read_tables
from replicator.sql.errors import SqlError
from replicator.sql.functions import Calls, Function
from replicator.sql.limits import KEPT_CHARS, limit_of_schemas, set_limits, set_limits_at_once
from replicator.sql.lookup import RowQuery, query_of
from replicator.sql.names import fold
from replicator.sql.stepping import Turn
from replicator.sql.tables import Row, Table
from replicator.sql.tokens import Bindings, quote
from replicator.sql.values import ResultColumn, SqlValue
from replicator.sql.virtual_table import MODULE, Source, StoreModule

ENGINE = f"sqlite:{apsw.sqlite_lib_version()}"
"""As in `records.types.Command`."""

_DESCRIBED = 500  # statements whose columns are kept
_INSTRUCTIONS = 2_000
"""Of the engine's virtual machine between two calls of a limit; less than 0.1 ms."""


Queries = dict[str, tuple[Sequence[ResultColumn], RowQuery | None]]


class Database:
    def __init__(
        self, objects: Sequence[SchemaObject], calls: Calls, queries: Queries | None = None, *, at_once: bool = False
    ) -> None:
        """`objects`: tables, then indexes, then views; `queries`: as in `queries`, of databases with the same objects.

        Raises `SqlError` if one of the objects is not valid.
        """
        self.source = Source()
        self.at_once = at_once
        """Whether it executes statements on the thread of its caller, with limits so that it cannot take long."""
        self.is_broken = False
        """Whether it is to be closed, not used again: a statement was out of memory, or interrupted."""
        self.tables: dict[str, Table] = {}
        """By folded name."""
        self.views: set[str] = set()
        """Their folded names."""
        self.calls = calls
        self.prepared: dict[str, Any] = {}
        """`writing.Prepared`, by the text of the statement."""
        self.authorizer = Authorizer(views=not at_once)
        self.queries: Queries = {} if queries is None else queries
        """Queries that were executed, with the columns of their results, by their text."""
        self._columns: dict[str, Sequence[ResultColumn]] = {}
        self.connection = connection = apsw.Connection(":memory:", statementcachesize=200)
        module: Any = StoreModule(self.tables, self.source)
        connection.create_module(MODULE, module, use_bestindex_object=True, iVersion=2)
        functions.register(connection, calls, (lambda function: function) if at_once else self._in_turn)
        set_limits(connection)
        connection.authorizer = self.authorizer.check
        connection.set_progress_handler(self._on_instructions, _INSTRUCTIONS)
        try:
            with self.authorizer.internal(), limit_of_schemas(connection):
                self._create(objects)
        except apsw.NoMemError:
            raise
        except apsw.Error as error:
            raise SqlError(self.authorizer.explain(error)) from error
        if at_once:
            set_limits_at_once(connection)

    def _create(self, objects: Sequence[SchemaObject]) -> None:
        connection = self.connection
        connection.execute("PRAGMA temp_store = MEMORY")  # which is limited, unlike the size of files
        views = [it for it in objects if it.type == "view"]
        for it in objects:
            if it.type != "view":
                connection.execute(it.sql)
        for table in read_tables(connection, objects):
            self.tables[fold(table.name)] = table
        for table in self.tables.values():
            connection.execute(f"CREATE VIRTUAL TABLE temp.{quote(table.name)} USING {MODULE}")
        for it in views:  # last, as what describes tables would compile all views, and views of views take long
            connection.execute(it.sql)
            connection.execute(it.sql.replace("CREATE VIEW", "CREATE TEMP VIEW", 1))
            self.views.add(fold(it.name))
        connection.execute("BEGIN")  # rows of `main` are never committed, and no statement begins a transaction

    def execute(self, sql: str, bindings: Bindings) -> tuple[Sequence[ResultColumn], Iterator[Row]]:
        """The columns of the result, and its rows. Raises `apsw.Error`."""
        return self.describe(sql, bindings), self.rows(sql, bindings)

    def rows(self, sql: str, bindings: Bindings | tuple[SqlValue, ...]) -> Iterator[Row]:
        """Execute a statement. Raises `apsw.Error`."""
        turn = self.source.turn
        return self.connection.execute(sql, bindings) if turn is None else self._rows_of_thread(turn, sql, bindings)

    def _rows_of_thread(self, turn: Turn, sql: str, bindings: Bindings | tuple[SqlValue, ...]) -> Iterator[Row]:
        rows = turn.outside(self.connection.execute, sql, bindings)
        while True:
            turn.leave()  # `outside` takes longer, and this is done for each row
            try:
                row = next(rows, None)
            finally:
                turn.take()
            if row is None:
                return
            yield row

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
        turn = self.source.turn
        with suppress(apsw.ExecTraceAbort):
            if turn is None:
                cursor.execute(sql, bindings)
            else:
                turn.outside(cursor.execute, sql, bindings)
        columns = tuple(found)
        if _size_of_names(columns) > MAX_SQL_NAMES_BYTES:
            raise SqlError(f"the names of the columns have more than {MAX_SQL_NAMES_BYTES >> 10} KiB: name them by AS")
        if len(sql) + _size_of_names(columns) <= KEPT_CHARS:
            if len(self._columns) == _DESCRIBED:
                self._columns.clear()
            self._columns[sql] = columns
        return columns

    def note_query(self, sql: str, columns: Sequence[ResultColumn]) -> None:
        """The engine has executed the query. From now on, `queries` says whether it can be executed without it."""
        if sql not in self.queries and len(sql) + _size_of_names(columns) <= KEPT_CHARS:
            if len(self.queries) == _DESCRIBED:
                self.queries.clear()
            self.queries[sql] = columns, query_of(sql, self.tables)

    def _on_instructions(self) -> bool:
        """Internal statements are not interrupted: they empty the tables of `main` after a statement was ended."""
        if self.authorizer.is_internal:
            return False
        turn, on_instructions = self.source.turn, self.source.limit.on_instructions
        return on_instructions() if turn is None else turn.inside(on_instructions)

    def _in_turn(self, function: Function) -> Function:
        source = self.source

        def called(*arguments: SqlValue) -> SqlValue:
            turn = source.turn
            return function(*arguments) if turn is None else turn.inside(function, *arguments)

        return called

    def interrupt(self) -> None:
        """End what SQLite computes. May be called while a statement is executed on another thread."""
        self.connection.interrupt()

    def close(self) -> None:
        self.connection.close()


def _size_of_names(columns: Sequence[ResultColumn]) -> int:
    return sum([len(name) for name, _ in columns])
