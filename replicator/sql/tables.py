"""An SQL table in the store: where its rows are, and what their bytes mean. docs/log.md describes them.

    table of the store   row                                       value
    sql.NAME             the primary key, or the rowid             tag r: MessagePack array of all columns
    sql#INDEX            its columns, then the row of the table;   tag x: the row of the table
                         without it, if it is unique and no
                         column is NULL

Names are folded (`names.fold`), rows are encoded by `key_order`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import msgpack

from replicator.sql import key_order
from replicator.sql.catalog import INDEX_PREFIX, ROWIDS, TABLE_PREFIX
from replicator.sql.key_order import Collate
from replicator.sql.names import fold
from replicator.sql.values import INT64, Affinity, SqlValue

ROW, ENTRY = b"r", b"x"
_PACKER = msgpack.Packer()

Row = tuple[SqlValue, ...]
"""The values of all columns, in their order."""


@dataclass(frozen=True)
class Column:
    name: str
    declared: str  # its type; empty: none
    affinity: Affinity
    collation: str
    not_null: bool
    generated: bool
    has_default: bool

    @cached_property
    def _kept(self) -> type | None:
        """The type of values that the affinity does not convert. None: any."""
        return _KEPT.get(self.affinity)

    def keeps(self, value: SqlValue) -> bool:
        """Whether it is certain, without SQLite, that the column accepts the value and stores it unconverted."""
        if value is None:
            return not self.not_null
        kept, kind = self._kept, type(value)
        return (kept is None or kind is kept) and (kind is not int or value in INT64)


@dataclass(frozen=True)
class Index:
    name: str
    columns: tuple[int, ...]  # of the table
    collations: tuple[str, ...]  # of each
    unique: bool

    @cached_property
    def store_table(self) -> str:
        return INDEX_PREFIX + fold(self.name)

    @cached_property
    def collates(self) -> tuple[Collate | None, ...]:
        return tuple(map(collate_of, self.collations))

    def entry(self, row: Row, key: bytes) -> tuple[bytes, bool]:
        """The row of its entry for a row of the table, and whether no other row may have the same."""
        values = [row[column] for column in self.columns]
        encoded = key_order.encode_all(values, self.collates)
        if self.unique and None not in values:
            return encoded, True
        return encoded + key, False


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[Column, ...]
    key: tuple[int, ...]  # the columns of its primary key; empty: its key is a rowid that is not a column
    key_collations: tuple[str, ...]
    has_rowid_column: bool  # the key is one column, INTEGER PRIMARY KEY, which is the rowid
    autoincrement: bool
    checked: bool  # each row needs SQLite's check: the table has a CHECK or a generated column, or is STRICT
    indexes: tuple[Index, ...]

    @cached_property
    def store_table(self) -> str:
        return TABLE_PREFIX + fold(self.name)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Of the columns, by their folded names."""
        return {fold(column.name): index for index, column in enumerate(self.columns)}

    @cached_property
    def rowid_name(self) -> str:
        """Of the rowid, if that is not a column and tells the rows apart; empty: it is, or it cannot be named."""
        return "" if self.key else next((it for it in ROWIDS if it not in self.positions), "")

    @cached_property
    def has_unique_indexes(self) -> bool:
        return any(index.unique for index in self.indexes)

    @property
    def has_key_index(self) -> bool:
        """Whether SQLite has an index for the primary key."""
        return bool(self.key) and not self.has_rowid_column

    @property
    def has_rowid(self) -> bool:
        return self.has_rowid_column or not self.key

    @cached_property
    def _key_collates(self) -> tuple[Collate | None, ...]:
        return tuple(map(collate_of, self.key_collations))

    def key_of(self, row: Row) -> bytes:
        """Only if the table has a primary key."""
        *beginning, last = self.key
        if not beginning:
            return key_order.encode_last(row[last], self._key_collates[0])
        values = [row[column] for column in beginning]
        return key_order.encode_all(values, self._key_collates) + key_order.encode_last(
            row[last], self._key_collates[-1]
        )

    def rowid_of(self, key: bytes) -> int:
        """Only if it has rowids."""
        return key_order.decode_integer(key)


def encode_row(row: Row) -> bytes:
    return ROW + cast(bytes, _PACKER.pack(row))


def decode_row(stored: bytes) -> Row:
    row: Row = msgpack.unpackb(stored[1:], use_list=False)
    return row


def collate_of(collation: str) -> Collate | None:
    """None: text sorts by its bytes."""
    return _COLLATES[collation.upper()]


def _no_case(text: str) -> str:
    folded = text.translate(_LOWER)
    if "\0" not in folded:
        return folded
    before, _, _ = folded.partition("\0")  # SQLite compares no more than that, and then how long the texts are
    return f"{before}\0{len(text.encode()):010}"


def _right_trimmed(text: str) -> str:
    return text.rstrip(" ")


_KEPT: dict[Affinity, type] = {
    Affinity.TEXT: str,
    Affinity.INTEGER: int,
    Affinity.NUMERIC: int,
    Affinity.REAL: float,
}
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_COLLATES: dict[str, Collate | None] = {"BINARY": None, "NOCASE": _no_case, "RTRIM": _right_trimmed}
COLLATIONS = frozenset(_COLLATES)
