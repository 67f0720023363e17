"""The cursor of PEP 249. It holds all rows of a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol, Self, TypeAlias

from replicator.client.dbapi.errors import InterfaceError, ProgrammingError
from replicator.client.sql import Params, Row, SqlResult

ColumnDescription: TypeAlias = tuple[str, str | None, None, None, None, None, None]

NO_RESULT = SqlResult(columns=(), types=(), rows=(), changes=-1, last_id=None)


class StatementRunner(Protocol):
    """A connection, as cursors need it. Raises `Error`."""

    def check_open(self) -> None: ...

    def run(self, statement: str, params: Params) -> SqlResult: ...

    def run_many(self, statement: str, params: Iterable[Params]) -> SqlResult: ...


class Cursor:
    def __init__(self, connection: StatementRunner) -> None:
        self.connection = connection
        self.arraysize = 1
        self._is_closed = False
        self._result = NO_RESULT
        self._next = 0  # row to fetch

    def execute(self, statement: str, params: Params = ()) -> Self:
        """`params`: values for `?` in their order, or for `:name` by their names. Raises `Error`."""
        self._check_open()
        self._set(NO_RESULT)
        self._set(self.connection.run(statement, params))
        return self

    def executemany(self, statement: str, params: Iterable[Params]) -> Self:
        """Execute a statement that writes with each of the params: all or, after an error, none. Raises `Error`."""
        self._check_open()
        self._set(NO_RESULT)
        self._set(self.connection.run_many(statement, params))
        return self

    def fetchone(self) -> Row | None:
        """Raises `Error`."""
        return next(iter(self.fetchmany(1)), None)

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """By default `arraysize` rows. Raises `Error`."""
        rows = self._rows()
        start = self._next
        self._next = min(len(rows), start + max(0, self.arraysize if size is None else size))
        return list(rows[start : self._next])

    def fetchall(self) -> list[Row]:
        """Raises `Error`."""
        return self.fetchmany(len(self._rows()))

    def close(self) -> None:
        """Only the rows are discarded: SQLAlchemy asks for `rowcount` later."""
        self._is_closed = True
        self._set(replace(self._result, rows=()))

    def setinputsizes(self, sizes: Any) -> None:
        """Does nothing."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Does nothing."""

    @property
    def description(self) -> tuple[ColumnDescription, ...] | None:
        """Name and declared type of each column. None after a statement without rows."""
        if not self._result.columns:
            return None
        named = zip(self._result.columns, self._result.types, strict=True)
        return tuple((name, declared, None, None, None, None, None) for name, declared in named)

    @property
    def rowcount(self) -> int:
        """Rows that the statement has changed; -1 if it only reads."""
        return self._result.changes

    @property
    def lastrowid(self) -> int | None:
        """The rowid of the row that the statement has inserted last."""
        return self._result.last_id

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _rows(self) -> tuple[Row, ...]:
        """Raises `Error`."""
        self._check_open()
        if not self._result.columns:
            raise ProgrammingError("there are no rows to fetch: the last statement has none")
        return self._result.rows

    def _check_open(self) -> None:
        """Raises `InterfaceError`."""
        if self._is_closed:
            raise InterfaceError("the cursor is closed")
        self.connection.check_open()

    def _set(self, result: SqlResult) -> None:
        self._result = result
        self._next = 0
