"""Transactions in the log as the commands that replicas execute again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

from replicator.errors import Diverged, UpgradeNeeded
from replicator.records.codec import RecordCodec
from replicator.records.tape import Call
from replicator.records.types import Command, Replication, Write, singles
from replicator.server.redis.execution import Replay, engine
from replicator.store.view import Transaction
from tests.memory_cluster import until
from tests.redis_fixture import STEADY, ServerThread
from tests.sql_fixture import NOW_MS, SortedEntries


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerThread]:
    server = ServerThread(tmp_path, nodes=3, timing=STEADY)
    set_replication(server, Replication.COMMAND)
    yield server
    server.close()


@pytest.fixture
def client(server: ServerThread) -> Any:
    return server.client(single_connection_client=True)


def set_replication(server: ServerThread, replication: Replication) -> None:
    async def change() -> None:
        node = server.node(0).node
        policy = replace(node.membership.policy, replicate=replication)
        node.membership_changes.set_policy(policy)
        await until(lambda: all(it.node.membership.policy == policy for it in server.cluster.nodes.values()))

    server.run(change())


def sql(client: Any, statement: str, *values: object) -> Any:
    packed = msgpack.packb(list(values))
    return msgpack.unpackb(client.execute_command("REPL.SQL", statement, "PARAMS", packed))["rows"]


def bodies(server: ServerThread) -> list[Any]:
    codec = RecordCodec()
    found = [it for entry in server.cluster.log.entries for it in singles(codec.decode(entry.payload, b"").body)]
    return [it for it in found if isinstance(it, (Write, Command))]


def check_equal(server: ServerThread) -> None:
    server.run(server.cluster.caught_up())
    metas = [it.machine.meta for it in server.cluster.nodes.values()]
    assert len({(it.digest, it.entries, it.state.offset) for it in metas}) == 1
    assert all(it.machine.recount() == (it.machine.meta.digest, it.machine.meta.entries)
               for it in server.cluster.nodes.values())  # fmt: skip


def test_sql(server: ServerThread, client: Any) -> None:
    sql(client, "CREATE TABLE Table (key INTEGER PRIMARY KEY, value INTEGER, time TEXT)")
    sql(client, "INSERT INTO Table (key, time) VALUES (42, now())")
    sql(client, "UPDATE Table SET value = random() WHERE key = 42")
    sql(client, "INSERT INTO Table SELECT 100 + value % 10, random(), datetime('now') FROM Table RETURNING *")
    sql(client, "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 20) "
        "INSERT INTO Table SELECT x, random(), hex(randomblob(4)) || sin(x) FROM n")  # fmt: skip
    sql(client, "UPDATE Table SET value = random() WHERE key < 10")
    assert [type(it) for it in bodies(server)] == [Command] * 6
    check_equal(server)
    update = bodies(server)[2]
    assert [call.name for call in update.tape] == ["random"]
    assert (update.lines[0][:2], update.engine) == (
        (b"REPL.SQL", b"UPDATE Table SET value = random() WHERE key = 42"),
        engine(),
    )
    follower = server.client(1)
    rows = "SELECT * FROM Table ORDER BY key"
    read = follower.execute_command("REPL.READ", "linearizable", "REPL.SQL", rows, "PARAMS", msgpack.packb([]))
    assert msgpack.unpackb(read)["rows"] == sql(client, rows)


def test_keys(server: ServerThread, client: Any) -> None:
    client.set("k", 1, px=1)
    client.incrby("k2", 5)
    client.hset("h", mapping={"a": 1, "b": 2})
    client.setex("e", 1000, "x")
    with client.pipeline() as pipeline:
        pipeline.get("k")
        pipeline.set("k", 2)
        pipeline.incr("h")  # fails
        pipeline.hincrby("h", "a", 5)
        pipeline.execute_command("REPL.SQL", "SELECT random()")
        pipeline.execute(raise_on_error=False)
    client.execute_command("REPL.ONCE", "id", "INCR", "k2")
    client.execute_command("REPL.ONCE", "id", "INCR", "k2")
    client.append("k2", "0")
    client.delete("h", "e")
    assert client.get("k2") == b"60"
    by_row = [it for it in bodies(server) if isinstance(it, Write)]  # the leader deletes what has expired
    assert all(change.row == b"k" and change.new is None for it in by_row for change in it.changes)
    check_equal(server)


def test_transactions_over_several_commands(server: ServerThread, client: Any) -> None:
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
    for statement in (
        "BEGIN",
        "INSERT INTO t (b) VALUES (random())",
        "SAVEPOINT s",
        "INSERT INTO t (b) VALUES (random())",
        "ROLLBACK TO s",
        "INSERT INTO t (b) VALUES (random()), (7)",
    ):
        sql(client, statement)
    client.set("k", "v")
    with pytest.raises(redis.ResponseError, match="UNIQUE"):
        sql(client, "INSERT INTO t SELECT 1, random()")
    sql(client, "SELECT *, random() FROM t")
    sql(client, "UPDATE t SET b = random() WHERE b > random() AND a > 9")
    sql(client, "COMMIT")
    command = bodies(server)[-1]
    assert isinstance(command, Command) and len(command.tape) == 2
    assert [line[:2] for line in command.lines] == [
        (b"REPL.SQL", b"INSERT INTO t (b) VALUES (random())"),
        (b"REPL.SQL", b"INSERT INTO t (b) VALUES (random()), (7)"),
        (b"SET", b"k"),
    ]
    check_equal(server)


def test_random_commands_on_all_replicas(server: ServerThread, client: Any) -> None:
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b INT, c TEXT UNIQUE)")
    sql(client, "CREATE INDEX t_b ON t (b)")
    draw = random.Random(1)
    for _ in range(300):
        a, b = draw.randrange(20), draw.randrange(20)
        statement = draw.choice(
            [
                "INSERT OR REPLACE INTO t VALUES (:a, random() % 5, hex(randomblob(1)))",
                "UPDATE t SET b = b + random() % 3 WHERE b >= :b",
                "DELETE FROM t WHERE a = :a",
                "INSERT INTO t (b) VALUES (:b) ON CONFLICT DO NOTHING",
                "UPDATE OR IGNORE t SET c = hex(randomblob(1)) WHERE a > :a",
                "INSERT INTO t (a, b) SELECT max(a) + 1, count(*) FROM t WHERE true ON CONFLICT DO UPDATE SET b = :b",
            ]
        )
        packed = msgpack.packb({"a": a, "b": b})
        mode = draw.choice(["row", "command", "mixed"])
        try:
            client.execute_command("REPL.BY", mode, "REPL.SQL", statement, "PARAMS", packed)
        except redis.ResponseError as error:
            assert "UNIQUE" in str(error)
        client.execute_command("REPL.BY", mode, *draw.choice([("INCR", "n"), ("SET", "k", b), ("HSET", "h", a, b)]))
    kinds = {type(it) for it in bodies(server)}
    assert kinds == {Write, Command}
    check_equal(server)


def test_changes_are_seen_by_clients_of_a_follower(server: ServerThread, client: Any) -> None:
    follower = server.client(1, single_connection_client=True)
    follower.execute_command("WATCH", "k")
    client.set("k", "v")
    server.run(server.cluster.caught_up())
    follower.execute_command("MULTI")
    follower.execute_command("GET", "k")
    assert follower.execute_command("EXEC") is None
    for index in (0, 1):
        recent = server.node(index).node.recent
        found = recent.after(recent.since)
        assert found is not None and [it.change.row for it in found.changes] == [b"k"]


class TestPolicy:
    def test_rows(self, server: ServerThread, client: Any) -> None:
        set_replication(server, Replication.ROW)
        client.set("k", "v")
        client.execute_command("REPL.BY", "command", "SET", "k", "w")
        assert [type(it) for it in bodies(server)] == [Write, Command]

    def test_mixed_takes_the_smaller(self, server: ServerThread, client: Any) -> None:
        set_replication(server, Replication.MIXED)
        client.set("k", "v")
        client.set("k", "v" * 1000)
        client.append("k", "w")
        assert [type(it) for it in bodies(server)] == [Write, Write, Command]
        check_equal(server)

    def test_bad_input(self, client: Any) -> None:
        for line in (("REPL.BY", "x", "SET", "k", "v"), ("REPL.BY", "row", "GET", "k"), ("REPL.BY", "row", "NOPE")):
            with pytest.raises(redis.ResponseError):
                client.execute_command(*line)


class TestReplay:
    def command(self, *line: str, tape: tuple[Call, ...] = (), engine: str = "") -> Command:
        return Command(engine, (tuple(it.encode() for it in line),), tape, NOW_MS, 1, 1)

    def test_a_call_that_was_not_recorded(self) -> None:
        with pytest.raises(Diverged, match=r"called random\(\) here"):
            self.run("REPL.SQL", "INSERT INTO t VALUES (random())")

    def test_a_call_of_another_name(self) -> None:
        with pytest.raises(Diverged, match=r"called random\(\) here, but sin\(\) at the leader"):
            self.run("REPL.SQL", "INSERT INTO t VALUES (random())", tape=(Call("sin", 0.5),))

    def test_an_entry_that_is_left_over(self) -> None:
        with pytest.raises(Diverged, match=r"called random\(\) at the leader"):
            self.run("REPL.SQL", "INSERT INTO t VALUES (1)", tape=(Call("random", 5),))

    @pytest.mark.parametrize("engine", ["sqlite:99.1.0", "lisp:1.0", "sqlite:3.0.0 sqlite:4.0.1"])
    def test_an_older_engine(self, engine: str) -> None:
        with pytest.raises(UpgradeNeeded, match="Install the packages that the leader has"):
            self.run("REPL.SQL", "INSERT INTO t VALUES (1)", engine=engine)

    def run(self, *line: str, **options: Any) -> None:
        state, replay = SortedEntries(), Replay()
        for statement in (self.command("REPL.SQL", "CREATE TABLE t (a)"), self.command(*line, **options)):
            transaction = Transaction(state)
            transaction._changes = dict(replay(statement, state))
            state.apply(transaction)


def test_leaders_change_while_commands_are_in_flight(server: ServerThread, client: Any) -> None:
    """What a former leader has executed on writes that became void is void, too."""
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b INT)")
    connections = [server.client(index, single_connection_client=True) for index in range(3)]
    for turn in range(6):
        leader = turn % 3
        server.claim_leadership(leader)
        sent = [
            ("REPL.SQL", "INSERT INTO t (b) SELECT random() + count(*) FROM t", "PARAMS", msgpack.packb([])),
            ("REPL.SQL", "UPDATE t SET b = random() WHERE a % 3 = 1", "PARAMS", msgpack.packb([])),
            ("INCR", "n"),
        ] * 10
        pipeline = connections[leader].connection
        pipeline.send_packed_command(pipeline.pack_commands(sent[:3]))
        for _ in range(3):
            pipeline.read_response()
        pipeline.send_packed_command(pipeline.pack_commands(sent))
        server.claim_leadership((leader + 1) % 3)
        for _ in sent:
            try:
                pipeline.read_response()
            except redis.ResponseError as error:
                assert str(error).split()[0] in ("FENCED", "READONLY", "BUSY", "UNKNOWN")
    check_equal(server)
