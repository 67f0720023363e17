"""Writes rows of one table in a transaction: the row itself and its entries in the indexes."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.errors import BadRequest
from replicator.limits import MAX_VALUE_BYTES
from replicator.sql import key_order, reading
from replicator.sql.catalog import SEQUENCE_TABLE
from replicator.sql.errors import ConstraintFailed, SqlError
from replicator.sql.tables import ENTRY, Index, Row, Table, encode_row
from replicator.sql.values import INT64
from replicator.store.keys import decode_key, encode_key, table_range
from replicator.store.view import Transaction

_NUMBER = b"n"


class StoredTable:
    """A key is a row of the store (`Table.key_of`). Methods that write raise `SqlError`, `TransactionTooLarge`."""

    def __init__(self, table: Table, transaction: Transaction) -> None:
        self.table = table
        self._transaction = transaction

    def get(self, key: bytes) -> Row | None:
        return reading.get(self._transaction, self.table, key)

    def next_rowid(self) -> int:
        """One more than the highest rowid; in an AUTOINCREMENT table, than the highest one ever. Raises `SqlError`."""
        last = self._transaction.last(*table_range(self.table.store_table))
        rowid = self.table.rowid_of(decode_key(last)[1]) if last is not None else 0
        if self.table.autoincrement:
            stored = self._transaction.get(encode_key(SEQUENCE_TABLE, self.table.store_table.encode(), b""))
            rowid = max(rowid, int.from_bytes(stored[1:], "big") if stored else 0)
        if rowid + 1 not in INT64:
            raise SqlError(f"{self.table.name}: the highest rowid is in use, give the new row an unused one")
        return rowid + 1

    def conflicts(self, key: bytes, row: Row, but: bytes | None = None) -> Iterator[tuple[bytes, str]]:
        """The stored rows that this row would violate a UNIQUE constraint with: key, and error message of SQLite.

        `but`: the key of the row that this one replaces, which does not count. Raises `StoreError`.
        """
        table = self.table
        if key != but and self._transaction.get(encode_key(table.store_table, key, b"")) is not None:
            yield key, self._failed(table.key)
        for index in table.indexes:
            if index.unique:
                other = self._other(index, row, key)
                if other is not None and other not in (key, but):
                    if self._transaction.is_stable and self.get(other) is None:
                        raise reading.missing_row(index.name, table, other)
                    yield other, self._failed(index.columns)

    def insert(self, key: bytes, row: Row) -> None:
        """Store a new row and its index entries. There must be no conflict."""
        self._put(key, row)
        for index in self.table.indexes:
            entry, _ = index.entry(row, key)
            self._transaction.put(index.store_table, entry, b"", ENTRY + key)

    def add_entry(self, index: Index, key: bytes, row: Row) -> None:
        """Add the index entry of a stored row. Raises `ConstraintFailed`."""
        if index.unique and self._other(index, row, key) is not None:
            raise ConstraintFailed(self._failed(index.columns))
        self._transaction.put(index.store_table, index.entry(row, key)[0], b"", ENTRY + key)

    def delete(self, key: bytes, row: Row) -> None:
        self._transaction.put(self.table.store_table, key, b"", None)
        for index in self.table.indexes:
            self._transaction.put(index.store_table, index.entry(row, key)[0], b"", None)

    def replace(self, key: bytes, before: Row, row: Row) -> None:
        """Replace `before` by `row` under the same key."""
        self._put(key, row)
        for index in self.table.indexes:
            old, new = index.entry(before, key)[0], index.entry(row, key)[0]
            if old != new:
                self._transaction.put(index.store_table, old, b"", None)
                self._transaction.put(index.store_table, new, b"", ENTRY + key)

    def _put(self, key: bytes, row: Row) -> None:
        encoded = encode_row(row)
        if len(encoded) > MAX_VALUE_BYTES:
            raise SqlError(f"a row of {len(encoded)} bytes is too large, at most {MAX_VALUE_BYTES}: divide it")
        table = self.table.store_table
        try:
            store_key = encode_key(table, key, b"")
        except BadRequest as error:
            raise SqlError(f"{self.table.name}: {error}") from error
        self._transaction.put_at(store_key, table, key, b"", encoded)

    def _other(self, index: Index, row: Row, key: bytes) -> bytes | None:
        """The key of the stored row with the same values in a unique index. None: there is none."""
        entry, exclusive = index.entry(row, key)
        stored = self._transaction.get(encode_key(index.store_table, entry, b"")) if exclusive else None
        return None if stored is None else stored[1:]

    def _failed(self, columns: tuple[int, ...]) -> str:
        name = self.table.name
        return "UNIQUE constraint failed: " + ", ".join(f"{name}.{self.table.columns[it].name}" for it in columns)

    def note_rowid(self, rowid: int) -> None:
        """Remember a rowid that an INSERT into an AUTOINCREMENT table has used, even if OR IGNORE left the row out."""
        name = self.table.store_table.encode()
        stored = self._transaction.get(encode_key(SEQUENCE_TABLE, name, b""))
        if rowid > (int.from_bytes(stored[1:], "big") if stored else 0):
            self._transaction.put(SEQUENCE_TABLE, name, b"", _NUMBER + rowid.to_bytes(8, "big"))


def rowid_key(rowid: int) -> bytes:
    return key_order.encode(rowid)
