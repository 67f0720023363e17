"""The settings of a sink: its target, and how to write to it. None of them is secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from replicator.config import expanded
from replicator.errors import BadRequest, ConfigError
from replicator.patterns import glob
from replicator.store.rows import KEYSPACE_TABLE

_DSN_PASSWORD = re.compile(r"(?:^|[\s?&])(?:ssl)?password\s*=", re.IGNORECASE)


class TargetKind(StrEnum):
    JSONL = "jsonl"
    POSTGRES = "postgres"
    HTTP = "http"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Target:
    kind: TargetKind
    location: str  # a path, a DSN or a URL

    def __str__(self) -> str:
        return self.location if self.kind is TargetKind.HTTP else f"{self.kind}:{self.location}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises `ConfigError`."""
        scheme, colon, rest = text.partition(":")
        if not colon or not rest:
            raise ConfigError(f"invalid target {text!r}: {_TARGETS}")
        match scheme:
            case "jsonl" | "parquet":
                return cls(TargetKind(scheme), str(expanded("the target", rest).absolute()))
            case "postgres" | "postgresql":
                return cls(TargetKind.POSTGRES, _checked_dsn(f"postgresql:{rest}" if rest.startswith("//") else rest))
            case "http" | "https":
                return cls(TargetKind.HTTP, _checked_url(text))
            case _:
                raise ConfigError(f"unknown target {scheme}: {_TARGETS}")


_TARGETS = "expected jsonl:PATH, parquet:DIR, postgres:DSN, http://… or https://…"


_SQL = "sql:"


@dataclass(frozen=True, slots=True)
class TableMap:
    """The keys that match the pattern, or the rows of a SQL table, are rows of the table."""

    pattern: str  # or `sql:` and the name of the SQL table
    table: str  # with or without a schema
    columns: tuple[str, ...] = ()  # for these fields of a hash; without: value and fields

    def __str__(self) -> str:
        """As on the command line."""
        columns = f" --columns {self.table}={','.join(self.columns)}" if self.columns else ""
        return f"--map {self.pattern}={self.table}{columns}"

    @property
    def sql_table(self) -> str | None:
        """The name in lower case; None: it is of keys."""
        return self.pattern.removeprefix(_SQL).lower() if self.pattern.startswith(_SQL) else None

    def matches(self, row: bytes) -> bool:
        return _compiled(self.pattern).fullmatch(row) is not None


@lru_cache
def _compiled(pattern: str) -> re.Pattern[bytes]:
    """Raises `BadRequest`."""
    return glob(pattern.encode(errors="surrogateescape"))


DEFAULT_MAPS = (TableMap("*", KEYSPACE_TABLE),)


def parse_maps(maps: Sequence[str], columns: Sequence[str]) -> tuple[TableMap, ...]:
    """`maps`: each PATTERN=TABLE, or sql:TABLE=TABLE. `columns`: each TABLE=FIELD,…, or FIELD,… if there is one table.

    Raises `ConfigError`.
    """
    pairs = []
    for text in maps:
        pattern, equals, table = text.rpartition("=")
        if not (equals and pattern and table):
            raise ConfigError(f"invalid map {text!r}: expected PATTERN=TABLE, such as 'airport:*=airports'")
        try:
            _compiled(pattern)
        except BadRequest as error:
            raise ConfigError(f"invalid map {text!r}: {error}") from None
        pairs.append((pattern, table))
    of_sql = [(pattern, table) for pattern, table in pairs if pattern.startswith(_SQL)]
    pairs = [it for it in pairs if it not in of_sql] or [(it.pattern, it.table) for it in DEFAULT_MAPS]
    tables = {table for _, table in pairs}
    _check_sql(of_sql, tables)
    fields: dict[str, tuple[str, ...]] = {}
    for text in columns:
        table, equals, names = text.rpartition("=")
        if not equals and len(tables) == 1:
            [table] = tables
        if table not in tables:
            raise ConfigError(
                f"invalid columns {text!r}: expected TABLE=FIELD,… with one of the tables {', '.join(sorted(tables))}"
            )
        fields[table] = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
        if reserved := [name for name in fields[table] if name in ("", "key", "expires_at")]:
            raise ConfigError(f"invalid columns {text!r}: {reserved[0]!r} cannot be the column of a field")
    return tuple(TableMap(pattern, table, fields.get(table, ())) for pattern, table in pairs + of_sql)


def _check_sql(pairs: Sequence[tuple[str, str]], tables: Set[str]) -> None:
    """The rows of a SQL table need a table of their own. `tables`: of keys. Raises `ConfigError`."""
    used = {*tables}
    for pattern, table in pairs:
        if table in used:
            raise ConfigError(f"invalid map '{pattern}={table}': table {table} is for other rows already")
        used.add(table)


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """They are stored. All but `dead_letters` may not change while a sink has a checkpoint."""

    name: str
    cluster: str
    target: Target
    maps: tuple[TableMap, ...] = field(default=DEFAULT_MAPS)
    dead_letters: str | None = None  # the path of a file

    def __post_init__(self) -> None:
        """Raises `ConfigError`."""
        if self.target.kind is not TargetKind.POSTGRES and self.maps != DEFAULT_MAPS:
            raise ConfigError("tables and columns are for PostgreSQL: leave out --map and --columns")
        if self.target.kind is not TargetKind.HTTP and self.dead_letters:
            raise ConfigError("only targets on HTTP have dead letters: leave out --dead-letters")

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "target": str(self.target)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> SinkSettings:
        """Raises `ConfigError`, `KeyError` or `TypeError`."""
        maps = tuple(TableMap(it["pattern"], it["table"], tuple(it["columns"])) for it in fields["maps"])
        target = Target.parse(fields["target"])
        return cls(fields["name"], fields["cluster"], target, maps, fields["dead_letters"])


@dataclass(frozen=True, slots=True)
class FileLimits:
    """A file of Parquet is complete when it is as large, or as old."""

    bytes: int = 128 << 20
    seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """Options of one run of a sink, which are not stored."""

    authorization: str = field(default="", repr=False)  # the header of HTTP
    files: FileLimits = FileLimits()


def _checked_dsn(dsn: str) -> str:
    try:
        is_secret = bool(_DSN_PASSWORD.search(dsn) or (dsn.startswith("postgresql:") and urlsplit(dsn).password))
    except ValueError as error:
        raise ConfigError(f"invalid address of PostgreSQL: {error}") from None
    if is_secret:
        raise ConfigError("the address of PostgreSQL has a password: leave it out, and set PGPASSWORD or use ~/.pgpass")
    return dsn


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"invalid URL {url!r}: {error}") from None
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"invalid URL {url!r}: write spaces and other characters as %XX")
    if not parts.hostname:
        raise ConfigError(f"invalid URL {url!r}: it has no host")
    if parts.username is not None:
        raise ConfigError("the URL has a login: leave it out, and set REPLICATOR_SINK_AUTHORIZATION")
    return url


def table_of(maps: Iterable[TableMap], row: bytes) -> TableMap | None:
    """The first one of keys that matches."""
    return next((it for it in maps if it.sql_table is None and it.matches(row)), None)


def sql_table_of(maps: Iterable[TableMap], sql_table: str) -> TableMap | None:
    """That of a SQL table; None: it is left out. Without any for SQL tables, each has a table of its own name."""
    of_sql = [it for it in maps if it.sql_table is not None]
    if not of_sql:
        return TableMap(_SQL + sql_table, sql_table)
    return next((it for it in of_sql if it.sql_table == sql_table.lower()), None)
