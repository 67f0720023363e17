"""Statements that read one row by its key have the results that the engine has."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from replicator.errors import ReplicatorError
from replicator.sql.database import Database
from replicator.sql.engine import Result
from replicator.sql.lookup import query_of
from replicator.sql.parsing import parse
from tests.sql_fixture import MemoryDatabase

VALUES: tuple[Any, ...] = (
    None, 0, 1, -1, 2**63 - 1, -(2**63), 2**63, 1.0, -0.0, 0.5, nan, inf, "", "1", " 1", "1.0", "a", "A", "é", "a\0b",
    b"", b"1", b"a",
)  # fmt: skip
TABLES = {
    "i": "CREATE TABLE i (id INTEGER PRIMARY KEY, a, b INT, c TEXT, d REAL)",
    "n": "CREATE TABLE n (id INT PRIMARY KEY, a, b INT, c TEXT, d REAL) WITHOUT ROWID",
    "t": "CREATE TABLE t (id TEXT PRIMARY KEY, a, b INT, c TEXT, d REAL)",
    "u": "CREATE TABLE u (id TEXT COLLATE NOCASE PRIMARY KEY, a, b INT, c TEXT, d REAL)",
    "x": "CREATE TABLE x (id PRIMARY KEY, a, b INT, c TEXT, d REAL)",
    "g": "CREATE TABLE g (id INTEGER PRIMARY KEY, a, b AS (a || 'b') STORED, c TEXT CHECK (c <> 'A'), d REAL UNIQUE)",
}


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(table: str) -> MemoryDatabase:
    database = MemoryDatabase()
    database.run(TABLES[table])
    columns = "id, a, c, d" if table == "g" else "id, a, b, c, d"
    for number, value in enumerate(VALUES):
        row = [number, value, f"c{number}", number] if table == "g" else [value, value, value, f"c{number}", number]
        statement = f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})"
        outcome(lambda statement=statement, row=row: database.run(statement, row))
    return database


def outcome(run: Any) -> str:
    """As text: NaN is not equal to itself, but 1 is to 1.0. The engine may read more."""
    try:
        result = run()
        return repr(result._replace(reads=0) if isinstance(result, Result) else result)
    except ReplicatorError as error:
        return f"{type(error).__name__}: {error}"


def read(database: MemoryDatabase, statement: str, value: Any) -> Result:
    found = database.engine.look_up(database.entries, parse(statement), [value])
    return found if found is not None else database.query(statement, [value])


@pytest.mark.parametrize("what", ["*", "a", "d, ID, id, c", '"b" , a'])
def test_queries(database: MemoryDatabase, table: str, what: str) -> None:
    lookup, engine = f"SELECT {what} FROM {table} WHERE id = ?", f"SELECT {what} FROM {table} WHERE id = ? AND true"
    database.query(lookup, [1])
    for value in VALUES:
        expected = outcome(lambda value=value: database.query(engine, [value]))
        assert outcome(lambda value=value: read(database, lookup, value)) == expected, value


@pytest.mark.parametrize("changes", ["a = ?2", "c = ?2, b = a", "b = c, a = ?2, a = d", "d = ?2", "id = ?2"])
def test_updates(database: MemoryDatabase, table: str, changes: str) -> None:
    before = dict(database.entries.values)
    for value in VALUES:
        for new in VALUES:
            found = []
            for where in ("id = ?1", "id = ?1 AND true"):
                database.entries.values = dict(before)
                database.entries._keys = sorted(before)
                statement = f"UPDATE {table} SET {changes} WHERE {where}"
                done = outcome(lambda statement=statement, values=(value, new): database.run(statement, values))
                found.append((done, database.entries.values))
            assert found[0] == found[1], (value, new)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT null FROM t WHERE id = :p1",
        "SELECT a FROM t WHERE a = :p1",
        "SELECT a, 1 FROM t WHERE id = :p1",
        "SELECT a AS b FROM t WHERE id = :p1",
        "SELECT DISTINCT a FROM t WHERE id = :p1",
        "SELECT a FROM t WHERE id = :p1 OR true",
        "SELECT a FROM t WHERE id = :p1 LIMIT 0",
        "SELECT a FROM t, t AS o WHERE id = :p1",
        "SELECT a FROM no WHERE id = :p1",
        "SELECT no FROM t WHERE id = :p1",
    ],
)
def test_other_queries_need_the_engine(statement: str) -> None:
    database = MemoryDatabase()
    database.run('CREATE TABLE t (id INTEGER PRIMARY KEY, a, "null")')
    tables = _database_of(database).tables
    assert query_of("SELECT a FROM t WHERE id = :p1", tables) is not None
    assert query_of(statement, tables) is None


def test_a_name_that_must_be_quoted() -> None:
    database = MemoryDatabase()
    database.run('CREATE TABLE t (id INTEGER PRIMARY KEY, "order")')
    database.run("INSERT INTO t VALUES (1, 2)")
    assert "syntax error" in outcome(lambda: database.run("UPDATE t SET id = order WHERE id = ?", [1]))
    assert "syntax error" in outcome(lambda: database.query("SELECT order FROM t WHERE id = ?", [1]))
    assert database.run('UPDATE t SET id = "order" WHERE id = ?', [1]).changes == 1
    assert database.rows("SELECT * FROM t") == [(2, 2)]


def _database_of(database: MemoryDatabase) -> Database:
    database.query("SELECT 1")
    [*_, schema] = database.engine._schemas.values()
    return schema.at_once[-1]


@pytest.mark.parametrize("columns", ["id, a", "a, c", "c, d, id", "a", "d", "id, c, id"])
def test_inserts(table: str, columns: str) -> None:
    marks = ", ".join("?" * len(columns.split(", ")))
    found = []
    for source in (f"VALUES ({marks})", f"SELECT {marks} WHERE true RETURNING 1"):  # the second one needs the engine
        database, statement = MemoryDatabase(), f"INSERT INTO {table} ({columns}) {source}"
        database.run(TABLES[table].replace("c TEXT", "c TEXT DEFAULT 'c'"))
        for value in VALUES:
            row = [value] * marks.count("?")
            found.append(outcome(lambda database=database, row=row, statement=statement: database.run(statement, row)
                                 .changes))  # fmt: skip
        found.append(repr(database.entries.values))
    assert found[: len(found) // 2] == found[len(found) // 2 :]
