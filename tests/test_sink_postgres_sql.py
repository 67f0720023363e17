"""Rows of SQL tables in PostgreSQL, on a real server."""

from __future__ import annotations

import pytest

from replicator.errors import ConfigError
from replicator.stream.sinks.port import SinkFailed, SinkUnavailable
from replicator.stream.sinks.settings import parse_maps
from tests.sink_database import Database
from tests.sink_fixture import Recorder, position

USERS = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, score REAL, photo BLOB)"


def users() -> Recorder:
    recorder = Recorder()
    recorder.sql(USERS)
    recorder.sql("INSERT INTO users VALUES (1, 'Ada', 2.5, x'00ff'), (2, NULL, 9e999, NULL), (3, 'Bob', 0, NULL)")
    recorder.sql("UPDATE users SET name = 'Ada L.' WHERE id = 1")
    recorder.sql("DELETE FROM users WHERE id = 3")
    return recorder


@pytest.mark.parametrize("batch", [1, 2, 1000])
class TestRows:
    def test_a_table_that_does_not_exist_has_the_columns_in_one(self, db: Database, batch: int) -> None:
        db.copy(db.sink(), users().changes, batch)
        assert db.query("SELECT key, columns FROM users ORDER BY 1") == [
            ('{"id":1}', {"id": 1, "name": "Ada L.", "score": 2.5, "photo": "\\x00ff"}),
            ('{"id":2}', {"id": 2, "name": None, "score": "Infinity", "photo": None}),
        ]

    def test_a_table_with_the_columns(self, db: Database, batch: int) -> None:
        db.query("CREATE TABLE users (ID bigint PRIMARY KEY, name text, score float8, photo bytea, note text)")
        recorder = users()
        db.copy(db.sink(), recorder.changes, batch)
        db.query("UPDATE users SET note = 'mine'")
        recorder.sql("UPDATE users SET score = 7 WHERE id = 1")
        db.copy(db.sink(), recorder.changes, batch)
        assert db.query("SELECT * FROM users ORDER BY id") == [
            (1, "Ada L.", 7.0, b"\x00\xff", "mine"),
            (2, None, float("inf"), None, "mine"),
        ]

    def test_columns_that_postgresql_does_not_have(self, db: Database, batch: int) -> None:
        db.query("CREATE TABLE users (id int PRIMARY KEY, name varchar(20))")
        db.copy(db.sink(), users().changes, batch)
        assert db.query("SELECT * FROM users ORDER BY id") == [(1, "Ada L."), (2, None)]

    def test_a_key_that_changes_its_case(self, db: Database, batch: int) -> None:
        db.query("CREATE TABLE t (a text PRIMARY KEY, b int)")
        recorder = Recorder()
        recorder.sql("CREATE TABLE t (a TEXT PRIMARY KEY COLLATE NOCASE, b)", "INSERT INTO t VALUES ('x', 1)")
        recorder.sql("UPDATE t SET a = 'X'")
        db.copy(db.sink(), recorder.changes, batch)
        assert db.query("SELECT * FROM t") == [("X", 1)]
        recorder.sql("DELETE FROM t")
        db.copy(db.sink(), recorder.changes, batch)
        assert db.query("SELECT * FROM t") == []

    def test_a_key_of_several_columns_and_nothing_else(self, db: Database, batch: int) -> None:
        db.query("CREATE TABLE t (b bytea, a numeric, UNIQUE (a, b))")
        recorder = Recorder()
        recorder.sql("CREATE TABLE t (a REAL, b BLOB, PRIMARY KEY (a, b))")
        recorder.sql("INSERT INTO t VALUES (1, x'00'), (1.5, x'00'), (-2, x'01')")
        recorder.sql("DELETE FROM t WHERE a = -2", "INSERT INTO t VALUES (-2, x'01')")
        recorder.sql("DELETE FROM t WHERE a = 1")
        db.copy(db.sink(), recorder.changes, batch)
        assert db.query("SELECT a::float8, b FROM t ORDER BY 1") == [(-2.0, b"\x01"), (1.5, b"\x00")]

    def test_a_table_without_a_primary_key(self, db: Database, batch: int) -> None:
        db.query("CREATE TABLE t (rowid bigint PRIMARY KEY, a text)")
        recorder = Recorder()
        recorder.sql("CREATE TABLE t (a TEXT)", "INSERT INTO t VALUES ('x'), ('y')")
        recorder.sql("DELETE FROM t WHERE a = 'x'")
        db.copy(db.sink(), recorder.changes, batch)
        assert db.query("SELECT * FROM t") == [(2, "y")]

    def test_together_with_keys(self, db: Database, batch: int) -> None:
        recorder = users()
        recorder.run("SET {} 1", 'SET {"id":1} 2')
        db.copy(db.sink(), recorder.changes, batch)
        assert db.query("SELECT count(*) FROM users") == [(2,)]
        assert db.strings() == {b"{}": b"1", b'{"id":1}': b"2"}


class TestMaps:
    def test_a_sql_table_can_have_another_name(self, db: Database) -> None:
        db.query("CREATE SCHEMA shop")
        recorder = users()
        recorder.sql("CREATE TABLE other (a)", "INSERT INTO other VALUES (1)")
        recorder.run("SET a 1")
        db.copy(db.sink(["sql:USERS=shop.people"]), recorder.changes)
        assert db.query("SELECT count(*) FROM shop.people") == [(2,)]
        assert db.query("SELECT to_regclass('other')") == [(None,)]
        assert db.strings() == {b"a": b"1"}

    def test_names_with_quotes_and_dots(self, db: Database) -> None:
        recorder = Recorder()
        recorder.sql('CREATE TABLE "my ""t.x%s" (a)', 'INSERT INTO "my ""t.x%s" VALUES (1)')
        db.copy(db.sink(), recorder.changes)
        assert db.query('SELECT columns FROM "my ""t.x%s"') == [({"a": 1},)]

    @pytest.mark.parametrize("name", ["airports", "replicator_sinks"])
    def test_a_table_that_is_used(self, db: Database, name: str) -> None:
        recorder = Recorder()
        recorder.sql(f"CREATE TABLE {name} (a)", f"INSERT INTO {name} VALUES (1)")
        with pytest.raises(SinkFailed, match=f"table {name} is for other rows: .* --map sql:{name}="):
            db.copy(db.sink(["*=airports"]), recorder.changes)

    def test_two_kinds_of_rows_need_two_tables(self) -> None:
        for maps in (["sql:a=t", "sql:b=t"], ["sql:a=kv"], ["x*=t", "sql:a=t"]):
            with pytest.raises(ConfigError, match=r"invalid map 'sql:.=.*': table .* is for other rows already"):
                parse_maps(maps, [])


class TestExactlyOnce:
    def test_a_lost_connection_leaves_nothing_half_written(self, db: Database) -> None:
        recorder, sink = users(), db.sink()
        sink.open()
        db.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'replicator sink sink'"
        )
        with pytest.raises(SinkUnavailable):
            sink.write(recorder.changes, position(2))
        assert sink.open() is None
        sink.write(recorder.changes, position(2))
        assert sink.open() == position(2)
        sink.close()
        assert db.query("SELECT count(*) FROM users") == [(2,)]

    def test_rows_and_position_are_one_transaction(self, db: Database) -> None:
        db.query("CREATE TABLE users (id int PRIMARY KEY, name text CHECK (name <> 'Ada L.'))")
        recorder, sink = users(), db.sink()
        sink.open()
        sink.write(recorder.changes[:3], position(1))
        with pytest.raises(SinkFailed, match="violates check constraint"):
            sink.write(recorder.changes[3:], position(2))
        assert sink.open() == position(1)
        sink.close()
        assert db.query("SELECT count(*) FROM users") == [(3,)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name text", "has no column id, which is in the primary key of the SQL table"),
        ("id int, name text", "no unique or exclusion constraint"),
        ("id int PRIMARY KEY, name int", "invalid input syntax for type integer"),
    ],
)
def test_tables_that_do_not_fit(db: Database, table: str, message: str) -> None:
    db.query(f"CREATE TABLE users ({table})")
    sink = db.sink()
    with pytest.raises(SinkFailed, match=message):
        db.copy(sink, users().changes)
    sink.close()
