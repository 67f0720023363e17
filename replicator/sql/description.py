"""Describes a table that SQLite has created: its columns, key and indexes. Refuses what the store cannot keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

from replicator.sql.errors import SqlError
from replicator.sql.tables import COLLATIONS, Column, Index, Table
from replicator.sql.tokens import quote
from replicator.sql.values import affinity_of

_GENERATED = (2, 3)  # `hidden` in PRAGMA table_xinfo


def describe(connection: apsw.Connection, name: str) -> Table:
    """A table of `main`. Raises `SqlError`."""
    columns: list[Column] = []
    key_places: dict[int, int] = {}  # column by its place in the primary key
    autoincrement = False
    found: Any = connection.execute(f"PRAGMA main.table_xinfo({quote(name)})").fetchall()
    for number, column, declared, not_null, _, place, hidden in found:
        _, collation, _, _, counts = connection.column_metadata("main", name, column)
        autoincrement = autoincrement or counts
        columns.append(Column(column, declared, affinity_of(declared), collation, bool(not_null), hidden in _GENERATED))
        if place:
            key_places[place] = number
    _, _, _, _, without_rowid, strict = _table_list(connection, name)
    key = tuple(key_places[place] for place in sorted(key_places))
    indexes = [*_indexes(connection, name)]
    primary = next((index for origin, index in indexes if origin == "pk"), None)
    has_rowid_column = bool(key) and primary is None and not without_rowid
    return Table(
        name=name,
        columns=tuple(columns),
        key=key,
        key_collations=tuple(columns[it].collation for it in key),
        has_rowid_column=has_rowid_column,
        autoincrement=autoincrement,
        checked=bool(strict) or any(it.generated for it in columns) or _has_check(connection, name),
        indexes=tuple(index for origin, index in indexes if origin != "pk"),
    )


def _table_list(connection: apsw.Connection, name: str) -> tuple[str, str, str, int, int, int]:
    found: Any = connection.execute(f"PRAGMA main.table_list({quote(name)})").fetchall()
    row: tuple[str, str, str, int, int, int] = found[0]
    return row


def _has_check(connection: apsw.Connection, name: str) -> bool:
    sql: Any = connection.execute("SELECT sql FROM main.sqlite_schema WHERE name = ? COLLATE NOCASE", (name,)).get
    return "CHECK" in sql.upper()


def _indexes(connection: apsw.Connection, table: str) -> Iterator[tuple[str, Index]]:
    """Each with its origin: `c` by CREATE INDEX, `u` of UNIQUE, `pk` of the primary key."""
    found: Any = connection.execute(f"PRAGMA main.index_list({quote(table)})").fetchall()
    for _, name, unique, origin, partial in found:
        if partial:
            raise SqlError(f"{name}: partial indexes (CREATE INDEX … WHERE) are not supported")
        columns: list[int] = []
        collations: list[str] = []
        described: Any = connection.execute(f"PRAGMA main.index_xinfo({quote(name)})").fetchall()
        for _, column, _, _, collation, is_key in described:
            if not is_key:
                continue
            if column < 0:
                raise SqlError(f"{name}: indexes on expressions are not supported")
            if collation.upper() not in COLLATIONS:
                raise SqlError(f"no such collation sequence: {collation}")
            columns.append(column)
            collations.append(collation)
        yield origin, Index(name, tuple(columns), tuple(collations), bool(unique))
