"""The schema in the store: a row of the table `sql` for each table, index and view, as in SQLite's `sqlite_schema`.

    row          value
    its name     tag o: MessagePack [type, name, table, SQL, columns, key]; the row is the name, folded
    (empty)      tag v: the version of the schema, 16 bytes

The version is a digest of all statements that made the schema, in order: stores with one version have one schema.
"""

from __future__ import annotations

from itertools import chain, count
from typing import NamedTuple

import msgpack
import xxhash

from replicator.sql.errors import SqlError
from replicator.sql.names import fold
from replicator.store.keys import encode_key, table_range
from replicator.store.view import Entries, Transaction

CATALOG_TABLE = "sql"
TABLE_PREFIX, INDEX_PREFIX = "sql.", "sql#"
"""Prefixes of tables of the store: the rows of an SQL table, or the entries of an index."""
SEQUENCE_TABLE = "sql:sequence"
"""The table of the store with the highest rowid that each AUTOINCREMENT table has had: tag n, 8 bytes, big-endian."""

_OBJECT, _VERSION = b"o", b"v"
VERSION_KEY = encode_key(CATALOG_TABLE, b"", b"")
EMPTY_VERSION = bytes(16)
"""Of a schema without any object."""

Version = bytes
"""16 bytes."""

ROWIDS = ("rowid", "_rowid_", "oid")


class SchemaObject(NamedTuple):
    type: str  # table, index or view
    name: str
    table: str  # of an index; otherwise the name again
    sql: str
    columns: tuple[str, ...] = ()  # of a table, in the order of the values in its rows
    key: tuple[int, ...] = ()  # places of the columns of its primary key; empty: its key is a rowid

    @property
    def key_names(self) -> tuple[str, ...]:
        """Of a table, what tells its rows apart: the columns of the primary key, or a name for the rowid."""
        if self.key:
            return tuple(self.columns[it] for it in self.key)
        names = {fold(it) for it in self.columns}
        others = (f"rowid{number}" for number in count(1))  # which SQL does not know
        return (next(it for it in chain(ROWIDS, others) if it not in names),)


def decode_object(stored: bytes) -> SchemaObject | None:
    """`stored`: the value of a row of the catalog. None: it is the version."""
    return SchemaObject(*msgpack.unpackb(stored[1:], use_list=False)) if stored[:1] == _OBJECT else None


def version_of(entries: Entries) -> Version:
    stored = entries.get(VERSION_KEY)
    return EMPTY_VERSION if stored is None else stored[1:]


def read_objects(entries: Entries) -> list[SchemaObject]:
    """Tables, then indexes, then views, each in the order of their names."""
    return read_schema(entries)[1]


def read_schema(entries: Entries) -> tuple[Version, list[SchemaObject]]:
    """`read_objects`, and their version: another one than `version_of` if it was read before others have changed it."""
    version, objects = EMPTY_VERSION, []
    for _, stored in entries.scan(*table_range(CATALOG_TABLE)):
        found = decode_object(stored)
        if found is None:
            version = stored[1:]
        else:
            objects.append(found)
    return version, sorted(objects, key=lambda it: (["table", "index", "view"].index(it.type), fold(it.name)))


def find(entries: Entries, name: str) -> SchemaObject | None:
    stored = entries.get(encode_key(CATALOG_TABLE, fold(name).encode(), b""))
    return None if stored is None else decode_object(stored)


def find_replaced(transaction: Transaction, name: str) -> SchemaObject | None:
    """The object of that name before the transaction, if it has been dropped since."""
    change = transaction.changes.get(encode_key(CATALOG_TABLE, fold(name).encode(), b""))
    return None if change is None or change.old is None else decode_object(change.old)


def add(transaction: Transaction, added: SchemaObject) -> None:
    """Raises `SqlError` if the name is used."""
    before = find(transaction, added.name)
    if before is not None:
        raise SqlError(f"there is already a{'n' if before.type == 'index' else ''} {before.type} named {before.name}")
    _put(transaction, added)
    _note(transaction, added.sql)


def complete(transaction: Transaction, added: SchemaObject) -> None:
    """Store an added table again, with its columns and key. Its statement implies them, so the version stays."""
    _put(transaction, added)


def remove(transaction: Transaction, removed: SchemaObject) -> None:
    transaction.put(CATALOG_TABLE, fold(removed.name).encode(), b"", None)
    _note(transaction, f"DROP {removed.name}")


def _put(transaction: Transaction, written: SchemaObject) -> None:
    transaction.put(CATALOG_TABLE, fold(written.name).encode(), b"", _OBJECT + msgpack.packb(list(written)))


def _note(transaction: Transaction, change: str) -> None:
    version = xxhash.xxh3_128_digest(version_of(transaction) + change.encode())
    transaction.put(CATALOG_TABLE, b"", b"", _VERSION + version)
