"""Names, and messages about what is not supported."""

from __future__ import annotations

import itertools

import apsw
import pytest

from replicator.sql.errors import SqlError
from replicator.sql.key_order import encode, encode_last
from replicator.sql.tables import collate_of
from replicator.stream.sql_rows import tables_in
from tests.sql_fixture import MemoryDatabase


def test_only_ascii_letters_have_no_case() -> None:
    database = MemoryDatabase()
    for statement in (
        "CREATE TABLE ä (ä INT PRIMARY KEY, Ä INT, A INT)",
        "CREATE TABLE Ä (z INT)",
        "CREATE INDEX é ON ä (Ä)",
        "CREATE INDEX É ON Ä (Z)",
        "INSERT INTO ä (ä, Ä, a) VALUES (1, 2, 3)",
        "UPDATE ä SET Ä = 5",
        "INSERT INTO Ä VALUES (7)",
        'CREATE TABLE "\N{KELVIN SIGN}" (x)',
        "CREATE TABLE k (x)",
    ):
        database.run(statement)
    assert database.rows("SELECT * FROM ä WHERE Ä = 5") == [(1, 5, 3)]
    assert database.rows("SELECT * FROM Ä WHERE z = 7") == [(7,)]
    assert {"sql.ä", "sql.Ä"} <= {*tables_in(database.entries)}
    database.run("DROP TABLE Ä")
    assert database.rows("SELECT ä FROM ä WHERE Ä = 5") == [(1,)]
    with pytest.raises(SqlError, match="already a table named k"):
        database.run("CREATE TABLE K (x)")


def test_keywords_and_types_are_ascii() -> None:
    database = MemoryDatabase()
    with pytest.raises(SqlError, match="not supported"):
        database.run("\N{LATIN SMALL LETTER LONG S}ELECT 1")
    database.run("CREATE TABLE t (a \N{LATIN SMALL LETTER DOTLESS I}NT)")  # which is numeric, as all that is unknown
    database.run("INSERT INTO t VALUES ('1.5')")
    assert database.rows("SELECT a FROM t WHERE a = 1.5") == [(1.5,)]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("CREATE TABLE t (a INTEGER PRIMARY KEY ON CONFLICT REPLACE)", "ON CONFLICT REPLACE of a constraint"),
        ("CREATE TABLE t (a, UNIQUE (a) ON CONFLICT IGNORE)", "ON CONFLICT IGNORE of a constraint"),
        ("CREATE TABLE t (a NOT NULL ON CONFLICT ROLLBACK)", "ON CONFLICT ROLLBACK of a constraint"),
        ('CREATE TABLE "sql.kv" (a)', "names that begin with sql. are reserved"),
        ("CREATE TABLE [SQL.x] (a)", "names that begin with sql. are reserved"),
        ('CREATE TABLE "x\0y" (a)', "NUL"),
        ("CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", "triggers are not supported"),
        ("SHOW TABLES", 'near "SHOW": this statement is not supported, tables are in sqlite_schema'),
        ("SELEC 1", 'near "SELEC": this statement is not supported'),
        ("ALTER TABLE t ADD x", 'near "ALTER": .*create another table'),
        (
            "SELECT length(replace(hex(zeroblob(100000)), '0', hex(zeroblob(100000))))",
            "string or blob too big",
        ),
    ],
)
def test_what_is_not_supported(statement: str, error: str) -> None:
    with pytest.raises(SqlError, match=error):
        MemoryDatabase().run(statement)


def test_a_constraint_may_say_that_it_aborts() -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY ON CONFLICT ABORT)")
    assert database.run("INSERT OR REPLACE INTO t VALUES (1)").changes == 1


@pytest.mark.parametrize(
    ("statement", "values", "names"),
    [
        ("SELECT :a, :a + 1, ':p1', @b AS x", [1, 2], [":a", ":a + 1", "':p1'", "x"]),
        ("SELECT ?, ?2, ?", [1, 2, 3], ["?", "?2", "?"]),
        ("INSERT INTO t VALUES ($a) RETURNING $a", [5], ["$a"]),
        ("DELETE FROM t RETURNING a, :a", [5], ["a", ":a"]),
    ],
)
def test_names_of_columns_that_are_parameters(statement: str, values: list[int], names: list[str]) -> None:
    database = MemoryDatabase()
    database.run("CREATE TABLE t (a)")
    assert [name for name, _ in database.run(statement, values).columns] == names


def test_instr_of_bytes_that_are_not_utf8() -> None:
    engine, database = apsw.Connection(":memory:"), MemoryDatabase()
    values = ["é", b"\xa9", b"\xc3", b"\xc3\xa9", "xé", b"x\xc3\xa9y", b"\xa9x", "x", "", b"", 12, b"1", "é€x", b"\xac"]
    for pair in itertools.product(values, values):
        assert database.rows("SELECT instr(?, ?)", *pair) == [(engine.execute("SELECT instr(?, ?)", pair).get,)], pair


def test_no_case_ends_at_nul_as_in_sqlite() -> None:
    engine, collate = apsw.Connection(":memory:"), collate_of("NOCASE")
    texts = [
        "",
        "a",
        "A",
        "ab",
        "a\0",
        "a\0b",
        "A\0c",
        "a\0bb",
        "\0",
        "\0a",
        "\0bcd",
        "b",
        "aB\0",
        "a\0é",
        "a\0ee",
        "É",
    ]
    for first, second in itertools.product(texts, texts):
        order = engine.execute("SELECT (?1 < ?2 COLLATE NOCASE) - (?1 > ?2 COLLATE NOCASE)", (first, second)).get
        for encoding in (encode, encode_last):
            keys = encoding(first, collate), encoding(second, collate)
            assert (keys[0] < keys[1]) - (keys[0] > keys[1]) == order, (first, second)
