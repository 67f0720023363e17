"""A table that a sink writes to: its columns, and the statements that bring a batch of rows into it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql

from replicator.errors import ConfigError
from replicator.stream.sinks.rows import RowState, TableShape, to_column_text
from replicator.stream.sinks.settings import TableMap

Connection = psycopg.Connection[tuple[Any, ...]]
Parts = sql.Composed

_MAX_EXPIRY_MS = 253_402_300_799_999  # the last moment that programs with four-digit years can read
_BYTEA = "bytea"


def identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


class PostgresTable:
    """The columns are `key`, `expires_at`, and either one for each of some fields, or `value` and `fields`."""

    def __init__(self, map: TableMap, number: int) -> None:
        self._table = map.table
        self._name = identifier(map.table)
        self._batch = sql.Identifier(f"replicator_batch_{number}")
        self._fields = map.columns
        self._names = [name.encode() for name in map.columns]
        self._types: dict[str, str] = {}  # by column

    @property
    def shape(self) -> TableShape:
        if self._fields:
            return TableShape(strings=False, hashes=True, fields=frozenset(self._names))
        return TableShape(strings="value" in self._types, hashes="fields" in self._types)

    def prepare(self, connection: Connection) -> None:
        """Create what is missing. Raises `ConfigError`, `psycopg.Error`."""
        if not self._read_types(connection):
            connection.execute(self._create())
            self._read_types(connection)
        self._check(connection)
        connection.execute(self._create_batch())

    def write(self, cursor: psycopg.Cursor[tuple[Any, ...]], rows: dict[bytes, RowState]) -> None:
        """Raises `psycopg.Error`."""
        if not rows:
            return
        encoded = self._with_columns if self._fields else self._mixed
        with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(self._batch)) as copy:
            for row in encoded(rows):
                copy.write_row(row)
        for statement in self._statements():
            cursor.execute(statement)

    def _read_types(self, connection: Connection) -> bool:
        """False if there is no such table."""
        found = connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self._name.as_string(connection)],
        )
        self._types = {str(name): str(type) for name, type in found}
        return bool(self._types)

    def _create(self) -> Parts:
        fields: list[sql.Composable] = [sql.SQL("{} text").format(sql.Identifier(it)) for it in self._fields]
        fields = fields or [
            sql.SQL("value text"),
            sql.SQL("fields jsonb"),
        ]
        columns = [sql.SQL("key text PRIMARY KEY"), *fields, sql.SQL("expires_at timestamptz")]
        return sql.SQL("CREATE TABLE {} ({})").format(self._name, sql.SQL(", ").join(columns))

    def _check(self, connection: Connection) -> None:
        """Raises `ConfigError`."""
        types, table = self._types, self._table
        missing = [name for name in ("key", *self._fields) if name not in types]
        if not self._fields and not types.keys() & {"value", "fields"}:
            missing.append("value or fields")
        if missing:
            raise ConfigError(f"table {table} has no column {missing[0]}: add it, or choose another table with --map")
        wrong = [
            (name, expected)
            for name, expected in (("key", "text or bytea"), ("value", "text or bytea"), ("fields", "jsonb"))
            if name in types and (name == "key" or not self._fields) and not _is_one_of(types[name], expected)
        ]
        if "expires_at" in types and types["expires_at"] != "timestamp with time zone":
            wrong.append(("expires_at", "timestamp with time zone"))
        if wrong:
            name, expected = wrong[0]
            raise ConfigError(
                f"column {name} of table {table} is {types[name]}, expected {expected}: change it, or choose another "
                "table with --map"
            )
        unique = connection.execute(
            "SELECT 1 FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attname = 'key' WHERE indrelid = "
            "to_regclass(%s) AND indisunique AND indpred IS NULL AND indnkeyatts = 1 AND indkey[0] = attnum",
            [self._name.as_string(connection)],
        )
        if unique.fetchone() is None:
            raise ConfigError(f"column key of table {table} is not unique: ALTER TABLE {table} ADD PRIMARY KEY (key)")

    def _create_batch(self) -> Parts:
        """The rows of a batch are copied into it; it is empty again after the transaction."""
        columns: list[sql.Composable] = [
            sql.SQL("key {}").format(self._copied_type("key")),
            sql.SQL("op text"),
            sql.SQL("has_header boolean"),
            sql.SQL("expires_ms bigint"),
        ]
        if self._fields:
            for number, name in enumerate(self._fields):
                columns.append(sql.SQL("is_set_{} boolean").format(sql.SQL(str(number))))
                columns.append(sql.SQL("field_{} {}").format(sql.SQL(str(number)), self._copied_type(name)))
        else:
            columns.append(sql.SQL("is_string boolean"))
            columns.append(sql.SQL("value {}").format(self._copied_type("value")))
            columns.append(sql.SQL("fields jsonb"))
            columns.append(sql.SQL("removed text[]"))
        return sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DELETE ROWS").format(
            self._batch, sql.SQL(", ").join(columns)
        )

    def _copied_type(self, column: str) -> sql.SQL:
        return sql.SQL(_BYTEA if self._types.get(column) == _BYTEA else "text")

    def _statements(self) -> Iterator[Parts]:
        """Apply the batch to the table, by the `RowEffect` of each row. Columns of others stay as they are."""
        assigned = self._assigned()
        by_key = sql.SQL(" USING {batch} b WHERE t.key = b.key AND b.op IN ('d', 'r')").format(batch=self._batch)
        yield sql.SQL("DELETE FROM {} t").format(self._name) + by_key
        if assigned:
            yield sql.SQL("UPDATE {} t SET {} FROM {} b WHERE t.key = b.key AND b.op IN ('m', 'u')").format(
                self._name,
                sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(it), old) for it, old, _ in assigned),
                self._batch,
            )
        yield sql.SQL(
            "INSERT INTO {} ({}) SELECT {} FROM {} b WHERE b.op IN ('m', 'r') AND "
            "NOT EXISTS (SELECT 1 FROM {} t WHERE t.key = b.key)"
        ).format(
            self._name,
            sql.SQL(", ").join([sql.Identifier("key"), *(sql.Identifier(it) for it, _, _ in assigned)]),
            sql.SQL(", ").join([sql.SQL("b.key"), *(new for _, _, new in assigned)]),
            self._batch,
            self._name,
        )

    def _assigned(self) -> list[tuple[str, sql.Composable, sql.Composable]]:
        """Each column, with its value in an existing row, and in a new one."""
        columns: list[tuple[str, sql.Composable, sql.Composable]] = []
        for number, name in enumerate(self._fields):
            new = sql.SQL("CAST(b.field_{} AS {})").format(sql.SQL(str(number)), sql.SQL(self._types[name]))
            old = sql.SQL("CASE WHEN b.is_set_{} THEN {} ELSE t.{} END").format(
                sql.SQL(str(number)), new, sql.Identifier(name)
            )
            columns.append((name, old, new))
        if not self._fields and "value" in self._types:
            kept = sql.SQL("CASE WHEN b.op = 'u' THEN t.value ELSE b.value END")  # it may have become a string
            columns.append(("value", kept, sql.SQL("b.value")))
        if not self._fields and "fields" in self._types:
            merged = sql.SQL(
                "CASE WHEN b.op = 'u' THEN t.fields - b.removed "
                "WHEN NOT b.is_string THEN (coalesce(t.fields, '{}') - b.removed) || b.fields END"
            )
            columns.append(("fields", merged, sql.SQL("b.fields")))
        if "expires_at" in self._types:
            moment = sql.SQL("to_timestamp(b.expires_ms / 1000.0)")
            columns.append(
                ("expires_at", sql.SQL("CASE WHEN b.has_header THEN {} ELSE t.expires_at END").format(moment), moment)
            )
        return columns

    def _with_columns(self, rows: dict[bytes, RowState]) -> Iterator[Sequence[object]]:
        key_of = _encoder(self._types["key"])
        columns = [(name, _encoder(self._types[it])) for name, it in zip(self._names, self._fields, strict=True)]
        for key, state in rows.items():
            row: list[object] = [key_of(key), state.effect.value, state.has_header, _expiry(state)]
            fields = state.fields
            for name, encode in columns:
                value = fields.get(name)
                row += (name in fields, None if value is None else encode(value))
            yield row

    def _mixed(self, rows: dict[bytes, RowState]) -> Iterator[Sequence[object]]:
        key_of = _encoder(self._types["key"])
        value_of = _encoder(self._types.get("value", "text"))
        for key, state in rows.items():
            kept, removed = None, None
            if not state.is_string:
                kept = json.dumps(
                    {
                        to_column_text(it): to_column_text(value)
                        for it, value in state.fields.items()
                        if value is not None
                    },
                    ensure_ascii=False,
                )
                removed = [to_column_text(it) for it, value in state.fields.items() if value is None]
            value = None if state.value is None else value_of(state.value)
            yield (
                key_of(key),
                state.effect.value,
                state.has_header,
                _expiry(state),
                state.is_string,
                value,
                kept,
                removed,
            )


def _is_one_of(type: str, expected: str) -> bool:
    return type in expected.split(" or ") or (type.startswith("character varying") and "text" in expected)


def _encoder(type: str) -> Any:
    return _as_it_is if type == _BYTEA else to_column_text


def _as_it_is(data: bytes) -> bytes:
    return data


def _expiry(state: RowState) -> int | None:
    return None if state.expires_at_ms is None else min(state.expires_at_ms, _MAX_EXPIRY_MS)
