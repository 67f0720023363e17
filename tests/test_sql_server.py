"""SQL over the Redis port, on nodes in memory."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

from replicator.errors import NotLeader
from replicator.limits import MAX_CHANGES, MAX_SAVEPOINTS
from replicator.procedures.loading import NONE
from replicator.server.programs import Programs
from replicator.server.redis.interactive import Aborted, InteractiveTransaction
from replicator.sql.engine import SqlEngine
from replicator.store.view import Transaction
from tests.redis_fixture import STEADY, ServerThread


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerThread]:
    server = ServerThread(tmp_path, nodes=1, timing=STEADY)
    yield server
    server.close()


@pytest.fixture
def client(server: ServerThread) -> Any:
    return server.client(decode_responses=True)


def sql(client: Any, statement: str, *values: object) -> Any:
    return client.execute_command("REPL.SQL", statement, *(("VALUES", *values) if values else ()))


class Typed:
    """A connection that sends and receives typed values."""

    def __init__(self, server: ServerThread) -> None:
        self._connection = server.client(single_connection_client=True)

    def __call__(self, statement: str, *values: object, **named: object) -> Any:
        packed = msgpack.packb(named or list(values))
        return msgpack.unpackb(self._connection.execute_command("REPL.SQL", statement, "PARAMS", packed))

    def redis(self, *command: object) -> Any:
        return self._connection.execute_command(*command)


@pytest.fixture
def typed(server: ServerThread) -> Typed:
    return Typed(server)


def test_a_transaction_ends_while_sqlite_computes(typed: Typed, client: Any) -> None:
    """Nothing else runs in a transaction that writes, so it must not wait for a function that takes seconds."""
    typed("CREATE TABLE t (a)")
    large, calls = "[" + "1," * 400_000 + "1]", "+".join(["json_valid(?1)"] * 180)
    typed.redis("MULTI")
    typed.redis("SET", "k", "v")
    typed.redis("REPL.SQL", f"INSERT INTO t SELECT {calls}", "PARAMS", msgpack.packb([large]))
    with pytest.raises(redis.ResponseError, match="take more than 30 ms"):
        typed.redis("EXEC")
    assert client.get("k") is None and sql(client, "SELECT count(*) FROM t") == [["count(*)"], [0]]


def test_the_examples_of_nondeterministic_statements(client: Any) -> None:
    sql(client, "CREATE TABLE Table (key INTEGER PRIMARY KEY, value INTEGER, time TEXT)")
    assert sql(client, "INSERT INTO Table (key, time) VALUES (42, now())") == 1
    assert sql(client, "UPDATE Table SET value = random() WHERE key = 42") == 1
    names, row = sql(client, "SELECT * FROM Table")
    assert names == ["key", "value", "time"]
    assert row[0] == 42 and isinstance(row[1], int) and row[2].startswith("20")


def test_updates_that_do_not_commute(client: Any) -> None:
    sql(client, "CREATE TABLE Table (value INTEGER)")
    sql(client, "INSERT INTO Table VALUES (1), (2)")
    assert sql(client, "UPDATE Table SET value = 2 WHERE value = 1") == 1
    assert sql(client, "UPDATE Table SET value = 3 WHERE value = 2") == 2
    assert sql(client, "SELECT * FROM Table") == [["value"], [3], [3]]


def test_reads_and_writes_in_one_pipeline(client: Any) -> None:
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    sql(client, "INSERT INTO t VALUES (1, 'x')")
    read, write = ("REPL.SQL", "SELECT b FROM t WHERE a = ?", "VALUES", "1"), ("REPL.SQL", "UPDATE t SET b = 'y'")
    pipeline = client.pipeline(transaction=False)
    for line in (("GET", "k"), read, read, ("REPL.SQL", "SELECT"), ("REPL.SQL", "no"), read, write, read, ("GET", "k")):
        pipeline.execute_command(*line)
    *replies, last = pipeline.execute(raise_on_error=False)
    errors = [it for it in replies if isinstance(it, redis.ResponseError)]
    assert [it for it in replies if it not in errors] == [None, *3 * [[["b"], ["x"]]], 1, [["b"], ["y"]]]
    assert len(errors) == 2 and last is None


def test_text_parameters(client: Any) -> None:
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    assert sql(client, "INSERT INTO t VALUES (?, ?)", "1", "x") == 1
    assert sql(client, "SELECT b, a + 1, NULL, 1.5, x'6162' FROM t WHERE a = ?", "1") == [
        ["b", "a + 1", "NULL", "1.5", "x'6162'"],
        ["x", 2, None, "1.5", "ab"],
    ]


def test_typed_parameters(typed: Typed) -> None:
    typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b, c TEXT)")
    assert typed("INSERT INTO t (b, c) VALUES (?, ?) RETURNING a, b", b"\x00\xff", "é") == {
        "columns": [["a", "INTEGER"], ["b", None]],
        "rows": [[1, b"\x00\xff"]],
        "changes": 1,
        "last_id": 1,
    }
    assert typed("INSERT INTO t (b) VALUES (:b), (2.5)", b=None)["last_id"] == 3
    assert typed("SELECT * FROM t ORDER BY a")["rows"] == [[1, b"\x00\xff", "é"], [2, None, None], [3, 2.5, None]]
    assert typed("SELECT ?1 + ?1", 4)["rows"] == [[8]]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELEC 1", "SQLERROR.*not supported"),
        ("SELECT * FROM missing", "SQLERROR no such table: missing"),
        ("SELECT nope(1)", "SQLERROR no such function: nope"),
        ("SELECT 1; SELECT 2", "SQLERROR one statement at a time"),
        ("SELECT ?", "SQLERROR the statement has 1 parameters, but 0 values"),
        ("SELECT load_extension('x')", "SQLERROR .*load_extension"),
        ("SELECT last_insert_rowid()", "SQLERROR .*last_insert_rowid"),
        ("ATTACH 'x' AS y", "SQLERROR.*not supported"),
        ("PRAGMA journal_mode = wal", "SQLERROR PRAGMA journal_mode is refused"),
        ("SELECT datetime('now', 'localtime')", "SQLERROR 'localtime' depends on the time zone"),
        ("INSERT INTO t VALUES (1, 'x', 1)", "SQLERROR.*3 values"),
        ("INSERT INTO t VALUES (5, NULL)", "CONSTRAINT NOT NULL constraint failed: t.b"),
        ("INSERT INTO t VALUES (1, 'y')", "CONSTRAINT UNIQUE constraint failed: t.a"),
        ("INSERT INTO t VALUES ('x', 'y')", "CONSTRAINT datatype mismatch"),
        ("CREATE TABLE t (a)", "SQLERROR there is already a table named t"),
        ("CREATE TABLE s (a) WITHOUT ROWID", "SQLERROR PRIMARY KEY missing"),
        ("CREATE TABLE s AS SELECT 1", "SQLERROR CREATE TABLE … AS is not supported"),
        ("CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", "SQLERROR"),
        ("SELECT * FROM main.t", "SQLERROR no such table: main.t"),
        ("COMMIT", "SQLERROR cannot commit - no transaction is active"),
        ("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) INSERT INTO t SELECT x, 'y' FROM n",
         "ERR (one statement can write|the statement takes more)"),
    ],
)  # fmt: skip
def test_bad_input(client: Any, statement: str, error: str) -> None:
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT NOT NULL)")
    sql(client, "INSERT INTO t VALUES (1, 'x')")
    with pytest.raises(redis.ResponseError, match=error.removeprefix("ERR ")):
        sql(client, statement)
    assert sql(client, "SELECT * FROM t") == [["a", "b"], [1, "x"]]


def test_keys_and_rows_in_one_transaction(client: Any) -> None:
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY)")
    with client.pipeline() as pipeline:
        pipeline.set("k", "v")
        pipeline.execute_command("REPL.SQL", "INSERT INTO t VALUES (7)")
        pipeline.execute_command("REPL.SQL", "SELECT * FROM t")
        assert pipeline.execute() == [True, 1, [["a"], [7]]]


def test_once(client: Any) -> None:
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY)")
    for _ in range(2):
        line = ("REPL.ONCE", "id", "REPL.SQL", "INSERT INTO t DEFAULT VALUES RETURNING a")
        assert client.execute_command(*line) == [["a"], [1]]
    assert sql(client, "SELECT count(*) FROM t") == [["count(*)"], [1]]


class TestTransactions:
    def test_commit_and_roll_back(self, server: ServerThread, typed: Typed) -> None:
        other = Typed(server)
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
        typed("BEGIN")
        typed("INSERT INTO t VALUES (1, 1)")
        typed.redis("SET", "k", "v")
        assert typed("SELECT * FROM t")["rows"] == [[1, 1]]
        assert typed.redis("GET", "k") == b"v"
        assert other("SELECT * FROM t")["rows"] == []
        typed("COMMIT")
        assert other("SELECT * FROM t")["rows"] == [[1, 1]]
        assert other.redis("GET", "k") == b"v"
        typed("BEGIN IMMEDIATE TRANSACTION")
        typed("DELETE FROM t")
        typed("ROLLBACK")
        assert other("SELECT * FROM t")["rows"] == [[1, 1]]

    def test_savepoints(self, typed: Typed) -> None:
        typed("CREATE TABLE t (a)")
        typed("BEGIN")
        typed("INSERT INTO t VALUES (1)")
        typed("SAVEPOINT one")
        typed("INSERT INTO t VALUES (2)")
        typed("SAVEPOINT two")
        typed("INSERT INTO t VALUES (3)")
        typed("ROLLBACK TO one")
        with pytest.raises(redis.ResponseError, match="no such savepoint: two"):
            typed("ROLLBACK TO two")
        typed("INSERT INTO t VALUES (4)")
        typed("RELEASE one")
        typed("COMMIT")
        assert typed("SELECT a FROM t ORDER BY a")["rows"] == [[1], [4]]

    def test_a_large_table_is_emptied_in_parts(self, typed: Typed) -> None:
        typed("CREATE TABLE t (a, b UNIQUE)")
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        numbers += " INSERT INTO t SELECT i, i FROM n"
        with pytest.raises(
            redis.ResponseError, match=rf"at most {MAX_CHANGES} entries, and each index of a row counts"
        ):
            typed(numbers, MAX_CHANGES // 2 + 1)
        typed(numbers, 25)
        part = "DELETE FROM t WHERE rowid IN (SELECT rowid FROM t LIMIT 10)"
        assert [typed(part)["changes"] for _ in range(4)] == [10, 10, 5, 0]

    def test_the_number_of_savepoints(self, typed: Typed) -> None:
        typed("BEGIN")
        for _ in range(MAX_SAVEPOINTS):
            typed("SAVEPOINT a")
        with pytest.raises(redis.ResponseError, match="at most 100 savepoints: RELEASE some"):
            typed("SAVEPOINT a")

    def test_what_follows_a_lost_transaction_has_a_code_of_its_own(self) -> None:
        """Another one than `CONFLICT`, which says that running the transaction again helps."""

        def begin() -> Transaction:
            raise NotLeader("leadership was lost")

        interactive = InteractiveTransaction(0, Programs(NONE))
        with pytest.raises(NotLeader):
            interactive.begin_command(begin)
        with pytest.raises(Aborted, match=r"until ROLLBACK or COMMIT: leadership was lost") as end:
            interactive.check_alive()
        assert end.value.code == "ABORTED"

    def test_a_statement_that_fails_leaves_the_others(self, typed: Typed) -> None:
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY)")
        typed("BEGIN")
        typed("INSERT INTO t VALUES (1)")
        with pytest.raises(redis.ResponseError, match="UNIQUE"):
            typed("INSERT INTO t VALUES (2), (1)")
        typed("COMMIT")
        assert typed("SELECT a FROM t")["rows"] == [[1]]

    @pytest.mark.parametrize(
        ("read", "write"),
        [
            ("SELECT b FROM t WHERE a = 1", "UPDATE t SET b = 5 WHERE a = 1"),
            ("SELECT count(*) FROM t WHERE a > 5", "INSERT INTO t VALUES (7, 0)"),
            ("SELECT max(a) FROM t", "INSERT INTO t VALUES (9, 0)"),
            ("SELECT * FROM t WHERE a = 4", "INSERT INTO t VALUES (4, 0)"),
            ("INSERT INTO t VALUES (4, 1)", "INSERT INTO t VALUES (4, 0)"),
            ("SELECT 1 FROM t WHERE a = 2", "DELETE FROM t WHERE a = 2"),
        ],
    )
    def test_what_was_read_may_not_change(self, server: ServerThread, typed: Typed, read: str, write: str) -> None:
        other = Typed(server)
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
        typed("INSERT INTO t VALUES (1, 1), (2, 2)")
        typed("BEGIN")
        typed(read)
        typed("INSERT INTO t VALUES (3, 3)")
        other(write)
        with pytest.raises(redis.ResponseError, match="another client has changed"):
            typed("COMMIT")
        assert [3, 3] not in other("SELECT * FROM t")["rows"]

    def test_other_rows_may_change(self, server: ServerThread, typed: Typed) -> None:
        other = Typed(server)
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
        typed("INSERT INTO t VALUES (1, 1), (2, 2)")
        typed("BEGIN")
        typed("UPDATE t SET b = b + 10 WHERE a = 1")
        other("UPDATE t SET b = b + 20 WHERE a = 2")
        other.redis("SET", "k", "v")
        typed("COMMIT")
        assert other("SELECT b FROM t")["rows"] == [[11], [22]]

    def test_the_end_of_a_connection_ends_its_transaction(self, server: ServerThread, typed: Typed) -> None:
        typed("CREATE TABLE t (a)")
        with server.client(single_connection_client=True) as gone:
            gone.execute_command("REPL.SQL", "BEGIN")
            gone.execute_command("REPL.SQL", "INSERT INTO t VALUES (1)")
        assert typed("SELECT * FROM t")["rows"] == []

    def test_multi(self, typed: Typed) -> None:
        typed("BEGIN")
        with pytest.raises(redis.ResponseError, match="MULTI is not allowed between BEGIN and COMMIT"):
            typed.redis("MULTI")
        typed("ROLLBACK")

    def test_counters_of_many_clients(self, server: ServerThread, typed: Typed) -> None:
        """Lost updates would make the sum smaller."""
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
        typed("INSERT INTO t VALUES (1, 0)")
        counts: list[int] = []

        def count() -> None:
            mine, done = Typed(server), 0
            while done < 20:
                mine("BEGIN")
                (value,) = mine("SELECT b FROM t WHERE a = 1")["rows"][0]
                mine("UPDATE t SET b = ? WHERE a = 1", value + 1)
                try:
                    mine("COMMIT")
                except redis.ResponseError as error:
                    assert "another client has changed" in str(error)
                else:
                    done += 1
            counts.append(done)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert typed("SELECT b FROM t")["rows"] == [[sum(counts)]] == [[80]]


@pytest.mark.parametrize("change", ["DROP INDEX i", "DROP TABLE u", "CREATE TABLE new (a)"])
def test_a_transaction_ends_when_the_schema_changes(server: ServerThread, typed: Typed, change: str) -> None:
    other = Typed(server)
    typed("CREATE TABLE t (a)")
    typed("CREATE TABLE u (a, b)")
    typed("CREATE INDEX i ON u (b)")
    typed("BEGIN")
    typed("SELECT * FROM t")
    other(change)
    for error in ("CONFLICT another client has changed the schema", "ABORTED"):
        with pytest.raises(redis.ResponseError, match=rf"^{error}"):
            typed("UPDATE u SET b = 1")
    typed("ROLLBACK")
    typed.redis("SET", "k", "1")


NUMBERS = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < {})"


def test_rows_are_replaced_in_one_transaction(typed: Typed) -> None:
    typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    insert = f"{NUMBERS.format(1000)} INSERT INTO t (b) SELECT x FROM n"
    typed(insert)
    typed("BEGIN")
    typed("DELETE FROM t")
    typed(insert)
    typed("COMMIT")
    assert typed("SELECT count(*), max(a) FROM t")["rows"] == [[1000, 1000]]


def test_a_transaction_of_too_many_changes_cannot_be_committed(typed: Typed) -> None:
    typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    for first in (0, 3000):
        typed("WITH RECURSIVE n(x) AS (VALUES (?1) UNION ALL SELECT x + 1 FROM n WHERE x < ?1 + 2999) "
              "INSERT INTO t SELECT x, 1 FROM n", first)  # fmt: skip
    typed("BEGIN")
    typed("UPDATE t SET b = 2 WHERE a < 3000")
    with pytest.raises(
        redis.ResponseError, match=f"^TOOLARGE one transaction can change at most {MAX_CHANGES} entries"
    ):
        typed("UPDATE t SET b = 2 WHERE a >= 3000")
    with pytest.raises(redis.ResponseError, match=r"^ABORTED"):
        typed("COMMIT")
    assert typed("SELECT sum(b) FROM t")["rows"] == [[6000]]


def test_a_transaction_beyond_its_limits_cannot_be_committed(typed: Typed) -> None:
    """As in SQLite: clients such as pandas commit what they have done before the error."""
    typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    typed("INSERT INTO t VALUES (1, 'x')")
    typed("BEGIN")
    typed("DROP TABLE t")
    typed("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    many = (
        "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 6000) INSERT INTO t SELECT x FROM n"
    )
    with pytest.raises(redis.ResponseError, match="divide it"):
        typed(many)
    with pytest.raises(redis.ResponseError, match="aborted"):
        typed("COMMIT")
    assert typed("SELECT * FROM t")["rows"] == [[1, "x"]]


class TestLongQueries:
    @pytest.fixture
    def filled(self, typed: Typed) -> Typed:
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT, c TEXT)")
        fill = "WITH RECURSIVE n(x) AS (VALUES (?1) UNION ALL SELECT x + 1 FROM n WHERE x < ?1 + 99) "
        for first in range(0, 20_000, 100):
            typed(f"{fill} INSERT INTO t SELECT x, x % 7, 'row ' || x FROM n", first)
        return typed

    def test_other_commands_run_meanwhile(self, server: ServerThread, filled: Typed) -> None:
        begun, ended = threading.Event(), threading.Event()
        pings = 0

        def ping() -> None:
            nonlocal pings
            with server.client() as client:
                while not ended.is_set():
                    client.ping()
                    pings += 1
                    begun.set()

        thread = threading.Thread(target=ping)
        thread.start()
        try:
            assert filled("SELECT count(*), sum(b) FROM t")["rows"] == [[20_000, 59_997]]
            assert len(filled("SELECT * FROM t")["rows"]) == 20_000
            with pytest.raises(redis.ResponseError, match="more than 64 MiB"):
                filled("SELECT x.c || printf('%1000d', y.a) FROM t AS x, t AS y")
            begun.wait()
            meanwhile, attempts = 0, 0
            while meanwhile <= 2 and attempts < 10:  # the thread of a busy machine may come too late for some
                before = pings
                found = filled("SELECT count(*) FROM t AS x JOIN t AS y ON y.a = x.a + 1 WHERE x.b = 3")
                assert found["rows"] == [[2857]]
                meanwhile, attempts = pings - before, attempts + 1
        finally:
            ended.set()
            thread.join()
        assert meanwhile > 2  # in one step, one ping could be answered before the query, and one after it

    def test_the_schema_may_change_meanwhile(self, server: ServerThread, filled: Typed) -> None:
        other, results = Typed(server), list[Any]()
        thread = threading.Thread(
            target=lambda: results.append(other("SELECT count(*), max(x.b + y.b) FROM t AS x, t AS y WHERE y.a < 5"))
        )
        thread.start()
        filled("CREATE TABLE u (a)")
        filled("DROP TABLE u")
        filled("CREATE VIEW v AS SELECT 1 AS one")
        thread.join()
        assert results[0]["rows"] == [[100_000, 10]]
        assert filled("SELECT * FROM v")["rows"] == [[1]]


class TestLongWrites:
    """They run in slices, and begin again if others have changed what they have read."""

    INSERT = (
        "WITH RECURSIVE n(x) AS (VALUES (?1 + 0) UNION ALL SELECT x + 1 FROM n WHERE x < ?1 + ?2 - 1) "
        "INSERT INTO t SELECT x, x % 7 FROM n"
    )

    @pytest.fixture
    def table(self, typed: Typed) -> Typed:
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
        return typed

    def test_many_rows(self, table: Typed) -> None:
        assert table(self.INSERT, 0, 2000)["changes"] == 2000
        assert table("UPDATE t SET b = b + random() % 2 WHERE a < 700 AND b > 2")["changes"] == 400
        assert table("DELETE FROM t WHERE a >= 1500 RETURNING a")["changes"] == 500
        assert table("SELECT count(*) FROM t")["rows"] == [[1500]]
        with pytest.raises(redis.ResponseError, match="divide it"):
            table(self.INSERT, 10_000, 6000)
        with pytest.raises(redis.ResponseError, match="UNIQUE"):
            table(self.INSERT, -1000, 1100)
        assert table("SELECT count(*) FROM t")["rows"] == [[1500]]

    def test_once_and_by(self, table: Typed) -> None:
        packed = msgpack.packb([0, 1000])
        for _ in range(2):
            reply = table.redis("REPL.ONCE", "id", "REPL.SQL", self.INSERT, "PARAMS", packed)
            assert msgpack.unpackb(reply)["changes"] == 1000
        table.redis("REPL.BY", "command", "REPL.SQL", self.INSERT, "PARAMS", msgpack.packb([1000, 1000]))
        assert table("SELECT count(*) FROM t")["rows"] == [[2000]]

    def test_in_a_transaction(self, server: ServerThread, table: Typed) -> None:
        other = Typed(server)
        table("BEGIN")
        table(self.INSERT, 0, 1000)
        with pytest.raises(redis.ResponseError, match="UNIQUE"):
            table(self.INSERT, -500, 1000)
        assert table("SELECT count(*) FROM t")["rows"] == [[1000]]
        assert other("SELECT count(*) FROM t")["rows"] == [[0]]
        table("COMMIT")
        assert other("SELECT count(*) FROM t")["rows"] == [[1000]]

    def test_a_query_in_a_transaction_is_limited_only_as_the_transaction_is(self, table: Typed) -> None:
        for first in (0, 4000):
            table(self.INSERT, first, 4000)
        table("UPDATE t SET b = 1 WHERE a < 4000")
        table("UPDATE t SET b = 1 WHERE a >= 4000")
        table("BEGIN")
        assert table("SELECT count(*), sum(b) FROM t")["rows"] == [[8000, 8000]]
        sort = "SELECT count(*) FROM (SELECT hex(zeroblob(2000)) || a AS x FROM t WHERE a < 4000 ORDER BY x LIMIT 4000)"
        assert table(sort)["rows"] == [[4000]]
        table("UPDATE t SET b = 2 WHERE a = 1")
        assert table("SELECT sum(b) FROM t WHERE a < 3")["rows"] == [[4]]
        with pytest.raises(redis.ResponseError, match="at most 20000 entries"):
            table("SELECT count(*) FROM t AS x, t AS y WHERE x.a < 10")
        with pytest.raises(redis.ResponseError, match=r"^ABORTED"):
            table("COMMIT")

    def test_pipelines_keep_their_order(self, server: ServerThread, table: Typed) -> None:
        with server.client().pipeline(transaction=False) as pipeline:
            for number in range(20):
                pipeline.set("k", number)
                pipeline.execute_command("REPL.SQL", self.INSERT, "VALUES", number * 1000, 300)
                pipeline.execute_command("REPL.SQL", "SELECT count(*) FROM t")
                pipeline.get("k")
            replies = pipeline.execute()
        assert [reply[1][0] for reply in replies[2::4]] == [300 * number for number in range(1, 21)]
        assert replies[3::4] == [b"%d" % number for number in range(20)]

    def test_others_write_meanwhile(self, server: ServerThread, table: Typed) -> None:
        """Every transaction takes place at one moment, so the sum of the column stays: each changes it by 0."""
        table(self.INSERT, 0, 700)
        (total,) = table("SELECT sum(b) FROM t")["rows"][0]
        ended = threading.Event()
        moved: list[int] = []

        def move() -> None:
            mine, count = Typed(server), 0
            while not ended.is_set():
                a, b = count % 700, (count * 31 + 1) % 700
                with contextlib.suppress(redis.ResponseError):
                    mine("UPDATE t SET b = b + CASE a WHEN ?1 THEN 1 ELSE -1 END WHERE a IN (?1, ?2)", a, b)
                count += 1
            moved.append(count)

        threads = [threading.Thread(target=move) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for shift in range(6):
                try:
                    table("UPDATE t SET b = b + ?1 * (2 * (a % 2) - 1)", shift)
                except redis.ResponseError as error:
                    assert "another client has changed" in str(error)
                assert table("SELECT count(*) FROM t")["rows"] == [[700]]
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        sums = table("SELECT sum(b), count(*) FROM t")["rows"]
        assert sums == [[total, 700]]
        assert sum(moved) > 10


def test_a_transaction_begins_at_the_leader_only(tmp_path: Path) -> None:
    """So that a client looks for it before the transaction has done anything."""
    server = ServerThread(tmp_path, nodes=2, timing=STEADY)
    try:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            server.client(1).execute_command("REPL.SQL", "BEGIN")
    finally:
        server.close()


def test_followers_have_the_rows(tmp_path: Path) -> None:
    server = ServerThread(tmp_path, nodes=2, timing=STEADY)
    try:
        leader = server.client(decode_responses=True)
        sql(leader, "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT UNIQUE)")
        sql(leader, "INSERT INTO t (b) VALUES ('x'), ('y')")
        follower = server.client(1, decode_responses=True)
        assert follower.execute_command("REPL.READ", "linearizable", "REPL.SQL", "SELECT * FROM t WHERE b = 'y'") == [
            ["a", "b"],
            [2, "y"],
        ]
        with pytest.raises(redis.exceptions.ReadOnlyError):
            sql(follower, "INSERT INTO t DEFAULT VALUES")
    finally:
        server.close()


BUG = "internal error in REPL.SQL .AssertionError., it had no effect: see the log of the node"


class TestBugs:
    """An exception that nothing expects is an error reply, and a traceback in the log."""

    @pytest.fixture(params=[0, 10_000], ids=["at once", "in slices"])
    def faulty(self, request: pytest.FixtureRequest, client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY)")

        def fail(*_: object) -> Iterator[int]:
            yield from [0] * request.param
            raise AssertionError("a bug")

        monkeypatch.setattr(SqlEngine, "query", fail)
        monkeypatch.setattr(SqlEngine, "execute", fail)
        return client

    @pytest.mark.parametrize("statement", ["SELECT 1", "INSERT INTO t VALUES (1)"])
    def test_in_a_command(self, faulty: Any, statement: str, caplog: pytest.LogCaptureFixture) -> None:
        with faulty.pipeline(transaction=False) as pipeline:
            for command in (("SET", "k", "1"), ("REPL.SQL", statement), ("REPL.SQL", statement), ("GET", "k")):
                pipeline.execute_command(*command)
            done = pipeline.execute(raise_on_error=False)
        assert [str(it) for it in done] == ["True", str(done[1]), str(done[1]), "1"]
        assert re.match(BUG, str(done[1]))
        assert "a bug" in caplog.text

    @pytest.mark.parametrize("statement", ["SELECT 1", "INSERT INTO t VALUES (1)"])
    def test_in_multi(self, faulty: Any, statement: str) -> None:
        with faulty.pipeline() as pipeline:
            pipeline.execute_command("REPL.SQL", statement)
            with pytest.raises(redis.ResponseError, match=r"internal error in (EXEC|REPL.SQL)|can read at most"):
                pipeline.execute()
        assert faulty.ping()

    def test_in_a_transaction(self, faulty: Any, server: ServerThread) -> None:
        connection = server.client(single_connection_client=True)
        connection.execute_command("REPL.SQL", "BEGIN")
        connection.set("k", "1")
        for _ in range(2):
            with pytest.raises(redis.ResponseError, match=BUG):
                connection.execute_command("REPL.SQL", "INSERT INTO t VALUES (1)")
        connection.execute_command("REPL.SQL", "COMMIT")
        assert connection.get("k") == b"1"


class TestHostileStatements:
    """None of them takes long or much memory before it is refused."""

    def test_results_of_writes_are_limited(self, typed: Typed) -> None:
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
        typed("INSERT INTO t SELECT value, 0 FROM json_each(?1)", f"{[*range(200)]}")
        for statement in ("UPDATE t SET b = 1", "DELETE FROM t", "INSERT INTO t SELECT a + 200, 1 FROM t"):
            with pytest.raises(redis.ResponseError, match="more than 64 MiB"):
                typed(f"{statement} RETURNING hex(zeroblob(250000))")
        assert typed("SELECT count(*), sum(b) FROM t")["rows"] == [[200, 0]]
        with pytest.raises(redis.ResponseError, match="values of at most"):
            typed("UPDATE t SET b = hex(zeroblob(250000))")

    @pytest.mark.parametrize("replaced", ["value", "row"])
    def test_what_a_transaction_replaces_itself_is_limited(self, typed: Typed, replaced: str) -> None:
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        typed("INSERT INTO t VALUES (1, 0)")
        typed("BEGIN")
        with pytest.raises(redis.ResponseError, match=r"^TOOLARGE .* at most 32 MiB"):
            for number in range(100):
                if replaced == "value":
                    typed.redis("SET", "k", f"{number}".zfill(500_000))
                else:
                    typed(f"UPDATE t SET b = hex(zeroblob(250000)) || '{number:04}'")
        typed("ROLLBACK")
        assert typed("SELECT * FROM t")["rows"] == [[1, 0]]

    def test_a_table_with_large_rows_is_not_dropped_at_once(self, typed: Typed) -> None:
        typed("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        for number in range(8):
            typed("INSERT INTO t VALUES (?1, zeroblob(500000))", number)
        with pytest.raises(redis.ResponseError, match="too large rows to be dropped at once"):
            typed("DROP TABLE t")
        typed("DELETE FROM t WHERE a < 4")
        typed("DROP TABLE t")

    @pytest.mark.parametrize(
        ("statement", "error"),
        [
            (f"CREATE TABLE t (c0, {', '.join(f'c{n} AS (c{n - 1} + c{n - 1})' for n in range(1, 24))})", "memory"),
            (f"SELECT {', '.join(['x.*'] * 400)} FROM (SELECT 1 AS {'a' * 1000}) AS x", "names of the columns"),
            (f"CREATE TABLE t (a CHECK ({'(' * 9_000}1{')' * 9_000}))", "limit"),
            (f"CREATE TABLE t (a CHECK ({'date(a, ' * 3_500}a{')' * 3_500}))", "Recursion limit"),
            (f"SELECT trim('a', '{''.join(map(chr, range(1_000, 2_100)))}')", "different"),
        ],
        ids=["generated columns", "names", "parentheses", "nested calls", "trim"],
    )
    @pytest.mark.timeout(10)  # one of them took twice as long
    def test_they_are_refused(self, typed: Typed, statement: str, error: str) -> None:
        with pytest.raises(redis.ResponseError, match=error):
            typed(statement)

    @pytest.mark.parametrize("params", [[[[None]] * 500_000], [None] * 100_000, {"a": [1] * 100_000}])
    def test_parameters(self, client: Any, params: Any) -> None:
        with pytest.raises(redis.ResponseError, match="not valid MessagePack"):
            client.execute_command("REPL.SQL", "SELECT ?", "PARAMS", msgpack.packb(params))

    def test_many_values(self, client: Any) -> None:
        with pytest.raises(redis.ResponseError, match="at most 32766 parameters"):
            client.execute_command("REPL.SQL", "SELECT ?", "VALUES", *["1"] * 40_000)

    def test_commands_in_commands(self, client: Any) -> None:
        words = ["REPL.ONCE", "id", "REPL.BY", "row"] * 2_000
        with pytest.raises(redis.ResponseError, match=r"REPL\.BY cannot execute REPL\.ONCE"):
            client.execute_command(*words, "SET", "a", "1")
        assert client.execute_command("REPL.ONCE", "id", "REPL.BY", "row", "SET", "a", "1") == "OK"

    def test_commands_with_many_words(self, client: Any) -> None:
        with pytest.raises(redis.ResponseError, match="at most 1000 arguments"):
            client.execute_command("HELLO", "3", *["SETNAME", "a"] * 1_000)
        with pytest.raises(redis.ResponseError, match="at most 1000 arguments"):
            client.execute_command("COMMAND", "INFO", *["get"] * 1_000)
        client.execute_command("CONFIG", "SET", "notify-keyspace-events", "KEA" * 1_000)
