"""A table of PostgreSQL with the rows of a SQL table: their columns by name, or all in one column of type jsonb."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from replicator.sql.values import SqlValue
from replicator.stream.sinks.port import SinkFailed
from replicator.stream.sinks.rows import HEX_PREFIX, SqlRowState, to_column_text
from replicator.stream.sql_rows import key_values

Cursor = psycopg.Cursor[tuple[Any, ...]]
Record = dict[str, object]
"""A row, as JSON that PostgreSQL converts."""

_KEY, _COLUMNS = "key", "columns"
"""The columns of a table that this sink creates: the primary key as JSON, and all columns of the row."""


class PostgresSqlTable:
    def __init__(self, table: str, name: sql.Identifier) -> None:
        """`table`: for errors."""
        self._table = table
        self._name = name
        self._columns: dict[str, str] = {}  # of PostgreSQL, by their names in lower case
        self._is_document = False  # whether it has all columns in one

    def prepare(self, cursor: Cursor) -> None:
        """Create it if it does not exist. Raises `psycopg.Error`."""
        types = self._types(cursor)
        if not types:
            cursor.execute(sql.SQL("CREATE TABLE {} (key text PRIMARY KEY, columns jsonb)").format(self._name))
            types = self._types(cursor)
        self._columns = {name.lower(): name for name in types}
        self._is_document = types.keys() == {_KEY, _COLUMNS} and types[_COLUMNS] == "jsonb"

    def write(self, cursor: Cursor, rows: Mapping[bytes, SqlRowState]) -> None:
        """Raises `SinkFailed`, `psycopg.Error`."""
        keys: Sequence[str] = ()
        removed: list[Record] = []
        written: list[Record] = []
        for row, state in rows.items():
            key = key_values(row)
            keys = [_KEY] if self._is_document else self._key_columns(key)
            former = [self._record(row, key, columns, keys) for columns in state.before]
            if state.after is not None:
                record = self._record(row, key, state.after)
                written.append(record)
                former = [it for it in former if any(it[name] != record[name] for name in keys)]
            removed += former
        if removed:
            cursor.execute(self._delete(keys, removed))
        if written:
            names = [*dict.fromkeys(name for record in written for name in record)]
            cursor.execute(self._upsert(keys, names, written))

    def _types(self, cursor: Cursor) -> dict[str, str]:
        """By column; empty: there is no such table."""
        found = cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self._name.as_string(cursor)],
        )
        return {str(name): str(type) for name, type in found}

    def _key_columns(self, key: Mapping[str, SqlValue]) -> list[str]:
        missing = [name for name in key if name.lower() not in self._columns]
        if missing:
            raise SinkFailed(
                f"table {self._table} of PostgreSQL has no column {missing[0]}, which is in the primary key of the SQL "
                "table: add it with a unique index on the key, or choose another table with --map"
            )
        return [self._columns[name.lower()] for name in key]

    def _record(
        self,
        row: bytes,
        key: Mapping[str, SqlValue],
        columns: Mapping[str, SqlValue],
        only: Sequence[str] | None = None,
    ) -> Record:
        """What PostgreSQL has of a row. Columns that its table has not are left out. `only`: these columns of it."""
        if self._is_document:
            document = {to_column_text(name.encode()): _as_json(it) for name, it in columns.items()}
            record: Record = {_KEY: to_column_text(row), _COLUMNS: document}
        else:
            named = ((self._columns.get(name.lower()), it) for name, it in {**key, **columns}.items())
            record = {name: _as_json(it) for name, it in named if name is not None}
        return record if only is None else {name: record[name] for name in only}

    def _delete(self, keys: Sequence[str], records: Sequence[Record]) -> sql.Composed:
        matches = (sql.SQL("t.{0} = r.{0}").format(sql.Identifier(it)) for it in keys)
        return sql.SQL("DELETE FROM {} t USING {} r WHERE {}").format(
            self._name, self._populated(records), sql.SQL(" AND ").join(matches)
        )

    def _upsert(self, keys: Sequence[str], names: Sequence[str], records: Sequence[Record]) -> sql.Composed:
        """Columns that the rows do not have stay as they are."""
        assigned = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(it)) for it in names if it not in keys]
        return sql.SQL("INSERT INTO {0} ({1}) SELECT {1} FROM {2} ON CONFLICT ({3}) DO {4}").format(
            self._name,
            sql.SQL(", ").join(map(sql.Identifier, names)),
            self._populated(records),
            sql.SQL(", ").join(map(sql.Identifier, keys)),
            sql.SQL("UPDATE SET {}").format(sql.SQL(", ").join(assigned)) if assigned else sql.SQL("NOTHING"),
        )

    def _populated(self, records: Sequence[Record]) -> sql.Composed:
        """Rows of the table, converted to the types of its columns."""
        return sql.SQL("jsonb_populate_recordset(NULL::{}, {}::jsonb)").format(
            self._name, sql.Literal(json.dumps(records))
        )


def _as_json(value: SqlValue) -> object:
    """As PostgreSQL converts it to the type of a column. A blob is the text form of bytea."""
    if isinstance(value, bytes):
        return HEX_PREFIX + value.hex()
    if isinstance(value, str):
        return to_column_text(value.encode())
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value
