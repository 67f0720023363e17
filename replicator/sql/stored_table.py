"""Writes rows of one table in a transaction: the row itself and its entries in the indexes."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.errors import BadRequest
from replicator.limits import MAX_VALUE_BYTES
from replicator.sql import key_order, reading
from replicator.sql.errors import ConstraintFailed, SqlError
from replicator.sql.tables import ENTRY, Index, Row, Table, encode_row
from replicator.sql.values import INT64
from replicator.store.keys import encode_key
from replicator.store.view import Transaction

SEQUENCE_TABLE = "sql.sequence#"
"""Of the store: the highest rowid that an AUTOINCREMENT table has had (tag n, 8 bytes), by its name."""
_NUMBER = b"n"


class StoredTable:
    def __init__(self, table: Table, transaction: Transaction) -> None:
        self.table = table
        self._transaction = transaction

    def get(self, key: bytes) -> Row | None:
        return reading.get(self._transaction, self.table, key)

    def next_rowid(self) -> int:
        """One more than the highest; of an AUTOINCREMENT table, than any that it has had. Raises `SqlError`."""
        last = reading.last_key(self._transaction, self.table)
        rowid = self.table.rowid_of(last) if last is not None else 0
        if self.table.autoincrement:
            stored = self._transaction.get(encode_key(SEQUENCE_TABLE, self.table.store_table.encode(), b""))
            rowid = max(rowid, int.from_bytes(stored[1:], "big") if stored else 0)
        if rowid + 1 not in INT64:
            raise SqlError(f"{self.table.name}: the highest rowid is used")
        return rowid + 1

    def conflicts(self, key: bytes, row: Row, but: bytes | None = None) -> Iterator[tuple[bytes, str]]:
        """Rows that may not be there together with this one: their keys, and what SQLite says of it.

        `but`: the key of the row that this one replaces.
        """
        table = self.table
        if key != but and self._transaction.get(encode_key(table.store_table, key, b"")) is not None:
            yield key, self._failed(table.key)
        for index in table.indexes:
            if index.unique:
                other = self._other(index, row, key)
                if other is not None and other not in (key, but):
                    yield other, self._failed(index.columns)

    def insert(self, key: bytes, row: Row) -> None:
        """No other row may have the key."""
        self._put(key, row)
        for index in self.table.indexes:
            entry, _ = index.entry(row, key)
            self._transaction.put(index.store_table, entry, b"", ENTRY + key)

    def add_entry(self, index: Index, key: bytes, row: Row) -> None:
        """Of a row that is there. Raises `ConstraintFailed`."""
        if index.unique and self._other(index, row, key) is not None:
            raise ConstraintFailed(self._failed(index.columns))
        self._transaction.put(index.store_table, index.entry(row, key)[0], b"", ENTRY + key)

    def delete(self, key: bytes, row: Row) -> None:
        self._transaction.put(self.table.store_table, key, b"", None)
        for index in self.table.indexes:
            self._transaction.put(index.store_table, index.entry(row, key)[0], b"", None)

    def replace(self, key: bytes, before: Row, row: Row) -> None:
        """The row keeps its key."""
        self._put(key, row)
        for index in self.table.indexes:
            old, new = index.entry(before, key)[0], index.entry(row, key)[0]
            if old != new:
                self._transaction.put(index.store_table, old, b"", None)
                self._transaction.put(index.store_table, new, b"", ENTRY + key)

    def _put(self, key: bytes, row: Row) -> None:
        encoded = encode_row(row)
        if len(encoded) > MAX_VALUE_BYTES:
            raise SqlError(f"a row of {len(encoded)} bytes is too large, at most {MAX_VALUE_BYTES}")
        try:
            self._transaction.put(self.table.store_table, key, b"", encoded)
        except BadRequest as error:
            raise SqlError(f"{self.table.name}: {error}") from error

    def _other(self, index: Index, row: Row, key: bytes) -> bytes | None:
        """The key of the row that has the entry of this one in a unique index."""
        entry, exclusive = index.entry(row, key)
        stored = self._transaction.get(encode_key(index.store_table, entry, b"")) if exclusive else None
        return None if stored is None else stored[1:]

    def _failed(self, columns: tuple[int, ...]) -> str:
        name = self.table.name
        return "UNIQUE constraint failed: " + ", ".join(f"{name}.{self.table.columns[it].name}" for it in columns)

    def note_rowid(self, rowid: int) -> None:
        """An INSERT into an AUTOINCREMENT table has used it, also if the row was left out."""
        name = self.table.store_table.encode()
        stored = self._transaction.get(encode_key(SEQUENCE_TABLE, name, b""))
        if rowid > (int.from_bytes(stored[1:], "big") if stored else 0):
            self._transaction.put(SEQUENCE_TABLE, name, b"", _NUMBER + rowid.to_bytes(8, "big"))


def rowid_key(rowid: int) -> bytes:
    return key_order.encode(rowid)
