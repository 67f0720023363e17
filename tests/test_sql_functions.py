"""Which functions statements may call, and that their results do not depend on the machine."""

from __future__ import annotations

from typing import Any

import apsw
import pytest

from replicator.sql import functions
from replicator.sql.errors import SqlError
from tests.command_log_fixture import check_equal, client, server, sql
from tests.redis_fixture import ServerThread
from tests.sql_fixture import NOW_MS, MemoryDatabase

__all__ = ["client", "server"]

NOW = "2023-11-14 22:13:20"
NEEDLESS = """
    changes fts3_tokenizer last_insert_rowid load_extension match matchinfo offsets optimize snippet sqlite_log
    sqlite_compileoption_get sqlite_compileoption_used sqlite_source_id total_changes
""".split()  # noqa: SIM905
"""Functions of SQLite that depend on the connection or the process, and those of full-text tables."""


def test_every_function_of_sqlite_is_allowed_or_refused_on_purpose() -> None:
    found: Any = apsw.Connection(":memory:").execute("SELECT DISTINCT name FROM pragma_function_list").fetchall()
    others = {name for (name,) in found} - functions.ALLOWED - {*NEEDLESS}
    assert {it for it in others if not it.startswith(("fts5", "rtree", "geopoly"))} <= {"bm25", "highlight"}


def test_functions_that_are_not_allowed_are_refused_everywhere() -> None:
    described: Any = apsw.Connection(":memory:").execute("SELECT name, narg FROM pragma_function_list").fetchall()
    database = MemoryDatabase()
    for name, count in described:
        if name not in functions.ALLOWED:
            call = f"{name}({', '.join(['1'] * max(count, 0))})"
            for statement in (
                f"SELECT {call}",
                f"CREATE TABLE t (a DEFAULT ({call}))",
                f"CREATE TABLE t (a, CHECK ({call}))",
            ):
                with pytest.raises(SqlError, match=f"{name}.* is refused"):
                    database.run(statement)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("datetime('subsec')", f"{NOW}.000"), ("unixepoch('subsec')", NOW_MS / 1000),
        ("julianday('subsecond') - julianday('now')", 0.0), ("strftime('%f', 'subsec')", "20.000"),
        ("datetime(x'6e6f77', 'subsec')", f"{NOW}.000"), ("strftime('%f', x'6e6f77')", "20.000"),
        ("datetime('NOW' || char(0) || 'x')", NOW), ("datetime('Now')", NOW), ("datetime(x'6e6f7700')", NOW),
        ("timediff('now', 'subsec')", "+0000-00-00 00:00:00.000"), ("strftime('%Y')", "2023"), ("date()", "2023-11-14"),
        ("date('now', 'start of month', '+1 month', '-1 day')", "2023-11-30"), ("date('2020-02-30')", "2020-03-01"),
        ("datetime(' now')", None), ("date('2020-01-01', 'now')", None), ("date(NULL)", None), ("strftime()", None),
        ("datetime(1e9, 'unixepoch')", "2001-09-09 01:46:40"), ("datetime(x'ff')", None),
    ],
)  # fmt: skip
def test_times_are_those_of_the_transaction(expression: str, expected: object) -> None:
    assert MemoryDatabase().rows(f"SELECT {expression}") == [(expected,)]


@pytest.mark.parametrize(
    "modifier", ["'localtime'", "'UTC'", "x'6c6f63616c74696d65'", "'utc' || char(0) || 'x'", "x'75746300'"]
)
def test_the_time_zone_of_the_machine_is_refused(modifier: str) -> None:
    with pytest.raises(SqlError, match="time zone of the machine"):
        MemoryDatabase().run(f"SELECT datetime('2020-01-01', {modifier})")


def test_a_word_for_the_present_time_that_is_not_known_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_NOW", frozenset())  # as if a later SQLite had added these
    with pytest.raises(SqlError, match="depends on the machine"):
        MemoryDatabase().run("SELECT datetime('subsec')")


DEFAULTS = """
    CREATE TABLE t (
        a INTEGER PRIMARY KEY, b TEXT DEFAULT CURRENT_TIMESTAMP, c TEXT DEFAULT (now()), d DEFAULT (datetime('now')),
        e DEFAULT (random()), f DEFAULT (lower(hex(randomblob(4)))), g DEFAULT CURRENT_DATE, h DEFAULT (sin(1)),
        i AS (date(d)), j REAL CHECK (sin(j) < 1), k CHECK (date(k) IS NOT NULL)
    )
"""


def test_functions_in_definitions() -> None:
    database = MemoryDatabase()
    database.run(DEFAULTS)
    [row] = database.rows("INSERT INTO t (j, k) VALUES (1, '2020-01-01') RETURNING *")
    assert row[1:4] == (NOW, NOW, NOW)
    assert isinstance(row[4], int)
    assert len(str(row[5])) == 8
    assert row[6:9] == ("2023-11-14", pytest.approx(0.841, abs=0.001), "2023-11-14")
    with pytest.raises(SqlError, match="CHECK constraint failed"):
        database.run("INSERT INTO t (k) VALUES ('x')")


def test_defaults_by_command(server: ServerThread, client: Any) -> None:
    sql(client, DEFAULTS)
    for number in range(5):
        sql(client, "INSERT INTO t (j, k) VALUES (?, '2020-01-01'), (?, '2020-01-02')", number, number / 2)
    sql(client, "UPDATE t SET d = datetime('subsec'), j = 0 WHERE a % 2")
    check_equal(server)


@pytest.mark.parametrize(
    "columns",
    [
        "a CHECK (a < now())", "a, b AS (now())", "a CHECK (a < CURRENT_TIMESTAMP)", "a CHECK (a > random())",
        "a, b AS (randomblob(1))", "a CHECK (a > date('now'))", "a, b AS (strftime('%Y'))", "a, b AS (time())",
        "a, b AS (datetime('subsec', '+1 day'))", "a, CHECK (timediff(a, 'NOW') > '')",
    ],
)  # fmt: skip
def test_what_varies_is_refused_in_checks_and_generated_columns(columns: str) -> None:
    with pytest.raises(SqlError, match="CHECK and generated columns"):
        MemoryDatabase().run(f"CREATE TABLE t ({columns})")


def test_words_that_look_like_what_varies() -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE now (random, date CHECK (date('2020-01-01') < date OR random = 'now'))")
    database.run("INSERT INTO now VALUES (1, '2021-01-01')")
    assert database.rows("SELECT random FROM now WHERE date < now()") == [(1,)]
