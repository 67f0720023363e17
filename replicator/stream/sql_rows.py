"""The rows of SQL tables, as they are in the log and in snapshots: decoded without SQLite's engine.

The columns of a table are in its row of the catalog, which is in the log and in snapshots, too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from replicator.errors import ConfigError
from replicator.records.types import Change, Record, Write, singles
from replicator.sql import key_order
from replicator.sql.catalog import (
    CATALOG_TABLE,
    TABLE_PREFIX,
    SchemaObject,
    decode_object,
    read_objects,
)
from replicator.sql.names import fold
from replicator.sql.tables import decode_row
from replicator.sql.values import SqlValue
from replicator.store.rows import KEYSPACE_TABLE, Image, RowChange
from replicator.store.view import Entries

ROW = "row"
"""The type of an image that is a row of a SQL table."""

_INFINITY, _JSON_INFINITY = float("inf"), "9.0e+999"


class TableColumns(NamedTuple):
    name: str  # in the change stream
    columns: tuple[str, ...]
    key: tuple[str, ...]  # that tell its rows apart: those of the primary key, or the rowid

    @classmethod
    def of(cls, table: SchemaObject) -> TableColumns:
        return cls(published_name(table.name), table.columns, table.key_names)

    def key_text(self, row: bytes) -> bytes:
        """The key of a row as JSON: its columns by name. A blob is an object with its bytes in base64."""
        pairs = zip(self.key, key_order.decode_all(row, len(self.key)), strict=True)
        parts = (f"{json.dumps(name, ensure_ascii=False)}:{_key_value(it)}" for name, it in pairs)
        return f"{{{','.join(parts)}}}".encode()

    def image(self, stored: bytes | None) -> Image | None:
        if stored is None:
            return None
        return Image(ROW, None, None, dict(zip(self.columns, decode_row(stored), strict=False)))  # it may be older


Tables = Mapping[str, TableColumns]
"""The tables of SQL at a point of the log, by their tables in the store."""

NO_TABLES: Tables = MappingProxyType({})


def published_name(table: str) -> str:
    """The keys of Redis are the table `kv`."""
    return TABLE_PREFIX + table if table == KEYSPACE_TABLE else table


def key_values(row: bytes) -> dict[str, SqlValue]:
    """The columns of a key, as `TableColumns.key_text` has encoded them. Raises `ValueError`."""
    fields: dict[str, Any] = json.loads(row)
    return {
        name: base64.b64decode(value["base64"]) if isinstance(value, dict) else value for name, value in fields.items()
    }


def json_value(value: SqlValue) -> str:
    """JSON has no infinity: it is a number that is too large."""
    if value in (_INFINITY, -_INFINITY):
        return _JSON_INFINITY if value == _INFINITY else f"-{_JSON_INFINITY}"
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    return json.dumps(value, ensure_ascii=False)


def is_published(store_table: str) -> bool:
    """Whether it has the rows of a SQL table."""
    return store_table.startswith(TABLE_PREFIX)


def known(tables: Tables, store_table: str) -> TableColumns:
    """Raises `ConfigError`."""
    found = tables.get(store_table)
    if found is None:
        raise ConfigError(
            f"the change stream does not know the columns of SQL table {store_table.removeprefix(TABLE_PREFIX)}, which "
            "was created before it began: `replicator stream reset`, then enable it with `--from snapshot`"
        )
    return found


def tables_in(entries: Entries) -> Tables:
    """Those of a store."""
    return {_store_table(it.name): TableColumns.of(it) for it in read_objects(entries) if it.type == "table"}


def touches_sql(changes: Sequence[Change]) -> bool:
    """Whether they may concern SQL tables or the catalog. A loop is faster, and each transaction needs it."""
    for change in changes:  # noqa: SIM110
        if change[0] != KEYSPACE_TABLE and change[0].startswith(CATALOG_TABLE):
            return True
    return False


def tables_after(tables: Tables, changes: Sequence[Change]) -> Tables:
    """After a transaction."""
    for table, row, _, old, new in changes:
        if table == CATALOG_TABLE:
            tables = with_catalog_row(tables, row, old, new)
    return tables


def tables_after_record(tables: Tables, record: Record) -> Tables:
    for body in singles(record.body):
        if type(body) is Write and touches_sql(body.changes):
            tables = tables_after(tables, body.changes)
    return tables


def with_catalog_row(tables: Tables, row: bytes, old: bytes | None, new: bytes | None) -> Tables:
    """After a change of this row of the catalog."""
    before, after = (None if it is None else decode_object(it) for it in (old, new))
    if (before is None or before.type != "table") and (after is None or after.type != "table"):
        return tables
    changed, name = {**tables}, _store_table(row.decode())
    if after is not None and after.type == "table":
        changed[name] = TableColumns.of(after)
    else:
        changed.pop(name, None)
    return changed


def sql_changes(changes: Sequence[Change], tables: Tables | None) -> Iterator[tuple[str, RowChange]]:
    """The changes of a transaction that concern rows of SQL tables, in order, with the names of their tables.

    `tables`: before the transaction; None: the rows are not decoded, and have no images. Raises `ConfigError`.
    """
    found = [(place, it) for place, it in enumerate(changes) if is_published(it.table)]
    if tables is None:
        yield from (("", RowChange(place, b"", None, None, None)) for place, _ in found)
        return
    after = tables_after(tables, changes)
    for place, (table, row, _, old, new) in found:
        shape = known(tables if new is None else after, table)  # the transaction may have replaced it
        before = None if old is None else known(tables, table).image(old)
        yield shape.name, RowChange(place, shape.key_text(row), None, before, shape.image(new))


def _store_table(name: str) -> str:
    return TABLE_PREFIX + fold(name)


def _key_value(value: SqlValue) -> str:
    return f'{{"base64":{json_value(value)}}}' if isinstance(value, bytes) else json_value(value)
