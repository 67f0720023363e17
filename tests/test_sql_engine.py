"""The SQL engine on a store in memory: how much it reads, what it refuses, and for how long it runs."""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import nullcontext
from itertools import count
from math import inf

import apsw
import pytest

from replicator.errors import BadRequest, StoreError, TransactionTooLarge
from replicator.records.tape import Call, Player, Recorder
from replicator.sql import database as database_module
from replicator.sql import description, reading
from replicator.sql.engine import SqlEngine
from replicator.sql.errors import ConstraintFailed, SqlError
from replicator.sql.parsing import parse
from replicator.steps import finish
from replicator.store.keys import decode_key
from replicator.store.tracking import TrackedEntries
from replicator.store.view import Overlay, Transaction
from tests.sql_fixture import NOW_MS, MemoryDatabase

ENDLESS = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n)"
FILL = "WITH RECURSIVE n(x) AS (VALUES (?1) UNION ALL SELECT x + 1 FROM n WHERE x < ?1 + 99) "


@pytest.fixture(scope="module")
def filled() -> MemoryDatabase:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT, c TEXT, d REAL)")
    database.run("CREATE TABLE k (a TEXT, b INT, c, PRIMARY KEY (a, b))")
    database.run("CREATE INDEX t_b ON t (b, d)")
    database.run("CREATE UNIQUE INDEX t_c ON t (c)")
    for first in range(0, 2000, 100):
        database.run(FILL + "INSERT INTO t SELECT x, x / 10, 'c' || x, x * 0.5 FROM n", (first,))
        database.run(FILL + "INSERT INTO k SELECT 'k' || (x / 10), x, x FROM n", (first,))
    database.query("SELECT 1")  # reads the schema
    return database


@pytest.mark.parametrize(
    ("query", "parameters", "rows", "at_most"),
    [
        ("SELECT * FROM t WHERE a = ?", (5,), 1, 5),
        ("SELECT * FROM t WHERE a = ?", ("5",), 1, 5),
        ("SELECT * FROM t WHERE rowid = 5", (), 1, 5),
        ("SELECT * FROM t WHERE a IN (1, 3, 5, 9999)", (), 3, 15),
        ("SELECT * FROM t WHERE a BETWEEN 10 AND 19", (), 10, 20),
        ("SELECT * FROM t WHERE a > 1990 ORDER BY a DESC", (), 9, 20),
        ("SELECT * FROM t ORDER BY a DESC LIMIT 3", (), 3, 10),
        ("SELECT max(a) FROM t", (), 1, 5),
        ("SELECT * FROM t WHERE c = 'c7'", (), 1, 6),
        ("SELECT * FROM t WHERE b = 7", (), 10, 30),
        ("SELECT * FROM t WHERE b = 7 AND d > 37", (), 5, 20),
        ("SELECT * FROM t WHERE b = 7 ORDER BY d DESC LIMIT 1", (), 1, 10),
        ("SELECT * FROM t WHERE c LIKE 'c1%' AND a < 20", (), 11, 30),
        ("SELECT * FROM k WHERE a = 'k7' AND b = 77", (), 1, 6),
        ("SELECT * FROM k WHERE a = 'k7'", (), 10, 20),
        ("SELECT * FROM k WHERE a = 'k7' AND b >= 75", (), 5, 12),
        ("SELECT t.c FROM k JOIN t ON t.a = k.b WHERE k.a = 'k7'", (), 10, 40),
        ("SELECT count(*) FROM t", (), 1, 2150),
    ],
)
def test_queries_read_little(
    filled: MemoryDatabase, query: str, parameters: tuple[object, ...], rows: int, at_most: int
) -> None:
    before = filled.entries.read
    assert len(filled.query(query, parameters).rows) == rows  # type: ignore[arg-type]
    assert filled.entries.read - before <= at_most


def test_updates_read_little(filled: MemoryDatabase) -> None:
    before = filled.entries.read
    filled.run("UPDATE t SET d = d + 1 WHERE a = 100")
    assert len(filled.changes) == 3  # the row, and its entry in an index
    filled.run("DELETE FROM t WHERE c = 'c101'")
    filled.run("INSERT INTO t (c) VALUES ('new')")
    assert filled.entries.read - before < 60


def test_explain_query_plan(filled: MemoryDatabase) -> None:
    shown = filled.rows("EXPLAIN QUERY PLAN SELECT * FROM t WHERE b = 1 AND d > 2")
    assert "t_b (b=? AND d>?)" in str(shown)
    assert "all rows" in str(filled.rows("EXPLAIN QUERY PLAN SELECT * FROM t WHERE d = 1"))


def test_times_are_those_of_the_transaction() -> None:
    database = MemoryDatabase()
    shown = database.rows(
        "SELECT now(), CURRENT_TIMESTAMP, CURRENT_DATE, CURRENT_TIME, datetime('now', '+1 day'), unixepoch(), "
        "strftime('%Y'), date('2020-02-30'), timediff('now', '2023-11-14')"
    )
    assert shown == [
        (
            "2023-11-14 22:13:20",
            "2023-11-14 22:13:20",
            "2023-11-14",
            "22:13:20",
            "2023-11-15 22:13:20",
            NOW_MS // 1000,
            "2023",
            "2020-03-01",
            "+0000-00-00 22:13:20.000",
        )
    ]


def test_nondeterministic_calls_are_on_the_tape() -> None:
    database, tape = MemoryDatabase(), Recorder()
    database.run("CREATE TABLE t (a, b)")
    database.run("INSERT INTO t SELECT random(), hex(randomblob(2)) FROM (VALUES (1), (2))", tape=tape)
    database.run("UPDATE t SET a = sin(1) + random() WHERE rowid = 1", tape=tape)
    assert [call.name for call in tape.calls] == ["random", "randomblob", "random", "randomblob", "sin", "random"]
    again = MemoryDatabase()
    again.run("CREATE TABLE t (a, b)")
    player = Player([Call(*it) for it in tape.calls])
    again.run("INSERT INTO t SELECT random(), hex(randomblob(2)) FROM (VALUES (1), (2))", tape=player)
    again.run("UPDATE t SET a = sin(1) + random() WHERE rowid = 1", tape=player)
    player.finish()
    assert again.entries.values == database.entries.values


@pytest.mark.parametrize(
    "expression",
    [
        "replace('aXbX', 'X', 'yy')", "replace('abc', '', 'x')", "replace(12321, 2, 'x')", "replace(x'6162', 'a', 1.5)",
        "replace(NULL, 'a', 'b')", "replace('a', 'a', NULL)", "instr('hello', 'l')", "instr('hello', '')",
        "instr(x'0102', x'02')", "instr(x'6162', 'b')", "instr(12345, 34)", "instr('é€x', 'x')", "instr(NULL, 'x')",
        "trim('xxhixy', 'xy')", "ltrim('  hi ')", "rtrim('hi11', 1)", "trim('abc', '')", "trim(NULL, 'x')",
        "trim(' a ')", "trim(1.0, '0')", "json_patch('{\"a\":1,\"b\":2}', '{\"b\":null,\"c\":3}')",
        "typeof(replace(1, 2, 3))",
    ],
)  # fmt: skip
def test_bounded_functions_are_those_of_sqlite(expression: str) -> None:
    expected = apsw.Connection(":memory:").execute(f"SELECT {expression}").fetchall()
    assert MemoryDatabase().rows(f"SELECT {expression}") == expected


@pytest.mark.parametrize(
    "query",
    [
        "SELECT instr(hex(zeroblob(250000)), hex(zeroblob(100000)) || '1')",
        "SELECT replace(hex(zeroblob(250000)), hex(zeroblob(100000)) || '1', '')",
        "SELECT hex(zeroblob(250000)) LIKE '%0_%0_%0_%0_%0_%0_1'",
        "SELECT hex(zeroblob(250000)) GLOB '*0?*0?*0?*0?*1'",
        "SELECT x FROM (WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 300000) "
        "SELECT x FROM n) ORDER BY -x LIMIT 3",
        f"SELECT {'+'.join(['1'] * 190)}",
    ],
)
def test_steps_are_short(query: str) -> None:
    database = MemoryDatabase()
    steps = database.engine.query(database.entries, parse(query), (), NOW_MS)
    longest = 0.0
    ended = False
    while not ended:
        began = time.thread_time()
        ended = next(steps, None) is None
        longest = max(longest, time.thread_time() - began)
    assert longest < 0.05


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (f"{ENDLESS} INSERT INTO t (b) SELECT x FROM n", "divide it"),
        (f"{ENDLESS} DELETE FROM t WHERE b IN (SELECT x FROM n)", "takes more than 60 s: it was cancelled"),
        ("INSERT INTO t (c) VALUES (randomblob(2000000))", "at most"),
        ("INSERT INTO t (c) SELECT group_concat(hex(zeroblob(200000))) FROM (VALUES (1), (2), (3))", "too big"),
        ("INSERT INTO t (c) VALUES (zeroblob(600000))", "key too long"),
        ("INSERT INTO t (d) VALUES (zeroblob(600000))", "too large"),
        ("INSERT INTO k VALUES (hex(zeroblob(300)), 1, 1)", "key too long"),
        ("SELECT date('now', hex(zeroblob(501)))", r"an argument of date\(\) has at most 1000 bytes"),
        ("SELECT timediff(zeroblob(1001), 'now')", r"an argument of timediff\(\) has at most 1000 bytes"),
        ("SELECT json_patch(hex(zeroblob(20000)), '{}')", "at most 24 KiB"),
        (f"SELECT '{'x' * 70000}'", "at most 64 KiB"),
    ],
)  # fmt: skip
def test_what_takes_too_much_has_no_effect(
    filled: MemoryDatabase, statement: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filled.engine, "_clock", count(0, 0.01).__next__)
    before = dict(filled.entries.values)
    with pytest.raises((SqlError, BadRequest), match=error):
        filled.run(statement)
    assert filled.entries.values == before


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("DROP TABLE v", "use DROP VIEW to delete view v"),
        ("DROP VIEW t", "use DROP TABLE to delete table t"),
        ("INSERT INTO v VALUES (1)", "cannot modify v because it is a view"),
        ("UPDATE v SET a = 1", "cannot modify v because it is a view"),
        ("SELECT * FROM t INDEXED BY i", "INDEXED BY is not supported: leave it out"),
        ("DELETE FROM t INDEXED BY i", "INDEXED BY is not supported: leave it out"),
        ("SELECT CAST(x'ff41' AS TEXT)", "a text is not valid UTF-8: use BLOB for bytes"),
    ],
)
def test_errors_say_what_is_wrong(statement: str, error: str) -> None:
    database = MemoryDatabase()
    for it in ("CREATE TABLE t (a)", "CREATE INDEX i ON t (a)", "CREATE VIEW v AS SELECT a FROM t"):
        database.run(it)
    with pytest.raises(SqlError, match=f"^{error}$"):
        database.run(statement)


def test_views_of_views_do_not_make_the_schema_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a)")
    database.run("CREATE VIEW v0 AS SELECT a FROM t")
    for number in range(1, 18):
        database.run(f"CREATE VIEW v{number} AS SELECT x.a FROM v{number - 1} AS x, v{number - 1} AS y")
    monkeypatch.setattr(description, "_known", OrderedDict())  # as in another process
    database.engine = SqlEngine()
    database.run("INSERT INTO t VALUES (1)")
    assert database.rows("SELECT * FROM v2") == [(1,)]
    database.run("DROP VIEW v17")


def test_an_engine_does_not_outlive_a_schema_that_was_never_committed() -> None:
    """A transaction has read the version of the schema, then another one changes it, but that change becomes void."""
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a)")
    engine, overlay, tracked = database.engine, Overlay(database.entries), TrackedEntries()

    def run(transaction: Transaction, statement: str) -> None:
        finish(engine.execute(transaction, Recorder(), NOW_MS, parse(statement), ()))

    tracked.base = Transaction(overlay)
    reader, writer = Transaction(tracked, is_stable=False), Transaction(overlay)
    run(reader, "SELECT * FROM t")
    run(writer, "CREATE TABLE void (a)")
    overlay.push(writer.changes)
    tracked.base = Transaction(overlay)
    run(reader, "SELECT * FROM t, (SELECT 1)")  # by another engine, as it is executed in steps
    overlay.clear()
    for statement in ("SELECT * FROM void, (SELECT 1)", "INSERT INTO void SELECT * FROM t, (SELECT 1)"):
        with pytest.raises(SqlError, match="no such table: void"):
            run(Transaction(database.entries), statement)


@pytest.mark.parametrize("keys", ["PRIMARY KEY (a, a)", "PRIMARY KEY (a, a COLLATE NOCASE)", "UNIQUE (a, b, a)"])
def test_a_key_with_a_column_twice_is_refused(keys: str) -> None:
    with pytest.raises(SqlError, match="t: a key or an index that has a column twice is not supported"):
        MemoryDatabase().run(f"CREATE TABLE t (a TEXT, b TEXT, {keys})")


def test_there_is_no_row_of_a_key_that_is_too_long() -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a TEXT PRIMARY KEY, b)")
    database.run("CREATE TABLE u (a TEXT, b UNIQUE)")
    database.run("INSERT INTO t VALUES ('x', 1)")
    database.run("INSERT INTO u VALUES ('x', 1), (?1, 2)", ("y" * 1000,))
    for condition in ("= ?1", "> ?1", "IN ('x', ?1)"):
        expected = [("x",)] if "IN" in condition else []
        assert database.rows(f"SELECT a FROM t WHERE a {condition}", "y" * 1000) == expected
        assert database.run(f"UPDATE t SET b = b + 1 WHERE a {condition}", ("y" * 1000,)).changes == len(expected)
        assert database.rows(f"SELECT a FROM u WHERE b {condition}", "y" * 1000) == []
    assert database.rows("SELECT u.b, t.a FROM u LEFT JOIN t ON t.a = u.a ORDER BY 1") == [(1, "x"), (2, None)]


def test_what_a_transaction_cannot_read_is_an_error_not_missing() -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    for number in range(80):
        database.run("INSERT INTO t VALUES (?, zeroblob(500000))", (number,))
    tracked = TrackedEntries()
    tracked.base = database.entries
    transaction, statement = Transaction(tracked, is_stable=False), parse("SELECT a FROM t WHERE a = ?")
    with pytest.raises(TransactionTooLarge, match="can read at most 32 MiB by keys"):
        for number in range(80):
            result = finish(database.engine.execute(transaction, Recorder(), NOW_MS, statement, (number,)))
            assert result.rows == [(number,)]


def test_many_columns_are_set_at_once() -> None:
    database = MemoryDatabase()
    columns = [f"c{number}" for number in range(400)]
    database.run(f"CREATE TABLE t ({', '.join(columns)})")
    database.run("INSERT INTO t (c0) VALUES (1)")
    database.run(f"UPDATE t SET {', '.join(f'{it} = c0 + 1' for it in columns)}")
    assert database.rows("SELECT c0, c399 FROM t") == [(2, 2)]
    with pytest.raises(SqlError, match="too many columns for one subquery"):
        database.run(f"UPDATE t SET ({', '.join(columns)}) = (SELECT '{'x' * 200}')")


def test_a_schema_of_a_transaction_that_is_not_applied_is_not_used() -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a)")
    transaction = Transaction(database.entries)
    engine = database.engine
    for statement in ("DROP TABLE t", "CREATE TABLE t (b, c)", "INSERT INTO t VALUES (1, 2)"):
        finish(engine.execute(transaction, Recorder(), NOW_MS, parse(statement), ()))
    assert finish(engine.execute(transaction, Recorder(), NOW_MS, parse("SELECT * FROM t"), ())).rows == [(1, 2)]
    database.run("INSERT INTO t VALUES (5)")
    assert database.rows("SELECT * FROM t") == [(5,)]


@pytest.mark.parametrize(
    ("replaced", "is_refused"),
    [
        ("t (b INTEGER PRIMARY KEY, a)", True),
        ("t (a, c)", True),
        ("T (a INTEGER PRIMARY KEY)", True),  # another name in the change stream
        ("t (a TEXT PRIMARY KEY, b)", False),
    ],
)
@pytest.mark.parametrize("is_filled", [True, False])
def test_a_table_is_not_replaced_by_one_with_other_keys(replaced: str, is_refused: bool, is_filled: bool) -> None:
    """In one transaction: the change stream would have one change for a row of each."""
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY, c)")
    if is_filled:
        database.run("INSERT INTO t VALUES (1, 2)")
    transaction = Transaction(database.entries)
    engine = database.engine
    finish(engine.execute(transaction, Recorder(), NOW_MS, parse("DROP TABLE t"), ()))
    with (
        pytest.raises(SqlError, match="another name or key in the change stream")
        if is_refused and is_filled
        else nullcontext()
    ):
        finish(engine.execute(transaction, Recorder(), NOW_MS, parse(f"CREATE TABLE {replaced}"), ()))


def test_a_unique_index_on_rows_that_are_not() -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a, b)")
    database.run("INSERT INTO t VALUES (1, 'x'), (2, 'X')")
    database.run("CREATE UNIQUE INDEX t_b ON t (b)")
    with pytest.raises(ConstraintFailed, match=r"UNIQUE constraint failed: t\.b"):
        database.run("CREATE UNIQUE INDEX t_c ON t (b COLLATE NOCASE)")
    database.run("DROP INDEX t_b")
    database.run("INSERT INTO t VALUES (3, 'x')")
    assert not [key for key in database.entries.values if key.startswith(b"sql#")]
    database.run("DROP TABLE t")
    assert [key for key in database.entries.values if not key.startswith(b"sql\0")] == []


def test_a_statement_that_is_ended_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is ended: the engine's own tables are empty again."""
    monkeypatch.setattr(database_module, "_INSTRUCTIONS", 1)
    looks_left = inf  # at the clock, until the time of the statement is over

    def clock() -> float:
        nonlocal looks_left
        looks_left -= 1
        return 0.0 if looks_left >= 0 else 1e9

    database = MemoryDatabase(clock)
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT CHECK (length(b) < 9))")
    ended = 0
    for looks in range(0, 300, 3):
        looks_left = looks
        try:
            database.run("INSERT INTO t (b) VALUES ('a'), ('b'), ('c') RETURNING a")
        except SqlError:
            ended += 1
        looks_left = inf
        database.run("DELETE FROM t")
        assert database.run("INSERT INTO t VALUES (1, 'x')").changes == 1
        database.run("DELETE FROM t")
    assert ended > 10


@pytest.mark.parametrize(("changed", "was_read"), [(1, True), (300, False)])
def test_others_may_write_while_a_statement_reads(changed: int, was_read: bool) -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
    database.run("CREATE TABLE u (a)")
    for first in range(1, 301, 100):
        database.run(FILL + "INSERT INTO t SELECT x, 1 FROM n", (first,))
    tracked = TrackedEntries()
    tracked.base = database.entries
    transaction = Transaction(tracked)
    statement = parse("INSERT INTO u SELECT sum(b) FROM t")
    steps = database.engine.execute(transaction, Recorder(), NOW_MS, statement, ())
    for _ in range(60):
        next(steps)
    database.run("UPDATE t SET b = 11 WHERE a = ?", (changed,))
    finish(steps)
    assert tracked.unchanged(database.entries) is not was_read
    database.entries.apply(transaction)
    assert database.rows("SELECT a FROM u") == [(300 if was_read else 310,)]


def test_a_schema_is_bounded() -> None:
    database = MemoryDatabase()
    for number in range(3):
        columns = ", ".join(f"column_{it}" for it in range(450)) + f", {'x' * 30_000} INT"
        database.run(f"CREATE TABLE t{number} ({columns})")
    with pytest.raises(SqlError, match="at most 200 tables, indexes and views, created by statements of"):
        database.run(f"CREATE TABLE u ({columns})")
    assert database.rows("SELECT count(*) FROM sqlite_schema") == [(3,)]


def test_the_columns_and_indexes_of_a_schema_are_bounded() -> None:
    database = MemoryDatabase()
    for number in range(4):
        database.run(f"CREATE TABLE t{number} ({', '.join(f'c{it} UNIQUE' for it in range(120))})")
    many = ", ".join(f"c{it} UNIQUE" for it in range(21))
    with pytest.raises(SqlError, match="at most 4000 columns, and 500 indexes with those of PRIMARY KEY and UNIQUE"):
        database.run(f"CREATE TABLE u ({many})")
    for number in range(7):
        database.run(f"CREATE TABLE w{number} ({', '.join(f'c{it}' for it in range(480))})")
    with pytest.raises(SqlError, match="at most 4000 columns"):
        database.run(f"CREATE TABLE u ({', '.join(f'c{it}' for it in range(161))})")
    database.run(f"CREATE TABLE u ({many.replace(' UNIQUE', '')})")
    assert database.rows("SELECT count(*) FROM sqlite_schema WHERE type = 'table'") == [(12,)]


def test_a_query_has_no_tape_that_could_be_full() -> None:
    database = MemoryDatabase()
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000)"
    assert database.query(f"{numbers} SELECT count(random()) FROM n").rows == [(20_000,)]


class TestDamage:
    """An entry of an index whose row is missing."""

    @pytest.fixture
    def damaged(self) -> MemoryDatabase:
        database = MemoryDatabase()
        database.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE, c)")
        database.run("INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 2)")
        [key] = [it for it in database.entries.values if it.startswith(b"sql.t\0") and b"\x02" in it]
        transaction = Transaction(database.entries)
        transaction.put_at(key, *decode_key(key), None)
        database.entries.apply(transaction)
        assert database.rows("SELECT a FROM t ORDER BY a") == [(1,)]
        return database

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT * FROM t WHERE b = 'y'",
            "UPDATE t SET c = 5 WHERE b = 'y'",
            "DELETE FROM t WHERE b > 'x'",
            "INSERT INTO t VALUES (3, 'y', 3)",
            "INSERT OR REPLACE INTO t VALUES (3, 'y', 3)",
            "INSERT INTO t VALUES (3, 'y', 3) ON CONFLICT (b) DO UPDATE SET c = 4",
            "UPDATE OR REPLACE t SET b = 'y' WHERE a = 1",
        ],
    )
    def test_is_an_error(self, damaged: MemoryDatabase, statement: str) -> None:
        with pytest.raises(StoreError, match="the index sqlite_autoindex_t_1 has an entry for the row 150201 of t"):
            damaged.run(statement)

    def test_a_query_finds_it(self, damaged: MemoryDatabase) -> None:
        with pytest.raises(StoreError, match="the store is damaged"):
            damaged.query("SELECT * FROM t WHERE b = 'y'")

    def test_another_client_may_have_deleted_the_row(self, damaged: MemoryDatabase) -> None:
        transaction = Transaction(damaged.entries, is_stable=False)
        steps = damaged.engine.execute(transaction, Recorder(), NOW_MS, parse("SELECT * FROM t WHERE b = 'y'"), ())
        assert finish(steps).rows == []


def test_an_error_of_ours_is_not_one_of_the_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    monkeypatch.setattr(reading, "read", lambda *_: len(5))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no len"):
        database.query("SELECT * FROM t")
