"""A table of SQL in the store: where its rows are, and what their bytes mean. `docs/log.md` describes them.

    table of the store   row                                       value
    sql.NAME             the primary key, or the rowid             tag r: MessagePack array of all columns
    sql#INDEX            its columns, then the row of the table;   tag x: the row of the table
                         without it, if it is unique and no
                         column is NULL

Names are in lower case, rows are encoded by `key_order`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import msgpack

from replicator.sql import key_order
from replicator.sql.catalog import INDEX_PREFIX, TABLE_PREFIX
from replicator.sql.key_order import Collate
from replicator.sql.values import Affinity, SqlValue

ROW, ENTRY = b"r", b"x"

Row = tuple[SqlValue, ...]
"""The values of all columns, in their order."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    declared: str  # its type; empty: none
    affinity: Affinity
    collation: str
    not_null: bool
    generated: bool
    added: SqlValue = None
    """Its value in rows that were written before the column was added."""


@dataclass(frozen=True)
class Index:
    name: str
    columns: tuple[int, ...]  # of the table
    collations: tuple[str, ...]  # of each
    unique: bool

    @cached_property
    def store_table(self) -> str:
        return INDEX_PREFIX + self.name.lower()

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
    key: tuple[int, ...]  # the columns of its primary key; empty: its key is a rowid of its own
    key_collations: tuple[str, ...]
    has_rowid_column: bool  # the key is one column, INTEGER PRIMARY KEY, which is the rowid
    autoincrement: bool
    checked: bool  # only SQLite can tell which rows it accepts: it has a CHECK, a generated column or is STRICT
    indexes: tuple[Index, ...]

    @cached_property
    def store_table(self) -> str:
        return TABLE_PREFIX + self.name.lower()

    @cached_property
    def positions(self) -> dict[str, int]:
        """Of the columns, by their names in lower case."""
        return {column.name.lower(): index for index, column in enumerate(self.columns)}

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
    return ROW + cast(bytes, msgpack.packb(row))


def decode_row(stored: bytes) -> Sequence[SqlValue]:
    """The values of the columns that the table had when the row was written."""
    return cast("Sequence[SqlValue]", msgpack.unpackb(stored[1:]))


def collate_of(collation: str) -> Collate | None:
    """None: text sorts by its bytes."""
    return _COLLATES[collation.upper()]


def _no_case(text: str) -> str:
    return text.translate(_LOWER)


def _right_trimmed(text: str) -> str:
    return text.rstrip(" ")


_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_COLLATES: dict[str, Collate | None] = {"BINARY": None, "NOCASE": _no_case, "RTRIM": _right_trimmed}
COLLATIONS = frozenset(_COLLATES)
