"""Reads the rows of a table as its access says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import msgpack

from replicator.errors import BadRequest, StoreError
from replicator.sql import key_order, ranges
from replicator.sql.access import ROWID, Access
from replicator.sql.ranges import Range
from replicator.sql.tables import Index, Row, Table, collate_of, decode_row
from replicator.sql.values import Affinity, SqlValue
from replicator.store.keys import encode_key, row_range
from replicator.store.view import Entries, Transaction

StoredRow = tuple[bytes, Row]
"""The key of a row (`Table.key_of`), and its values."""


def get(entries: Entries, table: Table, key: bytes) -> Row | None:
    try:
        store_key = encode_key(table.store_table, key, b"")
    except BadRequest:  # it is too long: there is no such row
        return None
    stored = entries.get(store_key)
    return None if stored is None else decode_row(stored)


def missing_row(index: str, table: Table, key: bytes) -> StoreError:
    """There is an entry for it in the index."""
    return StoreError(
        f"the store is damaged: the index {index} has an entry for the row {key.hex()} of {table.name}, which is "
        "missing: delete the store, and let this node start from a snapshot"
    )


def read(entries: Entries, table: Table, access: Access, operands: Sequence[SqlValue]) -> Iterator[StoredRow]:
    """The rows that the constraints select, in the order of the access, and perhaps others: SQLite compares again.

    `operands`: the values of the constraints, in the order of `Access`.
    """
    index = access.index
    is_one_key = index is None and access.is_one_row
    if is_one_key and len(access.columns) == 1 and type(operands[0]) is int and _is_integer(table, access.columns[0]):
        return _at(entries, table, key_order.encode(operands[0]))
    found = _ranges(table, access, operands)
    if is_one_key and len(found) == 1 and found[0][1] == found[0][0] + b"\x00":
        return _at(entries, table, found[0][0])
    scan = _scan if index is None else partial(_scan_index, index)
    parts = [
        scan(entries, table, *_between((index or table).store_table, *bounds), reverse=access.descending)
        for bounds in (reversed(found) if access.descending else found)
    ]
    return parts[0] if len(parts) == 1 else chain.from_iterable(parts)


def _is_integer(table: Table, column: int) -> bool:
    return column == ROWID or table.columns[column].affinity is Affinity.INTEGER


def _at(entries: Entries, table: Table, key: bytes) -> Iterator[StoredRow]:
    row = get(entries, table, key)
    return iter(() if row is None else ((key, row),))


def _scan(entries: Entries, table: Table, start: bytes, stop: bytes, *, reverse: bool) -> Iterator[StoredRow]:
    skipped = len(table.store_table.encode()) + 1
    unpack = msgpack.unpackb
    for key, stored in entries.scan(start, stop, reverse=reverse):
        row = key[skipped:-2]
        if b"\x00" in row:
            row = row.replace(b"\x00\xff", b"\x00")
        yield row, unpack(stored[1:], use_list=False)


def _scan_index(
    index: Index, entries: Entries, table: Table, start: bytes, stop: bytes, *, reverse: bool
) -> Iterator[StoredRow]:
    for _, stored in entries.scan(start, stop, reverse=reverse):
        key = stored[1:]
        row = get(entries, table, key)
        if row is not None:
            yield key, row
        elif not isinstance(entries, Transaction) or entries.is_stable:
            raise missing_row(index.name, table, key)
        # otherwise another client has deleted it since the index was read: the check at the end finds that


def _between(store_table: str, start: bytes, stop: bytes) -> tuple[bytes, bytes]:
    """Bounds of the store keys of rows with start <= row < stop."""
    return row_range(store_table, start)[0], row_range(store_table, stop)[0]


def _ranges(table: Table, access: Access, operands: Sequence[SqlValue]) -> list[Range]:
    """The ranges of rows of the store that the access reads, disjoint and in order."""
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
    """The ranges of the column after those that are equal to a value."""
    if access.lower is None and access.upper is None:
        return [(b"", key_order.BEYOND)]
    found = [ranges.ALL]
    for bound, limit in ((access.lower, ranges.above), (access.upper, ranges.below)):
        if bound is not None:
            value = operands.pop(0)
            part = limit(affinity, value, encode, beyond, inclusive=bound.inclusive)
            found = ranges.intersection(found, ranges.union(part))
    return found
