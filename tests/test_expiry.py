"""A row that has expired is gone once its deletion is applied, not when a clock says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import Busy, Stale
from replicator.limits import FLUSH_ENTRIES
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level
from replicator.protocol.timing import Timeouts
from replicator.records.types import Policy, Write
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.commands import look_up
from replicator.server.redis.resp import Reply
from replicator.server.redis.turns import Budget
from replicator.store.keys import table_range
from replicator.store.values import encode_value
from replicator.store.view import KeyBlocked, View
from tests.memory_cluster import MemoryCluster, RunningNode, SetWallClock, submit, until
from tests.modes_cluster import ALL, ASYNC, STEADY, SYNC, A, ModesCluster, begin_read, stored
from tests.redis_fixture import ServerThread

TRIES = 50
TTL_MS = 20
HOUR_MS = 3_600_000


@pytest.fixture
def clock() -> SetWallClock:
    return SetWallClock()


@pytest.fixture
async def cluster(tmp_path: Path, clock: SetWallClock) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path)
    cluster.clock = clock
    yield cluster
    await cluster.stop()


async def write(running: RunningNode, row: bytes, data: bytes, ttl_ms: int = TTL_MS) -> None:
    await running.write(row, encode_value(b"s", data, running.node.now_ms() + ttl_ms))


async def run(running: RunningNode, *args: bytes, level: Level | None = None) -> Reply:
    """A command that reads, at a node."""
    command = look_up(list(args))

    def answer(view: View) -> Reply:
        reply: Reply = command.handler(Keyspace(view, running.node.now_ms()), list(args))
        return Budget(1_000).finish(reply) if command.long else reply  # type: ignore[arg-type]

    return await running.node.reads.read(level, answer)


async def execute(running: RunningNode, *args: bytes) -> Reply:
    """A command that writes, at the leader."""
    transaction = running.node.begin()
    reply: Reply = look_up(list(args)).handler(WritableKeyspace(transaction, running.node.now_ms()), list(args))
    await submit(running.node, transaction)
    return reply


def refuse_writes(cluster: ModesCluster) -> None:
    """The leader has no room for writes."""
    cluster.n1.node._context.writes.bytes += 1 << 40


async def test_a_row_that_the_leader_shows_as_gone_is_gone_everywhere(
    cluster: ModesCluster, clock: SetWallClock
) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    for number in range(TRIES):
        row = b"row%d" % number
        await write(cluster.n1, row, b"1")
        clock.now_ms += TTL_MS
        assert await run(cluster.n1, b"get", row) is None
        assert await run(cluster.n2, b"get", row, level=LINEARIZABLE) is None


async def test_a_successor_whose_clock_is_behind_does_not_bring_a_row_back(tmp_path: Path, clock: SetWallClock) -> None:
    cluster = MemoryCluster(tmp_path, STEADY)
    leader = await cluster.start("n1", clock=clock)
    successor = await cluster.start("n2", priority=1, clock=SetWallClock(clock.now_ms - HOUR_MS))
    await cluster.leader()
    await until(lambda: bool(successor.node.membership.members))
    leader.node.membership_changes.add_member(successor.member)
    await until(lambda: len(successor.node.membership.members) == 2)
    await write(leader, b"a", b"1")
    clock.now_ms += TTL_MS
    assert await run(leader, b"get", b"a") is None
    await leader.node.transfer.promote(successor.member.node, force=False)
    await until(lambda: successor.node.lease_left_ms > 0)
    assert await run(successor, b"get", b"a") is None
    await cluster.stop()


async def test_a_read_at_the_leader_waits_until_the_deletion_is_confirmed(
    cluster: ModesCluster, clock: SetWallClock
) -> None:
    await cluster.set_up(ALL, SYNC, SYNC)
    await write(cluster.n1, b"a", b"1")
    cluster.acks.hold("n2")
    clock.now_ms += TTL_MS
    reading = asyncio.ensure_future(run(cluster.n1, b"get", b"a"))
    await until(lambda: stored(cluster.n2, A) is None)
    assert not reading.done() and stored(cluster.n1, A) is not None
    cluster.acks.let("n2")
    assert await reading is None


async def test_a_read_deletes_the_expired_row_at_once(cluster: ModesCluster, clock: SetWallClock) -> None:
    await cluster.set_up(Policy(), ASYNC)
    await write(cluster.n1, b"a", b"1")
    await write(cluster.n1, b"b", b"2")
    clock.now_ms += TTL_MS
    before = len(cluster.bodies_of(Write))
    reading = await begin_read(cluster.n1, A, None)
    assert cluster.n1.node._context.writes.queued
    assert await reading is None
    assert await run(cluster.n1, b"mget", b"a", b"b", b"c") == [None, None, None]
    assert [len(body.changes) for body in cluster.bodies_of(Write)[before:]] == [1, 1]


async def test_a_row_that_cannot_be_deleted_now_counts_as_not_expired(
    cluster: ModesCluster, clock: SetWallClock
) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await write(cluster.n1, b"a", b"1")
    refuse_writes(cluster)
    clock.now_ms += TTL_MS
    assert await run(cluster.n1, b"get", b"a") == b"1"
    assert await run(cluster.n1, b"pttl", b"a") == 0
    assert await run(cluster.n2, b"get", b"a", level=LINEARIZABLE) == b"1"


async def test_reads_that_show_the_store_as_it_is_show_an_expired_row(
    cluster: ModesCluster, clock: SetWallClock
) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await write(cluster.n1, b"a", b"1")
    clock.now_ms += TTL_MS
    assert await run(cluster.n1, b"get", b"a", level=EVENTUAL) == b"1"
    assert await run(cluster.n1, b"keys", b"*") == [b"a"]
    assert await run(cluster.n1, b"dbsize") == 1


@pytest.mark.parametrize(
    ("line", "reply", "after"),
    [
        ([b"incr", b"a"], 1, b"1"),
        ([b"append", b"a", b"x"], 1, b"x"),
        ([b"setnx", b"a", b"x"], 1, b"x"),
        ([b"set", b"a", b"x", b"XX"], None, None),
        ([b"getex", b"a"], None, None),
        ([b"getdel", b"a"], None, None),
        ([b"del", b"a"], 0, None),
        ([b"expire", b"a", b"100"], 0, None),
        ([b"persist", b"a"], 0, None),
        ([b"hset", b"a", b"f", b"x"], 1, {b"f": b"x"}),
    ],
    ids=lambda it: it[0].decode() if isinstance(it, list) else "",
)
async def test_a_write_that_meets_an_expired_row_deletes_it_in_its_own_record(
    cluster: ModesCluster, clock: SetWallClock, line: list[bytes], reply: Reply, after: Any
) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await write(cluster.n1, b"a", b"7")
    old = stored(cluster.n1, A)
    clock.now_ms += TTL_MS
    assert await execute(cluster.n1, *line) == reply
    first = cluster.bodies_of(Write)[-1].changes[0]
    assert (first.row, first.old) == (b"a", old)
    command = b"hgetall" if line[0] == b"hset" else b"get"
    assert await run(cluster.n2, command, b"a", level=LINEARIZABLE) == after


@pytest.fixture
def server(tmp_path: Path, clock: SetWallClock) -> Iterator[ServerThread]:
    thread = ServerThread(tmp_path, nodes=2, timing=STEADY, clock=clock)
    yield thread
    thread.close()


@pytest.fixture
def client(server: ServerThread) -> Iterator[Any]:
    client = server.client()
    yield client
    client.close()


def at_follower(server: ServerThread, key: str) -> Any:
    with server.client(1) as follower:
        return follower.execute_command("REPL.READ", "linearizable", "GET", key)


def test_watch_notices_a_row_that_expires(client: Any, server: ServerThread, clock: SetWallClock) -> None:
    for queued in (["INCR", "k"], ["SET", "other", "1"], ["GET", "k"]):
        client.set("k", "7", px=TTL_MS)
        client.execute_command("WATCH", "k")
        clock.now_ms += TTL_MS
        client.execute_command("MULTI")
        client.execute_command(*queued)
        assert client.execute_command("EXEC") is None, queued
        assert at_follower(server, "k") is None
        assert client.get("k") is None and client.get("other") is None


def test_a_transaction_shows_a_row_as_gone_only_if_it_deletes_it(
    client: Any, server: ServerThread, clock: SetWallClock
) -> None:
    client.set("k", "7", px=TTL_MS)
    clock.now_ms += TTL_MS
    with client.pipeline() as pipe:
        assert pipe.get("k").set("other", "1").execute() == [None, True]
    assert at_follower(server, "k") is None


def test_an_error_that_says_that_a_row_is_gone_deletes_it(
    client: Any, server: ServerThread, clock: SetWallClock
) -> None:
    for rename in (["RENAME", "k", "l"], ["REPL.ONCE", "id", "RENAME", "k", "l"]):
        client.set("k", "7", px=TTL_MS)
        clock.now_ms += TTL_MS
        with pytest.raises(Exception, match="no such key"):
            client.execute_command(*rename)
        assert at_follower(server, "k") is None
    client.set("k", "7", px=TTL_MS)
    clock.now_ms += TTL_MS
    with client.pipeline() as pipe:
        replies = pipe.rename("k", "l").set("other", "1").execute(raise_on_error=False)
    assert "no such key" in str(replies[0]) and replies[1] is True
    assert at_follower(server, "k") is None


FIELDS = 2 * FLUSH_ENTRIES + 10


async def write_large(cluster: MemoryCluster, leader: RunningNode) -> None:
    """A hash `a` that one record cannot delete, and expires."""
    for start in range(0, FIELDS, 500):
        names = range(start, min(FIELDS, start + 500))
        await execute(leader, b"hset", b"a", *(part for name in names for part in (b"%d" % name, b"v")))
    await execute(leader, b"pexpire", b"a", b"%d" % TTL_MS)
    await cluster.caught_up()


def hold_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only reads and writes delete expired rows."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("replicator.node.node.delete_expired", never)


async def test_a_large_row_is_deleted_in_parts_and_delays_no_other_row(
    cluster: ModesCluster, clock: SetWallClock
) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await write_large(cluster, cluster.n1)
    await write(cluster.n1, b"b", b"1")
    clock.now_ms += TTL_MS
    await until(lambda: not cluster.n2.machine.view.rows("kv"))
    assert max(len(body.changes) for body in cluster.bodies_of(Write)[-4:]) <= FLUSH_ENTRIES
    assert not list(cluster.n2.machine.view.scan(*table_range("kv")))


async def test_a_read_of_a_large_row_waits_for_all_its_parts(
    cluster: ModesCluster, clock: SetWallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_background(monkeypatch)
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await write_large(cluster, cluster.n1)
    clock.now_ms += TTL_MS
    assert await run(cluster.n1, b"hlen", b"a") == 0
    assert await run(cluster.n2, b"hgetall", b"a", level=LINEARIZABLE) == {}


async def test_a_write_does_not_meet_the_rest_of_a_large_row(
    cluster: ModesCluster, clock: SetWallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_background(monkeypatch)
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await write_large(cluster, cluster.n1)
    clock.now_ms += TTL_MS
    for line in ((b"hset", b"a", b"f", b"v"), (b"del", b"a"), (b"persist", b"a"), (b"rename", b"a", b"b")):
        with pytest.raises(Busy, match="deleted in parts"):
            await execute(cluster.n1, *line)
    assert await run(cluster.n1, b"hlen", b"a") == 0
    assert await execute(cluster.n1, b"hset", b"a", b"f", b"v") == 1
    assert await run(cluster.n2, b"hgetall", b"a", level=LINEARIZABLE) == {b"f": b"v"}


async def test_a_row_of_which_a_part_was_deleted_is_not_shown(
    cluster: ModesCluster, clock: SetWallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has expired for a new leader, too, whose clock is behind."""
    hold_background(monkeypatch)
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await write_large(cluster, cluster.n1)
    clock.now_ms += TTL_MS
    transaction = cluster.n1.node.begin()
    transaction.remove_part_of_expired("kv", b"a")
    await submit(cluster.n1.node, transaction)
    clock.now_ms -= HOUR_MS
    held = cluster.n1.node._context.writes.bytes
    refuse_writes(cluster)
    with pytest.raises(Busy):
        await run(cluster.n1, b"hlen", b"a")
    cluster.n1.node._context.writes.bytes = held
    assert await run(cluster.n1, b"hlen", b"a") == 0


def test_a_transaction_that_meets_a_large_expired_row_changes_nothing(
    tmp_path: Path, clock: SetWallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_background(monkeypatch)
    server = ServerThread(tmp_path, nodes=1, timing=STEADY, clock=clock)
    client: Any = server.client()
    for start in range(0, FIELDS, 500):
        client.hset("a", mapping={f"f{name}": "v" for name in range(start, start + 500)})
    client.pexpire("a", HOUR_MS)
    clock.now_ms += HOUR_MS
    with client.pipeline() as pipe, pytest.raises(Exception, match="deleted in parts"):
        pipe.set("other", "1").hset("a", "f", "v").execute()
    assert client.get("other") is None
    client.close()
    server.close()


async def test_a_long_read_waits_for_views_no_longer_than_other_reads(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, STEADY, Timeouts(read_ms=200))
    await cluster.set_up(Policy(), ASYNC)
    reads = cluster.n1.node.reads

    async def view() -> View:
        await asyncio.sleep(0.05)
        return reads.view(EVENTUAL)  # type: ignore[return-value]

    async def answer(view: View) -> None:
        raise KeyBlocked(A, again)

    again = view
    with pytest.raises(Stale, match="within 200 ms"):
        async with asyncio.timeout(10):
            await reads.read_in_slices(EVENTUAL, answer)
    await cluster.stop()
