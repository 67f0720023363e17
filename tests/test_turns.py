"""Commands that take long: their slices, what runs in between, and the limits of transactions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import TransactionTooLarge
from replicator.limits import (
    MAX_CHANGES,
    MAX_PATTERNS,
    MAX_PENDING_BYTES,
    MAX_QUEUED_BYTES,
    MAX_REPLY_BYTES,
    MAX_SCAN_COUNT,
    MAX_STEPS_IN_EXEC,
    MAX_VALUE_BYTES,
    MAX_WRITE_ITEMS,
    SLICE_MS,
    STEPS_AT_ONCE,
)
from replicator.records.types import Change
from replicator.server.redis import dispatch
from replicator.server.redis.resp import InPieces, encode, encode_in_steps
from replicator.server.redis.turns import Budget, CpuLimit, ReplyTooLarge, Turns
from replicator.steps import Steps
from replicator.store.keys import encode_key, table_range
from replicator.store.view import KeyBlocked, Overlay, SnapshotEnded, Transaction, View
from tests.memory_cluster import MemoryCluster, RunningNode
from tests.redis_fixture import ServerThread
from tests.test_redis_connection import Entries, Stage

ROWS = STEPS_AT_ONCE + 500


class Clock:
    """Each look at it takes a millisecond."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


def count_to(number: int, size: int = 0) -> Steps[int]:
    for _ in range(number):
        yield size
    return number


async def test_long_work_takes_turns() -> None:
    turns = Turns(Clock())
    order: list[str] = []

    async def work(name: str) -> None:
        assert await turns.run(count_to(10 * SLICE_MS)) == 10 * SLICE_MS
        order.append(name)

    async def tick() -> None:
        while order[-1:] != ["b"]:
            order.append(".")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for job in (work("a"), work("b"), tick()):
            group.create_task(job)
    assert order.index("a") < order.index("b") and order[-1] == "b"
    assert order.count(".") >= 4  # others ran in between


@pytest.mark.parametrize("tasks", [1, 10, 100])
async def test_all_long_work_together_gets_one_slice_of_time(tasks: int) -> None:
    now_s, started_s = 0.0, [0.0]
    turns = Turns(lambda: now_s)

    def work() -> Steps[int]:
        nonlocal now_s
        for _ in range(3):
            now_s += SLICE_MS * 0.75 / 1000
            yield 0
        return 1

    async def tick() -> None:
        while len(done) < tasks:
            await asyncio.sleep(0)
            started_s.append(now_s)

    done: list[int] = []

    async def run() -> None:
        done.append(await turns.run(work()))

    async with asyncio.TaskGroup() as group:
        for job in (tick(), *(run() for _ in range(tasks))):
            group.create_task(job)
    longest_s = max(after - before for before, after in itertools.pairwise(started_s))
    assert 0 < longest_s <= 2 * SLICE_MS / 1000
    assert now_s == pytest.approx(tasks * 3 * SLICE_MS * 0.75 / 1000)


async def test_a_result_needs_no_garbage_collection() -> None:
    class Large:
        pass

    made: list[weakref.ref[Large]] = []

    def work(fails: bool) -> Steps[Large]:
        large = Large()
        made.append(weakref.ref(large))
        yield 0
        if fails:
            raise ValueError
        return large

    async def run(turns: Turns, fails: bool) -> None:
        if fails:
            with contextlib.suppress(ValueError):
                await turns.run(work(fails))
        else:
            await turns.run(work(fails))

    gc.disable()
    try:
        for turns, fails in itertools.product((Turns(Clock()), Turns(lambda: 0.0)), (False, True)):
            await run(turns, fails)
            await asyncio.sleep(0)
        assert [it() for it in made] == [None] * 4
    finally:
        gc.enable()


async def test_each_turn_takes_a_step_however_late_it_comes() -> None:
    now_s = 0.0
    turns = Turns(lambda: now_s)

    async def other() -> None:
        nonlocal now_s
        while not task.done():
            now_s += 1  # longer than a slice, in each iteration of the loop
            await asyncio.sleep(0)

    task = asyncio.create_task(turns.run(count_to(5)))
    await other()
    assert await task == 5


async def test_long_work_goes_on_however_many_commands_there_are() -> None:
    now_s = 0.0
    turns = Turns(lambda: now_s)
    order: list[str] = []

    def work() -> Steps[None]:
        nonlocal now_s
        for _ in range(2):
            now_s += 1  # longer than a slice
            order.append("long")
            yield 0

    def command() -> None:  # of a client that has sent many
        nonlocal now_s
        now_s += SLICE_MS / 1000
        order.append("command")

    tasks = [asyncio.create_task(turns.run(work())) for _ in range(3)]
    await asyncio.sleep(0)  # they wait
    for _ in range(4):
        turns.wait(command)
    await asyncio.gather(*tasks)
    assert order == ["command", "long"] * 4 + ["long"] * 2


async def test_a_short_command_does_not_wait_for_long_work_that_waits() -> None:
    now_s = 0.0
    turns = Turns(lambda: now_s)

    def work() -> Steps[None]:
        nonlocal now_s
        for _ in range(3):
            now_s += 1  # longer than a slice
            yield 0

    tasks = [asyncio.create_task(turns.run(work())) for _ in range(10)]
    await asyncio.sleep(0)  # they wait
    waited_s: list[float] = []
    while not all(task.done() for task in tasks):
        turns.wait(lambda began_s=now_s: waited_s.append(now_s - began_s))  # type: ignore[misc]
        await asyncio.sleep(0)
    assert now_s == pytest.approx(30, abs=1)
    assert max(waited_s) == 0.0  # it is first in the next slice


async def test_cancelled_work_is_closed_at_once() -> None:
    closed: list[str] = []

    def work() -> Steps[None]:
        try:
            while True:
                yield 0
        finally:
            closed.append("closed")

    task = asyncio.create_task(Turns(Clock()).run(work()))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == ["closed"]


async def test_a_slice_of_time_lasts_until_it_is_used_up() -> None:
    clock = Clock()
    turns = Turns(clock)
    order: list[int] = []
    for number in range(3):
        turns.wait(lambda number=number: order.append(number))  # type: ignore[misc]
    await asyncio.sleep(0)
    assert order == [0, 1, 2]
    until_s = turns.until_s
    assert until_s > clock.now_s
    await asyncio.sleep(0)
    assert turns.until_s == until_s  # though the loop has got through an iteration
    turns.wait(lambda: setattr(clock, "now_s", 1.0))
    turns.wait(lambda: order.append(3))
    await asyncio.sleep(0)
    assert order == [0, 1, 2]
    await asyncio.sleep(0)
    assert order == [0, 1, 2, 3]


async def test_a_reply_is_bounded() -> None:
    for work in (count_to(3, MAX_REPLY_BYTES // 2), count_to(10**6, MAX_REPLY_BYTES // 2)):
        with pytest.raises(ReplyTooLarge):
            await Turns().run(work)
        with pytest.raises(ReplyTooLarge):
            Budget(100).finish(count_to(10**6, MAX_REPLY_BYTES // 2))


def test_a_budget_ends() -> None:
    budget = Budget(10)
    assert budget.finish(count_to(5)) == 5
    assert budget.finish(count_to(5)) is None


@given(
    st.dictionaries(st.binary(max_size=3), st.integers() | st.none())
    | st.lists(st.binary())
    | st.integers()
    | st.lists(st.binary()).map(InPieces)
)
def test_encoding_in_steps_is_encoding(reply: Any) -> None:
    for protocol in (2, 3):
        steps = encode_in_steps(reply, protocol)
        pieces = Budget(10**6).finish(steps)
        assert pieces is not None and b"".join(pieces) == encode(reply, protocol)


def test_only_cpu_time_counts() -> None:
    wall_s, cpu_s, looks = 0.0, 0.0, 0

    def cpu_clock() -> float:
        nonlocal looks
        looks += 1
        return cpu_s

    limit = CpuLimit(30, lambda: wall_s, cpu_clock)
    wall_s, cpu_s = 0.029, 0.029
    assert not limit.is_exceeded()
    wall_s = 0.5  # other processes ran
    assert not limit.is_exceeded()
    assert looks == 2
    wall_s, cpu_s = 0.502, 0.031
    assert limit.is_exceeded()


# Connections


async def test_a_connection_that_has_used_up_its_time_lets_others_run() -> None:
    stage, other = Stage(), Stage()
    stage.server.turns = other.server.turns = Turns(Clock())
    stage.connection.data_received(b"PING\n" * 4 * SLICE_MS)
    other.connection.data_received(b"ECHO other\n")
    for _ in range(2):
        await asyncio.sleep(0)
    assert b"other" in b"".join(other.transport.writes)
    assert b"".join(stage.transport.writes).count(b"PONG") < 4 * SLICE_MS
    for _ in range(20):
        await asyncio.sleep(0)
    assert b"".join(stage.transport.writes).count(b"PONG") == 4 * SLICE_MS


async def test_answers_behind_a_write_are_bounded() -> None:
    stage = Stage()
    big = b"x" * 60_000
    stage.connection.data_received(b"SET k v\n")
    count = 2 * MAX_PENDING_BYTES // len(big)
    for _ in range(count):
        stage.connection.data_received(b"ECHO %b\n" % big)
        await asyncio.sleep(0)
    assert stage.connection._replies.pending_bytes <= MAX_PENDING_BYTES + 2 * len(big)
    stage.backend.unacked.pop()(None, 1)  # type: ignore[arg-type]
    for _ in range(100):
        await asyncio.sleep(0)
    assert b"".join(stage.transport.writes).count(big) == count


# Transactions

KEYS = st.sampled_from([b"a", b"b", b"c"])
VALUES = st.none() | st.binary(max_size=2)
PUTS = st.lists(st.tuples(KEYS, VALUES))


@given(st.dictionaries(KEYS, st.binary(max_size=2)), PUTS, PUTS)
def test_a_roll_back_undoes_what_came_after_the_savepoint(
    base: dict[bytes, bytes], first: list[tuple[bytes, bytes | None]], second: list[tuple[bytes, bytes | None]]
) -> None:
    entries = Entries()
    entries.values = {encode_key("kv", row, b""): value for row, value in base.items()}
    undone, plain = Transaction(entries), Transaction(entries)
    for row, value in first:
        undone.put("kv", row, b"", value)
        plain.put("kv", row, b"", value)
    list(undone.scan(*table_range("kv")))  # which remembers the order of the keys
    undone.set_savepoint()
    for row, value in second:
        undone.put("kv", row, b"", value)
    undone.roll_back()
    assert undone.changes == plain.changes
    assert list(undone.scan(*table_range("kv"))) == list(plain.scan(*table_range("kv")))
    assert undone.rows("kv") == plain.rows("kv") == len(list(plain.scan(*table_range("kv"))))


def test_a_transaction_is_bounded() -> None:
    many, large = Transaction(Entries()), Transaction(Entries())
    with pytest.raises(TransactionTooLarge, match="split"):
        for number in range(MAX_CHANGES + 1):
            many.put("kv", b"%d" % number, b"", b"v")
    with pytest.raises(TransactionTooLarge, match="split"):
        for number in range(10):
            large.put("kv", b"%d" % number, b"", b"x" * MAX_VALUE_BYTES)


def test_a_row_is_changed_by_the_writes_in_flight_of_all_its_fields() -> None:
    overlay = Overlay(Entries())
    writes: list[dict[bytes, Change]] = []
    for field in (b"", b"f", b"f", b"g"):
        transaction = Transaction(overlay)
        transaction.put("kv", b"a", field, b"%d" % len(writes))
        overlay.push(transaction.changes)
        writes.append(transaction.changes)
    for changes in writes:
        assert overlay.changes_row("kv", b"a") and not overlay.changes_row("kv", b"b")
        overlay.pop(changes)
    assert not overlay.changes_row("kv", b"a")
    overlay.push(writes[-1])
    overlay.clear()
    assert not overlay.changes_row("kv", b"a")


@given(st.dictionaries(KEYS, st.binary(max_size=2)), st.lists(PUTS, max_size=4), st.integers(0, 4))
def test_a_scan_of_writes_in_flight_is_the_same_each_time(
    base: dict[bytes, bytes], writes: list[list[tuple[bytes, bytes | None]]], applied: int
) -> None:
    entries = Entries()
    entries.values = {encode_key("kv", row, b""): value for row, value in base.items()}
    overlay = Overlay(entries)
    pushed = []
    for puts in writes:
        transaction = Transaction(overlay)
        for row, value in puts:
            transaction.put("kv", row, b"", value)
        overlay.push(transaction.changes)
        pushed.append(transaction.changes)
        keys = [encode_key("kv", row, b"") for row in (b"a", b"b", b"c")]
        expected = [(key, value) for key in keys if (value := overlay.get(key)) is not None]
        for _ in range(3):
            assert list(overlay.scan(*table_range("kv"))) == expected
            assert list(overlay.scan(keys[1], keys[2])) == [it for it in expected if it[0] == keys[1]]
    for changes in pushed[:applied]:
        for key, change in changes.items():
            entries.values.pop(key, None)
            if change.new is not None:
                entries.values[key] = change.new
        before = list(overlay.scan(*table_range("kv")))
        overlay.pop(changes)
        assert list(overlay.scan(*table_range("kv"))) == before


async def test_the_commands_of_a_transaction_take_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    transaction = b"MULTI\n" + b"SET k v\n" * 3 + b"EXEC"
    with monkeypatch.context() as patched:
        patched.setattr(dispatch, "MAX_EXEC_MS", 0)
        _, written = await stage.step(transaction)
        assert "take more than 0 ms" in written
        assert not stage.backend.unacked
    await stage.step(transaction)
    assert len(stage.backend.unacked) == 1


# Snapshots


@pytest.fixture
async def leader(tmp_path: Path) -> AsyncIterator[RunningNode]:
    cluster = MemoryCluster(tmp_path)
    await cluster.start("n1")
    yield await cluster.leader()
    await cluster.stop()


async def test_a_snapshot_stays_as_it_was(leader: RunningNode) -> None:
    key = encode_key("kv", b"a", b"")
    await leader.write(b"a", b"1")
    with leader.machine.view.snapshot() as snapshot:
        entries = snapshot.scan(*table_range("kv"))
        await leader.write(b"a", b"2")
        await leader.write(b"b", b"1")
        assert snapshot.get(key) == b"1"
        assert list(entries) == [(key, b"1")]
        assert snapshot.rows("kv") == 1
    assert leader.machine.view.get(key) == b"2"


async def test_a_snapshot_ends_when_the_store_has_to_grow(leader: RunningNode) -> None:
    await leader.write(b"a", b"1")
    with leader.machine.view.snapshot() as snapshot:
        entries = snapshot.scan(*table_range("kv"))
        next(entries)
        for number in range(8):  # more than the map of the fixture
            await leader.write(b"big%d" % number, b"x" * MAX_VALUE_BYTES)
        with pytest.raises(SnapshotEnded):
            snapshot.get(b"a")
        with pytest.raises(SnapshotEnded):
            next(entries)


async def test_a_long_read_begins_again_if_its_snapshot_ends(leader: RunningNode) -> None:
    await leader.write(b"a", b"1")
    attempts = itertools.count(1)

    async def answer(view: View) -> int:
        attempt = next(attempts)
        if attempt < 3:
            leader.machine.view.end_snapshots()
        view.get(b"a")
        return attempt

    assert await leader.node.reads.read_in_slices(None, answer) == 3


async def test_a_long_read_waits_for_a_key_with_a_write_in_flight(leader: RunningNode) -> None:
    await leader.write(b"a", b"s1")
    writing = asyncio.create_task(leader.write(b"a", b"s2"))
    await asyncio.sleep(0)  # it is queued
    blocked = 0

    async def answer(view: View) -> bytes | None:
        nonlocal blocked
        try:
            return view.get(encode_key("kv", b"a", b""))
        except KeyBlocked:
            blocked += 1
            raise

    assert await leader.node.reads.read_in_slices(None, answer) == b"s2"
    assert blocked == 1
    await writing


# Commands


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    server = ServerThread(tmp_path_factory.mktemp("filled"))
    with server.client() as client:
        for first in range(0, ROWS, 500):
            client.mset({f"k{number}": number for number in range(first, first + 500)})
            client.hset("h", mapping={f"f{number}": number for number in range(first, first + 500)})
    yield server
    server.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_long_reads_are_complete(filled: ServerThread, protocol: int) -> None:
    names = [b"k%d" % number for number in range(ROWS)]
    with filled.client(protocol=protocol) as client:
        assert set(client.keys("k*")) == set(names)
        assert client.mget(names) == [b"%d" % number for number in range(ROWS)]
        assert client.exists(*names) == ROWS
        assert client.hgetall("h") == {b"f%d" % number: b"%d" % number for number in range(ROWS)}
        assert sorted(client.hkeys("h")) == sorted(b"f%d" % number for number in range(ROWS))
        assert len(client.hvals("h")) == len(client.hmget("h", client.hkeys("h"))) == ROWS
        assert len(set(client.scan_iter("k*", count=10**6))) == ROWS
        assert len(client.scan(0, count=10**6)[1]) == MAX_SCAN_COUNT
        with client.pipeline() as pipe:
            got = pipe.keys("k*").hgetall("h").get("k1").execute()
        assert (len(got[0]), len(got[1]), got[2]) == (ROWS, ROWS, b"1")


def test_a_pipeline_of_long_reads_answers_in_order(filled: ServerThread) -> None:
    with filled.client() as client, client.pipeline(transaction=False) as pipe:
        got = pipe.get("k1").keys("k*").get("k2").hkeys("h").set("k3", 3).keys("k*").get("k4").execute()
    assert [it if not isinstance(it, list) else len(it) for it in got] == [b"1", ROWS, b"2", ROWS, True, ROWS, b"4"]


def test_writes_that_are_too_long_are_refused(filled: ServerThread) -> None:
    def error(*command: Any) -> str:
        with pytest.raises(redis.ResponseError) as raised:
            client.execute_command(*command)
        return str(raised.value)

    with filled.client() as client:
        assert "split it" in error("DEL", *range(MAX_WRITE_ITEMS))
        assert "split it" in error("WATCH", *range(MAX_WRITE_ITEMS))
        assert "patterns" in error("CONFIG", "GET", *range(MAX_PATTERNS + 1))
        assert "patterns" in error("PSUBSCRIBE", *range(MAX_PATTERNS + 1))
        assert "split it" in error("MSET", *range(2 * MAX_CHANGES + 2))
        for commands in ([("GET", "a")] * MAX_WRITE_ITEMS, [("SET", "a", b"x" * (MAX_QUEUED_BYTES // 20))] * 21):
            with client.pipeline() as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                with pytest.raises(redis.RedisError, match="a pipeline without MULTI"):
                    pipe.execute()


def test_a_transaction_that_writes_reads_little(filled: ServerThread) -> None:
    with filled.client() as client, client.pipeline() as pipe:
        pipe.set("written", 1)
        for _ in range(MAX_STEPS_IN_EXEC // ROWS + 1):
            pipe.hkeys("h")
        with pytest.raises(redis.ResponseError, match="read them before"):
            pipe.execute()
        assert not client.exists("written")


async def test_what_fails_leaves_the_others_their_turn(caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns(Clock())
    order: list[int] = []

    def fail() -> None:
        raise AssertionError("a bug")

    turns.wait(lambda: order.append(1))
    turns.wait(fail)
    turns.wait(lambda: order.append(2))
    await asyncio.sleep(0)
    turns.wait(lambda: order.append(3))
    await asyncio.sleep(0)
    assert order == [1, 2, 3]
    assert "a bug" in caplog.text
