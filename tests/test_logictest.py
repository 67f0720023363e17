"""Scripts in the format of sqllogictest have the same results here as in SQLite: generated ones, and the original ones.

The scripts of SQLite (sqlite.org/sqllogictest) are not part of this repository. If the environment variable
SQLLOGICTEST names a folder, all `*.test` files in it are executed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.logictest import Comparison, LogicRecord, compare, is_as_expected, records

ROWS = 12
JOINED = 8
QUERIES = 90
SCRIPTS = 24
OPERATORS = ("<", "<=", "=", ">=", ">", "<>", "IS", "IS NOT")
AGGREGATES = ("count(*)", "count({})", "count(DISTINCT {})", "sum({})", "total({})", "avg({})", "min({})", "max({})")


class ScriptDraw:
    """Makes a script of one seed. Numbers are multiples of 1/4, so that sums do not depend on the order."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._indexes: list[str] = []
        self._names = 0

    def one(self, *of: str) -> str:
        return self._draw.choice(of)

    def script(self) -> str:
        return "\n".join([*self._setting_up(), *(self._step() for _ in range(QUERIES))])

    def _setting_up(self) -> Iterator[str]:
        for table in ("p", "q", "r"):
            yield ok(f"CREATE TABLE {table} (pk INTEGER PRIMARY KEY, a INTEGER, b REAL, c TEXT, d INTEGER)")
            yield from (ok(self._insert(table, pk)) for pk in range(ROWS))
        for number in range(JOINED):
            yield ok(f"CREATE TABLE j{number} (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, x TEXT)")
            for id in range(4):
                a, b = self._draw.randrange(5), self._draw.randrange(4)
                yield ok(f"INSERT INTO j{number} VALUES ({id}, {a}, {b}, 'j{number} {id}')")
        yield ok("CREATE VIEW above AS SELECT pk, a, d FROM p WHERE a > 2")
        yield ok("CREATE VIEW both AS SELECT p.pk AS pk, q.c AS c, p.a + q.a AS a FROM p JOIN q ON p.d = q.d")

    def _insert(self, table: str, pk: int) -> str:
        return f"INSERT INTO {table} VALUES ({pk}, {self.integer()}, {self.real()}, {self.text()}, {self.integer()})"

    def integer(self) -> str:
        return self.one(*map(str, range(-3, 12)), "NULL")

    def real(self) -> str:
        return self.one("0.25", "1.5", "-2.75", "10.0", "3.0", "NULL")

    def text(self) -> str:
        return self.one("'a'", "'b'", "'B'", "'abc'", "'x y'", "''", "NULL")

    def number(self, depth: int = 3) -> str:
        """An expression without text."""
        if depth == 0 or self._draw.random() < 0.25:
            return self.one("a", "d", "pk", "b", self.integer(), self.real())
        left, right = self.number(depth - 1), self.number(depth - 1)
        return self.one(
            f"({left} + {right})",
            f"({left} - {right})",
            f"({left} * {self.integer()})",
            f"({left} / {right})",
            f"- {left}",
            f"+ {left}",
            f"abs({left})",
            f"coalesce({left}, {right}, 5)",
            f"nullif({left}, {right})",
            f"CAST({left} AS INTEGER)",
            f"CASE WHEN {self.condition(1)} THEN {left} ELSE {right} END",
            f"CASE {left} WHEN {right} THEN 1 WHEN {self.integer()} THEN {left} END",
            f"({left} BETWEEN {right} AND {self.integer()})",
            f"(SELECT max({self.one('a', 'd')}) FROM {self.one(*'pqr')} AS s WHERE s.pk <> {self.integer()})",
        )

    def condition(self, depth: int = 3) -> str:
        if depth > 0 and self._draw.random() < 0.5:
            left, right = self.condition(depth - 1), self.condition(depth - 1)
            return self.one(f"({left} AND {right})", f"({left} OR {right})", f"NOT ({left})")
        column, other = self.one("a", "b", "d", "pk"), self.one(*"pqr")
        return self.one(
            f"{column} {self.one(*OPERATORS)} {self.one(self.integer(), self.real())}",
            f"{column} {self.one('', 'NOT ')}BETWEEN {self.integer()} AND {self.integer()}",
            f"{column} {self.one('', 'NOT ')}IN ({self.integer()}, {self.real()}, {self.integer()})",
            f"{column} {self.one('', 'NOT ')}IN (SELECT {self.one('a', 'd')} FROM {other} AS s WHERE s.a > 2)",
            f"EXISTS (SELECT 1 FROM {other} AS s WHERE s.d = {column} AND s.pk < {self.integer()})",
            f"{column} IS NULL",
            f"c {self.one('=', '<', '>=', 'LIKE')} {self.text()}",
            f"c IN ({self.text()}, {self.text()})",
            f"{self.integer()} < {self.number(1)}" if depth else f"{column} > 2",
        )

    def _step(self) -> str:
        kind = self._draw.random()
        if kind < 0.05:
            return ok(self._schema())
        if kind < 0.15:
            return statement(self._change())
        return query(
            self.one(self._select(), self._select(), self._aggregate(), self._join(), self._compound(), self._of_view())
        )

    def _schema(self) -> str:
        if len(self._indexes) > 3 and self._draw.random() < 0.5:
            return f"DROP INDEX {self._indexes.pop(self._draw.randrange(len(self._indexes)))}"
        self._names += 1
        self._indexes.append(f"i{self._names}")
        chosen = self._draw.sample("abcd", self._draw.choice((1, 1, 2, 3)))
        columns = ", ".join(f"{it}{self.one('', ' DESC')}" for it in chosen)
        return f"CREATE INDEX i{self._names} ON {self.one(*'pqr')} ({columns})"

    def _change(self) -> str:
        table = self.one(*"pqr")
        return self.one(
            f"DELETE FROM {table} WHERE {self.condition(1)} AND pk % 3 = 0",
            f"UPDATE {table} SET {self.one('a', 'd')} = {self.integer()} WHERE {self.condition()}",
            f"UPDATE {table} SET a = d, d = a WHERE {self.condition(1)}",
            f"UPDATE {table} SET b = b + 1 WHERE pk IN (SELECT pk FROM {self.one(*'pqr')} WHERE {self.condition(1)})",
            self._insert(table, self._draw.randrange(2 * ROWS)),
            self._insert(table, self._draw.randrange(2 * ROWS)).replace("INSERT", "REPLACE"),
        )

    def _select(self) -> str:
        what = ", ".join(self.number() for _ in range(self._draw.randint(1, 3)))
        return f"SELECT {self.one('', '', 'ALL ')}pk, {what} FROM {self.one(*'pqr')} WHERE {self.condition()}"

    def _aggregate(self) -> str:
        what = ", ".join(self.one(*AGGREGATES).format(self.number(1)) for _ in range(3))
        where = self.one("", f" WHERE {self.condition(2)}")
        group = self.one(
            "", " GROUP BY d", f" GROUP BY d, c HAVING {self.one('count(*) > 1', 'max(a) > 3', 'sum(d) <> 0')}"
        )
        return f"SELECT {what} FROM {self.one(*'pqr')}{where}{group}"

    def _join(self) -> str:
        names = self._draw.sample([f"j{number}" for number in range(JOINED)], self._draw.randint(2, JOINED))
        pairs = [f"{left}.{self.one('a', 'b')} = {right}.id" for left, right in pairwise(names)]
        what = ", ".join(f"{name}.x" for name in names)
        self._draw.shuffle(pairs)
        if self._draw.random() < 0.7:
            first = f"{names[0]}.{self.one('a', 'b', 'id')} {self.one('=', '<', '>', 'IN')} "
            first += f"({self._draw.randrange(4)})"
            tables = [*names]
            self._draw.shuffle(tables)
            return f"SELECT {what} FROM {', '.join(tables)} WHERE {' AND '.join([*pairs, first])}"
        left = "".join(f" LEFT JOIN {right} ON {left}.a = {right}.id" for left, right in pairwise(names))
        return f"SELECT {what} FROM {names[0]}{left} WHERE {names[0]}.b < 3"

    def _compound(self) -> str:
        parts = [
            f"SELECT {self.one('a', 'd', 'pk', 'a + d')} FROM {self.one(*'pqr')} WHERE {self.condition(1)}"
            for _ in range(self._draw.choice((2, 2, 3)))
        ]
        return f" {self.one('UNION', 'UNION ALL', 'INTERSECT', 'EXCEPT')} ".join(parts)

    def _of_view(self) -> str:
        return self.one(
            f"SELECT pk, a * 2 FROM above WHERE d {self.one('>', '<', '=')} {self.integer()}",
            f"SELECT count(*), sum(a) FROM both WHERE c >= {self.text()}",
            "SELECT above.pk, both.a FROM above, both WHERE above.pk = both.pk",
            f"SELECT DISTINCT a FROM both WHERE pk IN (SELECT pk FROM above WHERE a <> {self.integer()})",
        )


def ok(sql: str) -> str:
    return f"statement ok\n{sql}\n"


def statement(sql: str) -> str:
    """It may fail."""
    return f"statement maybe\n{sql}\n"


def query(sql: str) -> str:
    return f"query {'T' * 9} rowsort\n{sql}\n"


@pytest.mark.parametrize("seed", range(SCRIPTS))
def test_generated_scripts(seed: int) -> None:
    check(compare(ScriptDraw(seed).script()))


def check(found: Comparison, least: int = QUERIES) -> None:
    assert not found.differences, "\n".join(found.differences[:5])
    assert not found.refused
    assert found.executed > least


def test_the_original_scripts() -> None:
    folder = os.environ.get("SQLLOGICTEST")
    if folder is None:
        pytest.skip("SQLLOGICTEST is not set: a folder with *.test files of sqlite.org/sqllogictest")
    paths = sorted(Path(folder).rglob("*.test"))
    assert paths, f"{folder} has no *.test files"
    executed = 0
    for path in paths:
        found = compare(path.read_text())
        assert not found.differences, f"{path}: {found.differences[:5]}"
        executed += found.executed
    assert executed > len(paths)


SCRIPT = """
hash-threshold 8

# a comment
statement ok
CREATE TABLE t (a INTEGER, b TEXT)

statement ok
INSERT INTO t VALUES (1, 'x'), (2, ''), (NULL, 'y')

onlyif mysql
statement ok
CREATE NONSENSE

skipif sqlite
query I nosort
SELECT nonsense

statement error
INSERT INTO nowhere VALUES (1)

query IT rowsort
SELECT a, b FROM t
----
1
x
2
(empty)
NULL
y

query R nosort label-1
SELECT a / 2.0 FROM t WHERE a > 0
----
0.500
1.000

query I valuesort
SELECT a FROM t WHERE a > 0 ORDER BY a DESC
----
2 values hashing to 6ddb4095eb719e2a9f0a3f95677d24e0
"""


class TestRunner:
    def test_a_script(self) -> None:
        found = compare(SCRIPT)
        assert (found.executed, found.refused, found.differences) == (6, [], [])

    def test_another_result(self) -> None:
        (difference,) = compare(SCRIPT.replace("0.500", "0.501")).differences
        assert "instead of ['0.501', '1.000']" in difference

    def test_a_statement_that_should_have_failed(self) -> None:
        (difference,) = compare(SCRIPT.replace("INTO nowhere VALUES (1)", "INTO t VALUES (1, 2)")).differences[:1]
        assert difference.startswith("line ")

    def test_a_statement_that_is_not_supported(self) -> None:
        found = compare("statement ok\nCREATE TEMP TABLE t (a)\n\nquery I\nSELECT a FROM t\n")
        assert "not supported" in found.refused[0]
        assert found.executed == 0

    def test_records(self) -> None:
        first = next(records(SCRIPT))
        assert first == LogicRecord(5, "CREATE TABLE t (a INTEGER, b TEXT)", fails=False)
        assert is_as_expected(LogicRecord(1, "", True, types="I", expected=["7"]), [(7,)])
