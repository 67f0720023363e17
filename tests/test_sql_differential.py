"""Statements have the effect and the result that they have in SQLite itself: thousands of random ones."""

from __future__ import annotations

import random
from collections import Counter

import apsw
import pytest

from replicator.sql.errors import ConstraintFailed, SqlError
from tests.sql_fixture import MemoryDatabase

TABLES = [
    "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c REAL, d)",
    """CREATE TABLE u (
        a TEXT NOT NULL, b INTEGER NOT NULL DEFAULT 7, c TEXT COLLATE NOCASE UNIQUE, d NUMERIC, PRIMARY KEY (a, b)
    )""",
    """CREATE TABLE v (
        a INT, b TEXT DEFAULT 'x' CHECK (length(b) < 4), c BLOB, d INT GENERATED ALWAYS AS (a * 2) STORED
    ) STRICT""",
    "CREATE TABLE w (a INTEGER PRIMARY KEY AUTOINCREMENT, b INT UNIQUE, c TEXT, d REAL, UNIQUE (c, d))",
    "CREATE INDEX t_b ON t (b, c)",
    "CREATE INDEX t_d ON t (d)",
    "CREATE INDEX v_a ON v (a DESC)",
    "CREATE VIEW tu AS SELECT t.a, t.b, u.b AS ub FROM t JOIN u ON u.b = t.a",
]
NAMES = "tuvw"
WRITABLE = {"t": "abcd", "u": "abcd", "v": "abc", "w": "abcd"}


class Draw:
    """Makes statements of one seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def one(self, *of: str) -> str:
        return self._draw.choice(of)

    def literal(self) -> str:
        return self.one(
            *map(str, range(-2, 9)), "'1'", "'2'", "'x'", "'X'", "'xy'", "'abcd'", "''", "1.5", "-0.5", "3.0", "NULL",
            "x'01'", "x'3132'", "9007199254740993", "1e30", "' 4'",
        )  # fmt: skip

    def column(self) -> str:
        return self.one(*"abcd")

    def expression(self, depth: int = 2) -> str:
        if depth == 0 or self._draw.random() < 0.3:
            return self.column() if self._draw.random() < 0.6 else self.literal()
        left, right = self.expression(depth - 1), self.expression(depth - 1)
        return self.one(
            f"({left} + {right})", f"({left} || {right})", f"coalesce({left}, {right})", f"({left} * {right})",
            f"upper({left})", f"CASE WHEN {left} > {right} THEN {left} ELSE {right} END", f"typeof({left})",
            f"abs(ifnull({left}, 0) % 5)", f"min({left}, {right})",
        )  # fmt: skip

    def condition(self, depth: int = 2) -> str:
        kind = self._draw.random()
        if depth and kind < 0.25:
            return f"({self.condition(depth - 1)} {self.one('AND', 'OR')} {self.condition(depth - 1)})"
        if kind < 0.75:
            return f"{self.column()} {self.one('=', '=', '<', '<=', '>', '>=', '<>', 'IS')} {self.literal()}"
        return self.one(
            f"{self.column()} IN ({self.literal()}, {self.literal()}, {self.literal()})",
            f"{self.column()} BETWEEN {self.literal()} AND {self.literal()}",
            f"{self.column()} IS NULL",
            f"{self.column()} IS NOT NULL",
            f"{self.column()} LIKE 'x%'",
            f"NOT {self.column()} = {self.expression(1)}",
            f"{self.column()} > {self.expression(1)}",
        )

    def where(self) -> str:
        return f" WHERE {self.condition()}" if self._draw.random() < 0.9 else ""

    def returning(self) -> str:
        return self.one("", "", f" RETURNING *, {self.expression(1)} AS e")

    def insert(self) -> str:
        table = self.one(*NAMES)
        columns = self._draw.sample(WRITABLE[table], self._draw.randint(1, len(WRITABLE[table])))
        rows = ", ".join(
            f"({', '.join(self.literal() for _ in columns)})" for _ in range(self._draw.choice((1, 1, 1, 2, 3)))
        )
        source = f"VALUES {rows}"
        if self._draw.random() < 0.1:
            values = ", ".join(self.expression(1) for _ in columns)
            source = f"SELECT {values} FROM {self.one(*NAMES)} WHERE {self.condition()} ORDER BY a, b, c, d"
        action = self.one("", "", "", " OR IGNORE", " OR REPLACE")
        upsert = ""
        if not action and self._draw.random() < 0.4:
            upsert = " " + self.one(
                "ON CONFLICT DO NOTHING",
                f"ON CONFLICT DO UPDATE SET {columns[0]} = excluded.{columns[-1]}",
                f"ON CONFLICT (a) DO UPDATE SET {columns[-1]} = {self.literal()} WHERE {self.condition(0)}",
                f"ON CONFLICT (a, b) DO UPDATE SET c = {self.literal()}",
                "ON CONFLICT (c) DO UPDATE SET d = coalesce(d, 0) + 1 ON CONFLICT DO NOTHING",
            )
        if source.startswith("SELECT") and upsert:
            upsert = ""
        return f"INSERT{action} INTO {table} ({', '.join(columns)}) {source}{upsert}{self.returning()}"

    def update(self) -> str:
        table = self.one(*NAMES)
        columns = ["d"] if table == "u" else self._draw.sample(WRITABLE[table], self._draw.choice((1, 1, 2)))
        assignments = ", ".join(f"{column} = {self.expression(1)}" for column in columns)
        if table in "tw":  # one row: what becomes of several depends on the order in which they are read
            action = self.one("", "", " OR IGNORE", " OR REPLACE")
            return f"UPDATE{action} {table} SET {assignments} WHERE a = {self.literal()}{self.returning()}"
        return f"UPDATE {table} SET {assignments}{self.where()}{self.returning()}"

    def delete(self) -> str:
        return f"DELETE FROM {self.one(*NAMES)} WHERE {self.condition()}{self.returning()}"

    def select(self) -> str:
        table = self.one(*NAMES)
        order = self.one("", f" ORDER BY {self.column()}", f" ORDER BY {self.column()} DESC, {self.column()}")
        other = self.one(*NAMES)
        return self.one(
            f"SELECT * FROM {table}{self.where()}{order}",
            f"SELECT * FROM {table}{self.where()}{order}",
            f"SELECT count(*), sum(b), min(c), max(a) FROM {table}{self.where()}",
            f"SELECT {self.column()}, count(*) FROM {table}{self.where()} GROUP BY 1 HAVING count(*) > 0",
            f"SELECT x.a, y.b FROM {table} AS x JOIN {other} AS y ON x.{self.column()} = y.{self.column()}",
            f"SELECT x.a, y.b FROM {table} AS x LEFT JOIN {other} AS y ON x.a = y.a AND y.b > {self.literal()}",
            f"SELECT DISTINCT {self.expression()} FROM {table}{self.where()}",
            f"SELECT a FROM {self.one(*'tvw')} WHERE a IN (SELECT {self.column()} FROM {other}{self.where()})",
            f"SELECT a, row_number() OVER (ORDER BY a, b, c, d), sum(a) OVER (PARTITION BY b) FROM {table}",
            f"WITH r AS (SELECT * FROM {table}{self.where()}) SELECT count(*), {self.column()} FROM r GROUP BY 2",
            f"SELECT a FROM {table} UNION SELECT b FROM {other} EXCEPT SELECT c FROM {table}",
            f"SELECT * FROM tu{self.one('', ' WHERE a > 2')}",
            f"SELECT EXISTS (SELECT 1 FROM {other} WHERE {other}.a = {table}.a) FROM {table}",
        )

    def statement(self) -> str:
        kind = self._draw.random()
        if kind < 0.4:
            return self.insert()
        if kind < 0.55:
            return self.update()
        return self.delete() if kind < 0.6 else self.select()


def outcome(run: object, statement: str) -> object:
    """Its rows in any order, or which error it is."""
    try:
        rows = run(statement)  # type: ignore[operator]
    except (apsw.ConstraintError, apsw.MismatchError, ConstraintFailed):
        return "constraint"  # which of several is not defined
    except (apsw.Error, SqlError) as error:
        return "error", str(error)
    if "DISTINCT" in statement or "UNION" in statement:
        return Counter(rows)  # 1 and 1.0 are the same: which one is not defined
    return Counter(map(repr, rows))


@pytest.mark.parametrize("seed", range(60))
def test_as_sqlite(seed: int) -> None:
    draw = Draw(seed)
    ours, theirs = MemoryDatabase(), apsw.Connection(":memory:")
    for table in TABLES:
        ours.run(table)
        theirs.execute(table)
    for _ in range(120):
        statement = draw.statement()
        expected = outcome(lambda it: theirs.execute(it).fetchall(), statement)
        assert outcome(ours.rows, statement) == expected, statement
        if not statement.startswith(("SELECT", "WITH")):
            for name in NAMES:
                content = f"SELECT * FROM {name}"
                assert outcome(ours.rows, content) == outcome(lambda it: theirs.execute(it).fetchall(), content), (
                    statement
                )
