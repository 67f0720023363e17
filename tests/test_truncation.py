"""Kafka loses the end of the log: every node that had read it says so, however much the log has grown since."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from replicator.errors import Loading, LogDamage, ReplicatorError
from replicator.log.memory import MemoryLog, MemoryReader
from replicator.log.port import AppendOutcomeUnknown
from replicator.node import checked_reader
from replicator.node.health import NodeState
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.acceptance import judge
from replicator.protocol.levels import LINEARIZABLE
from replicator.protocol.log_state import LogState
from replicator.protocol.verification import verify
from replicator.records.chain import link
from replicator.records.types import VERSION, Claim, Header, Heartbeat, Reason, Record, Timing
from tests.memory_cluster import MemoryCluster, RunningNode, until


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path)
    yield cluster
    await cluster.stop()


async def write(cluster: MemoryCluster, node: RunningNode, *rows: bytes) -> Offset:
    """The offset of the last row, which all nodes have applied."""
    for row in rows:
        offset = await node.write(row, b"s")
    await cluster.caught_up()
    return offset


async def damage_of(node: RunningNode) -> str:
    await until(lambda: node.node.state is NodeState.FAILED)
    return node.node.status().trouble


async def regrow(cluster: MemoryCluster, end: Offset) -> None:
    """The log loses its entries from `end` on, and a node that had read none of them writes more than were lost."""
    last = cluster.log.entries[-1].offset
    cluster.log.truncate(end)
    node = await cluster.start("n9", priority=9)
    await until(lambda: node.node.leads)
    while cluster.log.entries[-1].offset <= last:
        await node.write(b"new", b"s")


async def test_a_store_ahead_of_the_log_fails_at_start_although_the_log_has_grown(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    kept = await write(cluster, leader, b"a")
    lost = await write(cluster, leader, b"b", b"c", b"d")
    await leader.stop()
    await regrow(cluster, Offset(kept + 1))
    again = await cluster.start("n1", priority=1)
    assert "Kafka has lost the end of the log" in await damage_of(again)
    assert again.machine.state.offset >= lost
    with pytest.raises(LogDamage):
        again.get(b"a")


async def test_a_running_follower_that_applied_the_lost_records_fails(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    follower = await cluster.start("n2", priority=1)
    kept = await write(cluster, leader, b"a")
    lost = await write(cluster, leader, b"b", b"c", b"d")
    await leader.stop()
    cluster.log.truncate(Offset(kept + 1))
    cluster.log.append_now([b"not a record"] * (lost - kept + 9))  # the end is beyond the old one at once
    assert "Kafka has lost the end of the log" in await damage_of(follower)


async def test_a_store_beyond_the_end_of_the_log_fails(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    follower = await cluster.start("n2", priority=1)
    kept = await write(cluster, leader, b"a")
    await write(cluster, leader, b"b", b"c", b"d")
    await leader.stop()
    cluster.log.truncate(Offset(kept + 1))
    assert "truncated" in await damage_of(follower)


async def test_a_node_does_not_serve_before_its_store_is_compared(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    await write(cluster, leader, b"a")
    await leader.stop()
    with patch.object(MemoryReader, "next", side_effect=asyncio.Event().wait) as reading:
        again = await cluster.start("n1")
        await until(lambda: reading.called)
        for _ in range(100):
            await asyncio.sleep(0)
        assert again.node.state is NodeState.CATCHING_UP
        await again.stop()


async def test_a_leader_that_does_not_find_its_last_append_fails(cluster: MemoryCluster) -> None:
    """Its offset was not the expected one, and Kafka loses it before the leader has read so far."""
    leader = await cluster.start("n1")
    await cluster.leader()
    kept = await write(cluster, leader, b"a")
    genuine = cluster.log.append

    async def append(payloads: Sequence[bytes]) -> Offset:
        cluster.log.append_now([b"not a record"])
        base = await genuine(payloads)
        cluster.log.truncate(Offset(kept + 1))
        cluster.log.append_now([b"not a record"] * (base - kept + 1))
        return base

    with patch.object(cluster.log, "append", append):
        assert "has read or written there" in await damage_of(leader)
    with pytest.raises(LogDamage):  # not BUSY: to try again would not help
        leader.node.begin()


async def test_a_store_that_has_read_lost_entries_without_records_fails_as_well(cluster: MemoryCluster) -> None:
    """Its last record is still there, so the comparison finds nothing, and no other node writes."""
    leader = await cluster.start("n1")
    await cluster.leader()
    follower = await cluster.start("n2", priority=1)
    kept = await write(cluster, leader, b"a")
    await leader.stop()
    end = await cluster.log.end()
    cluster.log.append_now([b"not a record"] * 2)
    await cluster.caught_up()
    assert follower.machine.state.leader_offset >= kept and not follower.node.leads
    await follower.stop()
    cluster.log.truncate(end)
    again = await cluster.start("n2", priority=1)
    assert "Kafka has" in await damage_of(again)


async def test_a_leader_whose_next_record_gets_an_earlier_offset_fails(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    kept = await write(cluster, leader, b"a")
    await write(cluster, leader, b"b", b"c", b"d")
    cluster.log.truncate(Offset(kept + 1))
    assert "truncated" in await damage_of(leader)


async def test_a_leader_whose_next_record_gets_the_expected_offset_fails_if_the_log_was_lost_and_has_grown(
    tmp_path: Path,
) -> None:
    cluster = MemoryCluster(tmp_path, Timing(heartbeat_ms=30_000, lease_ms=60_000, election_ms=90_000, sync_ms=60_000))
    leader = await cluster.start("n1")
    await cluster.leader()
    kept = await write(cluster, leader, b"a")
    lost = await write(cluster, leader, b"b", b"c", b"d")
    cluster.log.truncate(Offset(kept + 1))
    cluster.log.append_now([b"not a record"] * (lost - kept))
    writing = asyncio.create_task(leader.write(b"e", b"s"))
    assert "Kafka has lost the end of the log" in await damage_of(leader)
    with pytest.raises(ReplicatorError):
        await writing
    assert leader.node.lease_left_ms == 0
    await cluster.stop()


async def test_a_node_that_had_read_none_of_the_lost_records_goes_on(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    behind = await cluster.start("n2", priority=1)
    kept = await write(cluster, leader, b"a")
    await behind.stop()
    await write(cluster, leader, b"b", b"c", b"d")
    await leader.stop()
    cluster.log.truncate(Offset(kept + 1))
    again = await cluster.start("n2", priority=1)
    await until(lambda: again.node.leads)
    await again.write(b"e", b"s")
    assert again.node.state is NodeState.SERVING


TIMELINE = b"t" * 16
N1, N2 = Author(NodeId("n1"), 1), Author(NodeId("n2"), 2)
CLAIM = Record(
    Header(VERSION, TIMELINE, Epoch(1), N1, Seq(0), 0, LogState().chain),
    Claim(N1, Epoch(1), Offset(-1), Reason.FIRST),
    b"claim",
)
CLAIMED, _ = judge(LogState(), Offset(0), CLAIM)


def data(state: LogState, encoded: bytes) -> Record:
    header = Header(VERSION, TIMELINE, state.epoch, N1, Seq(state.seq + 1), 0, link(state.chain, encoded))
    return Record(header, Heartbeat(), encoded)


DATA = data(CLAIMED, b"one")
READ = judge(CLAIMED, Offset(1), DATA)[0]._replace(offset=Offset(3))  # 2 and 3 were void


@pytest.mark.parametrize(
    ("state", "offset", "record"),
    [
        (CLAIMED, 0, CLAIM),
        (READ, 0, None),  # only the last accepted record is compared: its chain covers those before it
        (READ, 1, DATA),
        (READ, 2, None),
        (READ, 3, DATA),  # a late copy of it
    ],
)
def test_the_log_that_was_read_passes(state: LogState, offset: int, record: Record | None) -> None:
    verify(state, Offset(offset), record)


@pytest.mark.parametrize(
    ("state", "offset", "record"),
    [
        (CLAIMED, 0, None),
        (CLAIMED, 0, DATA),
        (CLAIMED, 0, CLAIM._replace(body=Claim(N2, Epoch(1), Offset(-1), Reason.FIRST))),
        (CLAIMED, 0, CLAIM._replace(encoded_body=b"another claim")),
        (READ, 1, None),
        (READ, 1, CLAIM),  # of the same leader and epoch
        (READ, 1, data(CLAIMED, b"another")),
        (READ, 1, DATA._replace(header=DATA.header._replace(author=N2))),
        (READ, 1, DATA._replace(header=DATA.header._replace(epoch=Epoch(2)))),
        (READ, 2, data(READ, b"two")),  # it was void, and would be accepted now
        (READ, 3, DATA._replace(header=DATA.header._replace(epoch=Epoch(2)))),
    ],
)
def test_another_record_in_its_place_is_damage(state: LogState, offset: int, record: Record | None) -> None:
    with pytest.raises(LogDamage):
        verify(state, Offset(offset), record)


async def test_a_log_without_the_last_accepted_record_is_reported_at_once_and_fails_in_time(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is at the offset that the node compares, and nothing will be while no node is leader."""
    monkeypatch.setattr(checked_reader, "END_CHECK_MS", 10)
    leader = await cluster.start("n1")
    await cluster.leader()
    await write(cluster, leader, b"a")
    await leader.stop()
    entries = cluster.log.entries[leader.machine.state.leader_offset :]
    cluster.log.truncate(leader.machine.state.leader_offset)
    again = await cluster.start("n1")
    await until(lambda: "Kafka has truncated it" in again.node.status().trouble)
    assert again.node.state is NodeState.WAITING and not again.node.leads
    with pytest.raises(Loading, match="Kafka has truncated it"):
        again.node.store()
    cluster.log.append_now([entry.payload for entry in entries])  # the brokers show it after all
    await until(lambda: again.node.leads)
    await again.stop()
    cluster.log.truncate(again.machine.state.leader_offset)
    monkeypatch.setattr(checked_reader, "TRUNCATED_MS", 50)
    assert "Kafka has truncated it" in await damage_of(await cluster.start("n1"))


async def test_a_leader_whose_last_committed_record_is_lost_with_an_append_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_reader, "END_CHECK_MS", 10)
    monkeypatch.setattr(checked_reader, "TRUNCATED_MS", 50)
    log = CrashingLog()
    cluster = MemoryCluster(tmp_path, log=log)
    leader = await cluster.start("n1")
    await cluster.leader()
    await leader.write(b"a", b"s")
    log.crashes = True
    assert "Kafka has truncated it" in await damage_of(leader)
    await cluster.stop()


class CrashingLog(MemoryLog):
    """Its broker crashes at the next append, and loses the last entry."""

    crashes = False

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        if self.crashes:
            self.crashes = False
            self.truncate(self.entries[-1].offset)
            raise AppendOutcomeUnknown("the broker has crashed")
        return self.append_now(payloads)


async def test_a_claim_at_an_offset_that_was_read_is_damage(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    follower = await cluster.start("n2", priority=1)
    await write(cluster, leader, b"a")
    leader.node.membership_changes.add_member(follower.member)
    await cluster.caught_up()
    await leader.stop()
    with patch.object(cluster.log, "append", return_value=follower.machine.state.offset):
        assert "Kafka has truncated it" in await damage_of(follower)


async def test_a_barrier_at_an_offset_that_was_read_is_damage(cluster: MemoryCluster) -> None:
    leader = await cluster.start("n1")
    await cluster.leader()
    follower = await cluster.start("n2", priority=1)
    await write(cluster, leader, b"a")
    await leader.stop()
    with (
        patch.object(cluster.log, "append", return_value=follower.machine.state.offset),
        pytest.raises(LogDamage, match="Kafka has truncated it"),
    ):
        await follower.node.reads.read(LINEARIZABLE, lambda view: view.get(b""))
