"""Reads the rows of a table as its access says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from replicator.sql import key_order, ranges
from replicator.sql.access import ROWID, Access
from replicator.sql.ranges import Range
from replicator.sql.tables import Row, Table, collate_of, decode_row
from replicator.sql.values import Affinity, SqlValue
from replicator.store.keys import decode_key, encode_key, row_range, table_range
from replicator.store.view import Entries


class StoredRow(NamedTuple):
    key: bytes  # its row in the store
    values: Row


def get(entries: Entries, table: Table, key: bytes) -> Row | None:
    stored = entries.get(encode_key(table.store_table, key, b""))
    return None if stored is None else _complete(table, decode_row(stored))


def read(entries: Entries, table: Table, access: Access, operands: Sequence[SqlValue]) -> Iterator[StoredRow]:
    """At least the rows that the constraints select, in the order of the access: SQLite compares them again."""
    found = _ranges(table, access, operands)
    index = access.index
    if index is None and access.is_one_row and len(found) == 1 and found[0][1] == found[0][0] + b"\x00":
        key = found[0][0]
        row = get(entries, table, key)
        if row is not None:
            yield StoredRow(key, row)
        return
    for bounds in reversed(found) if access.descending else found:
        if index is None:
            yield from _scan(entries, table, *_between(table.store_table, *bounds), reverse=access.descending)
            continue
        for _, stored in entries.scan(*_between(index.store_table, *bounds), reverse=access.descending):
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
    """Bounds of the store keys of rows with start <= row < stop."""
    return row_range(store_table, start)[0], row_range(store_table, stop)[0]


def _ranges(table: Table, access: Access, operands: Sequence[SqlValue]) -> list[Range]:
    """Of rows, disjoint and in order."""
    is_key = access.index is None
    collations = (table.key_collations if access.index is None else access.index.collations) or ("BINARY",)
    prefix = b""
    for place, column in enumerate(access.columns[: access.equal + 1]):
        affinity = Affinity.INTEGER if column == ROWID else table.columns[column].affinity
        collate = collate_of(collations[place])
        is_last = is_key and place == len(access.columns) - 1
        encoding = key_order.encode_last if is_last else key_order.encode
        beyond = b"\x00" if is_last else key_order.BEYOND

        def encode(value: SqlValue) -> bytes:
            return encoding(value, collate)  # noqa: B023 (called in this iteration)

        if place == access.equal:
            found = _bounded(access, affinity, [*operands[place:]], encode, beyond)
            return [(prefix + start, prefix + stop) for start, stop in found]
        found = ranges.union(ranges.equal(affinity, operands[place], encode, beyond))
        if len(found) != 1 or found[0][1] != found[0][0] + beyond or place == len(access.columns) - 1:
            return [(prefix + start, prefix + stop) for start, stop in found]
        prefix += found[0][0]
    raise AssertionError("an access has columns")


def _bounded(
    access: Access, affinity: Affinity, operands: list[SqlValue], encode: ranges.Encode, beyond: bytes
) -> list[Range]:
    """Of the first column that need not be equal to a value."""
    if access.lower is None and access.upper is None:
        return [(b"", key_order.BEYOND)]
    found = [ranges.ALL]
    for bound, limit in ((access.lower, ranges.above), (access.upper, ranges.below)):
        if bound is not None:
            value = operands.pop(0)
            part = limit(affinity, value, encode, beyond, inclusive=bound.inclusive)
            found = ranges.intersection(found, ranges.union(part))
    return found
