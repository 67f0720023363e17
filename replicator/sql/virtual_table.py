"""The tables of the store as virtual tables of SQLite (sqlite.org/vtab.html, whose names the methods have).

They are read-only: what a statement writes is decided by `writing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import apsw

from replicator.sql import reading
from replicator.sql.access import ROWID, Access, Constraint, plan
from replicator.sql.names import fold
from replicator.sql.progress import Limit
from replicator.sql.stepping import Turn
from replicator.sql.tables import Column, Row, Table
from replicator.sql.tokens import quote
from replicator.sql.values import Affinity, SqlValue
from replicator.store.view import Entries

MODULE = "replicator"
KEY_COLUMN = "replicator_key"
"""A hidden column: the key of the row in the store (`Table.key_of`)."""


class Source:
    """What the virtual tables of a connection read now, and whom they report to."""

    def __init__(self) -> None:
        self.entries: Entries | None = None
        self.turn: Turn | None = None
        """Of the statement, if it is executed on a thread of its own."""
        self.limit = Limit()
        """Of the statement: it is told of rows that are read, or are to be written, and while the engine computes."""
        self.ahead = 1
        """The most rows that all cursors of the statement together read ahead: rows may be large."""
        self.cursors = 0
        """That are open on the thread, which alone changes this."""


class StoreModule:
    def __init__(self, tables: Mapping[str, Table], source: Source) -> None:
        """`tables`: by folded name."""
        self._tables = tables
        self._source = source

    def Connect(self, connection: Any, module: str, schema: str, name: str, *args: str) -> tuple[str, VirtualTable]:
        table = self._tables[fold(name)]
        return declaration(table), VirtualTable(table, self._source)

    Create = Connect


def declaration(table: Table) -> str:
    columns = [f"{quote(it.name)} {_type_of(it)} COLLATE {it.collation}" for it in table.columns]
    if table.has_rowid:
        return f"CREATE TABLE x({', '.join([*columns, f'{KEY_COLUMN} BLOB HIDDEN'])})"
    return f"CREATE TABLE x({', '.join([*columns, f'{KEY_COLUMN} BLOB HIDDEN PRIMARY KEY'])}) WITHOUT ROWID"


def _type_of(column: Column) -> str:
    """Quoted, as SQLite reports it without quotes. A virtual table cannot be STRICT, where ANY has no affinity."""
    has_none = not column.declared or (column.affinity is Affinity.BLOB and fold(column.declared) == "any")
    return "" if has_none else quote(column.declared)


class VirtualTable:
    def __init__(self, table: Table, source: Source) -> None:
        self.table = table
        self.source = source
        self._accesses: dict[Access, int] = {}
        self._by_number: list[Access] = []

    def BestIndexObject(self, info: Any) -> bool:
        table = self.table
        constraints = [
            Constraint(
                number,
                self._column(info.get_aConstraint_iColumn(number)),
                info.get_aConstraint_op(number),
                info.get_aConstraint_collation(number),
                info.get_aConstraintUsage_in(number),
            )
            for number in range(info.nConstraint)
            if info.get_aConstraint_usable(number) and info.get_aConstraint_iColumn(number) < len(table.columns)
        ]
        order = [
            (self._column(info.get_aOrderBy_iColumn(number)), bool(info.get_aOrderBy_desc(number)))
            for number in range(info.nOrderBy)
        ]
        chosen = plan(table, constraints, order)
        for place, number in enumerate(chosen.used, 1):
            info.set_aConstraintUsage_argvIndex(number, place)
        info.estimatedCost = chosen.cost
        info.estimatedRows = int(chosen.rows)
        info.orderByConsumed = bool(order) and chosen.is_ordered
        if chosen.is_one_row:
            info.idxFlags = apsw.SQLITE_INDEX_SCAN_UNIQUE
        info.idxNum = self._number(chosen.access)
        info.idxStr = chosen.access.description(table)
        return True

    def access(self, number: int) -> Access:
        return self._by_number[number]

    def Open(self) -> Cursor:
        turn = self.source.turn
        return Cursor(self) if turn is None else CursorOfThread(self, turn)

    def Disconnect(self) -> None:
        pass

    Destroy = Disconnect

    def _column(self, column: int) -> int:
        return self.table.key[0] if column == ROWID and self.table.has_rowid_column else column

    def _number(self, access: Access) -> int:
        number = self._accesses.setdefault(access, len(self._by_number))
        if number == len(self._by_number):
            self._by_number.append(access)
        return number


class Cursor:
    def __init__(self, table: VirtualTable) -> None:
        self._table = table
        self._columns = len(table.table.columns)
        self._rows: Iterator[reading.StoredRow] = iter(())
        self._key = b""
        self._values: Row = ()
        self._at_end = True
        self._limit = table.source.limit

    def Filter(self, number: int, name: str | None, values: Sequence[SqlValue]) -> None:
        self._begin(number, values)
        self.Next()

    def _begin(self, number: int, values: Sequence[SqlValue]) -> None:
        source = self._table.source
        assert source.entries is not None
        self._limit = source.limit
        self._rows = reading.read(source.entries, self._table.table, self._table.access(number), values)

    def Next(self) -> None:
        found = next(self._rows, None)
        if found is None:
            self._at_end = True
        else:
            self._at_end = False
            self._limit.on_row()
            self._key, self._values = found

    def Eof(self) -> bool:
        return self._at_end

    def Column(self, number: int) -> SqlValue:
        if 0 <= number < self._columns:
            return self._values[number]
        return self._key if number == self._columns else self.Rowid()

    def Rowid(self) -> int:
        return self._table.table.rowid_of(self._key)  # which is not called for other tables

    def Close(self) -> None:
        self._rows = iter(())


class CursorOfThread(Cursor):
    """It reads the store only while the thread has the turn, and rows ahead, as taking the turn takes time."""

    def __init__(self, table: VirtualTable, turn: Turn) -> None:
        super().__init__(table)
        table.source.cursors += 1
        self._turn = turn
        self._ahead: list[reading.StoredRow] = []  # the next one is the last
        self._size = 1  # of the next batch: SQLite may want only the first row

    def Filter(self, number: int, name: str | None, values: Sequence[SqlValue]) -> None:
        self._turn.inside(self._begin, number, values)
        self._at_end = not self._ahead
        if self._ahead:
            self.Next()

    def _begin(self, number: int, values: Sequence[SqlValue]) -> None:
        super()._begin(number, values)
        self._ahead.clear()
        self._size = 1
        self._read_ahead()

    def Next(self) -> None:
        if not self._ahead:
            self._turn.inside(self._read_ahead)
        if self._ahead:
            self._key, self._values = self._ahead.pop()
            self._at_end = False
        else:
            self._at_end = True

    def _read_ahead(self) -> None:
        self._ahead += islice(self._rows, self._size)
        self._limit.on_rows(len(self._ahead))
        self._ahead.reverse()
        source = self._table.source
        self._size = min(2 * self._size, max(1, source.ahead // source.cursors))

    def Close(self) -> None:
        super().Close()
        self._ahead.clear()
        self._table.source.cursors -= 1
