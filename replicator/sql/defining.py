"""Executes CREATE and DROP: the schema is rows of the catalog, and SQLite itself says whether a definition is valid."""

from __future__ import annotations

from replicator.limits import MAX_CHANGES, MAX_SCHEMA_BYTES, MAX_SQL_OBJECTS
from replicator.sql import catalog, reading
from replicator.sql.access import ROWID, Access
from replicator.sql.catalog import SchemaObject
from replicator.sql.database import Database
from replicator.sql.errors import SqlError
from replicator.sql.statement import Create, Drop
from replicator.sql.stored_table import SEQUENCE_TABLE, StoredTable
from replicator.sql.tables import Table
from replicator.store.keys import decode_key, table_range
from replicator.store.view import Transaction, TransactionTooLarge

_RESERVED = "sqlite_"


def create(database: Database, transaction: Transaction, statement: Create) -> None:
    """Raises `SqlError`, `apsw.Error`, `TransactionTooLarge`."""
    before = catalog.find(transaction, statement.name)
    if before is not None and statement.if_not_exists and before.type == statement.type:
        return
    if statement.name.lower().startswith(_RESERVED):
        raise SqlError(f"object name reserved for internal use: {statement.name}")
    added = SchemaObject(statement.type, statement.name, statement.table, statement.sql)
    if statement.type == "index":
        table = database.tables.get(statement.table.lower())
        if table is None:
            raise SqlError(f"no such table: {statement.table}")
        added = added._replace(table=table.name)
    catalog.add(transaction, added)
    objects = catalog.read_objects(transaction)
    if len(objects) > MAX_SQL_OBJECTS or sum(len(it.sql) for it in objects) > MAX_SCHEMA_BYTES:
        raise SqlError(
            f"there can be at most {MAX_SQL_OBJECTS} tables, indexes and views, created by statements of at most "
            f"{MAX_SCHEMA_BYTES >> 10} KiB together: drop some"
        )
    described = Database(objects, database.calls)  # which raises if one is not valid
    try:
        if statement.type == "index":
            _fill(described.tables[statement.table.lower()], statement.name, transaction)
    finally:
        described.close()


def drop(database: Database, transaction: Transaction, statement: Drop) -> None:
    """Raises `SqlError`, `TransactionTooLarge`."""
    found = catalog.find(transaction, statement.name)
    if found is None or found.type != statement.type:
        if statement.if_exists:
            return
        raise SqlError(f"no such {statement.type}: {statement.name}")
    if found.type == "index":
        index = next(it for it in database.tables[found.table.lower()].indexes if it.name.lower() == found.name.lower())
        _clear(transaction, index.store_table)
    elif found.type == "table":
        table = database.tables[found.name.lower()]
        for index in table.indexes:
            _clear(transaction, index.store_table)
        _clear(transaction, table.store_table)
        transaction.put(SEQUENCE_TABLE, table.store_table.encode(), b"", None)
        for other in catalog.read_objects(transaction):
            if other.type == "index" and other.table.lower() == found.name.lower():
                catalog.remove(transaction, other)
    catalog.remove(transaction, found)


def _fill(table: Table, name: str, transaction: Transaction) -> None:
    """Add the entries of an index for the rows that there are."""
    index = next(it for it in table.indexes if it.name.lower() == name.lower())
    if transaction.rows(table.store_table) >= MAX_CHANGES:
        raise TransactionTooLarge(
            f"{table.name} has too many rows to create an index on it at once, at most {MAX_CHANGES - 1}: create a "
            "table with the index, and copy the rows in parts"
        )
    stored = StoredTable(table, transaction)
    rows = reading.read(transaction, table, Access(None, table.key or (ROWID,), 0, False, None, None, False), ())
    for key, row in [*rows]:
        stored.add_entry(index, key, row)


def _clear(transaction: Transaction, store_table: str) -> None:
    if transaction.rows(store_table) > MAX_CHANGES:
        raise TransactionTooLarge(
            f"it has more rows than one record can delete, {MAX_CHANGES}: DELETE them in parts before"
        )
    for key, _ in [*transaction.scan(*table_range(store_table))]:
        transaction.put_at(key, *decode_key(key), None)
