"""Statements have the effect and the result that they have in SQLite itself: thousands of random ones."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

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
    """CREATE TABLE x (
        a ANY NOT NULL, b TEXT COLLATE RTRIM NOT NULL DEFAULT 'x', c ANY, d REAL, PRIMARY KEY (a, b COLLATE NOCASE)
    ) STRICT""",
    "CREATE INDEX t_b ON t (b, c)",
    "CREATE INDEX t_d_b ON t (d, b COLLATE NOCASE)",
    "CREATE INDEX x_c ON x (c)",
    "CREATE INDEX t_d ON t (d)",
    "CREATE INDEX v_a ON v (a DESC)",
    "CREATE VIEW tu AS SELECT t.a, t.b, u.b AS ub FROM t JOIN u ON u.b = t.a",
]
NAMES = "tuvwx"
WRITABLE = {"t": "abcd", "u": "abcd", "v": "abc", "w": "abcd", "x": "abcd"}
VALUES = [None, None, 0, 1, 2, -1, 3.0, 1.5, "1", "x", "X ", "", b"1", b"x", -(2**63), "-9223372036854775807", "007"]


class Draw:
    """Makes statements of one seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.parameters: list[object] = []  # of the statement

    def one(self, *of: str) -> str:
        return self._draw.choice(of)

    def literal(self) -> str:
        return self.one(
            *map(str, range(-2, 9)), "'1'", "'2'", "'x'", "'X'", "'xy'", "'abcd'", "''", "1.5", "-0.5", "3.0", "NULL",
            "x'01'", "x'3132'", "9007199254740993", "1e30", "' 4'",
        )  # fmt: skip

    def operand(self) -> str:
        """A literal or a parameter."""
        if self._draw.random() < 0.6:
            return self.literal()
        self.parameters.append(self._draw.choice(VALUES))
        return f"?{len(self.parameters)}"

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
            return f"{self.column()} {self.one('=', '=', '<', '<=', '>', '>=', '<>', 'IS')} {self.operand()}"
        return self.one(
            f"{self.column()} IN ({self.literal()}, {self.literal()}, {self.literal()})",
            f"{self.column()} IS NOT DISTINCT FROM {self.operand()}",
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
        columns = ["d"] if table in "ux" else self._draw.sample(WRITABLE[table], self._draw.choice((1, 1, 2)))
        values = [self.expression(1) for _ in columns]
        assignments = ", ".join(map("{} = {}".format, columns, values))
        if self._draw.random() < 0.2:
            assignments = f"({', '.join(columns)}) = ({', '.join(values)})"
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
        self.parameters = []
        kind = self._draw.random()
        if kind < 0.4:
            return self.insert()
        if kind < 0.55:
            return self.update()
        return self.delete() if kind < 0.6 else self.select()


def outcome(run: Callable[..., Sequence[object]], statement: str, parameters: Sequence[object] = ()) -> object:
    """Its rows in any order, or which error it is."""
    try:
        rows = run(statement, *parameters)
    except (apsw.ConstraintError, apsw.MismatchError, ConstraintFailed):
        return "constraint"  # which of several is not defined
    except (apsw.Error, SqlError) as error:
        return "error", str(error)
    if any(it in statement for it in ("DISTINCT", "UNION", "GROUP BY")):
        return Counter(rows)  # 1 and 1.0 are the same: which one is not defined
    return Counter(map(repr, rows))


class Pair:
    """A store of ours and SQLite itself, which execute the same."""

    def __init__(self, *statements: str) -> None:
        self.ours, self.theirs = MemoryDatabase(), apsw.Connection(":memory:")
        for it in statements:
            self.compare(it)

    def compare(self, statement: str, *parameters: object) -> object:
        used = parameters[: max(map(int, re.findall(r"\?(\d+)", statement)), default=statement.count("?"))]
        expected = outcome(lambda it, *values: self.theirs.execute(it, values).fetchall(), statement, used)
        assert outcome(self.ours.rows, statement, used) == expected, (statement, used)
        return expected


@pytest.mark.parametrize("seed", range(60))
def test_as_sqlite(seed: int) -> None:
    draw, pair = Draw(seed), Pair(*TABLES)
    for _ in range(120):
        statement = draw.statement()
        pair.compare(statement, *draw.parameters)
        if not statement.startswith(("SELECT", "WITH")):
            for name in NAMES:
                pair.compare(f"SELECT * FROM {name}")


@pytest.mark.parametrize(
    ("statements", "is_error"),
    [
        (["CREATE TABLE t (a INT, b)", "INSERT INTO t VALUES (1, 1), (2, 2)", "UPDATE t SET b = max(b)"],
         True),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1)", "UPDATE t SET b = row_number() OVER ()"], True),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1), (2, 2)", "DELETE FROM t RETURNING count(*)"], True),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1), (2, 2)",
          "DELETE FROM t RETURNING a, (SELECT count(*) FROM sqlite_schema)"], False),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1), (2, 2)",
          "DELETE FROM t RETURNING a, (SELECT max(b) FROM sqlite_schema)"], False),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1), (2, 2)",
          "UPDATE t SET b = (SELECT max(a) FROM t), a = max(a, 5)"], False),
        (["CREATE TABLE t (a, b UNIQUE)", "INSERT INTO t VALUES (1, 1), (2, 2)",
          "INSERT INTO t VALUES (3, 3) RETURNING rowid, *", "UPDATE t SET a = 9 WHERE b = 2 RETURNING rowid, *",
          "INSERT INTO t VALUES (7, 3), (8, 5) ON CONFLICT (b) DO UPDATE SET a = t.rowid RETURNING rowid"], False),
        (["CREATE TABLE t (rowid, _rowid_)", "INSERT INTO t VALUES (1, 2) RETURNING oid, rowid"], False),
        (["CREATE TABLE t (rowid, oid, _rowid_)", "INSERT INTO t VALUES (1, 2, 3) RETURNING *"], False),
        (["CREATE TABLE t (a DEFAULT 5)", "INSERT INTO t DEFAULT VALUES RETURNING rowid, a",
          "INSERT INTO t DEFAULT VALUES RETURNING rowid, a"], False),
        (["CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b NOT NULL)",
          "INSERT OR IGNORE INTO t VALUES (20, NULL)", "INSERT INTO t (b) VALUES (1)"], False),
        (["CREATE TABLE t (a INTEGER PRIMARY KEY, b)", "INSERT INTO t VALUES (1, 1), (2, 2)",
          "WITH t AS (SELECT 1 AS x) UPDATE t SET b = 5 WHERE a IN (SELECT x FROM t)",
          "WITH t AS (SELECT 2 AS replicator_key, 2 AS a) DELETE FROM t"], False),
        (["CREATE TABLE t (a TEXT PRIMARY KEY NOT NULL, b)", "INSERT OR IGNORE INTO t VALUES (NULL, 1), ('a', 2)",
          "UPDATE OR IGNORE t SET a = NULL, b = 5"],
         False),
        (["CREATE TABLE t (a TEXT, PRIMARY KEY (a COLLATE NOCASE))", "INSERT INTO t VALUES ('a')",
          "INSERT INTO t VALUES ('A')"], True),
        (['CREATE TABLE t (id INTEGER PRIMARY KEY, "1", "0")', "INSERT INTO t VALUES (1, 'one', 'zero')",
          "UPDATE t SET \"0\" = 1 WHERE id = 1"], False),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 2), (3, 4)", "UPDATE t SET (a, b) = (b, a) RETURNING *",
          "UPDATE t SET (a, b) = (SELECT 7, 8) WHERE a = 2"], False),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 2), (3, 4)", "UPDATE t SET (a, b) = (max(a), 1)"], True),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 2), (3, 4)",
          "WITH q AS (SELECT 1 AS z) DELETE FROM t WHERE a = 1 RETURNING a, (SELECT z FROM q)"], False),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 2), (3, 4)",
          "WITH q AS (SELECT 1 AS z) UPDATE t SET b = 5 RETURNING a, (SELECT z FROM q)"], False),
        (["CREATE TABLE t (a, b)",
          "WITH q AS (SELECT 1 AS z) INSERT INTO t VALUES (1, 2) RETURNING (SELECT z FROM q)"], False),
        (["CREATE TABLE t (a, b UNIQUE)", "INSERT INTO t VALUES (1, 2), (3, 4)", "WITH q AS (SELECT 1 AS z) "
          "INSERT INTO t VALUES (9, 2) ON CONFLICT (b) DO UPDATE SET a = (SELECT z FROM q)"], False),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1), (2, 2)",
          "DELETE FROM t AS x RETURNING count(*)"], True),
        (["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1), (2, 2)", "DELETE FROM t AS x RETURNING a, b"], False),
    ],
)  # fmt: skip
def test_what_was_different(statements: list[str], is_error: bool) -> None:
    pair = Pair()
    for it in statements:
        found = pair.compare(it)
    assert (isinstance(found, tuple) or found == "constraint") is is_error
    pair.compare("SELECT * FROM t")


@pytest.mark.parametrize("order", ["ORDER BY b", "ORDER BY b DESC", "ORDER BY a, b LIMIT 1", "GROUP BY b", ""])
@pytest.mark.parametrize("columns", ["b", "DISTINCT b", "min(b)"])
def test_an_index_whose_collation_is_not_that_of_the_column(order: str, columns: str) -> None:
    pair = Pair(
        "CREATE TABLE t (a INT, b TEXT)",
        "CREATE INDEX i ON t (a, b COLLATE NOCASE)",
        "INSERT INTO t VALUES (1, 'a'), (1, 'B'), (1, 'A'), (1, 'a'), (1, 'A')",
    )
    statement = f"SELECT {columns} FROM t WHERE a = 1 {order}"
    pair.compare(statement)
    assert pair.ours.rows(statement) == pair.theirs.execute(statement).fetchall()


@pytest.mark.parametrize(
    "text",
    ["-1915909835934315028", "+1915909835934315028", "0000000000000000000007", "\u0663", "9223372036854775808", " 7"],
)
def test_numbers_as_text(text: str) -> None:
    pair = Pair("CREATE TABLE t (a INTEGER PRIMARY KEY, b NUMERIC)", "CREATE INDEX i ON t (b)")
    pair.compare("INSERT INTO t (b) VALUES (?)", text)
    pair.compare("INSERT INTO t VALUES (?, ?)", text, text)
    for column in "ab":
        for operator in ("=", "<=", ">="):
            pair.compare(f"SELECT * FROM t WHERE {column} {operator} ?", text)


def test_a_shortcut_is_taken_for_columns_only() -> None:
    pair = Pair('CREATE TABLE t (id INTEGER PRIMARY KEY, "1", "0")', "INSERT INTO t VALUES (1, 'one', 'zero')")
    for _ in range(3):
        pair.compare("SELECT 1 FROM t WHERE id = ?", 1)
        pair.compare('UPDATE t SET "0" = 1 WHERE id = ?', 1)
        pair.compare("SELECT * FROM t")


def test_rows_without_a_key_are_ignored_although_their_columns_may_be_null() -> None:
    """Unlike in SQLite, those of a primary key may not."""
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a TEXT PRIMARY KEY, b)")
    assert database.run("INSERT OR IGNORE INTO t VALUES (NULL, 1), ('a', 2)").changes == 1
    assert database.run("UPDATE OR IGNORE t SET a = NULL, b = 5").changes == 0
    assert database.rows("SELECT * FROM t") == [("a", 2)]
