"""The sink that writes rows of PostgreSQL, on a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import pytest

from replicator.errors import ConfigError
from replicator.local.ports import random_free_port
from replicator.stream.change import Change
from replicator.stream.sinks.port import SinkFailed, SinkUnavailable
from replicator.stream.sinks.postgres import PostgresSink
from replicator.stream.sinks.rows import to_column_text
from replicator.stream.sinks.settings import SinkSettings, Target
from tests.keyspace_fixture import NOW_MS
from tests.sink_contract import SinkContract, SinkTarget
from tests.sink_database import Database, from_column_text, state_of
from tests.sink_fixture import Recorder, change, position, random_history

FIELDS = ["name", "city", "iata"]


class TestContract(SinkContract):
    @pytest.fixture
    def target(self, db: Database) -> SinkTarget:
        return db


def reversed_in_transactions(changes: list[Change]) -> list[Change]:
    """Their order in a transaction does not matter, as each entry of the store changes once."""
    transactions = groupby(changes, lambda change: change.source.offset)
    return [change for _, found in transactions for change in reversed(list(found))]


class TestRows:
    @pytest.mark.parametrize("order", [list, reversed_in_transactions])
    @pytest.mark.parametrize("batch", [1, 2, 7, 1000])
    def test_the_rows_are_the_state_however_the_changes_are_divided(
        self, db: Database, batch: int, order: Callable[[list[Change]], list[Change]]
    ) -> None:
        history = random_history(batch, 150)
        db.copy(db.sink(), order(history.changes), batch)
        assert state_of(db.query("SELECT key, value, fields FROM kv")) == history.state()
        expiries = db.query(
            "SELECT key, (extract(epoch FROM expires_at) * 1000)::bigint FROM kv WHERE expires_at > '-infinity'"
        )
        assert {from_column_text(str(key)): ms for key, ms in expiries} == history.expiries()

    @pytest.mark.parametrize("batch", [1, 3, 1000])
    def test_fields_as_columns(self, db: Database, batch: int) -> None:
        history = random_history(5, 300)
        db.copy(db.sink(["hk*=hashes"], ["name,city,iata"]), history.changes, batch)
        rows = db.query("SELECT key, name, city, iata FROM hashes")
        found = {key: dict(zip(FIELDS, it, strict=True)) for key, *it in rows}
        hashes = {key: it for key, it in history.state().items() if isinstance(it, dict)}
        assert len(hashes) >= 3
        assert found == {
            key.decode(): {it: to_column_text(fields[it.encode()]) if it.encode() in fields else None for it in FIELDS}
            for key, fields in hashes.items()
        }

    def test_changes_after_a_snapshot(self, db: Database) -> None:
        history = random_history(3, 100)
        snapshot, before = history.backfill(), len(history.changes)
        history.run("SET k1 last", "HSET hnew name x", "DEL hk1")
        db.copy(db.sink(), snapshot + history.changes[before:])
        assert state_of(db.query("SELECT key, value, fields FROM kv")) == history.state()

    def test_rows_that_were_created_before_the_first_change(self, db: Database) -> None:
        recorder = Recorder()
        recorder.run("HSET h a 1 b 2")
        recorder.run("HSET h2 a 1 b 2")
        before = len(recorder.changes)
        recorder.run("HSET h b 3")
        recorder.run("HDEL h2 b")
        db.copy(db.sink(), recorder.changes[before:])
        assert db.query("SELECT key, fields FROM kv") == [("h", {"b": "3"})]

    @pytest.mark.parametrize("order", [list, reversed_in_transactions])
    @pytest.mark.parametrize("batch", [1, 2, 3, 4, 10])
    def test_a_string_becomes_a_hash_and_a_string_again(
        self, db: Database, batch: int, order: Callable[[list[Change]], list[Change]]
    ) -> None:
        recorder = Recorder()
        recorder.run("SET a x", "SET b x")
        recorder.run("PEXPIREAT a 1900000000000")
        recorder.run("DEL a", "HSET a f 1 g 2")
        recorder.run("DEL b", "HSET b f 1")
        recorder.run("SET b y")
        db.copy(db.sink(), order(recorder.changes), batch)
        assert db.query("SELECT key, value, fields, expires_at FROM kv ORDER BY 1") == [
            ("a", None, {"f": "1", "g": "2"}, None),
            ("b", "y", None, None),
        ]

    @pytest.mark.parametrize("batch", [1, 10])
    @pytest.mark.parametrize("columns", [(), ("f,g,h",)])
    def test_a_field_that_is_deleted(self, db: Database, batch: int, columns: Sequence[str]) -> None:
        recorder = Recorder()
        recorder.run("HSET a f 1 g 2 h 3")
        recorder.run("HDEL a g")
        db.copy(db.sink(columns=columns), recorder.changes, batch)
        shown = "f, g, h" if columns else "fields ->> 'f', fields ->> 'g', fields ->> 'h'"
        assert db.query(f"SELECT key, {shown} FROM kv") == [("a", "1", None, "3")]

    def test_tables_by_pattern(self, db: Database) -> None:
        recorder = Recorder()
        recorder.run("SET user:1 ada", "HSET airport:FRA city Frankfurt name x", "SET other 1")
        maps = ["user:*=users", "airport:*=ports.airports"]
        db.query("CREATE SCHEMA ports")
        db.copy(db.sink(maps, ["ports.airports=city"]), recorder.changes)
        assert db.query("SELECT key, value FROM users") == [("user:1", "ada")]
        assert db.query("SELECT * FROM ports.airports") == [("airport:FRA", "Frankfurt", None)]
        assert db.query("SELECT to_regclass('kv')") == [(None,)]

    def test_two_patterns_of_one_table(self, db: Database) -> None:
        recorder = Recorder()
        recorder.run("SET a:1 x", "SET b:1 y", "SET c:1 z")
        db.copy(db.sink(["a:*=t", "b:*=t"]), recorder.changes)
        assert db.query("SELECT key FROM t ORDER BY 1") == [("a:1",), ("b:1",)]

    def test_columns_of_other_types_and_of_others(self, db: Database) -> None:
        db.query("CREATE TABLE t (key text PRIMARY KEY, lat float8, n int, raw bytea, note text DEFAULT 'new')")
        recorder = Recorder()
        recorder.run([b"HSET", b"p", b"lat", b"50.03", b"n", b"7", b"raw", b"\xff\0"])
        db.copy(db.sink(["*=t"], ["lat,n,raw"]), recorder.changes)
        db.query("UPDATE t SET note = 'mine'")
        recorder.run("HSET p n 8", "HDEL p lat")
        db.copy(db.sink(["*=t"], ["lat,n,raw"]), recorder.changes)
        assert db.query("SELECT key, lat, n, raw, note FROM t") == [("p", None, 8, b"\xff\0", "mine")]

    def test_a_table_for_strings_only(self, db: Database) -> None:
        db.query("CREATE TABLE kv (key bytea PRIMARY KEY, value bytea)")
        recorder = Recorder()
        recorder.run([b"SET", b"\xff", b"\xfe"], b"SET a 1".split(), b"SET b 1".split())
        recorder.run("DEL b", "HSET b f 1", "HSET c f 1")
        db.copy(db.sink(), recorder.changes)
        assert db.query("SELECT key, value FROM kv ORDER BY 1") == [(b"a", b"1"), (b"\xff", b"\xfe")]

    def test_a_table_for_hashes_only(self, db: Database) -> None:
        db.query("CREATE TABLE kv (key text PRIMARY KEY, fields jsonb)")
        recorder = Recorder()
        recorder.run("HSET a f 1", "SET b 1", "HSET c f 1")
        recorder.run("DEL c", "SET c 1")
        db.copy(db.sink(), recorder.changes)
        assert db.query("SELECT * FROM kv") == [("a", {"f": "1"})]

    def test_an_expiry_beyond_the_calendar(self, db: Database) -> None:
        recorder = Recorder()
        recorder.run("SET a 1", f"PEXPIREAT a {NOW_MS * 10**5}")
        db.copy(db.sink(), recorder.changes)
        assert db.query("SELECT expires_at::date::text FROM kv") == [("9999-12-31",)]

    def test_names_with_quotes(self, db: Database) -> None:
        recorder = Recorder()
        recorder.run([b"HSET", b"a", b'x"y', b"1", b"a%s", b"2"])
        db.copy(db.sink(['*=my "table"'], ['x"y,a%s']), recorder.changes)
        assert db.query('SELECT * FROM "my ""table"""') == [("a", "1", "2", None)]


class TestExactlyOnce:
    def test_rows_and_position_are_one_transaction(self, db: Database) -> None:
        db.query("CREATE TABLE kv (key text PRIMARY KEY, value text CHECK (value <> 'bad'))")
        recorder = Recorder()
        recorder.run("SET a 1", "SET b bad")
        sink = db.sink()
        sink.open()
        sink.write(recorder.changes[:1], position(1))
        with pytest.raises(SinkFailed, match=r"PostgreSQL refuses the changes: .*violates check constraint"):
            sink.write([change(b"c", b"1"), *recorder.changes[1:]], position(2))
        assert sink.open() == position(1)
        sink.close()
        assert db.strings() == {b"a": b"1"}

    def test_a_second_process_of_the_sink_cannot_write(self, db: Database) -> None:
        recorder = Recorder()
        recorder.run("SET a 1")
        recorder.run("SET a 2")
        first, second = db.sink(), db.sink()
        assert first.open() is second.open() is None
        first.write(recorder.changes[1:], position(2))
        with pytest.raises(SinkFailed, match="another process has written as sink sink"):
            second.write(recorder.changes[:1], position(1))
        first.close()
        second.close()
        assert db.strings() == {b"a": b"2"}

    def test_sinks_have_checkpoints_of_their_own(self, db: Database) -> None:
        for number, name in enumerate(("one", "two"), 1):
            sink = db.sink(name=name)
            assert sink.open() is None
            sink.write([], position(number))
            sink.close()
        db.sink(name="one").delete_checkpoint()
        assert db.query("SELECT sink FROM replicator_sinks") == [("shop/two",)]

    def test_a_lost_connection_leaves_nothing_half_written(self, db: Database) -> None:
        recorder = Recorder()
        recorder.run("SET a 1", "SET b 1")
        sink = db.sink()
        sink.open()
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'replicator sink sink'"
        assert db.query(kill) == [(True,)]
        with pytest.raises(SinkUnavailable, match="PostgreSQL does not answer"):
            sink.write(recorder.changes, position(2))
        assert sink.open() is None
        sink.write(recorder.changes, position(2))
        sink.close()
        assert db.strings() == {b"a": b"1", b"b": b"1"}


class TestBadInput:
    def test_a_server_that_is_away(self) -> None:
        settings = SinkSettings(
            "sink", "shop", Target.parse(f"postgres:host=127.0.0.1 port={random_free_port()} dbname=a")
        )
        with pytest.raises(SinkUnavailable, match=r"PostgreSQL does not answer: .*Connection refused"):
            PostgresSink(settings).open()

    def test_a_server_that_refuses(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        missing = replace(db, name="missing")
        with pytest.raises(ConfigError, match='database "missing" does not exist'):
            missing.sink().open()
        monkeypatch.setenv("PGPASSWORD", "wrong")
        with pytest.raises(ConfigError, match="password authentication failed"):
            db.sink().open()
        monkeypatch.delenv("PGPASSWORD")
        with pytest.raises(ConfigError, match="no password supplied"):
            db.sink().open()

    @pytest.mark.parametrize(
        ("table", "columns", "message"),
        [
            ("key text PRIMARY KEY, city text", ["name"], "has no column name: add it"),
            ("id text PRIMARY KEY, value text", [], "has no column key: add it"),
            ("key text PRIMARY KEY, x text", [], "has no column value or fields"),
            ("key text, value text", [], r"not unique: ALTER TABLE kv ADD PRIMARY KEY \(key\)"),
            ("key int PRIMARY KEY, value text", [], "column key of table kv is integer, expected text or bytea"),
            ("key text PRIMARY KEY, fields text", [], "column fields of table kv is text, expected jsonb"),
            ("key text PRIMARY KEY, value text, expires_at date", [], "column expires_at of table kv is date"),
        ],
    )
    def test_tables_that_do_not_fit(self, db: Database, table: str, columns: list[str], message: str) -> None:
        db.query(f"CREATE TABLE kv ({table})")
        with pytest.raises(ConfigError, match=message):
            db.sink(columns=columns).open()

    def test_values_that_do_not_fit(self, db: Database) -> None:
        db.query("CREATE TABLE kv (key text PRIMARY KEY, n int)")
        recorder = Recorder()
        recorder.run("HSET a n many")
        with pytest.raises(SinkFailed, match='invalid input syntax for type integer: "many"'):
            db.copy(db.sink(columns=["n"]), recorder.changes)

    def test_a_table_that_is_dropped_while_it_runs(self, db: Database) -> None:
        sink = db.sink()
        sink.open()
        db.query("DROP TABLE kv")
        with pytest.raises(SinkFailed, match="a table was changed while the sink runs"):
            sink.write([change(b"a", b"1")], position(1))
        sink.close()

    def test_a_checkpoint_that_is_deleted_while_it_runs(self, db: Database) -> None:
        sink = db.sink()
        sink.open()
        db.query("DELETE FROM replicator_sinks")
        with pytest.raises(SinkFailed, match="its checkpoint was deleted"):
            sink.write([change(b"a", b"1")], position(1))
        sink.close()

    def test_a_user_without_permissions(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        db.query("CREATE ROLE reader LOGIN PASSWORD 'x'")
        try:
            monkeypatch.setenv("PGPASSWORD", "x")
            dsn = db.dsn.replace("user=bench", "user=reader")
            settings = replace(db.settings(), target=Target.parse(f"postgres:{dsn}"))
            with pytest.raises(ConfigError, match=r"permission denied.*CREATE TABLE replicator_sinks"):
                PostgresSink(settings).open()
        finally:
            monkeypatch.setenv("PGPASSWORD", db.password)
            db.query("DROP ROLE reader")

    def test_a_standby_is_asked_again(self, db: Database) -> None:
        sink = db.sink()
        sink.open()
        db.query(f"ALTER DATABASE {db.name} SET default_transaction_read_only = on")
        with pytest.raises(SinkUnavailable, match="PostgreSQL is read-only"):
            db.sink(name="other").open()
        sink.close()

    def test_an_address_that_psycopg_does_not_understand(self) -> None:
        settings = SinkSettings("sink", "shop", Target.parse("postgres:host=a nonsense"))
        with pytest.raises(ConfigError, match="invalid address of PostgreSQL"):
            PostgresSink(settings)


def test_text_in_columns_means_one_sequence_of_bytes() -> None:
    values = [b"", b"a", b"\\x", b"\\x61", b"\\X", b"\xff", b"\0", "é".encode(), b"a\\x61"]
    texts = [to_column_text(it) for it in values]
    assert [from_column_text(it) for it in texts] == values
    assert to_column_text(b"a") == "a" and to_column_text(b"\0") == "\\x00"
    assert len(set(texts)) == len(values) and not any("\0" in it for it in texts)


def test_the_checkpoint_is_readable(db: Database) -> None:
    sink = db.sink()
    sink.open()
    sink.write([], position(4))
    sink.close()
    [(name, text)] = db.query("SELECT sink, position FROM replicator_sinks")
    assert name == "shop/sink" and json.loads(str(text)) == {"topic_id": "t1", "next_offsets": [4]}
