"""The schema in the store: a row of the table `sql` for each table, index and view, as in SQLite's `sqlite_schema`.

    row          value
    its name     tag o: MessagePack [type, name, table, SQL]; the row is the name in lower case
    (empty)      tag v: the version of the schema, 16 bytes

The version is a digest of all statements that made the schema, in order: stores with one version have one schema.
"""

from __future__ import annotations

from typing import NamedTuple

import msgpack
import xxhash

from replicator.sql.errors import SqlError
from replicator.store.keys import encode_key, row_range, table_range
from replicator.store.view import Entries, Transaction

CATALOG_TABLE = "sql"
TABLE_PREFIX, INDEX_PREFIX = "sql.", "sql#"
"""Of the names of tables in the store: a table of SQL, or the entries of an index."""

_OBJECT, _VERSION = b"o", b"v"
_VERSION_KEY = encode_key(CATALOG_TABLE, b"", b"")
EMPTY_VERSION = bytes(16)
"""Of a schema without any object."""

Version = bytes


class SchemaObject(NamedTuple):
    type: str  # table, index or view
    name: str
    table: str  # of an index; otherwise the name again
    sql: str


def version_of(entries: Entries) -> Version:
    stored = entries.get(_VERSION_KEY)
    return EMPTY_VERSION if stored is None else stored[1:]


def read_objects(entries: Entries) -> list[SchemaObject]:
    """Tables, then indexes, then views, each in the order of their names."""
    start, stop = row_range(CATALOG_TABLE, b"")[1], table_range(CATALOG_TABLE)[1]
    objects = [SchemaObject(*msgpack.unpackb(stored[1:])) for _, stored in entries.scan(start, stop)]
    return sorted(objects, key=lambda it: (["table", "index", "view"].index(it.type), it.name.lower()))


def find(entries: Entries, name: str) -> SchemaObject | None:
    stored = entries.get(encode_key(CATALOG_TABLE, name.lower().encode(), b""))
    return None if stored is None else SchemaObject(*msgpack.unpackb(stored[1:]))


def add(transaction: Transaction, added: SchemaObject) -> None:
    """Raises `SqlError` if the name is used."""
    before = find(transaction, added.name)
    if before is not None:
        raise SqlError(f"there is already a{'n' if before.type == 'index' else ''} {before.type} named {before.name}")
    transaction.put(CATALOG_TABLE, added.name.lower().encode(), b"", _OBJECT + msgpack.packb(list(added)))
    _note(transaction, added.sql)


def replace(transaction: Transaction, changed: SchemaObject) -> None:
    transaction.put(CATALOG_TABLE, changed.name.lower().encode(), b"", _OBJECT + msgpack.packb(list(changed)))
    _note(transaction, changed.sql)


def remove(transaction: Transaction, removed: SchemaObject) -> None:
    transaction.put(CATALOG_TABLE, removed.name.lower().encode(), b"", None)
    _note(transaction, f"DROP {removed.name}")


def _note(transaction: Transaction, change: str) -> None:
    version = xxhash.xxh3_128_digest(version_of(transaction) + change.encode())
    transaction.put(CATALOG_TABLE, b"", b"", _VERSION + version)
