"""Transactions in the log as the commands that replicas execute again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis

from replicator.errors import BadRequest, Diverged, UpgradeNeeded
from replicator.limits import MAX_EXEC_MS
from replicator.node.commands import with_changes
from replicator.protocol.log_state import LogState
from replicator.protocol.replication import missing_engine
from replicator.records.tape import Call
from replicator.records.types import Change, Command, Replication, Write
from replicator.server.keyspace import CommandInfo, WritableKeyspace
from replicator.server.redis import dispatch
from replicator.server.redis.commands import look_up
from replicator.server.redis.execution import Replay, run
from replicator.server.redis.logged_commands import LoggedCommands
from replicator.sql.database import ENGINE
from replicator.steps import Steps, finish
from replicator.store.keys import table_range
from replicator.store.machine import open_machine
from replicator.store.view import Entries, Transaction
from tests.command_log_fixture import bodies, check_equal, client, server, set_replication, sql
from tests.redis_fixture import ServerThread
from tests.sql_fixture import NOW_MS, SortedEntries

__all__ = ["client", "server"]


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
        ENGINE,
    )
    follower = server.client(1)
    rows = "SELECT * FROM Table ORDER BY key"
    read = follower.execute_command("REPL.READ", "linearizable", "REPL.SQL", rows, "PARAMS", msgpack.packb([]))
    assert msgpack.unpackb(read)["rows"] == sql(client, rows)


def test_a_transaction_whose_tape_is_full_has_no_effect(
    server: ServerThread, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the command failed, its calls would be on the tape, and replicas would not make them."""
    monkeypatch.setattr(dispatch, "MAX_EXEC_MS", 10 * MAX_EXEC_MS)  # the machine may be slow
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    blobs = "length(randomblob(1000000)) + length(randomblob(1000000))"
    with client.pipeline() as pipeline:
        pipeline.execute_command("REPL.SQL", f"INSERT INTO t VALUES (1, {blobs})")
        pipeline.set("k", "v")
        with pytest.raises(redis.ResponseError, match="nondeterministic calls"):
            pipeline.execute()
    assert client.get("k") is None
    client.set("k", "w")
    check_equal(server)


def test_the_changes_of_a_command_have_the_same_order_at_each_node(server: ServerThread, client: Any) -> None:
    """Also if the leader has undone one of them and made it again."""
    sql(client, "BEGIN")
    client.set("k1", "a")
    client.set("k2", "b")
    sql(client, "SAVEPOINT s")
    client.delete("k1")
    sql(client, "ROLLBACK TO s")
    sql(client, "COMMIT")
    server.run(server.cluster.caught_up())
    changes = [server.client(it).xrange("replicator:changes") for it in range(3)]
    assert [fields[b"row"] for _, fields in changes[0]] == [b"k1", b"k2"]
    assert changes[0] == changes[1] == changes[2]


def test_a_command_is_executed_again_if_the_store_grows_meanwhile(tmp_path: Path) -> None:
    """For a copy. Nothing is read after its snapshot has ended."""
    machine = open_machine(tmp_path / "store", "test", "topic", map_bytes=64 << 10)
    executed = []

    def execute(command: Command, state: Entries) -> Steps[Mapping[bytes, Change]]:
        found = []
        for entry in state.scan(*table_range("kv")):
            found.append(entry)
            yield 0
        executed.append(found)
        return {}

    try:
        machine.apply([Write((Change("kv", b"%d" % it, b"", None, b"s"),)) for it in range(9)], LogState())
        steps = with_changes([Command("", (), (), NOW_MS, 0, 0)], machine.view, execute)
        for free_bytes in (1 << 20, 4 << 20):
            for _ in range(5):
                next(steps)
            machine.reserve_for_copy(free_bytes)
        assert finish(steps) == [Write(())]
        assert executed == [[*machine.view.scan(*table_range("kv"))]]
    finally:
        machine.close()


def test_keys(server: ServerThread, client: Any) -> None:
    client.set("k", 1, px=1)
    client.incrby("k2", 5)
    client.hset("h", mapping={"a": 1, "b": 2})
    client.setex("e", 1000, "x")
    with client.pipeline() as pipeline:
        pipeline.get("k2")
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


@pytest.mark.parametrize(
    ("required", "missing"),
    [
        ("", None),
        ("sqlite:3.9.2", ("sqlite", "3.9.2")),
        ("lua:5.1,cpu:x86_64,sqlite:3.50.0", None),
        ("sqlite:3.50.1", ("sqlite", "3.50.1")),
        ("sqlite:3.50.0,sqlite:4.0.0", ("sqlite", "4.0.0")),
        ("lua:5.2", ("lua", "5.2")),
        ("lua:5.0", ("lua", "5.0")),
        ("lua:5.1,cpu:vax", ("cpu", "vax")),
        ("lisp:1.0", ("lisp", "1.0")),
    ],
)
def test_engines_that_execute_a_command_as_the_leader_did(required: str, missing: tuple[str, str] | None) -> None:
    assert missing_engine(required, {"sqlite": "3.50.0", "lua": "5.1", "cpu": "x86_64"}) == missing


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

    @pytest.mark.parametrize(
        ("engine", "remedy"),
        [("sqlite:99.1.0", "Install the packages"), ("cpu:vax", "Run it on a machine with such a processor")],
    )
    def test_an_engine_that_is_missing(self, engine: str, remedy: str) -> None:
        with pytest.raises(UpgradeNeeded, match=remedy):
            self.run("REPL.SQL", "INSERT INTO t VALUES (1)", engine=engine)

    def run(self, *line: str, **options: Any) -> None:
        state, replay = SortedEntries(), Replay()
        for statement in (self.command("REPL.SQL", "CREATE TABLE t (a)"), self.command(*line, **options)):
            transaction = Transaction(state)
            transaction._changes = dict(finish(replay(statement, state)))
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
            except redis.ReadOnlyError:
                pass
            except redis.ResponseError as error:
                assert str(error).split()[0] in ("FENCED", "BUSY", "UNKNOWN")
    check_equal(server)


class TestCommandsThatReplicasNeedNotExecute:
    """Those that have changed nothing: what they do may depend on the node."""

    def test_a_script_that_only_the_replicas_know(self, server: ServerThread, client: Any) -> None:
        script = "return redis.call('SET', 'x', ARGV[1])"
        client.eval(script, 0, 1)
        sha = client.script_load(script)
        client.script_flush()
        with client.pipeline() as pipeline:
            pipeline.set("a", 1)
            pipeline.evalsha(sha, 0, 2)
            replies = pipeline.execute(raise_on_error=False)
        assert isinstance(replies[1], redis.exceptions.NoScriptError)
        assert bodies(server)[-1].lines == ((b"SET", b"a", b"1"),)
        check_equal(server)

    def test_a_retry_of_a_script_in_a_transaction(self, server: ServerThread, client: Any) -> None:
        shas = [client.script_load(f"return redis.call('SET', '{key}', 1)") for key in "xy"]
        once = ("REPL.ONCE", "id", "EVALSHA", shas[1], 0)
        client.execute_command(*once)
        with client.pipeline() as pipeline:
            pipeline.evalsha(shas[0], 0)
            pipeline.execute_command(*once)
            pipeline.evalsha("0" * 40, 0)
            replies = pipeline.execute(raise_on_error=False)
        assert replies[:2] == [b"OK", b"OK"] and isinstance(replies[2], redis.exceptions.NoScriptError)
        assert len(bodies(server)[-1].lines) == 1
        check_equal(server)

    def test_their_calls_are_not_on_the_tape(self, server: ServerThread, client: Any) -> None:
        sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        with client.pipeline() as pipeline:
            pipeline.execute_command("REPL.SQL", "UPDATE t SET b = random()")
            pipeline.execute_command("REPL.SQL", "INSERT INTO t SELECT 1, random() WHERE random() IS NULL")
            pipeline.execute_command("REPL.SQL", "INSERT INTO t VALUES (1, random())")
            pipeline.execute()
        assert [len(bodies(server)[-1].lines), len(bodies(server)[-1].tape)] == [1, 1]
        check_equal(server)

    @pytest.mark.parametrize(
        ("line", "is_logged", "is_repeatable"),
        [
            (["SET", "a", "1"], True, True),
            (["GET", "a"], False, True),
            (["DEL", "a"], False, True),
            (["EVAL", "return 1", "0"], False, True),
            (["EVAL_RO", "return redis.call('GET', 'a')", "0"], False, True),
            (["REPL.BY", "ROWS", "DEL", "a"], False, True),
            (["REPL.SQL", "SELECT random()"], False, True),
            (["GET", "expired"], True, False),  # it is deleted
            (["EVAL_RO", "return redis.call('GET', 'expired')", "0"], True, False),
            (["HSET", "expired", "f", "1"], True, True),
            (["REPL.ONCE", "", "GET", "expired"], False, True),
        ],
    )
    def test_which(self, line: list[str], is_logged: bool, is_repeatable: bool) -> None:
        entries = SortedEntries()
        before = Transaction(entries)
        WritableKeyspace(before, NOW_MS).put_string(b"expired", b"v", NOW_MS - 1)
        entries.apply(before)
        keyspace = WritableKeyspace(Transaction(entries), NOW_MS)
        logged, args = LoggedCommands(keyspace), [it.encode() for it in line]
        mark, command = logged.mark(), look_up(args)
        run(
            keyspace, lambda *it: finish(command.handler(*it)) if command.long else command.handler(*it), keyspace, args
        )
        logged.add(mark, command, args)
        assert (bool(logged.lines), keyspace.command_info.is_repeatable) == (is_logged, is_repeatable)
        assert is_logged or keyspace.command_info == CommandInfo()

    def test_one_that_fails_but_has_deleted_an_expired_row(self) -> None:
        entries = SortedEntries()
        before = Transaction(entries)
        WritableKeyspace(before, NOW_MS).put_string(b"expired", b"v", NOW_MS - 1)
        entries.apply(before)
        keyspace = WritableKeyspace(Transaction(entries), NOW_MS)

        def fail(keyspace: WritableKeyspace, args: list[bytes]) -> None:
            keyspace.header(b"expired")
            raise BadRequest("as this node has no memory left")

        run(keyspace, fail, keyspace, [])
        assert len(keyspace.transaction.changes) == 1 and not keyspace.command_info.is_repeatable


@pytest.mark.parametrize("seed", range(4))
def test_random_transactions_are_executed_again_by_nodes_that_remember_something_else(
    server: ServerThread, client: Any, seed: int
) -> None:
    """One follower begins anew with each command, another one keeps all scripts; the leader forgets its own."""

    def anew(command: Command, state: Entries) -> Steps[Mapping[bytes, Change]]:
        return Replay()(command, state)

    server.node(1).node._context.replica.execute = anew
    draw = random.Random(seed)
    sql(client, "CREATE TABLE t (a INTEGER PRIMARY KEY, b UNIQUE, c)")
    scripts = [f"return redis.call('INCR', KEYS[1] .. '{number}')" for number in range(3)]
    shas = [client.script_load(it) for it in scripts]

    def line() -> tuple[object, ...]:
        key, number = f"k{draw.randrange(4)}", draw.randrange(3)
        statements = (
            "INSERT OR IGNORE INTO t VALUES (random() % 5, random() % 3, now())",
            "INSERT INTO t VALUES (1, random() % 3, random())",
            "UPDATE t SET c = random() WHERE a = 7",
            "UPDATE t SET b = random() % 2, c = random()",
            "SELECT random() FROM t",
        )
        once = ("REPL.ONCE", f"id{draw.randrange(5)}", "EVALSHA", shas[number], 1, key)
        return draw.choice(
            [
                ("SET", key, draw.choice("a1")),
                ("INCR", key),
                ("HSET", key, "f", 1),
                ("HSCAN", "k0", 0),
                ("EVAL", scripts[number], 1, key),
                ("EVALSHA", shas[number], 1, key),
                ("EVALSHA", shas[number], "x", key),
                ("EVALSHA", "0" * 40, 1, key),
                ("EVALSHA_RO", shas[number], 1, key),
                ("EVAL_RO", "return redis.call('TIME')", 0),
                once,
                *[("REPL.SQL", it) for it in statements],
            ]
        )

    for _ in range(80):
        if draw.random() < 0.3:
            client.script_flush()
        with client.pipeline() as pipeline:
            for _ in range(draw.randrange(1, 5)):
                pipeline.execute_command(*line())
            pipeline.execute(raise_on_error=False)
    check_equal(server)
