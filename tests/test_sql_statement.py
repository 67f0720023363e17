"""The clauses of statements: what becomes a part of another statement for the engine must not end there."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from replicator.limits import MAX_SQL_BYTES, MAX_SQL_TOKENS
from replicator.sql import parsing
from replicator.sql.errors import SqlError
from replicator.sql.parsing import parse
from replicator.sql.statement import Parsed
from replicator.sql.tokens import tokenize
from tests.sql_fixture import MemoryDatabase


@pytest.fixture
def database() -> MemoryDatabase:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    database.run("CREATE TABLE u (a INTEGER PRIMARY KEY, b)")
    database.run("INSERT INTO t VALUES (1, 10), (2, 20)")
    database.run("INSERT INTO u VALUES (1, 70), (3, 30)")
    return database


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("DELETE FROM t WHERE 0 UNION SELECT 1", 'near "UNION"'),
        ("DELETE FROM t WHERE 0) UNION SELECT replicator_key FROM (t", r'near "\)"'),
        ("DELETE FROM t WHERE (0", "incomplete input"),
        ("DELETE FROM t WHERE a = 'x", 'unrecognized token: "\'x"'),
        ("DELETE FROM t WHERE", "incomplete input"),
        ("DELETE FROM t WHERE a > 0 ORDER BY a LIMIT 1", 'near "ORDER"'),
        ("DELETE FROM t AS x y", 'near "y"'),
        ("DELETE FROM t WHERE a = 1 RETURNING", "incomplete input"),
        ("DELETE FROM t RETURNING a FROM u", 'near "FROM"'),
        ("DELETE FROM t RETURNING a FROM t UNION SELECT replicator_key, a", 'near "FROM"'),
        ("UPDATE t SET b = 3 WHERE 0 UNION SELECT replicator_key, 2 FROM t", 'near "UNION"'),
        ("UPDATE t SET b = 1 FROM u UNION SELECT replicator_key, 3 FROM t", 'near "UNION"'),
        ("UPDATE t SET b = 1 UNION SELECT replicator_key", 'near "UNION"'),
        ("UPDATE t SET b = 1 AS c", 'near "AS"'),
        ("UPDATE t SET t.b = 1", r'near "\."'),
        ("UPDATE t SET (a, b) x = (1, 2)", 'near "x"'),
        ("INSERT INTO t PRAGMA table_info(t)", 'near "PRAGMA"'),
        ("INSERT INTO t", "incomplete input"),
        ("INSERT INTO t DEFAULT VALUES ON CONFLICT DO NOTHING", 'near "ON"'),
        ("INSERT INTO t DEFAULT x", 'near "DEFAULT"'),
        ("SELECT 1)", r'near "\)"'),
    ],
)
def test_statements_that_are_not_valid(database: MemoryDatabase, statement: str, error: str) -> None:
    with pytest.raises(SqlError, match=error):
        database.run(statement)
    assert database.rows("SELECT * FROM t") == [(1, 10), (2, 20)]


@pytest.mark.parametrize(
    ("statement", "first"),
    [
        ("UPDATE t SET b = y.b FROM u AS y WHERE y.a = t.a", 70),
        ("UPDATE t SET b = y.b FROM u y WHERE y.a = t.a", 70),
        ("UPDATE t SET b = u.b FROM u WHERE u.a = t.a", 70),
        ("UPDATE t SET b = y.b FROM (SELECT * FROM u) AS y WHERE y.a = t.a", 70),
        ("UPDATE t SET b = j.value FROM json_each('[5,6]') AS j WHERE j.key + 1 = t.a", 5),
        ("UPDATE t SET b = y.b + z.b FROM u AS y, u AS z WHERE y.a = t.a AND z.a = 3", 100),
        ("UPDATE t SET b = y.b FROM u AS y LEFT JOIN u AS z ON z.a = y.a WHERE y.a = t.a", 70),
        ("UPDATE t AS x SET b = y.b FROM u AS y WHERE y.a = x.a RETURNING x.a IS DISTINCT FROM y.a", None),
        ("WITH y AS (SELECT 1 AS a, 9 AS b) UPDATE t SET b = y.b FROM y WHERE y.a = t.a", 9),
        ("UPDATE t SET b = a IS DISTINCT FROM 1", 0),
        ("UPDATE t SET b = a IS NOT DISTINCT FROM 1 WHERE a = 1", 1),
        ("UPDATE t SET b = t.a IS DISTINCT FROM y.a FROM u AS y WHERE y.a = 3", 1),
        ("UPDATE t SET b = (1, 2) = (1, 2), a = a", 1),
    ],
)
def test_updates(database: MemoryDatabase, statement: str, first: int | None) -> None:
    if first is None:
        with pytest.raises(SqlError, match="no such column"):  # RETURNING knows the table alone, as in SQLite
            database.run(statement)
    else:
        assert database.run(statement).changes
        assert database.rows("SELECT b FROM t WHERE a = 1") == [(first,)]


def test_returning_may_compare_distinct_values(database: MemoryDatabase) -> None:
    assert database.rows("DELETE FROM t WHERE a = 1 RETURNING a IS NOT DISTINCT FROM 1, b AS x") == [(1, 10)]
    assert database.rows("INSERT INTO t (b) VALUES (5) RETURNING a IS DISTINCT FROM 3") == [(0,)]


def test_a_long_statement_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    original = parsing._parse

    def count(text: str) -> Parsed:
        parsed.append(text)
        return original(text)

    monkeypatch.setattr(parsing, "_parse", count)
    text = f"SELECT {', '.join(map(str, range(3_000)))} -- long"
    assert parse(text) is parse(text)
    assert parsed == [text]


@pytest.mark.parametrize("part", ["$a(", ":a::", "'", "x'a", "/*", "a ", "((", "1.", "[", '"a'])
def test_the_time_to_parse_grows_with_the_size(part: str) -> None:
    began_s = time.process_time()
    for text in (
        "SELECT " + part * (MAX_SQL_BYTES // len(part)),
        f"SELECT {','.join(f':a{it}' for it in range(9_000))}",
    ):
        with suppress(SqlError):
            tokenize(text)
    assert time.process_time() - began_s < 2  # about 0.1 s; with the square of the size, 10 s


def test_statements_have_a_limited_number_of_tokens() -> None:
    values = ", ".join(["(?, ?)"] * 3_000)
    assert len(tokenize(f"INSERT INTO t VALUES {values}").items) < MAX_SQL_TOKENS
    with pytest.raises(SqlError, match="at most 20000 words, values and signs"):
        parse("SELECT " + "1," * MAX_SQL_TOKENS + "1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b, .5,1.5e3 , x'00'\n", ["a", ".", "b", ",", ".5", ",", "1.5e3", ",", "x'00'"]),
        (' "a b"  [c]', ['"a b"', "[c]"]),
        ("a->>'$.b' /* c */ <> ?2 -- x", ["a", "->>", "'$.b'", "<>", ":p2"]),
        (":a, $b::c(d), @a, ?", [":p1", ",", ":p2", ",", ":p1", ",", ":p3"]),
    ],
)  # fmt: skip
def test_tokens(text: str, expected: list[str]) -> None:
    tokens = tokenize(text)
    assert [it.text for it in tokens.items] == expected
    assert [tokens.text[it.start : it.end] for it in tokens.items] == expected
