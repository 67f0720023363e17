"""Rows of PostgreSQL, in one transaction with the position: exactly once.

The table `replicator_sinks` has a row for each sink, with its position. A transaction changes it only if it is the
expected one, so two processes of one sink cannot both write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.errors import ConfigError
from replicator.stream.change import Change
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.port import SinkFailed, SinkUnavailable
from replicator.stream.sinks.postgres_sql import Cursor, PostgresSqlTable
from replicator.stream.sinks.postgres_table import Connection, PostgresTable, identifier
from replicator.stream.sinks.rows import SqlRowState, fold, fold_sql, of_keys
from replicator.stream.sinks.settings import SinkSettings, sql_table_of, table_of

_CHECKPOINT_TABLE = "replicator_sinks"
CHECKPOINTS = f"CREATE TABLE {_CHECKPOINT_TABLE} (sink text PRIMARY KEY, position text, updated_at timestamptz)"
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_REQUIRED = {"client_encoding": "UTF8"}
_REFUSED = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied", "not permitted")
"""Parts of the messages of a server that refuses a connection: libpq reports no SQLSTATE then."""


class PostgresSink:
    def __init__(self, settings: SinkSettings) -> None:
        """Raises `ConfigError`."""
        self._settings = settings
        self._name = f"{settings.cluster}/{settings.name}"
        try:
            given = conninfo_to_dict(settings.target.location)
        except psycopg.ProgrammingError as error:
            raise ConfigError(f"invalid address of PostgreSQL: {_text(error)}") from None
        self._dsn = make_conninfo(
            "", **{**_DEFAULTS, "application_name": f"replicator sink {settings.name}", **given, **_REQUIRED}
        )
        self._connection: Connection | None = None
        self._tables: dict[str, PostgresTable] = {}
        self._sql_tables: dict[str, PostgresSqlTable] = {}  # by SQL table, those that changes were written to
        self._position: StreamPosition | None = None

    def open(self) -> StreamPosition | None:
        self.close()
        connection = self._connection = self._connect()
        with self._translated(), connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('replicator_sinks'))")  # two may create tables
            if not _exists(connection):
                connection.execute(CHECKPOINTS)
            connection.execute("INSERT INTO replicator_sinks (sink) VALUES (%s) ON CONFLICT DO NOTHING", [self._name])
            self._position = self._stored(connection)
            maps = {it.table: it for it in self._settings.maps if it.sql_table is None}
            self._sql_tables = {}
            self._tables = {table: PostgresTable(map, at) for at, (table, map) in enumerate(maps.items())}
            for table in self._tables.values():
                table.prepare(connection)
        return self._position

    def write(self, changes: Sequence[Change], position: StreamPosition) -> None:
        connection = self._connection
        assert connection is not None
        rows = fold(of_keys(changes), self._table_of, {name: table.shape for name, table in self._tables.items()})
        with self._translated(), connection.transaction(), connection.cursor() as cursor:
            cursor.execute(
                "UPDATE replicator_sinks SET position = %s, updated_at = now() "
                "WHERE sink = %s AND position IS NOT DISTINCT FROM %s",
                [position.encode(), self._name, self._position and self._position.encode()],
            )
            if cursor.rowcount != 1:
                raise SinkFailed(
                    f"another process has written as sink {self._settings.name}, or its checkpoint was deleted: "
                    "nothing was written"
                )
            for name, table in self._tables.items():
                table.write(cursor, rows[name])
            for name, of_sql in fold_sql(changes).items():
                self._write_sql(cursor, name, of_sql)
        self._position = position

    def tick(self) -> None:
        pass

    def delete_checkpoint(self) -> None:
        self.close()
        connection = self._connection = self._connect()
        with self._translated(), connection.transaction():
            if _exists(connection):
                connection.execute("DELETE FROM replicator_sinks WHERE sink = %s", [self._name])
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _connect(self) -> Connection:
        try:
            return psycopg.connect(self._dsn, autocommit=True)
        except psycopg.OperationalError as error:
            text = _text(error)
            if any(part in text for part in _REFUSED):
                raise ConfigError(f"PostgreSQL refuses the connection: {text}") from None
            raise SinkUnavailable(f"PostgreSQL does not answer: {text}") from None

    def _stored(self, connection: Connection) -> StreamPosition | None:
        row = connection.execute("SELECT position FROM replicator_sinks WHERE sink = %s", [self._name]).fetchone()
        return None if row is None or row[0] is None else StreamPosition.decode(row[0])

    def _table_of(self, row: bytes) -> str | None:
        map = table_of(self._settings.maps, row)
        return None if map is None else map.table

    def _write_sql(self, cursor: Cursor, name: str, rows: Mapping[bytes, SqlRowState]) -> None:
        """The rows of a SQL table. Raises `SinkFailed`, `psycopg.Error`."""
        map = sql_table_of(self._settings.maps, name)
        if map is None:
            return
        table = self._sql_tables.get(name)
        if table is None:
            if map.table in self._tables or map.table == _CHECKPOINT_TABLE:
                raise SinkFailed(
                    f"table {map.table} is for other rows: choose another one for SQL table {name}, with "
                    f"--map sql:{name}=…, and name each other SQL table that is to be copied, too"
                )
            is_mapped = map in self._settings.maps
            table = PostgresSqlTable(map.table, identifier(map.table) if is_mapped else sql.Identifier(map.table))
            table.prepare(cursor)
            self._sql_tables[name] = table
        table.write(cursor, rows)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raises `SinkUnavailable`, `SinkFailed`, `ConfigError` instead of `psycopg.Error`."""
        try:
            yield
        except errors.InsufficientPrivilege as error:
            raise ConfigError(
                f"this user of PostgreSQL may not do this ({_text(error)}): it needs SELECT, INSERT, UPDATE and DELETE "
                "on the tables, and TEMPORARY on the database; without CREATE on the schema, create the tables first, "
                f"and {CHECKPOINTS}"
            ) from None
        except errors.ReadOnlySqlTransaction as error:
            raise SinkUnavailable(f"PostgreSQL is read-only, such as a standby: {_text(error)}") from None
        except (errors.UndefinedTable, errors.UndefinedColumn) as error:
            raise SinkFailed(
                f"a table was changed while the sink runs ({_text(error)}): restore it, or reset the sink"
            ) from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise SinkUnavailable(f"PostgreSQL does not answer: {_text(error)}") from None
        except psycopg.Error as error:
            raise SinkFailed(f"PostgreSQL refuses the changes: {_text(error)}") from None


def _exists(connection: Connection) -> bool:
    row = connection.execute("SELECT to_regclass('replicator_sinks')").fetchone()
    return row is not None and row[0] is not None


def _text(error: psycopg.Error) -> str:
    """In one line, without the statement."""
    return error.diag.message_primary or " ".join(str(error).split())
