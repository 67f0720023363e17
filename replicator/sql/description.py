"""Reads the columns, key and indexes of a table from SQLite. Refuses tables that the store cannot keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from replicator.limits import MAX_SQL_OBJECTS
from replicator.sql.catalog import SchemaObject
from replicator.sql.errors import SqlError
from replicator.sql.names import fold
from replicator.sql.tables import COLLATIONS, Column, Index, Table
from replicator.sql.tokens import quote
from replicator.sql.values import Affinity, affinity_of

_GENERATED = (2, 3)  # `hidden` in PRAGMA table_xinfo
_KEPT = 2 * MAX_SQL_OBJECTS

_known: OrderedDict[tuple[str, ...], Table] = OrderedDict()
"""Tables by the statements that have created them and their indexes: to ask SQLite takes most of the time."""


def read_tables(connection: apsw.Connection, objects: Sequence[SchemaObject]) -> Iterator[Table]:
    """The descriptions of the tables of `main`. Raises `SqlError` if one is not supported."""
    statements: dict[str, list[str]] = {}
    for it in objects:
        if it.type != "view":
            statements.setdefault(fold(it.table), []).append(it.sql)
    kinds: dict[str, tuple[int, int]] | None = None
    for it in objects:
        if it.type == "table":
            key = tuple(statements[fold(it.name)])
            table = _known.get(key)
            if table is None:
                if kinds is None:  # of all tables at once: the PRAGMA looks at all for each
                    kinds = {name: (*kind,) for _, name, _, _, *kind in connection.execute("PRAGMA main.table_list")}
                _known[key] = table = _read_table(connection, it, *kinds[it.name])
                if len(_known) > _KEPT:
                    _known.popitem(last=False)
            yield table


def _read_table(connection: apsw.Connection, created: SchemaObject, without_rowid: int, strict: int) -> Table:
    name = created.name
    columns: list[Column] = []
    key_places: dict[int, int] = {}  # column by its place in the primary key
    autoincrement = False
    found: Any = connection.execute(f"PRAGMA main.table_xinfo({quote(name)})").fetchall()
    for number, column, declared, not_null, default, place, hidden in found:
        _, collation, _, _, counts = connection.column_metadata("main", name, column)
        autoincrement = autoincrement or counts
        _check_type(name, column, declared)
        affinity, generated = affinity_of(declared), hidden in _GENERATED
        if strict and fold(declared) == "any":
            affinity = Affinity.BLOB
        columns.append(Column(column, declared, affinity, collation, bool(not_null), generated, default is not None))
        if place:
            key_places[place] = number
    key = tuple(key_places[place] for place in sorted(key_places))
    indexes = [*_indexes(connection, name)]
    primary = next((index for origin, index in indexes if origin == "pk"), None)
    has_rowid_column = bool(key) and primary is None and not without_rowid
    return Table(
        name=name,
        columns=tuple(columns),
        key=key,
        key_collations=primary.collations if primary else tuple(columns[it].collation for it in key),
        has_rowid_column=has_rowid_column,
        autoincrement=autoincrement,
        checked=bool(strict) or any(it.generated for it in columns) or "CHECK" in created.sql.upper(),
        indexes=tuple(index for origin, index in indexes if origin != "pk"),
    )


def _check_type(table: str, column: str, declared: str) -> None:
    """Raises `SqlError` if it would hide the column of the virtual table, from SELECT * too."""
    if "HIDDEN" in declared.upper().split():
        raise SqlError(f"{table}.{column}: the type {declared!r} is not supported, as HIDDEN has a meaning in it")


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
        if len(set(columns)) < len(columns):
            raise SqlError(f"{table}: a key or an index that has a column twice is not supported")
        yield origin, Index(name, tuple(columns), tuple(collations), bool(unique))
