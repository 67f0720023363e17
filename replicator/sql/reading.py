"""Reads the rows of a table as its access says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from replicator.sql import key_order
from replicator.sql.access import ROWID, Access
from replicator.sql.tables import Row, Table, collate_of, decode_row
from replicator.sql.values import INT64, Affinity, SqlValue
from replicator.store.keys import decode_key, encode_key, row_range, table_range
from replicator.store.view import Entries

_INTEGER_TEXT = re.compile(r"-?\d{1,18}")


class StoredRow(NamedTuple):
    key: bytes  # its row in the store
    values: Row


class _NotComparable(Exception):
    """A value is compared with a column in a way that the order of the keys does not show: all rows are read."""


def get(entries: Entries, table: Table, key: bytes) -> Row | None:
    stored = entries.get(encode_key(table.store_table, key, b""))
    return None if stored is None else _complete(table, decode_row(stored))


def read(entries: Entries, table: Table, access: Access, values: Sequence[SqlValue]) -> Iterator[StoredRow]:
    """At least the rows that the values of the constraints select: SQLite compares them again."""
    try:
        bounds = _bounds(table, access, values)
    except _NotComparable:
        bounds = b"", b""
    if bounds is None:
        return
    index = access.index
    start, stop = bounds
    if index is None:
        if access.is_one_row and stop:
            row = get(entries, table, start)
            if row is not None:
                yield StoredRow(start, row)
            return
        between = _between(table.store_table, start, stop)
        yield from _scan(entries, table, *between, reverse=access.descending)
        return
    for _, stored in entries.scan(*_between(index.store_table, start, stop), reverse=access.descending):
        key = stored[1:]
        row = get(entries, table, key)
        if row is not None:
            yield StoredRow(key, row)


def last_key(entries: Entries, table: Table) -> bytes | None:
    """Of its rows, in their order."""
    for key, _ in entries.scan(*table_range(table.store_table), reverse=True):
        return decode_key(key)[1]
    return None


def _scan(entries: Entries, table: Table, start: bytes, stop: bytes, *, reverse: bool) -> Iterator[StoredRow]:
    skipped = len(table.store_table.encode()) + 1
    columns = len(table.columns)
    for key, stored in entries.scan(start, stop, reverse=reverse):
        row = key[skipped:-2]
        if b"\x00" in row:
            row = row.replace(b"\x00\xff", b"\x00")
        values = decode_row(stored)
        yield StoredRow(row, tuple(values) if len(values) == columns else _complete(table, values))


def _complete(table: Table, values: Sequence[SqlValue]) -> Row:
    """With the columns that were added to the table after the row was written."""
    return (*values, *(column.added for column in table.columns[len(values) :]))


def _between(store_table: str, start: bytes, stop: bytes) -> tuple[bytes, bytes]:
    """Bounds of store keys for rows with start <= row < stop. An empty `stop` is above all rows."""
    first = row_range(store_table, start)[0] if start else table_range(store_table)[0]
    return first, row_range(store_table, stop)[0] if stop else table_range(store_table)[1]


def _bounds(table: Table, access: Access, values: Sequence[SqlValue]) -> tuple[bytes, bytes] | None:
    """Bounds [start, stop) of rows; None if no row can meet the constraints. Raises `_NotComparable`."""
    is_key = access.index is None
    collations = (table.key_collations if access.index is None else access.index.collations) or ("BINARY",)
    prefix = b""
    for place, column in enumerate(access.columns[: access.equal]):
        value = _converted(table, column, values[place])
        if value is None:
            return None
        is_last = is_key and place == len(access.columns) - 1
        encode = key_order.encode_last if is_last else key_order.encode
        prefix += encode(value, collate_of(collations[place]))
    if access.equal == len(access.columns):
        return prefix, prefix + (b"\x00" if is_key else key_order.BEYOND)
    if access.lower is None and access.upper is None:
        return prefix, prefix + key_order.BEYOND
    place = access.equal
    column, collate = access.columns[place], collate_of(collations[place])
    encode = key_order.encode_last if is_key and place == len(access.columns) - 1 else key_order.encode
    beyond = b"\x00" if encode is key_order.encode_last else key_order.BEYOND
    start, stop = prefix + key_order.ABOVE_NULL, prefix + key_order.BEYOND
    rest = list(values[access.equal :])
    if access.lower is not None:
        value = _converted(table, column, rest.pop(0))
        if value is None:
            return None
        start = prefix + encode(value, collate) + (b"" if access.lower.inclusive else beyond)
    if access.upper is not None:
        value = _converted(table, column, rest.pop(0))
        if value is None:
            return None
        stop = prefix + encode(value, collate) + (beyond if access.upper.inclusive else b"")
    return start, stop


def _converted(table: Table, column: int, value: SqlValue) -> SqlValue:
    """The value with which SQLite compares the column (sqlite.org/datatype3.html, 4.2). Raises `_NotComparable`."""
    affinity = Affinity.INTEGER if column == ROWID else table.columns[column].affinity
    if affinity.is_numeric and isinstance(value, str):
        if _INTEGER_TEXT.fullmatch(value) and int(value) in INT64:
            return int(value)
        raise _NotComparable
    if affinity is Affinity.TEXT and isinstance(value, (int, float)):
        raise _NotComparable
    return value
