"""Executes INSERT, UPDATE and DELETE: the engine computes which rows and values, and the rows are written here.

    INSERT    the engine reads the source; each of its rows is checked (`checking`) and written
    UPDATE    the engine reads the keys of the rows and the values of SET; each row is checked and replaced
    DELETE    the engine reads the keys

All rows are read before the first one is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from replicator.limits import MAX_SQL_ROWS
from replicator.sql.checking import Checked, RowChecker
from replicator.sql.database import Database, ResultColumn
from replicator.sql.errors import ConstraintFailed, SqlError
from replicator.sql.statement import Conflict, Delete, Insert, Update
from replicator.sql.stored_table import StoredTable, rowid_key
from replicator.sql.tables import Row, Table
from replicator.sql.tokens import Bindings, quote
from replicator.sql.values import SqlValue
from replicator.sql.virtual_table import KEY_COLUMN
from replicator.store.view import Transaction, TransactionTooLarge

Values = tuple[SqlValue, ...]
_ROWID_NAMES = ("rowid", "oid", "_rowid_")


@dataclass(slots=True)
class Written:
    """What a statement has done."""

    changes: int = 0  # rows
    last_id: int | None = None  # rowid of the last row that it inserted
    columns: Sequence[ResultColumn] = ()  # of RETURNING
    rows: list[Values] = field(default_factory=list)


def insert(database: Database, transaction: Transaction, statement: Insert, bindings: Bindings) -> Written:
    """Raises `SqlError`, `apsw.Error`, `TransactionTooLarge`; a part of the rows may have been written then."""
    table = _table(database, statement.table)
    if statement.columns is None:
        columns = [number for number, it in enumerate(table.columns) if not it.generated]
    else:
        columns = [_position(table, name) for name in statement.columns]
    sources: list[Values]
    if statement.source is None:
        columns, sources = [], [()]
    else:
        sources = [*_read(database, statement.source, bindings)]
    insertion = _Insertion(database, transaction, table, statement, columns, bindings)
    for source in sources:
        if len(source) != len(columns):
            raise SqlError(_wrong_count(statement, len(columns), len(source)))
        insertion.add(source)
    return insertion.written


class _Insertion:
    def __init__(
        self,
        database: Database,
        transaction: Transaction,
        table: Table,
        statement: Insert,
        columns: list[int],
        bindings: Bindings,
    ) -> None:
        self._table = table
        self._stored = StoredTable(table, transaction)
        self._statement = statement
        self._rowid_at: int | None = None  # the place of the rowid in `columns`
        if table.has_rowid_column:
            if table.key[0] not in columns:
                columns = [*columns, table.key[0]]
            self._rowid_at = columns.index(table.key[0])
        self._checker = RowChecker(
            database,
            table,
            columns,
            bindings,
            conflict=statement.conflict,
            target=statement.alias or statement.table,
            upsert=statement.upsert,
            returning=statement.returning,
        )
        self.written = Written(columns=self._checker.describe())

    def add(self, source: Sequence[SqlValue]) -> None:
        table, stored, statement = self._table, self._stored, self._statement
        values = [*source]
        if self._rowid_at is not None:
            if self._rowid_at == len(values):
                values.append(None)
            if values[self._rowid_at] is None:
                values[self._rowid_at] = stored.next_rowid()
        checked = self._checker.check(values)
        if checked is None:
            return
        row = checked.row
        key = rowid_key(stored.next_rowid()) if not table.key else _key(table, row)
        if table.autoincrement:
            stored.note_rowid(table.rowid_of(key))
        conflicts = [*stored.conflicts(key, row)]
        if conflicts and statement.upsert:
            self._resolve(values, [other for other, _ in conflicts])
            return
        if _may_write(stored, conflicts, statement.conflict):
            stored.insert(key, row)
            if table.has_rowid:
                self.written.last_id = table.rowid_of(key)
            self._note(checked)

    def _resolve(self, values: Sequence[SqlValue], keys: Sequence[bytes]) -> None:
        stored, table = self._stored, self._table
        rows = {row: key for key in keys if (row := stored.get(key)) is not None}
        found = self._checker.resolve(values, list(rows))
        if found is not None:
            before, checked = found
            key = rows[before]
            _replace(stored, key, before, checked.row, table.key_of(checked.row) if table.key else key, Conflict.ABORT)
            self._note(checked)

    def _note(self, checked: Checked) -> None:
        written = self.written
        written.changes += 1
        if self._statement.returning:
            written.rows.append(checked.returned)


def update(database: Database, transaction: Transaction, statement: Update, bindings: Bindings) -> Written:
    """Raises as `insert`."""
    table = _table(database, statement.table)
    stored = StoredTable(table, transaction)
    target = statement.alias or statement.table
    columns = [_position(table, name) for it in statement.assignments for name in it.columns]
    values = ", ".join(value for it in statement.assignments for value in it.values)
    sources = f"{quote(statement.table)} AS {quote(target)}"
    if statement.from_clause:
        sources += f", ({statement.from_clause})"
    query = f"{statement.with_clause} SELECT {quote(target)}.{KEY_COLUMN}, {values} FROM {sources} {statement.where}"
    writable = [number for number, it in enumerate(table.columns) if not it.generated]
    checker = RowChecker(
        database,
        table,
        writable,
        bindings,
        conflict=statement.conflict,
        target=target,
        returning=statement.returning,
    )
    written, done = Written(columns=checker.describe()), set[bytes]()
    for key, *new in [*_read(database, query, bindings)]:
        assert isinstance(key, bytes)
        before = stored.get(key)
        if key in done or before is None:  # the first of several matches in FROM counts
            continue
        done.add(key)
        row = [*before]
        for column, value in zip(columns, new, strict=True):
            row[column] = value
        if table.has_rowid_column and row[table.key[0]] is None:
            raise SqlError("datatype mismatch")
        checked = checker.check([row[it] for it in writable])
        if checked is None:
            continue
        new_key = _key(table, checked.row) if table.key else key
        if _replace(stored, key, before, checked.row, new_key, statement.conflict):
            written.changes += 1
            if statement.returning:
                written.rows.append(checked.returned)
    return written


def delete(database: Database, transaction: Transaction, statement: Delete, bindings: Bindings) -> Written:
    """Raises as `insert`."""
    table = _table(database, statement.table)
    stored = StoredTable(table, transaction)
    target = quote(statement.alias or statement.table)
    returning = f", {statement.returning}" if statement.returning else ""
    query = (
        f"{statement.with_clause} SELECT {target}.{KEY_COLUMN}{returning} "
        f"FROM {quote(statement.table)} AS {target} {statement.where}"
    )
    columns, found = database.execute(query, bindings)
    written = Written(columns=columns[1:])
    for key, *returned in [*_limited(found)]:
        assert isinstance(key, bytes)
        row = stored.get(key)
        if row is not None:
            stored.delete(key, row)
            written.changes += 1
            if returning:
                written.rows.append(tuple(returned))
    return written


def _replace(stored: StoredTable, key: bytes, before: Row, row: Row, new_key: bytes, conflict: Conflict) -> bool:
    """Whether the row was replaced. Raises `ConstraintFailed`."""
    if not _may_write(stored, [*stored.conflicts(new_key, row, but=key)], conflict):
        return False
    if new_key == key:
        stored.replace(key, before, row)
    else:
        stored.delete(key, before)
        stored.insert(new_key, row)
    return True


def _may_write(stored: StoredTable, conflicts: Sequence[tuple[bytes, str]], conflict: Conflict) -> bool:
    """With REPLACE, the rows in the way are deleted. Raises `ConstraintFailed`."""
    if not conflicts:
        return True
    if conflict is Conflict.ABORT:
        raise ConstraintFailed(conflicts[0][1])
    if conflict is Conflict.IGNORE:
        return False
    for key, _ in conflicts:
        row = stored.get(key)
        if row is not None:
            stored.delete(key, row)
    return True


def _key(table: Table, row: Row) -> bytes:
    for column in table.key:
        if row[column] is None:
            raise ConstraintFailed(f"NOT NULL constraint failed: {table.name}.{table.columns[column].name}")
    return table.key_of(row)


def _table(database: Database, name: str) -> Table:
    table = database.tables.get(name.lower())
    if table is None:
        raise SqlError(f"no such table: {name}")
    return table


def _position(table: Table, name: str) -> int:
    position = table.positions.get(name.lower())
    if position is None and name.lower() in _ROWID_NAMES and table.has_rowid_column:
        position = table.key[0]
    if position is None:
        raise SqlError(f"table {table.name} has no column named {name}")
    if table.columns[position].generated:
        raise SqlError(f'cannot write generated column "{table.columns[position].name}"')
    return position


def _read(database: Database, query: str, bindings: Bindings) -> Iterator[Values]:
    return _limited(database.connection.execute(query, bindings))


def _limited(rows: Iterator[Values]) -> Iterator[Values]:
    for number, row in enumerate(rows, 1):
        if number > MAX_SQL_ROWS:
            raise TransactionTooLarge(f"one statement can write at most {MAX_SQL_ROWS} rows: divide it")
        yield row


def _wrong_count(statement: Insert, columns: int, values: int) -> str:
    if statement.columns is None:
        return f"table {statement.table} has {columns} columns but {values} values were supplied"
    return f"{values} values for {columns} columns"
