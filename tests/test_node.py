"""Nodes on an in-memory log: the course of a write, and the failures of a leader."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from replicator.errors import BadRequest, Busy, Fenced, LogDamage, NotLeader, ReplicatorError, StoreFull, Unknown
from replicator.node.health import NodeState
from replicator.position import NodeId, Offset
from replicator.protocol.levels import Level, LevelKind
from replicator.store.keys import encode_key
from replicator.store.values import encode_value
from tests.memory_cluster import FaultyLog, MemoryCluster, submit, until


def key(row: bytes) -> bytes:
    return encode_key("kv", row, b"")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path)
    yield cluster
    await cluster.stop()


async def test_a_write_reaches_every_node_with_equal_digests(cluster: MemoryCluster) -> None:
    for name in ("n1", "n2", "n3"):
        await cluster.start(name, priority=int(name[1]) - 1)
    leader = await cluster.leader()
    for index in range(100):
        await leader.write(b"row%d" % index, b"s%d" % index)
    await cluster.caught_up()
    digests = {running.machine.meta.digest for running in cluster.nodes.values()}
    assert len(digests) == 1
    for running in cluster.nodes.values():
        assert running.get(key(b"row42")) == b"s42"
        assert running.machine.recount() == (running.machine.meta.digest, 100)
        assert running.node.store().rows("kv") == 100


async def test_concurrent_writes_see_each_other(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    counter = key(b"counter")

    async def increment() -> None:
        transaction = leader.node.begin()
        before = int((transaction.get(counter) or b"s0")[1:])
        transaction.put("kv", b"counter", b"", b"s%d" % (before + 1))
        await submit(leader.node, transaction)

    await asyncio.gather(*(increment() for _ in range(500)))
    assert leader.get(counter) == b"s500"


async def test_followers_refuse_writes(cluster: MemoryCluster) -> None:
    await cluster.start("n1")
    await cluster.leader()
    follower = await cluster.start("n2", priority=1)
    await cluster.caught_up()
    with pytest.raises(NotLeader, match="read only replica"):
        follower.node.begin()


async def test_a_restarted_node_resumes_after_its_applied_offset(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    follower = await cluster.start("n2", priority=1)
    await cluster.leader()
    await leader.write(b"a", b"s1")
    await cluster.caught_up()
    await follower.stop()
    applied = follower.machine.state.offset
    await leader.write(b"a", b"s2")
    cluster.log.trim(Offset(applied + 1))  # what was applied cannot be read again
    again = await cluster.start("n2", priority=1)
    await until(lambda: again.machine.state.offset >= leader.machine.state.offset)
    assert again.get(key(b"a")) == b"s2"


async def test_a_restarted_leader_becomes_leader_in_a_new_epoch(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    await leader.write(b"a", b"s1")
    await leader.stop()
    again = await cluster.start("n1")
    await cluster.leader()
    assert again.machine.state.epoch == 2
    assert again.get(key(b"a")) == b"s1"
    await again.write(b"a", b"s2")


async def test_another_leader_is_elected_when_the_leader_dies(cluster: MemoryCluster) -> None:
    first = await cluster.start("n1")
    await cluster.start("n2", priority=1)
    await cluster.leader()
    await first.write(b"a", b"s1")
    await first.stop()
    second = await cluster.leader()
    assert second.get(key(b"a")) == b"s1"
    await second.write(b"b", b"s2")


@pytest.mark.parametrize(("fault", "in_log"), [("lose", False), ("lose answer", True), ("land twice", True)])
async def test_a_leader_claims_again_after_an_append_of_unknown_outcome(
    cluster: MemoryCluster, fault: str, in_log: bool
) -> None:
    log = cluster.log = FaultyLog()
    leader = await cluster.start("n1")
    await cluster.leader()
    await leader.write(b"a", b"s1")
    log.fault = fault
    ends = await asyncio.gather(leader.write(b"a", b"s2"), return_exceptions=True)
    await cluster.leader()
    await leader.write(b"b", b"s3")
    if in_log:
        assert isinstance(ends[0], int)
        assert leader.get(key(b"a")) == b"s2"
    else:
        assert isinstance(ends[0], Fenced)
        assert leader.get(key(b"a")) == b"s1"
    assert leader.get(key(b"b")) == b"s3"


async def test_a_refused_append_rejects_its_writes_and_no_others(cluster: MemoryCluster) -> None:
    log = cluster.log = FaultyLog()
    leader = await cluster.start("n1")
    await cluster.leader()
    await leader.write(b"a", b"s1")
    log.fault = "refuse"
    with pytest.raises(Busy, match="the log refused the write: no"):
        await leader.write(b"a", b"s2")
    await leader.write(b"b", b"s3")
    assert leader.get(key(b"a")) == b"s1"


async def test_a_leader_registers_itself_again_if_the_log_has_refused_it(cluster: MemoryCluster) -> None:
    log = cluster.log = FaultyLog()
    log.fault, log.fault_at = "refuse", b"registered"
    leader = await cluster.start("n1", resp="registered:1")
    await until(lambda: leader.node.membership.get(NodeId("n1")) == leader.member)
    assert not log.fault


async def test_records_of_a_foreign_producer_are_void(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    follower = await cluster.start("n2", priority=1)
    await cluster.leader()
    await leader.write(b"a", b"s1")
    cluster.log.append_now([b"", b"not a record", bytes(1_000_000)])
    await leader.write(b"a", b"s2")
    await cluster.caught_up()
    await cluster.leader()
    assert follower.get(key(b"a")) == b"s2"
    assert follower.node.status().void_records == 3


async def test_a_void_record_is_counted_once_though_the_store_was_full(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await cluster.start("n1")
    follower = await cluster.start("n2", priority=1)
    await cluster.leader()
    await cluster.caught_up()
    replica = follower.node._context.replica
    genuine, failures = replica.apply, [StoreFull("free some space")] * 2

    def apply(*args: Any) -> None:
        if failures:
            raise failures.pop()
        genuine(*args)

    monkeypatch.setattr(replica, "apply", apply)
    cluster.log.append_now([b"not a record"])
    await leader.write(b"a", b"s1")
    await cluster.caught_up()
    assert not failures and follower.node.status().void_records == 1


async def test_a_corrupt_record_of_this_cluster_stops_the_node(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    await leader.write(b"a", b"s1")
    follower = await cluster.start("n2", priority=1)
    await cluster.caught_up()
    copied = cluster.log.entries[-1].payload
    cluster.log.append_now([copied[:-1]])
    await until(lambda: follower.node.state is NodeState.FAILED)
    with pytest.raises(LogDamage):
        follower.node.store()
    with pytest.raises(NotLeader, match="The leader is n1"):
        follower.node.begin()


async def test_a_log_that_does_not_answer_delays_no_status(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()

    async def never() -> Offset:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    with patch.object(cluster.log, "end", never):
        assert (await leader.node.current_status()).id == "n1"


async def test_a_record_of_a_newer_version_stops_the_node(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    await leader.write(b"a", b"s1")
    follower = await cluster.start("n2", priority=1)
    await cluster.caught_up()
    cluster.log.append_now([b"\x0a" + cluster.log.entries[-1].payload[1:]])  # version 5
    await until(lambda: follower.node.state is NodeState.FAILED)
    with pytest.raises(ReplicatorError, match="install a newer replicator"):
        follower.node.store()


async def test_writes_that_are_too_large_are_refused_before_append(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    with pytest.raises(BadRequest, match="split it"):
        await leader.write(b"a", b"s" + bytes(4_000_000))
    with pytest.raises(BadRequest, match="key too long"):
        await leader.write(b"a" * 511, b"s")
    await leader.write(b"a", b"s1")


async def test_a_transaction_without_changes_waits_for_the_writes_it_has_read(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    writing = asyncio.ensure_future(leader.write(b"a", b"s1"))
    await asyncio.sleep(0)
    transaction = leader.node.begin()
    assert transaction.get(key(b"a")) == b"s1"
    assert leader.get(key(b"a")) is None
    await submit(leader.node, transaction)
    assert writing.done()


async def test_a_session_waits_at_a_node_that_has_read_nothing_yet(cluster: MemoryCluster) -> None:
    follower = await cluster.start("n2", priority=1)
    follower.node._context.roles.eligible = False
    await until(lambda: follower.node.state is NodeState.SERVING)
    with patch.object(follower.node._context.reader, "_after", lambda offset: []):
        leader = await cluster.start("n1")
        await cluster.leader()
        written = await leader.write(b"k", b"s1")
        level = Level(LevelKind.SESSION, token=leader.node.token(written))
        reading = asyncio.ensure_future(follower.node.reads.read(level, lambda view: view.get(key(b"k"))))
        await asyncio.sleep(0)
        assert not reading.done()
    cluster.log.append_now([])  # wakes its reader
    assert await reading == b"s1"


async def test_expired_rows_are_deleted_by_the_leader_everywhere(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    follower = await cluster.start("n2", priority=1)
    await cluster.leader()
    now_ms = leader.node.now_ms()
    assert now_ms is not None
    await leader.write(b"a", encode_value(b"s", b"1", now_ms + 20))
    await leader.write(b"b", encode_value(b"s", b"2", now_ms + 3_600_000))
    await until(lambda: leader.get(key(b"a")) is None and follower.get(key(b"a")) is None)
    await cluster.caught_up()
    assert follower.get(key(b"b")) is not None
    assert follower.machine.meta.digest == leader.machine.meta.digest


async def test_every_node_knows_the_leader_from_the_membership(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    follower = await cluster.start("n2", priority=1)
    await cluster.leader()
    await until(lambda: bool(follower.node.membership.members))
    assert follower.node.status().leader == leader.node.status().id
    assert [str(member.resp) for member in follower.node.membership.members] == ["n1:1"]


async def test_the_leader_counts_acks_of_its_followers(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.register(await cluster.start("n2", priority=1))
    offset = await leader.write(b"a", b"s1")
    assert await leader.node.wait_acked(offset, 1, 5_000) == 1
    assert await leader.node.wait_acked(offset, 2, 10) == 1


async def test_a_full_disk_delays_writes_and_loses_none(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.start("n2", priority=1)
    await cluster.leader()
    await leader.write(b"a", b"s1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        writes = [asyncio.ensure_future(leader.write(b"big%d" % number, b"s" + bytes(50_000))) for number in range(20)]
        await until(lambda: leader.node.state is NodeState.WAITING)
        assert "free some space" in leader.node.status().trouble
        assert leader.get(key(b"a")) == b"s1"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    ends = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(end, int | Unknown) for end in ends), ends  # all of them are in the log
    await cluster.leader()
    await cluster.caught_up()
    await until(lambda: all(it.get(key(b"big19")) is not None for it in cluster.nodes.values()))
