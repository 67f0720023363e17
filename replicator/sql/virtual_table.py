"""The tables of the store as SQLite's engine sees them (sqlite.org/vtab.html): it can read them, and asks for an order.

They are read-only: what a statement writes is decided by `writing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apsw

from replicator.sql import reading
from replicator.sql.access import ROWID, Access, Constraint, plan
from replicator.sql.tables import Row, Table
from replicator.sql.tokens import quote
from replicator.sql.values import SqlValue
from replicator.store.view import Entries

MODULE = "replicator"
KEY_COLUMN = "replicator_key"
"""A hidden column: the row in the store."""


class Source:
    """What the virtual tables of a connection read at the moment."""

    def __init__(self) -> None:
        self.entries: Entries | None = None
        self.on_row: Callable[[], None] = lambda: None
        """Called for each row that is read."""
        self.on_write: Callable[[], None] = lambda: None
        """Called before each row that is written."""
        self.on_instructions: Callable[[], bool] = lambda: False
        """Called while the engine computes. True ends the statement, and so does an exception."""


class StoreModule:
    def __init__(self, tables: Mapping[str, Table], source: Source) -> None:
        """`tables`: by name in lower case."""
        self._tables = tables
        self._source = source

    def Connect(self, connection: Any, module: str, schema: str, name: str, *args: str) -> tuple[str, VirtualTable]:
        table = self._tables[name.lower()]
        return declaration(table), VirtualTable(table, self._source)

    Create = Connect


def declaration(table: Table) -> str:
    columns = [f"{quote(it.name)} {it.declared} COLLATE {it.collation}" for it in table.columns]
    if table.has_rowid:
        return f"CREATE TABLE x({', '.join([*columns, f'{KEY_COLUMN} BLOB HIDDEN'])})"
    return f"CREATE TABLE x({', '.join([*columns, f'{KEY_COLUMN} BLOB HIDDEN PRIMARY KEY'])}) WITHOUT ROWID"


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
        return Cursor(self)

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
        self._values: Row | None = None  # None: at the end
        self._on_row: Callable[[], None] = table.source.on_row

    def Filter(self, number: int, name: str | None, values: Sequence[SqlValue]) -> None:
        source = self._table.source
        assert source.entries is not None
        self._on_row = source.on_row
        self._rows = reading.read(source.entries, self._table.table, self._table.access(number), values)
        self.Next()

    def Next(self) -> None:
        found = next(self._rows, None)
        if found is None:
            self._values = None
        else:
            self._on_row()
            self._key, self._values = found

    def Eof(self) -> bool:
        return self._values is None

    def Column(self, number: int) -> SqlValue:
        if number == self._columns:
            return self._key
        if number == ROWID:
            return self.Rowid()
        return self._values[number]  # type: ignore[index]

    def Rowid(self) -> int:
        return self._table.table.rowid_of(self._key)  # which is not called for other tables

    def Close(self) -> None:
        self._rows = iter(())
