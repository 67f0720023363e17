"""A database for each test of a sink, and what is in it. It needs the fixture `postgres`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.stream.change import Change
from replicator.stream.sinks.postgres import PostgresSink
from replicator.stream.sinks.settings import SinkSettings, Target, parse_maps
from tests.sink_fixture import position


def from_column_text(text: str) -> bytes:
    return bytes.fromhex(text[2:]) if text.startswith("\\x") else text.encode()


@dataclass(frozen=True)
class Database:
    server: str  # a DSN with a password
    name: str

    @property
    def dsn(self) -> str:
        """Without the password: it is in PGPASSWORD."""
        return make_conninfo("", **{**conninfo_to_dict(self.server), "password": None, "dbname": self.name})

    @property
    def password(self) -> str:
        return str(conninfo_to_dict(self.server)["password"])

    def settings(self, maps: Sequence[str] = (), columns: Sequence[str] = (), name: str = "sink") -> SinkSettings:
        return SinkSettings(name, "shop", Target.parse(f"postgres:{self.dsn}"), parse_maps(maps, columns))

    def sink(self, maps: Sequence[str] = (), columns: Sequence[str] = (), name: str = "sink") -> PostgresSink:
        return PostgresSink(self.settings(maps, columns, name))

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, password=self.password, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def strings(self) -> dict[bytes, bytes]:
        rows = self.query("SELECT key, value FROM kv WHERE value IS NOT NULL")
        return {from_column_text(str(key)): from_column_text(str(value)) for key, value in rows}

    def copy(self, sink: PostgresSink, changes: Sequence[Change], batch: int = 1000) -> None:
        """The changes that the sink does not have yet."""
        opened = sink.open()
        done = opened.next_offsets[0] if opened else 0
        for at in range(done, len(changes), batch):
            part = changes[at : at + batch]
            sink.write(part, position(at + len(part)))
        sink.close()


@pytest.fixture
def db(postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    database = Database(postgres, f"t{uuid.uuid4().hex}")
    server = Database(postgres, "postgres")
    monkeypatch.setenv("PGPASSWORD", database.password)
    server.query(f"CREATE DATABASE {database.name} ENCODING 'UTF8' TEMPLATE template0")
    yield database
    server.query(f"DROP DATABASE {database.name} WITH (FORCE)")


def state_of(rows: list[tuple[object, ...]]) -> dict[bytes, object]:
    """Of rows (key, value, fields), as `Recorder.state`."""
    found: dict[bytes, object] = {}
    for key, value, fields in rows:
        assert (value is None) != (fields is None)
        if isinstance(fields, dict):
            content: object = {from_column_text(it): from_column_text(value) for it, value in fields.items()}
        else:
            content = from_column_text(str(value))
        found[from_column_text(str(key))] = content
    return found
