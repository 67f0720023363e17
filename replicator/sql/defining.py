"""Executes CREATE and DROP: the schema is rows of the catalog, and SQLite itself says whether a definition is valid."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from replicator.errors import TransactionTooLarge
from replicator.limits import (
    MAX_CHANGES,
    MAX_RECORD_BYTES,
    MAX_SCHEMA_BYTES,
    MAX_SQL_COLUMNS,
    MAX_SQL_INDEXES,
    MAX_SQL_OBJECTS,
)
from replicator.sql import catalog, functions, reading
from replicator.sql.access import ROWID, Access
from replicator.sql.catalog import SEQUENCE_TABLE, TABLE_PREFIX, SchemaObject
from replicator.sql.database import Database
from replicator.sql.errors import SqlError
from replicator.sql.names import fold
from replicator.sql.progress import Limit
from replicator.sql.statement import Create, Drop
from replicator.sql.stored_table import StoredTable
from replicator.sql.tables import Table
from replicator.sql.tokens import Token, tokenize, unquote
from replicator.store.keys import decode_key, table_range
from replicator.store.view import Transaction

_RESERVED = "sqlite_"


def create(database: Database, transaction: Transaction, statement: Create) -> None:
    """Raises `SqlError`, `apsw.Error`, `TransactionTooLarge`."""
    before = catalog.find(transaction, statement.name)
    if before is not None and statement.if_not_exists and before.type == statement.type:
        return
    if fold(statement.name).startswith(_RESERVED):
        raise SqlError(f"object name reserved for internal use: {statement.name}")
    if statement.type == "table" and fold(statement.name).startswith(TABLE_PREFIX):
        raise SqlError(f"{statement.name}: names that begin with {TABLE_PREFIX} are reserved for the change stream")
    added = SchemaObject(statement.type, statement.name, statement.table, statement.sql)
    if statement.type == "index":
        table = database.tables.get(fold(statement.table))
        if table is None:
            raise SqlError(f"no such table: {statement.table}")
        added = added._replace(table=table.name)
    elif statement.type == "table":
        _check_varying(statement)
    catalog.add(transaction, added)
    objects = catalog.read_objects(transaction)
    if len(objects) > MAX_SQL_OBJECTS or sum(len(it.sql) for it in objects) > MAX_SCHEMA_BYTES:
        raise SqlError(
            f"there can be at most {MAX_SQL_OBJECTS} tables, indexes and views, created by statements of at most "
            f"{MAX_SCHEMA_BYTES >> 10} KiB together: drop some"
        )
    described = Database(objects, database.calls)  # which raises if one is not valid
    try:
        _check_size(described.tables.values())
        if statement.type == "index":
            _fill(described.tables[fold(statement.table)], statement.name, transaction, database.source.limit)
        elif statement.type == "table":
            table = described.tables[fold(statement.name)]
            columns = tuple(column.name for column in table.columns)
            added = added._replace(columns=columns, key=table.key)
            _check_key(transaction, added, table.store_table)
            catalog.complete(transaction, added)
    finally:
        described.close()


def _check_key(transaction: Transaction, added: SchemaObject, store_table: str) -> None:
    """Refuse to replace a table with rows by one whose rows have other keys in the change stream. Raises `SqlError`.

    An entry of the store might be the row of one key before the transaction, and that of another after it: the change
    stream has one change for it.
    """
    replaced = catalog.find_replaced(transaction, added.name)
    if replaced is None or (replaced.name, replaced.key_names) == (added.name, added.key_names):
        return
    if any(it.table == store_table and it.old is not None for it in transaction.changes.values()):
        raise SqlError(
            f"the table {replaced.name} had rows when this transaction began, and those of {added.name} would have "
            "another name or key in the change stream, which has one change for both: DROP it in a transaction before "
            "this one"
        )


def _check_varying(statement: Create) -> None:
    """Refuse values that are not the same each time in CHECK and generated columns. Raises `SqlError`.

    Of `now()` and the like, SQLite does so only in generated columns, and of `date('now')` when it executes them.
    `date(a)` for a row whose `a` is 'now' has the time of the transaction.
    """
    items = tokenize(statement.sql).items
    constants = _constants(items)
    inside: Token | None = None  # the parenthesis after CHECK or AS
    for number, token in enumerate(items[1:-1], 1):
        if inside is None:
            if items[number - 1].word in ("CHECK", "AS") and token.is_punctuation("("):
                inside = token
        elif token.is_punctuation(")") and token.depth == inside.depth:
            inside = None
        elif functions.varies(token.text, constants.get(number + 1)):
            raise SqlError(
                f"{token.text} is refused in CHECK and generated columns, as it is not the same each time: "
                "use DEFAULT, or set the column in your statements"
            )


def _constants(items: Sequence[Token]) -> dict[int, list[str]]:
    """The arguments of calls, by the places of their parentheses; empty text for those that are not constant text."""
    found: dict[int, list[str]] = {}
    begins: list[tuple[int, int]] = []  # of what is open: the place of the parenthesis, and of the present argument
    for place, token in enumerate(items):
        if token.is_punctuation("("):
            found[place] = []
            begins.append((place, place + 1))
        elif begins and (token.is_punctuation(",") or token.is_punctuation(")")):
            opening, begin = begins.pop()
            if place > begin or found[opening]:
                is_constant = place == begin + 1 and items[begin].kind == "string"
                found[opening].append(unquote(items[begin]) if is_constant else "")
            if token.is_punctuation(","):
                begins.append((opening, place + 1))
    return found


def _check_size(tables: Collection[Table]) -> None:
    """Raises `SqlError`."""
    indexes = sum(len(it.indexes) + it.has_key_index for it in tables)
    if sum(len(it.columns) for it in tables) > MAX_SQL_COLUMNS or indexes > MAX_SQL_INDEXES:
        raise SqlError(
            f"all tables together can have at most {MAX_SQL_COLUMNS} columns, and {MAX_SQL_INDEXES} indexes with those "
            "of PRIMARY KEY and UNIQUE: drop some"
        )


def drop(database: Database, transaction: Transaction, statement: Drop) -> None:
    """Raises `SqlError`, `TransactionTooLarge`."""
    found = catalog.find(transaction, statement.name)
    if found is None or found.type != statement.type:
        if statement.if_exists:
            return
        if found is not None and {found.type, statement.type} == {"table", "view"}:
            raise SqlError(f"use DROP {found.type.upper()} to delete {found.type} {found.name}")
        raise SqlError(f"no such {statement.type}: {statement.name}")
    if found.type == "index":
        index = next(it for it in database.tables[fold(found.table)].indexes if fold(it.name) == fold(found.name))
        _clear(transaction, index.store_table, found.name)
    elif found.type == "table":
        table = database.tables[fold(found.name)]
        for index in table.indexes:
            _clear(transaction, index.store_table, found.name)
        _clear(transaction, table.store_table, found.name)
        transaction.put(SEQUENCE_TABLE, table.store_table.encode(), b"", None)
        for other in catalog.read_objects(transaction):
            if other.type == "index" and fold(other.table) == fold(found.name):
                catalog.remove(transaction, other)
    catalog.remove(transaction, found)


def _fill(table: Table, name: str, transaction: Transaction, limit: Limit) -> None:
    """Add the entries of a new index for the stored rows. Raises `ConstraintFailed`, `TransactionTooLarge`."""
    index = next(it for it in table.indexes if fold(it.name) == fold(name))
    if transaction.rows(table.store_table) >= MAX_CHANGES:
        raise TransactionTooLarge(
            f"{table.name} has too many rows to create an index on it at once, at most {MAX_CHANGES - 1}: create a "
            "table with the index, and copy the rows in parts"
        )
    stored = StoredTable(table, transaction)
    rows = reading.read(transaction, table, Access(None, table.key or (ROWID,), 0, False, None, None, False), ())
    found = []
    for key, row in rows:
        limit.on_row()
        found.append((key, tuple(it if place in index.columns else None for place, it in enumerate(row))))
    for key, indexed in found:
        limit.on_row()
        stored.add_entry(index, key, indexed)


def _clear(transaction: Transaction, store_table: str, name: str) -> None:
    """Delete all entries of a table of the store. Raises `TransactionTooLarge`."""
    if transaction.rows(store_table) > MAX_CHANGES:
        raise TransactionTooLarge(
            f"{name} has too many rows to be dropped at once, at most {MAX_CHANGES}: DELETE them in parts first"
        )
    keys, size = [], 0
    for key, value in transaction.scan(*table_range(store_table)):
        size += len(value)
        if size > MAX_RECORD_BYTES:
            raise TransactionTooLarge(f"{name} has too large rows to be dropped at once: DELETE them in parts first")
        keys.append(key)
    for key in keys:
        transaction.put_at(key, *decode_key(key), None)
