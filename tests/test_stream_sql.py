"""Rows of SQL tables in the change stream."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.log.port import Entry
from replicator.protocol.log_state import LogState
from replicator.records.types import Change as Stored
from replicator.records.types import Group, Write
from replicator.sql import key_order
from replicator.sql.errors import ConstraintFailed, SqlError
from replicator.store.keys import decode_key
from replicator.store.rows import Image
from replicator.stream.change import Change, Op, TransactionBlock
from replicator.stream.envelope import StreamFormat
from replicator.stream.publication import Publication, StreamMessage
from replicator.stream.settings import Progress, StreamSettings, changed_tables, decode_tables
from replicator.stream.sql_rows import NO_TABLES, TableColumns, Tables, json_value, key_values, tables_in
from tests.keyspace_fixture import writes
from tests.sql_fixture import MemoryDatabase
from tests.stream_fixture import MadeUpLog
from tests.test_sql_differential import NAMES, TABLES, Draw

SETTINGS = StreamSettings("changes", "log", StreamFormat.JSON)
FORMAT = SETTINGS.envelope_format()


class SqlLog:
    """A log with the changes of SQL statements."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.log = MadeUpLog()
        self.entries: list[Entry] = [self.log.claim()]

    def run(self, *statements: str) -> None:
        """Each is a transaction."""
        for statement in statements:
            self.database.run(statement)
            self.entries.append(self.log.append(Write(tuple(self.database.changes))))


def publish(
    entries: Sequence[Entry], settings: StreamSettings = SETTINGS, tables: Tables = NO_TABLES
) -> tuple[list[StreamMessage], Tables]:
    found = Publication("shop", settings).read(LogState(), tables, entries, 0, 10**9)
    return [*found.messages], found.tables


def changes_in(messages: Sequence[StreamMessage], settings: StreamSettings = SETTINGS) -> list[Change]:
    form = settings.envelope_format()
    return [form.decode(it.value) for it in messages if it.value is not None]


def published(*statements: str) -> list[Change]:
    log = SqlLog()
    log.run(*statements)
    return changes_in(publish(log.entries)[0])


def row(**columns: Any) -> Image:
    return Image("row", None, None, columns)


USERS = "CREATE TABLE Users (id INTEGER PRIMARY KEY, name TEXT, score REAL, photo BLOB)"
ADA = row(id=1, name="Ada", score=2.0, photo=b"\x00\xff")


class TestChanges:
    def test_a_row_is_created_changed_and_deleted(self) -> None:
        found = published(
            USERS,
            "CREATE INDEX by_name ON users (name)",
            "INSERT INTO users VALUES (1, 'Ada', 2, x'00ff')",
            "UPDATE users SET name = NULL",
            "DELETE FROM users",
        )
        changed = row(id=1, name=None, score=2.0, photo=b"\x00\xff")
        assert [(it.op, it.table, it.row, it.field, it.before, it.after) for it in found] == [
            (Op.CREATE, "Users", b'{"id":1}', None, None, ADA),
            (Op.UPDATE, "Users", b'{"id":1}', None, ADA, changed),
            (Op.DELETE, "Users", b'{"id":1}', None, changed, None),
        ]
        assert {it.transaction for it in found} == {TransactionBlock(1, 1, 1)}

    @pytest.mark.parametrize(
        ("table", "values", "key"),
        [
            ("a TEXT, b INT, PRIMARY KEY (b, a)", "'x', 7", {"b": 7, "a": "x"}),
            ("a TEXT PRIMARY KEY COLLATE NOCASE", "'Köln'", {"a": "köln"}),
            ("a PRIMARY KEY", "1.5", {"a": 1.5}),
            ("a BLOB PRIMARY KEY", "x'00ff'", {"a": b"\x00\xff"}),
            ("a TEXT", "'x'", {"rowid": 1}),
            ("RowId TEXT", "'x'", {"_rowid_": 1}),
            ("rowid, _rowid_, OID, rowid1", "5, 6, 7, 8", {"rowid2": 1}),
            ("a INTEGER PRIMARY KEY AUTOINCREMENT", "5", {"a": 5}),
            ("a TEXT PRIMARY KEY, b", "'\"', 1", {"a": '"'}),
        ],
    )
    def test_the_key_has_the_columns_of_the_primary_key(self, table: str, values: str, key: dict[str, object]) -> None:
        [change] = published(f"CREATE TABLE t ({table})", f"INSERT INTO t VALUES ({values})")
        assert key_values(change.row) == key
        assert list(key_values(change.row)) == list(key)

    def test_dropping_a_table_deletes_its_rows(self) -> None:
        found = published(USERS, "INSERT INTO users (id) VALUES (1), (2)", "DROP TABLE users")
        assert [(it.op, it.row) for it in found[2:]] == [(Op.DELETE, b'{"id":1}'), (Op.DELETE, b'{"id":2}')]
        assert [it.transaction for it in found[2:]] == [TransactionBlock(1, 2, 1), TransactionBlock(2, 2, 2)]

    def test_a_table_named_as_that_of_the_keys(self) -> None:
        [change] = published("CREATE TABLE kv (a INTEGER PRIMARY KEY)", "INSERT INTO kv VALUES (1)")
        assert change.table == "sql.kv"

    def test_a_transaction_that_replaces_a_table(self) -> None:
        log = SqlLog()
        log.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", "INSERT INTO t VALUES (1, 2)")
        before = {**log.database.entries.values}
        log.run("DROP TABLE t", "CREATE TABLE t (x INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)")
        merged: list[Stored] = []
        _, tables = publish(log.entries[:3])
        for key in sorted(before.keys() | log.database.entries.values.keys()):
            old, new = before.get(key), log.database.entries.values.get(key)
            if old != new:
                merged.append(Stored(*decode_key(key), old, new))
        again = MadeUpLog()
        entries = [again.claim(), again.append(Write(tuple(reversed(merged))))]
        [change] = changes_in(publish(entries, tables=tables)[0])
        assert (change.op, change.row, change.before, change.after) == (
            Op.UPDATE, b'{"x":1}', row(a=1, b=2), row(x=1)
        )  # fmt: skip

    def test_keys_and_rows_in_one_transaction(self) -> None:
        log = SqlLog()
        log.run(USERS)
        log.database.run("INSERT INTO users (id) VALUES (1)")
        keys = writes("SET a 1")[-1].changes
        log.entries.append(log.log.append(Group((Write((*log.database.changes, *keys)), Write(keys)))))
        found = changes_in(publish(log.entries)[0])
        assert [(it.table, it.source.place, it.transaction) for it in found] == [
            ("Users", 0, TransactionBlock(1, 2, 1)),
            ("kv", 1, TransactionBlock(2, 2, 1)),
            ("kv", 2, TransactionBlock(1, 1, 1)),
        ]

    def test_an_unknown_table_is_an_error(self) -> None:
        log = SqlLog()
        log.run(USERS, "INSERT INTO users (id) VALUES (1)")
        log.entries[1] = log.entries[1]._replace(payload=b"of another program")
        again = MadeUpLog()
        entries = [again.claim(), again.append(Write(tuple(log.database.changes)))]
        with pytest.raises(ConfigError, match="does not know the columns of SQL table users"):
            publish(entries)


class TestMessages:
    def test_the_key_and_the_envelope_are_readable(self) -> None:
        log = SqlLog()
        log.run(USERS, "INSERT INTO users VALUES (1, 'Ada', 9e999, x'00ff')", "DELETE FROM users")
        messages, _ = publish(log.entries)
        assert [it.key for it in messages] == 3 * [b'{"table":"Users","row":"{\\"id\\":1}","row_base64":false}']
        assert messages[2].value is None
        assert messages[0].value is not None
        fields = json.loads(messages[0].value)
        assert fields["source"]["table"] == "Users"
        assert fields["after"]["columns"] == {"id": 1, "name": "Ada", "score": float("inf"), "photo": "AP8="}
        assert fields["after"]["columns_base64"] == ["photo"]

    def test_avro_has_the_same_changes(self) -> None:
        log = SqlLog()
        log.run(
            USERS, "INSERT INTO users VALUES (1, 'Ada', -9e999, x'00ff'), (-2, NULL, 0.1, NULL)", "DELETE FROM users"
        )
        avro = replace(SETTINGS, format=StreamFormat.AVRO)
        assert changes_in(publish(log.entries, avro)[0], avro) == changes_in(publish(log.entries)[0])


class TestTables:
    def test_a_publisher_goes_on_with_the_tables_that_are_stored(self) -> None:
        log = SqlLog()
        log.run(USERS, "INSERT INTO users (id) VALUES (1)", "CREATE TABLE t (a)", "DROP TABLE users")
        log.run("INSERT INTO t VALUES (1)")
        whole, _ = publish(log.entries)
        stored: dict[bytes, bytes] = {}
        before, messages, tables, state = NO_TABLES, list[StreamMessage](), NO_TABLES, LogState()
        for entry in log.entries:
            found = Publication("shop", SETTINGS).read(state, tables, [entry], 0, 10**9)
            messages += found.messages
            stored.update((key, value or b"") for key, value in changed_tables(before, found.tables))
            before = tables = Progress.decode(Progress(found.state).encode(), decode_tables(stored)).tables
            assert tables == found.tables
            state = found.state
        assert messages == whole
        assert [*tables] == ["sql.t"]

    def test_what_has_not_changed_is_not_stored_again(self) -> None:
        before = {"sql.a": TableColumns("a", ("x",), ("x",)), "sql.b": TableColumns("b", ("x",), ("x",))}
        after = {"sql.a": before["sql.a"], "sql.c": before["sql.b"]}
        assert [key for key, _ in changed_tables(before, after)] == [b"table:sql.b", b"table:sql.c"]
        assert [*changed_tables(after, after)] == []

    def test_a_stream_can_begin_with_the_tables_of_a_store(self) -> None:
        log = SqlLog()
        log.run(USERS, "CREATE INDEX i ON users (name)", "CREATE VIEW v AS SELECT 1", "CREATE TABLE t (a)")
        assert tables_in(log.database.entries) == publish(log.entries)[1]
        assert {*tables_in(log.database.entries)} == {"sql.users", "sql.t"}

    def test_the_content_of_a_snapshot(self) -> None:
        log = SqlLog()
        log.run(USERS, "CREATE INDEX i ON users (name)", "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT)")
        log.run("INSERT INTO users VALUES (1, 'Ada', 2, x'00ff')", "INSERT INTO t VALUES (3)")
        entries = sorted(log.database.entries.values.items())
        tables, messages, count = NO_TABLES, list[StreamMessage](), 0
        for entry in entries:
            found = Publication("shop", SETTINGS).content(LogState(), tables, count, 17, [entry], 0)
            tables, count = found.tables, count + found.changes
            messages += found.messages
        changes = changes_in(messages)
        assert [(it.op, it.table, it.source.place, it.after) for it in changes] == [
            (Op.READ, "t", 0, row(a=3)),
            (Op.READ, "Users", 1, ADA),
        ]
        assert tables == tables_in(log.database.entries)


@pytest.mark.parametrize("seed", range(3))
def test_the_changes_lead_to_the_rows_that_sql_shows(seed: int) -> None:
    """Of random statements on tables of all kinds."""
    draw, log = Draw(seed), SqlLog()
    log.run(*TABLES)
    for _ in range(150):
        with suppress(SqlError, ConstraintFailed):
            log.run(draw.one(draw.insert(), draw.insert(), draw.update(), draw.delete()))
    found = changes_in(publish(log.entries)[0])
    assert len(found) > 50
    rows: dict[str, dict[bytes, Image]] = {name: {} for name in NAMES}
    for change in found:
        assert rows[change.table].get(change.row) == change.before
        if change.after is None:
            del rows[change.table][change.row]
        else:
            rows[change.table][change.row] = change.after
    for table, images in rows.items():
        expected = log.database.rows(f"SELECT * FROM {table}")
        assert sorted(map(repr, expected)) == sorted(repr(tuple((it.columns or {}).values())) for it in images.values())


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
values = st.none() | numbers | st.text() | st.binary()


@given(key=st.lists(values, min_size=1, max_size=4))
def test_keys_are_decoded(key: list[Any]) -> None:
    encoded = key_order.encode_all(key[:-1], [None] * (len(key) - 1)) + key_order.encode_last(key[-1])
    assert key_order.decode_all(encoded, len(key)) == key


@given(value=values)
def test_values_are_valid_json(value: Any) -> None:
    decoded = json.loads(json_value(value), parse_constant=lambda it: pytest.fail(it))
    assert isinstance(value, bytes) or (decoded == value and type(decoded) is type(value))


def test_the_example_of_the_documentation() -> None:
    page = (Path(__file__).parents[1] / "docs" / "stream.md").read_text()
    section = page[page.index("### Rows of SQL tables") :]
    statements = re.findall(r"`((?:CREATE|INSERT) [^`]*\(.*?)`", section)[:2]
    text = section[section.index("```json") + 7 : section.index("```\n\nThe envelope")]
    log = SqlLog()
    log.run(*statements)
    [message] = publish(log.entries)[0]
    assert message.value is not None
    assert json.loads(text) == json.loads(message.value)["after"]
