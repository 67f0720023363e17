"""REPL.ONCE: a write that is sent twice takes effect once, whatever the outcome of the first attempt."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadRequest, Definite, Unknown
from replicator.limits import ONCE_AGE_MS
from replicator.log.memory import MemoryLog
from replicator.position import Offset
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.commands import look_up
from replicator.server.redis.dedup import DEDUP_TABLE, SLOTS_TABLE, Dedup
from replicator.server.redis.resp import Reply, Simple, decode, encode
from replicator.store.keys import encode_key
from replicator.store.machine import open_machine
from replicator.store.values import decode_value
from replicator.store.view import Transaction
from tests.memory_cluster import FaultyLog, MemoryCluster, RunningNode, submit, until
from tests.process_cluster import Cluster, wait_for
from tests.redis_fixture import ServerThread
from tests.test_redis_differential import Raw
from tests.test_redis_server import raw, read_all

SIMPLE = st.builds(Simple, st.sampled_from([b"OK", b"", b"a b"]))
REPLIES: st.SearchStrategy[Reply] = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary() | SIMPLE, lambda items: st.lists(items, max_size=4)
)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path)
    yield cluster
    await cluster.stop()


async def ask(running: RunningNode, line: bytes) -> Reply:
    """Carry out a command line as a session does. Raises what the write ended in."""
    args = line.split()
    transaction = running.node.begin()
    reply: Reply = look_up(args).handler(WritableKeyspace(transaction, running.node.now_ms() or 0), args)
    await submit(running.node, transaction)
    return reply


@given(REPLIES)
def test_replies_come_back(reply: Reply) -> None:
    assert decode(encode(reply, 3)) == reply


class TestAttempts:
    """On nodes in memory, with a log that fails."""

    @pytest.mark.parametrize("fault", ["refuse", "lose", "lose answer", "land twice"])
    async def test_a_retry_under_the_next_epoch_applies_once(self, cluster: MemoryCluster, fault: str) -> None:
        log = cluster.log = FaultyLog()
        leader = await cluster.start("n1")
        await cluster.leader()
        log.fault = fault
        with suppress(Definite):
            await ask(leader, b"REPL.ONCE id INCR n")
        await cluster.leader()
        assert await ask(leader, b"REPL.ONCE id INCR n") == 1
        assert await ask(leader, b"INCR n") == 2

    @pytest.mark.parametrize("lands", [True, False])
    async def test_a_retry_at_the_next_leader_applies_once(self, cluster: MemoryCluster, lands: bool) -> None:
        log = cluster.log = DeafLog()
        first = await cluster.start("n1")
        await cluster.start("n2", priority=1)
        await cluster.leader()
        await ask(first, b"SET n 10")
        await cluster.caught_up()
        log.deaf, log.lands = True, lands
        attempt = asyncio.ensure_future(ask(first, b"REPL.ONCE id INCR n"))
        await until(lambda: log.unanswered)
        await first.stop()
        with pytest.raises(Unknown):
            await attempt
        second = await cluster.leader()
        assert second is not first
        assert await ask(second, b"REPL.ONCE id INCR n") == 11
        assert await ask(second, b"INCR n") == 12

    async def test_a_retry_while_the_first_attempt_is_in_flight_waits_for_its_answer(
        self, cluster: MemoryCluster
    ) -> None:
        leader = await cluster.start("n1")
        await cluster.leader()
        attempts = [ask(leader, b"REPL.ONCE id INCR n") for _ in range(5)]
        assert await asyncio.gather(*attempts) == [1] * 5
        assert leader.get(encode_key("kv", b"n", b"")) == b"s1"

    async def test_stored_ids_are_the_same_on_every_node(self, cluster: MemoryCluster) -> None:
        leader = await cluster.start("n1")
        follower = await cluster.start("n2", priority=1)
        await cluster.leader()
        for number in range(20):
            await ask(leader, b"REPL.ONCE id%d INCR n" % number)
        await cluster.caught_up()
        assert follower.node.store().rows(DEDUP_TABLE) == leader.node.store().rows(DEDUP_TABLE) == 20
        key = encode_key(DEDUP_TABLE, b"id7", b"")
        assert follower.get(key) == leader.get(key) is not None
        assert follower.machine.meta.digest == leader.machine.meta.digest == follower.machine.recount()[0]

    async def test_ids_are_deleted_on_all_nodes_when_they_expire(self, cluster: MemoryCluster) -> None:
        leader = await cluster.start("n1")
        follower = await cluster.start("n2", priority=1)
        await cluster.leader()
        transaction = leader.node.begin()
        Dedup(transaction, leader.node.now_ms() or 0, age_ms=20).add(b"id", [b"incr", b"n"], b":7\r\n")
        await submit(leader.node, transaction)
        await until(lambda: leader.node.store().rows(DEDUP_TABLE) == follower.node.store().rows(DEDUP_TABLE) == 0)
        assert await ask(leader, b"REPL.ONCE id INCR n") == 1


class DeafLog(MemoryLog):
    """Once deaf, it no longer answers appends of the node that was leader then; the first may still be appended."""

    deaf = lands = unanswered = False

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        if not self.deaf:
            return await super().append(payloads)
        self.deaf, self.unanswered = False, True
        if self.lands:
            self.append_now(payloads)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


class TestMemory:
    """What is remembered, and for how long."""

    @pytest.fixture
    def transaction(self, tmp_path: Path) -> Iterator[Transaction]:
        machine = open_machine(tmp_path, "test", "topic", map_bytes=1 << 20)
        yield Transaction(machine.view)
        machine.close()

    def test_the_oldest_id_is_evicted(self, transaction: Transaction) -> None:
        dedup = Dedup(transaction, 1000, ids=3)
        for number in range(10):
            dedup.add(b"id%d" % number, [b"x"], b":%d\r\n" % number)
            known = [it for it in range(10) if dedup.find(b"id%d" % it, [b"x"]) is not None]
            assert known == list(range(max(0, number - 2), number + 1))
        assert transaction.rows(DEDUP_TABLE) == 3
        assert transaction.rows(SLOTS_TABLE) == 3 + 1
        assert dedup.find(b"id9", [b"x"]) == b":9\r\n"

    def test_an_id_that_has_expired_counts_as_absent_and_may_come_again(self, transaction: Transaction) -> None:
        Dedup(transaction, 1000, ids=3, age_ms=50).add(b"id", [b"x"], b":1\r\n")
        assert Dedup(transaction, 1049).find(b"id", [b"x"]) == b":1\r\n"
        assert Dedup(transaction, 1050).find(b"id", [b"x"]) is None
        assert Dedup(transaction, 1050).find(b"id", [b"other"]) is None

    def test_an_id_that_came_again_outlives_its_first_slot(self, transaction: Transaction) -> None:
        dedup = Dedup(transaction, 1000, ids=3)
        for id in (b"again", b"a", b"again", b"b"):  # b takes the first slot of "again"
            dedup.add(id, [b"x"], b"_\r\n")
        assert dedup.find(b"again", [b"x"]) is not None
        for id in (b"c", b"d"):  # d takes the second
            dedup.add(id, [b"x"], b"_\r\n")
        assert dedup.find(b"again", [b"x"]) is None
        assert transaction.rows(DEDUP_TABLE) == 3

    def test_an_id_may_take_the_slot_it_has(self, transaction: Transaction) -> None:
        dedup = Dedup(transaction, 1000, ids=1)
        for number in range(3):
            dedup.add(b"id", [b"x"], b":%d\r\n" % number)
        assert dedup.find(b"id", [b"x"]) == b":2\r\n"

    def test_the_same_id_with_another_line_is_an_error(self, transaction: Transaction) -> None:
        dedup = Dedup(transaction, 1000)
        dedup.add(b"id", [b"set", b"a", b"bc"], b"+OK\r\n")
        for other in ([b"set", b"ab", b"c"], [b"set", b"a", b"bc", b"nx"]):
            with pytest.raises(BadRequest, match="another command line"):
                dedup.find(b"id", other)

    def test_a_write_costs_at_most_four_changes_more(self, transaction: Transaction) -> None:
        dedup = Dedup(transaction, 1000, ids=1)
        dedup.add(b"first", [b"x"], b"_\r\n")
        before = len(transaction.changes)
        dedup.add(b"second", [b"x"], b"_\r\n")
        assert before == 3 and len(transaction.changes) <= before + 1

    def test_an_id_expires_after_the_documented_age(self, transaction: Transaction) -> None:
        Dedup(transaction, 1000).add(b"id", [b"x"], b"_\r\n")
        stored = transaction.get(encode_key(DEDUP_TABLE, b"id", b""))
        assert stored is not None and decode_value(stored).expires_at_ms == 1000 + ONCE_AGE_MS


class TestClients:
    """As clients of Redis see it."""

    def test_each_client_gets_the_answer_in_its_own_protocol(self, server: ServerThread, client: Any) -> None:
        answers = {
            b"SETNX k 1": (1, 1),
            b"SET k 2 GET": (b"1", b"1"),
            b"SET k 3": (b"OK", b"OK"),
            b"GETDEL none": (None, None),
            b"INCRBYFLOAT f 0.5": (b"0.5", b"0.5"),
            b"DEL k f": (2, 2),
        }
        for protocols in ((2, 3), (3, 2)):
            clients = [Raw(server.port, protocol) for protocol in protocols]
            for number, (line, expected) in enumerate(answers.items()):
                once = [b"REPL.ONCE", b"p%d-%d" % (protocols[0], number), *line.split()]
                assert tuple(it.ask(*once) for it in clients) == expected, line
            for it in clients:
                it.close()

    @pytest.mark.parametrize(("protocol", "null"), [(3, b"_\r\n"), (2, b"$-1\r\n")])
    def test_null_is_that_of_the_protocol(self, server: ServerThread, client: Any, protocol: int, null: bytes) -> None:
        once = b"REPL.ONCE null-%d GETDEL none\r\n" % protocol
        with raw(server) as connection:
            connection.sendall(b"HELLO %d\r\n%b%bQUIT\r\n" % (protocol, once, once))
            assert read_all(connection).endswith(b"\r\n" + null + null + b"+OK\r\n")

    def test_in_a_transaction_each_counts_for_itself(self, client: Any) -> None:
        for _ in range(2):
            with client.pipeline() as pipe:
                pipe.execute_command("REPL.ONCE", "multi-1", "INCR", "n")
                pipe.execute_command("REPL.ONCE", "multi-1", "INCR", "n")
                pipe.execute_command("REPL.ONCE", "multi-2", "INCR", "n")
                assert pipe.execute() == [1, 1, 2]
        assert client.get("n") == b"2"

    def test_a_command_that_fails_is_not_remembered(self, client: Any) -> None:
        once = ("REPL.ONCE", "fails", "INCR", "n")
        client.hset("n", "f", "1")
        with pytest.raises(redis.ResponseError, match="wrong kind"):
            client.execute_command(*once)
        with client.pipeline() as pipe:
            pipe.execute_command(*once)
            assert isinstance(pipe.execute(raise_on_error=False)[0], redis.ResponseError)
        client.delete("n")
        assert client.execute_command(*once) == client.execute_command(*once) == 1

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("REPL.ONCE id", "wrong number of arguments for 'repl.once'"),
            ("REPL.ONCE id GET k", "not 'get'"),
            ("REPL.ONCE id FLUSHALL", "not 'flushall'"),
            ("REPL.ONCE id EXEC", "not 'exec'"),
            ("REPL.ONCE id repl.once other INCR n", "REPL.ONCE cannot execute REPL.ONCE"),
            ("REPL.ONCE id NO-SUCH k", "unknown command 'NO-SUCH'"),
            ("REPL.ONCE id INCR", "wrong number of arguments for 'incr'"),
            (f"REPL.ONCE {'i' * 129} INCR n", "1 to 128 bytes, this one has 129"),
            ("REPL.ONCE used INCRBY n 2", "another command line"),
        ],
    )
    def test_invalid_uses_are_refused(self, client: Any, line: str, complaint: str) -> None:
        client.execute_command("REPL.ONCE", "used", "INCRBY", "elsewhere", "1")
        with pytest.raises(redis.ResponseError, match=complaint):
            client.execute_command(*line.split())
        assert not client.exists("n", "k")

    def test_an_id_may_hold_any_bytes(self, client: Any) -> None:
        ids = [b"\x00", b"\x00\xff", b"next", b"0", b"\xff" * 128]
        assert [client.execute_command("REPL.ONCE", id, "INCR", "n") for id in ids * 2] == [1, 2, 3, 4, 5] * 2

    def test_a_follower_refuses_it(self, client: Any, server: ServerThread) -> None:
        follower = server.client(1)
        with pytest.raises(redis.ReadOnlyError):
            follower.execute_command("REPL.ONCE", "id", "INCR", "n")
        follower.close()

    def test_a_stored_id_is_not_a_key(self, client: Any) -> None:
        client.execute_command("REPL.ONCE", "nokey", "SET", "k", "1")
        assert (client.dbsize(), client.keys(), list(client.scan_iter())) == (1, [b"k"], [b"k"])
        client.flushall()
        assert client.execute_command("REPL.ONCE", "nokey", "SET", "k", "1") == b"OK"
        assert client.dbsize() == 0

    def test_getkeys_returns_the_keys_of_the_inner_command(self, client: Any) -> None:
        assert client.command_getkeys("REPL.ONCE", "id", "MSET", "a", "1", "b", "2") == ["a", "b"]
        described = client.execute_command("COMMAND", "INFO", "REPL.ONCE")
        assert "movablekeys" in str(described) and "write" in str(described)

    def test_a_retry_of_another_connection_counts_among_many(self, serve: Callable[..., ServerThread]) -> None:
        own = serve()
        clients = [own.client() for _ in range(4)]
        for number in range(50):
            answers = {it.execute_command("REPL.ONCE", f"id{number}", "INCR", "n") for it in clients}
            assert answers == {number + 1}
        for it in clients:
            it.close()


class Counter(threading.Thread):
    """Counts up under one id after the other; whatever goes wrong, it sends the same line again, to the next node."""

    def __init__(self, clients: list[Any]) -> None:
        super().__init__(daemon=True)
        self._clients = itertools.cycle(clients)
        self.answers: list[int] = []
        self.retries = 0
        self.stop = threading.Event()

    def run(self) -> None:
        client = next(self._clients)
        while not self.stop.is_set():
            once = ("REPL.ONCE", f"count-{len(self.answers)}", "INCR", "counter")
            while True:
                try:
                    self.answers.append(client.execute_command(*once))
                    break
                except redis.RedisError:
                    self.retries += 1
                    client = next(self._clients)
                    time.sleep(0.01)


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_counter_goes_up_by_one_each_time_while_leaders_are_killed(kafka: str, tmp_path: Path) -> None:
    ids = ["n1", "n2", "n3"]
    cluster = Cluster(tmp_path / "cluster", kafka)
    cluster.up(3)
    try:
        counter = Counter([cluster.client(id) for id in ids])
        counter.start()
        for _ in range(2):
            reached = len(counter.answers) + 200
            wait_for(lambda reached=reached: len(counter.answers) > reached)  # type: ignore[misc]
            victim = cluster.leader(ids)
            cluster.kill(victim)
            reached = len(counter.answers) + 200
            wait_for(lambda reached=reached: len(counter.answers) > reached)  # type: ignore[misc]
            cluster.run("node", "start", victim)
        counter.stop.set()
        counter.join()
        assert counter.answers == list(range(1, len(counter.answers) + 1))
        assert counter.retries > 0
        cluster.caught_up()
    finally:
        cluster.run("cluster", "down", "--purge")
