"""SQL by the blocking and the asyncio client."""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any

import numpy
import pytest

from replicator.client import EVENTUAL, BadRequest, Rejected, SqlResult, UnknownOutcome, bounded
from replicator.client.sql import StatementKind, sql_command, sql_value, statement_kind
from replicator.limits import MAX_REQUEST_BYTES
from tests.client_fixture import Connect
from tests.fake_sql_server import CLUSTER, PASSWORD, FakeSqlCluster, Lose, Seen
from tests.sql_cluster_fixture import SqlCluster

LEADER, FOLLOWER = 0, 1


@pytest.fixture
def client(sql_cluster: SqlCluster, connect: Connect) -> Any:
    client = connect(sql_cluster.nodes, cluster=CLUSTER, password=PASSWORD)
    client.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b BLOB, c, n NOT NULL DEFAULT 0)")
    return client


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("select 1", StatementKind.READ),
        ("  -- why\n/* insert */ SELECT 1", StatementKind.READ),
        ("VALUES (1)", StatementKind.READ),
        ("explain delete from t", StatementKind.READ),
        ("PRAGMA table_info(t)", StatementKind.READ),
        ("", StatementKind.READ),
        ("; -- nothing", StatementKind.READ),
        ("INSERT INTO t VALUES (1)", StatementKind.WRITE),
        ("replace into t values (1)", StatementKind.WRITE),
        ("CREATE TABLE t (a)", StatementKind.SCHEMA),
        ("WITH x AS (SELECT 1) SELECT * FROM x", StatementKind.READ),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", StatementKind.WRITE),
        ("WITH RECURSIVE x(n) AS NOT MATERIALIZED (VALUES (1)), y AS (SELECT 2) DELETE FROM t", StatementKind.WRITE),
        ("WITH \"delete\" AS (SELECT ') update') VALUES (1)", StatementKind.READ),
        ("WITH replace AS (SELECT 1 -- )\n) SELECT 'DELETE' FROM replace", StatementKind.READ),
        ("WITH [a)] AS (SELECT ((1))) UPDATE t SET a = 1", StatementKind.WRITE),
        ("BEGIN IMMEDIATE", StatementKind.BEGIN),
        ("commit", StatementKind.COMMIT),
        ("END TRANSACTION;", StatementKind.COMMIT),
        ("ROLLBACK", StatementKind.ROLLBACK),
        ("ROLLBACK TO SAVEPOINT a", StatementKind.SAVEPOINT),
        ("SAVEPOINT a", StatementKind.SAVEPOINT),
        ("RELEASE a", StatementKind.SAVEPOINT),
    ],
)
def test_kinds_of_statements(statement: str, kind: StatementKind) -> None:
    assert statement_kind(statement) is kind


def test_values() -> None:
    values = [True, numpy.int64(7), numpy.float64(0.5), bytearray(b"a"), memoryview(b"b")]
    assert [sql_value(value, "1") for value in values] == [1, 7, 0.5, b"a", b"b"]
    times = [datetime(2026, 1, 31, 12, 30), date(2026, 1, 31), time(12, 30)]
    assert [sql_value(value, "1") for value in times] == ["2026-01-31 12:30:00", "2026-01-31", "12:30:00"]
    with pytest.raises(BadRequest, match="parameter 3 is too large"):
        sql_value(2**63, "3")
    with pytest.raises(BadRequest, match="parameter :name is of type complex"):
        sql_value(1j, ":name")


@pytest.mark.parametrize("params", [5, "text", b"bytes", None])
def test_parameters_are_a_list_or_a_dict(params: Any) -> None:
    with pytest.raises(BadRequest, match=r"the parameters are of type \w+: use a list"):
        sql_command("SELECT ?", params)


def test_a_request_that_a_node_refuses_is_not_sent(client: Any, fake: FakeSqlCluster) -> None:
    before = len(fake.seen)
    for statement in ("INSERT INTO t (b) VALUES (?)", "SELECT ?"):
        with pytest.raises(BadRequest, match=rf"has \d+ bytes, at most {MAX_REQUEST_BYTES} are allowed"):
            client.sql(statement, [bytes(MAX_REQUEST_BYTES)])
    with pytest.raises(BadRequest, match="are allowed"):
        client.transaction([("SET", "key", bytes(MAX_REQUEST_BYTES))])
    assert len(fake.seen) == before


def test_results(client: Any) -> None:
    written = client.sql("INSERT INTO t (a, b, c) VALUES (?, ?, ?), ('z', NULL, 1.5)", ("é", b"\0", None))
    assert (written.changes, written.last_id, written.rows) == (2, 2, ())
    found = client.sql("SELECT id, a, b, c, 1 + 1 FROM t WHERE a >= :least ORDER BY id DESC", {"least": "a"})
    assert found == SqlResult(
        columns=("id", "a", "b", "c", "1 + 1"),
        types=("INTEGER", "TEXT", "BLOB", None, None),
        rows=((1, "é", b"\0", None, 2), (2, "z", None, 1.5, 2))[::-1],
        changes=0,
        last_id=None,
    )
    assert [row[0] for row in found] == [2, 1]
    assert len(found) == 2
    assert client.sql("SELECT a FROM t WHERE 0").columns == ("a",)
    assert client.sql("DELETE FROM t RETURNING a").rows == (("é",), ("z",))


def test_reads_go_to_followers_and_writes_once_to_the_leader(client: Any, fake: FakeSqlCluster) -> None:
    fake.seen.clear()
    client.sql("INSERT INTO t (a) VALUES ('x')", id="order 1")
    client.sql("INSERT INTO t (a) VALUES ('x')", id="order 1")  # the same reply, no constraint error
    client.sql("SELECT 1")
    client.sql("SELECT 2", level=EVENTUAL)
    client.sql("SELECT 3", level=bounded(100))
    assert fake.seen == [
        Seen(LEADER, "INSERT INTO t (a) VALUES ('x')", None, "order 1"),
        Seen(FOLLOWER, "SELECT 1", "linearizable", None),
        Seen(FOLLOWER, "SELECT 2", "eventual", None),
        Seen(FOLLOWER, "SELECT 3", "bounded 100", None),
    ]


def test_a_session_reads_what_it_wrote(client: Any, fake: FakeSqlCluster) -> None:
    session = client.session()
    session.sql("INSERT INTO t (a) VALUES ('x')")
    token = session.token
    assert session.sql("SELECT a FROM t").rows == (("x",),)
    assert fake.seen[-1] == Seen(FOLLOWER, "SELECT a FROM t", f"session {token}", None)


@pytest.mark.parametrize("fault", [Lose.BEFORE, Lose.AFTER, "CONFLICT try again", "UNKNOWN offset 5 may be applied"])
def test_a_write_that_is_sent_again_takes_effect_once(client: Any, fake: FakeSqlCluster, fault: str | Lose) -> None:
    fake.inject("INSERT", fault)
    assert client.sql("INSERT INTO t (a) VALUES ('x')").changes == 1
    assert client.sql("SELECT count(*) FROM t").rows == ((1,),)


def test_a_write_follows_the_leader(client: Any, fake: FakeSqlCluster) -> None:
    fake.leader = 1
    assert client.sql("INSERT INTO t (a) VALUES ('x')").changes == 1
    assert fake.seen[-1].node == 1


@pytest.mark.parametrize(
    ("statement", "code", "text"),
    [
        ("INSERT INTO t (n) VALUES (NULL)", "CONSTRAINT", "NOT NULL constraint failed: t.n"),
        ("INSERT INTO t (a) VALUES ('x'), ('x')", "CONSTRAINT", "UNIQUE constraint failed: t.a"),
        ("INSERT INTO s VALUES (1)", "SQLERROR", "no such table: s"),
        ("SELECT FROM t", "SQLERROR", 'near "FROM": syntax error'),
        ("SELECT * FROM s", "SQLERROR", "no such table: s"),
    ],
)
def test_errors(client: Any, statement: str, code: str, text: str) -> None:
    with pytest.raises(Rejected, match=text) as caught:
        client.sql(statement)
    assert caught.value.code == code


def test_a_write_whose_outcome_stays_unknown(client: Any, fake: FakeSqlCluster, connect: Connect) -> None:
    for _ in range(100):
        fake.inject("INSERT", "UNKNOWN offset 5 may be applied")
    with pytest.raises(UnknownOutcome):
        connect(fake.nodes, cluster=CLUSTER, password=PASSWORD, timeout_s=1).sql("INSERT INTO t (a) VALUES ('x')")


@pytest.mark.parametrize("statement", ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a"])
def test_transactions_are_refused(client: Any, statement: str) -> None:
    with pytest.raises(BadRequest, match=r"replicator\.client\.dbapi"):
        client.sql(statement)


def test_text_that_cannot_be_encoded(client: Any) -> None:
    with pytest.raises(BadRequest, match="UTF-8"):
        client.sql("SELECT ?", ["\ud800"])
    with pytest.raises(BadRequest, match="UTF-8"):
        client.sql("SELECT '\ud800'")
