"""Executes INSERT, UPDATE and DELETE: the engine computes which rows and values, and the rows are written here.

    INSERT    the engine reads the source; each of its rows is checked (`checking`) and written
    UPDATE    the engine reads the keys of the rows and the values of SET; each row is checked and replaced
    DELETE    the engine reads the keys

All rows are read before the first one is written. A statement is prepared once for a database, and executed often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from replicator.errors import TransactionTooLarge
from replicator.limits import MAX_SQL_ROWS, MAX_SQL_VALUES_BYTES
from replicator.sql.catalog import ROWIDS
from replicator.sql.checking import Checked, RowChecker
from replicator.sql.database import Database
from replicator.sql.errors import ConstraintFailed, SqlError
from replicator.sql.lookup import are_certain, new_values_of, parameters_of
from replicator.sql.names import fold
from replicator.sql.progress import Limit
from replicator.sql.statement import Conflict, Delete, Insert, Update
from replicator.sql.stored_table import StoredTable, rowid_key
from replicator.sql.tables import Row, Table
from replicator.sql.tokens import Bindings, Values, bind, quote
from replicator.sql.values import ResultColumn, SqlValue, size_of
from replicator.sql.virtual_table import KEY_COLUMN
from replicator.store.view import Transaction


@dataclass(slots=True)
class Written:
    """What a statement has done."""

    columns: Sequence[ResultColumn] = ()  # of RETURNING
    rows: list[Row] = field(default_factory=list)
    changes: int = 0  # rows
    last_id: int | None = None  # rowid of the last row that it inserted


class Prepared:
    def run(self, transaction: Transaction, values: Values) -> Written:
        """Raises `SqlError`, `apsw.Error`, `TransactionTooLarge`; a part of the rows may have been written then."""
        raise NotImplementedError

    def run_alone(self, transaction: Transaction, values: Values) -> Written | None:
        """The same without the engine, after `run`. None: the engine is needed, and nothing was written."""
        return None


def prepare(database: Database, statement: Insert | Update | Delete) -> Prepared:
    """Raises `SqlError`, `apsw.Error`."""
    match statement:
        case Insert():
            return _Insertion(database, statement)
        case Update():
            return _Change(database, statement)
        case Delete():
            return _Deletion(database, statement)


class _Insertion(Prepared):
    def __init__(self, database: Database, statement: Insert) -> None:
        if statement.conflict is Conflict.REPLACE and statement.upsert:
            raise SqlError("OR REPLACE and ON CONFLICT in one statement are not supported: use one of them")
        self._database = database
        self._statement = statement
        self._table = table = _table(database, statement.table)
        if statement.source is None:
            columns = []
        elif statement.columns is None:
            columns = [number for number, it in enumerate(table.columns) if not it.generated]
        else:
            columns = [_position(table, name) for name in statement.columns]
        self._query = f"{statement.with_clause} {statement.source or ''}".strip()
        self._parameters = parameters_of(self._query)
        self._given = len(columns)
        self._rowid_at: int | None = None  # the place of the rowid in `columns`
        if table.has_rowid_column:
            if table.key[0] not in columns:
                columns = [*columns, table.key[0]]
            self._rowid_at = columns.index(table.key[0])
        self._checker = RowChecker(
            database,
            table,
            columns,
            conflict=statement.conflict,
            target=statement.alias or statement.table,
            with_clause=statement.with_clause,
            upsert=statement.upsert,
            returning=statement.returning,
        )

    def run(self, transaction: Transaction, values: Values) -> Written:
        statement, bindings = self._statement, bind(values)
        sources = self._sources(values, bindings)
        written = Written(self._checker.describe(bindings))
        stored = StoredTable(self._table, transaction)
        for source in sources:
            self._database.source.limit.on_row()
            if len(source) != self._given:
                raise SqlError(_wrong_count(statement, self._given, len(source)))
            self._insert(stored, [*source], bindings, written)
        return written

    def _sources(self, values: Values, bindings: Bindings) -> Sequence[Sequence[SqlValue]]:
        """The rows that are to be inserted, as the statement gives them."""
        if self._statement.source is None:
            return [()]
        if self._parameters is not None and are_certain(values):
            return [[values[it] for it in self._parameters]]
        return [*_read(self._database, self._query, bindings)]

    def _insert(self, stored: StoredTable, values: list[SqlValue], bindings: Bindings, written: Written) -> None:
        table, statement = self._table, self._statement
        if self._rowid_at is not None:
            if self._rowid_at == len(values):
                values.append(None)
            if values[self._rowid_at] is None:
                values[self._rowid_at] = stored.next_rowid()
        rowid = None if table.key else stored.next_rowid()
        checked = self._checker.check(values, bindings, rowid)
        if checked is None:
            given = None if self._rowid_at is None else values[self._rowid_at]
            if table.autoincrement and type(given) is int:
                stored.note_rowid(given)
            return
        row = checked.row
        if statement.conflict is Conflict.IGNORE and _lacks_key(table, row):
            return
        key = _key(table, row) if rowid is None else rowid_key(rowid)
        if table.autoincrement:
            stored.note_rowid(table.rowid_of(key))
        conflicts = [*stored.conflicts(key, row)]
        if conflicts and statement.upsert:
            updated = self._resolve(stored, values, [other for other, _ in conflicts], bindings, rowid)
            if updated is not None:
                self._note(updated, written)
        elif _may_write(stored, conflicts, statement.conflict):
            stored.insert(key, row)
            if table.has_rowid:
                written.last_id = table.rowid_of(key)
            self._note(checked, written)

    def _resolve(
        self,
        stored: StoredTable,
        values: Sequence[SqlValue],
        keys: Sequence[bytes],
        bindings: Bindings,
        rowid: int | None,
    ) -> Checked | None:
        # a row that is missing was deleted by another client, which the check at the end of the transaction finds
        rows = {row: key for key in keys if (row := stored.get(key)) is not None}
        others = {row: _rowid_of(self._table, key) for row, key in rows.items()}
        found = self._checker.resolve(values, others, bindings, rowid)
        if found is None:
            return None
        before, checked = found
        key, table = rows[before], self._table
        _replace(stored, key, before, checked.row, _key(table, checked.row) if table.key else key, Conflict.ABORT)
        return checked

    def _note(self, checked: Checked, written: Written) -> None:
        written.changes += 1
        if self._statement.returning:
            written.rows.append(checked.returned)
            self._database.source.limit.on_result(checked.returned)


class _Change(Prepared):
    def __init__(self, database: Database, statement: Update) -> None:
        self._database = database
        self._statement = statement
        self._table = table = _table(database, statement.table)
        self._new_values = new_values_of(statement, table)
        target = statement.alias or statement.table
        self._columns = [_position(table, name) for it in statement.assignments for name in it.columns]
        self._set = [(it, table.columns[it]) for it in self._columns]
        self._sets_key = not set(table.key).isdisjoint(self._columns)
        self._writable = [number for number, it in enumerate(table.columns) if not it.generated]
        new = [value for it in statement.assignments for value in it.values]
        values = ", ".join(f"({value})" for value in new)
        sources = f"temp.{quote(statement.table)} AS {quote(target)}"
        if statement.from_clause:
            sources += f", {statement.from_clause}"
        self._query = (
            f"{statement.with_clause} SELECT {quote(target)}.{KEY_COLUMN}, {values} "
            f"FROM {sources} {_where(statement.where)}"
        )
        # there, unlike in the columns of a result, SQLite refuses aggregates and window functions
        cases = " ".join(f"WHEN 0 THEN ({value})" for value in new)  # their number is not limited, unlike that of OR
        self._check_sql = f"{statement.with_clause} SELECT 1 FROM {sources} WHERE CASE {cases} END"
        self._checker = RowChecker(
            database,
            table,
            self._writable,
            conflict=statement.conflict,
            target=target,
            with_clause=statement.with_clause,
            returning=statement.returning,
        )

    def run(self, transaction: Transaction, values: Values) -> Written:
        bindings = bind(values)
        self._database.describe(self._check_sql, bindings)
        stored, written = StoredTable(self._table, transaction), Written(self._checker.describe(bindings))
        for key, before, row in self._found(stored, values, bindings):
            checked = self._checked(key, row, bindings)
            if checked is not None:
                self._replace(stored, key, before, checked, written)
        return written

    def run_alone(self, transaction: Transaction, values: Values) -> Written | None:
        if self._new_values is None or self._sets_key or not self._checker.is_plain:
            return None
        key = self._new_values.key(values)
        if key is None:
            return None
        stored = StoredTable(self._table, transaction)
        before = stored.get(key)
        if before is None:
            return Written()
        row = self._changed(before, self._new_values.of(before, values))
        if not self._keeps(row):
            return None
        return Written(changes=int(_replace(stored, key, before, tuple(row), key, self._statement.conflict)))

    def _found(
        self, stored: StoredTable, values: Values, bindings: Bindings
    ) -> Iterator[tuple[bytes, Row, Sequence[SqlValue]]]:
        """The rows to change, before and after. All new values are computed before the first one is yielded."""
        done = set[bytes]()
        for key, *new in [*_read(self._database, self._query, bindings)]:
            assert isinstance(key, bytes)
            self._database.source.limit.on_row()
            before = stored.get(key)
            # the first of several matches in FROM counts; OR REPLACE may have deleted the row for one before it, and
            # another client since the engine has read it, which the check at the end of the transaction finds
            if key not in done and before is not None:
                done.add(key)
                yield key, before, self._changed(before, new)

    def _changed(self, before: Row, new: Sequence[SqlValue]) -> Sequence[SqlValue]:
        row = [*before]
        for column, value in zip(self._columns, new, strict=True):
            row[column] = value
        return row

    def _keeps(self, row: Sequence[SqlValue]) -> bool:
        """Whether it is certain that the new values are stored as they are. The others are stored already."""
        return all(column.keeps(row[it]) for it, column in self._set)

    def _checked(self, key: bytes, row: Sequence[SqlValue], bindings: Bindings) -> Checked | None:
        if self._table.has_rowid_column and row[self._table.key[0]] is None:
            raise ConstraintFailed("datatype mismatch")
        if self._checker.is_plain and self._keeps(row):
            return Checked(tuple(row), ())
        return self._checker.check([row[it] for it in self._writable], bindings, _rowid_of(self._table, key))

    def _replace(self, stored: StoredTable, key: bytes, before: Row, checked: Checked, written: Written) -> None:
        if self._sets_key and self._statement.conflict is Conflict.IGNORE and _lacks_key(self._table, checked.row):
            return
        new_key = _key(self._table, checked.row) if self._sets_key else key
        if _replace(stored, key, before, checked.row, new_key, self._statement.conflict):
            written.changes += 1
            if self._statement.returning:
                written.rows.append(checked.returned)
                self._database.source.limit.on_result(checked.returned)


class _Deletion(Prepared):
    def __init__(self, database: Database, statement: Delete) -> None:
        self._database = database
        self._table = _table(database, statement.table)
        self._returns = bool(statement.returning)
        target = quote(statement.alias or statement.table)
        # an aggregate, perhaps of a subquery, would make one row of all: with one group for each row, none is missed
        groups = f"GROUP BY {target}.{KEY_COLUMN}" if "(" in statement.returning else ""
        self._query = (
            f"{statement.with_clause} SELECT {target}.{KEY_COLUMN}{', ' if self._returns else ''}{statement.returning} "
            f"FROM temp.{quote(statement.table)} AS {target} {_where(statement.where)} {groups}"
        )
        # which, unlike the columns of a result, has no aggregates and window functions
        self._check_sql = (
            f"{statement.with_clause} DELETE FROM main.{quote(statement.table)} AS {target} "
            f"RETURNING {statement.returning}"
        )

    def run(self, transaction: Transaction, values: Values) -> Written:
        columns, found = self._database.execute(self._query, bind(values))
        if self._returns:
            with self._database.authorizer.internal():
                self._database.describe(self._check_sql, bind(values))
        written = Written(columns[1:])
        stored = StoredTable(self._table, transaction)
        for key, *returned in [*_limited(_sent(found, self._database.source.limit))]:
            assert isinstance(key, bytes)
            self._database.source.limit.on_row()
            row = stored.get(key)
            if row is not None:  # otherwise another client has deleted it since, which the check at the end finds
                stored.delete(key, row)
                written.changes += 1
                if self._returns:
                    written.rows.append(tuple(returned))
        return written


def _replace(stored: StoredTable, key: bytes, before: Row, row: Row, new_key: bytes, conflict: Conflict) -> bool:
    """Whether the row was replaced. Raises `ConstraintFailed`."""
    may_conflict = new_key != key or stored.table.has_unique_indexes
    if may_conflict and not _may_write(stored, [*stored.conflicts(new_key, row, but=key)], conflict):
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
        if row is not None:  # otherwise it was in the way twice, or another client has deleted it
            stored.delete(key, row)
    return True


def _lacks_key(table: Table, row: Row) -> bool:
    """Whether a column of the primary key is NULL, which violates a constraint."""
    return any(row[it] is None for it in table.key)


def _key(table: Table, row: Row) -> bytes:
    for column in table.key:
        if row[column] is None:
            raise ConstraintFailed(f"NOT NULL constraint failed: {table.name}.{table.columns[column].name}")
    return table.key_of(row)


def _rowid_of(table: Table, key: bytes) -> int | None:
    """None: it is a column, or there is none."""
    return None if table.key else table.rowid_of(key)


def _table(database: Database, name: str) -> Table:
    table = database.tables.get(fold(name))
    if table is None:
        is_view = fold(name) in database.views
        raise SqlError(f"cannot modify {name} because it is a view" if is_view else f"no such table: {name}")
    return table


def _position(table: Table, name: str) -> int:
    position = table.positions.get(fold(name))
    if position is None and fold(name) in ROWIDS and table.has_rowid_column:
        position = table.key[0]
    if position is None:
        raise SqlError(f"table {table.name} has no column named {name}")
    if table.columns[position].generated:
        raise SqlError(f'cannot write generated column "{table.columns[position].name}"')
    return position


def _where(condition: str) -> str:
    return f"WHERE ({condition})" if condition else ""


def _read(database: Database, query: str, bindings: Bindings) -> Iterator[Row]:
    """Values that are to be written, so that they have to fit into a record."""
    size = 0
    for row in _limited(database.rows(query, bindings)):
        size += size_of(row)
        if size > MAX_SQL_VALUES_BYTES:
            raise TransactionTooLarge(
                f"one statement can write values of at most {MAX_SQL_VALUES_BYTES >> 20} MiB: divide it"
            )
        yield row


def _sent(rows: Iterator[Row], limit: Limit) -> Iterator[Row]:
    """Rows that become the result."""
    for row in rows:
        limit.on_result(row)
        yield row


def _limited(rows: Iterator[Row]) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if number > MAX_SQL_ROWS:
            raise TransactionTooLarge(f"one statement can write at most {MAX_SQL_ROWS} rows: divide it")
        yield row


def _wrong_count(statement: Insert, columns: int, values: int) -> str:
    if statement.columns is None:
        return f"table {statement.table} has {columns} columns but {values} values were supplied"
    return f"{values} values for {columns} columns"
