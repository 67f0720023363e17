"""The dialect of SQLAlchemy: that of SQLite, by `replicator.client.dbapi`. Its URLs begin with `replicator://`."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from sqlalchemy import exc
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import URL

from replicator.address import Address
from replicator.client import dbapi
from replicator.client.dbapi.settings import Isolation, parse_options
from replicator.errors import ConfigError

_AUTOCOMMIT = "AUTOCOMMIT"


class ReplicatorDialect(SQLiteDialect):
    driver = "replicator"
    supports_statement_cache = True
    returns_native_bytes = True
    insertmanyvalues_max_parameters = 1_000  # in one statement: SQLite looks for each of them in a list of all

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        return dbapi

    def create_connect_args(self, url: URL) -> tuple[Sequence[str], dict[str, Any]]:
        """`replicator://:PASSWORD@HOST:PORT/?host=HOST:PORT&level=session`. Raises `ArgumentError`."""
        if url.username or url.database or bool(url.host) != bool(url.port):
            raise exc.ArgumentError("invalid URL: expected replicator://:PASSWORD@HOST:PORT/?NAME=VALUE")
        nodes = [str(Address(url.host, url.port))] if url.host and url.port else []
        options = [(name, value) for name, values in url.normalized_query.items() for value in values]
        try:
            return (), parse_options(nodes, url.password or "", options)
        except ConfigError as error:
            raise exc.ArgumentError(str(error)) from None

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """Never, unless it was closed: a connection finds another node, and another leader, by itself."""
        return isinstance(e, dbapi.InterfaceError)

    def do_commit(self, dbapi_connection: Any) -> None:
        """After a failure, SQLAlchemy takes its transaction for ended, and rolls nothing back."""
        try:
            dbapi_connection.commit()
        except dbapi.Error:
            dbapi_connection.rollback()
            raise

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Leaves no transaction open, which a serializable connection begins with any statement."""
        try:
            return super().do_ping(dbapi_connection)
        finally:
            dbapi_connection.rollback()

    def get_isolation_level_values(self, dbapi_connection: Any) -> list[Any]:
        return [*(it.upper() for it in Isolation), _AUTOCOMMIT]

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        return _AUTOCOMMIT if dbapi_connection.autocommit else dbapi_connection.isolation.upper()

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        dbapi_connection.autocommit = level == _AUTOCOMMIT
        if level != _AUTOCOMMIT:
            dbapi_connection.isolation = level

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        return bool(dbapi_conn.autocommit)

    def get_schema_names(self, connection: Any, **options: Any) -> list[str]:
        return ["main"]

    def get_temp_table_names(self, connection: Any, *schema: Any, **options: Any) -> list[str]:
        """Nodes have no temporary tables; so the SQL of a table is in one place, too."""
        return []

    def get_temp_view_names(self, connection: Any, *schema: Any, **options: Any) -> list[str]:
        return []

    def get_view_definition(self, connection: Any, view_name: str, schema: str | None = None, **options: Any) -> Any:
        """Raises `NoSuchTableError`."""
        return self._get_table_sql(connection, view_name, schema)

    def _get_table_sql(self, connection: Any, table_name: str, schema: str | None = None, **options: Any) -> Any:
        """Raises `NoSuchTableError`."""
        query = "SELECT sql FROM sqlite_schema WHERE name = ? AND type IN ('table', 'view')"
        sql = connection.exec_driver_sql(query, (table_name,)).scalar()
        if sql is None and not table_name.startswith("sqlite_"):
            raise exc.NoSuchTableError(table_name)
        return sql

    def _get_server_version_info(self, connection: Any) -> tuple[int, ...]:
        version = connection.exec_driver_sql("SELECT sqlite_version()").scalar()
        return tuple(map(int, version.split(".")))

    def _get_table_pragma(self, connection: Any, pragma: str, table_name: str, schema: str | None = None) -> Any:
        name = self.identifier_preparer.quote_identifier(table_name)
        return connection.exec_driver_sql(f"PRAGMA {pragma}({name})").fetchall()
