"""Converts and checks the rows that a statement would write, as SQLite does for the table as it was created.

The engine inserts a row into the empty table in `main`, returns it with its defaults and generated columns, and the
table is emptied again. Rows that need neither are checked here, which is faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from replicator.sql.database import Database
from replicator.sql.statement import Conflict
from replicator.sql.tables import Column, Row, Table
from replicator.sql.tokens import Bindings, quote
from replicator.sql.values import ResultColumn, SqlValue


class Checked(NamedTuple):
    row: Row
    returned: tuple[SqlValue, ...]  # of RETURNING


class RowChecker:
    """Checks the rows of one statement, which may be executed often."""

    def __init__(
        self,
        database: Database,
        table: Table,
        columns: Sequence[int],
        *,
        conflict: Conflict,
        target: str,
        with_clause: str,
        upsert: str = "",
        returning: str,
    ) -> None:
        """`columns`: those that get values; `target`: the name that expressions of the statement use for the table."""
        self._database = database
        self._table = table
        self._columns = columns
        self.is_plain = (  # the engine is needed only for values that a column converts (`Column.keeps`)
            not (table.checked or upsert or returning)
            and conflict is Conflict.ABORT
            and len(set(columns)) == len(columns)
            and not any(it.has_default for number, it in enumerate(table.columns) if number not in columns)
        )
        self._places = [columns.index(it) if it in columns else None for it in range(len(table.columns))]
        name = quote(table.name)
        names = ", ".join(quote(table.columns[it].name) for it in columns)
        marks = ", ".join(f":{_mark(number)}" for number in range(len(columns)))
        action = "" if conflict is Conflict.ABORT else f"OR {conflict.value} "
        everything = ", ".join(quote(it.name) for it in table.columns)
        self._rowid = table.rowid_name
        if self._rowid:
            names, marks = ", ".join(filter(None, (names, self._rowid))), ", ".join(filter(None, (marks, f":{_ROWID}")))
        self._sql = (
            f"{with_clause} INSERT {action}INTO main.{name} AS {quote(target)} "
            f"{f'({names}) VALUES ({marks})' if names else 'DEFAULT VALUES'} {upsert} "
            f"RETURNING {everything}{', ' if returning else ''}{returning}"
        )
        stored = [quote(it.name) for it in table.columns if not it.generated]
        if self._rowid:
            stored.append(self._rowid)
        self._stored = [number for number, it in enumerate(table.columns) if not it.generated]
        self._load_sql = f"INSERT INTO main.{name} ({', '.join(stored)}) VALUES ({', '.join('?' * len(stored))})"
        self._content_sql = f"SELECT {everything} FROM main.{name}"
        self._clear_sql = f"DELETE FROM main.{name}"

    def describe(self, bindings: Bindings) -> Sequence[ResultColumn]:
        """The columns of RETURNING. Raises `apsw.Error` if a part of the statement is not valid."""
        if self.is_plain:
            return ()
        with self._database.authorizer.writing(self._table.name):
            nothing = dict.fromkeys([*map(_mark, range(len(self._columns))), _ROWID])
            return self._database.describe(self._sql, {**bindings, **nothing})[len(self._table.columns) :]

    def check(self, values: Sequence[SqlValue], bindings: Bindings, rowid: int | None) -> Checked | None:
        """`rowid`: of the row, if that is not a column; expressions may read it.

        None: the row is left out (OR IGNORE). Raises `apsw.ConstraintError`.
        """
        if self.is_plain:
            row = _convert(self._table.columns, [None if it is None else values[it] for it in self._places])
            if row is not None:
                return Checked(row, ())
        try:
            return self._insert(values, bindings, rowid)
        finally:
            self._run(self._clear_sql)

    def resolve(
        self, values: Sequence[SqlValue], others: Mapping[Row, int | None], bindings: Bindings, rowid: int | None
    ) -> tuple[Row, Checked] | None:
        """Execute the upsert of a row that conflicts with `others`. Returns the one that it changes, and the new row.

        `others`: with their rowids, as `rowid` in `check`. None: it changes none. Raises `apsw.ConstraintError`.
        """
        try:
            for other, other_rowid in others.items():
                loaded = [other[it] for it in self._stored]
                self._run(self._load_sql, (*loaded, other_rowid) if self._rowid else tuple(loaded))
            checked = self._insert(values, bindings, rowid)
            if checked is None:
                return None
            left = self._run(self._content_sql)
            return next(it for it in others if it not in left or it == checked.row), checked
        finally:
            self._run(self._clear_sql)

    def _insert(self, values: Sequence[SqlValue], bindings: Bindings, rowid: int | None) -> Checked | None:
        database = self._database
        bindings = {**bindings, **{_mark(number): value for number, value in enumerate(values)}, _ROWID: rowid}
        with database.authorizer.writing(self._table.name):
            columns = len(self._table.columns)
            found = [*database.rows(self._sql, bindings)]
        return Checked(found[0][:columns], found[0][columns:]) if found else None

    def _run(self, sql: str, values: tuple[SqlValue, ...] = ()) -> list[Row]:
        with self._database.authorizer.internal():
            return [*self._database.rows(sql, values)]


def _convert(columns: Sequence[Column], values: Sequence[SqlValue]) -> Row | None:
    """The row, if each column keeps its value. None: the engine has to convert and check it."""
    for column, value in zip(columns, values, strict=True):
        if not column.keeps(value):
            return None
    return tuple(values)


_ROWID = "rowid"
"""The name of a parameter, as `_mark`."""


def _mark(number: int) -> str:
    return f"v{number}"
