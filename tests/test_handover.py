"""Transfer of leadership, and forced promotion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from math import inf
from pathlib import Path
from unittest.mock import AsyncMock, patch

import pytest

from replicator.address import Address
from replicator.errors import BadRequest, Busy, NotLeader
from replicator.log.port import Entry
from replicator.node import transfer
from replicator.node.health import NodeState
from replicator.position import Author, NodeId, Offset
from replicator.protocol.roles import Role
from replicator.protocol.timing import old_lease_ms
from replicator.records.types import Claim, Member, Mode, Reason
from replicator.store.keys import encode_key
from tests.memory_cluster import FaultyLog, MemoryCluster, RunningNode, until

A = encode_key("kv", b"a", b"")


@pytest.fixture
async def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[MemoryCluster]:
    """With an indirect parameter: nodes may open so many streams."""
    cluster = MemoryCluster(tmp_path, log=FaultyLog())
    cluster.stream_limit = getattr(request, "param", 0)
    for place, name in enumerate(("n1", "n2", "n3")):
        await cluster.start(name, priority=place)
    leader = await cluster.leader()
    for name in cluster.nodes:
        leader.node.membership_changes.add_member(cluster.nodes[name].member)
    await until(lambda: all(len(it.node.membership.members) == 3 for it in cluster.nodes.values()))
    yield cluster
    await cluster.stop()


with_streams = pytest.mark.parametrize("cluster", [100], indirect=True)


def fail_the_claim_for_n2(cluster: MemoryCluster, fault: str) -> None:
    assert isinstance(cluster.log, FaultyLog)
    cluster.log.fault, cluster.log.fault_at = fault, b"\x02\x04n2"


def claims(cluster: MemoryCluster) -> list[tuple[str, Reason]]:
    codec = cluster.nodes["n1"].node._context.replica.codec
    bodies = [codec.decode(entry.payload, b"").body for entry in cluster.log.entries]
    return [(body.leader.node, body.reason) for body in bodies if isinstance(body, Claim)]


async def promote(running: RunningNode, to: str, *, force: bool = False) -> None:
    await running.node.transfer.promote(NodeId(to), force=force)


async def test_leadership_is_transferred_to_a_replica_that_has_caught_up(cluster: MemoryCluster) -> None:
    old, successor = cluster.nodes["n1"], cluster.nodes["n3"]
    await old.write(b"a", b"s1")
    await promote(old, "n3")
    await until(lambda: successor.node.lease_left_ms > 0)
    assert not old.node.leads
    assert successor.get(A) == b"s1"
    await successor.write(b"a", b"s2")
    await until(lambda: old.get(A) == b"s2")
    assert claims(cluster) == [("n1", Reason.FIRST), ("n3", Reason.HANDOVER)]


async def test_writes_wait_for_the_successor_and_are_then_redirected_to_it(cluster: MemoryCluster) -> None:
    old, successor = cluster.nodes["n1"], cluster.nodes["n2"]
    promoting = asyncio.create_task(promote(old, "n2"))
    ends = []
    while not promoting.done():
        ends.append(asyncio.create_task(old.write(b"a", b"s1")))
        await asyncio.sleep(0)
    ends.append(asyncio.create_task(old.write(b"a", b"s2")))  # nothing was read from the successor yet
    results = await asyncio.gather(*ends, return_exceptions=True)
    assert successor.node.leads and successor.node.lease_left_ms > 0  # a client that retries there is served at once
    assert isinstance(results[-1], NotLeader) and "n2 is the leader now" in str(results[-1])
    assert all(isinstance(it, int | NotLeader) for it in results)


async def streams_to(leader: RunningNode, *names: str) -> None:
    await until(lambda: {author.node for author in leader.node._backlog.receivers} == set(names))


@with_streams
async def test_a_leader_that_stops_transfers_leadership_to_the_first_candidate(cluster: MemoryCluster) -> None:
    old, successor = cluster.nodes["n1"], cluster.nodes["n2"]
    await streams_to(old, "n2", "n3")
    await old.write(b"a", b"s1")
    await old.node.transfer.before_stop()
    await until(lambda: successor.node.lease_left_ms > 0)
    assert claims(cluster) == [("n1", Reason.FIRST), ("n2", Reason.HANDOVER)]
    await old.node.transfer.before_stop()  # a follower just stops
    assert len(claims(cluster)) == 2


@with_streams
async def test_a_leader_that_stops_passes_over_followers_that_do_not_answer(cluster: MemoryCluster) -> None:
    old, hung = cluster.nodes["n1"], cluster.nodes["n2"]
    await streams_to(old, "n2", "n3")
    caught_up = old.node._progress.caught_up

    async def time_out(node: NodeId, offset: Offset, timeout_ms: float) -> Author:
        if node == "n2":
            raise Busy("n2 is unresponsive")
        return await caught_up(node, offset, timeout_ms)

    with patch.object(old.node._progress, "caught_up", time_out):
        await old.node.transfer.before_stop()
    assert not hung.node.leads
    assert claims(cluster) == [("n1", Reason.FIRST), ("n3", Reason.HANDOVER)]


@with_streams
async def test_a_leader_that_stops_completes_a_transfer_in_progress(cluster: MemoryCluster) -> None:
    old, append, may_append = cluster.nodes["n1"], cluster.log.append, asyncio.Event()
    await streams_to(old, "n2", "n3")
    await old.write(b"a", b"s1")

    async def append_later(payloads: Sequence[bytes]) -> Offset:
        await may_append.wait()
        return await append(payloads)

    with patch.object(cluster.log, "append", append_later):
        writing = asyncio.create_task(old.write(b"a", b"s2"))
        promoting = asyncio.create_task(old.node.transfer.promote(NodeId("n3"), force=False))
        await until(lambda: old.node._context.roles.role is Role.DRAINING)
        asyncio.get_running_loop().call_later(0.1, may_append.set)
        await old.node.transfer.before_stop()
        assert not old.node.leads
    await asyncio.gather(writing, promoting)
    assert claims(cluster) == [("n1", Reason.FIRST), ("n3", Reason.HANDOVER)]


@with_streams
async def test_a_follower_that_stops_is_not_made_leader(cluster: MemoryCluster) -> None:
    old, stopping = cluster.nodes["n1"], cluster.nodes["n2"]
    await streams_to(old, "n2", "n3")
    await stopping.node.before_stop()
    await streams_to(old, "n3")
    await old.node.before_stop()
    assert claims(cluster) == [("n1", Reason.FIRST), ("n3", Reason.HANDOVER)]


@with_streams
async def test_the_last_node_just_stops(cluster: MemoryCluster) -> None:
    for name in ("n2", "n3"):
        await cluster.nodes[name].stop()
    old = cluster.nodes["n1"]
    await streams_to(old)
    await old.node.transfer.before_stop()
    assert old.node.leads and claims(cluster) == [("n1", Reason.FIRST)]


@with_streams
async def test_a_leader_that_cannot_transfer_leadership_stops_nevertheless(
    cluster: MemoryCluster, caplog: pytest.LogCaptureFixture
) -> None:
    old = cluster.nodes["n1"]
    await streams_to(old, "n2", "n3")

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    with (
        patch.object(transfer, "STOP_TRANSFER_TIMEOUT_MS", 1),
        patch.object(old.node._progress, "caught_up", never),
    ):
        await old.node.transfer.before_stop()
    assert old.node.leads and "without having transferred leadership" in caplog.text


@pytest.mark.parametrize(
    ("fault", "leader", "reason"),
    [("lose", "n1", Reason.RESOLVE), ("lose answer", "n2", Reason.HANDOVER), ("land twice", "n2", Reason.HANDOVER)],
)
async def test_one_leader_remains_after_a_transfer_of_unknown_outcome(
    cluster: MemoryCluster, fault: str, leader: str, reason: Reason
) -> None:
    old = cluster.nodes["n1"]
    offset = await old.write(b"a", b"s1")
    await old.node.wait_acked(offset, 2, 5_000)
    fail_the_claim_for_n2(cluster, fault)
    await asyncio.gather(promote(old, "n2"), return_exceptions=True)
    await until(lambda: cluster.nodes[leader].node.lease_left_ms > 0)
    assert claims(cluster)[-1] == (leader, reason)
    await cluster.nodes[leader].write(b"a", b"s2")


async def test_the_leader_remains_if_the_log_refuses_the_transfer(cluster: MemoryCluster) -> None:
    old = cluster.nodes["n1"]
    fail_the_claim_for_n2(cluster, "refuse")
    with pytest.raises(Busy, match="leadership was not transferred"):
        await promote(old, "n2")
    await old.write(b"a", b"s1")
    assert claims(cluster) == [("n1", Reason.FIRST)]


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_transfer_ends_when_the_node_stops_or_fails(cluster: MemoryCluster, damaged: bool) -> None:
    old = cluster.nodes["n1"]
    old.node._context.roles.write_from_ms = inf  # so that the transfer cannot take place yet
    promoting = asyncio.create_task(promote(old, "n2"))
    await until(lambda: old.node.status().role is Role.DRAINING)
    if damaged:
        with patch.object(old.node._context.log, "append", AsyncMock(return_value=Offset(0))):
            await until(lambda: old.node.state is NodeState.FAILED)
    else:
        await old.stop()
    with pytest.raises(Busy, match=r"leadership was not transferred: the (log gave offset 0|node stops)"):
        await promoting


async def test_a_transfer_takes_place_although_its_operator_has_gone(cluster: MemoryCluster) -> None:
    old, successor = cluster.nodes["n1"], cluster.nodes["n2"]
    old.node._context.roles.write_from_ms = inf
    promoting = asyncio.create_task(promote(old, "n2"))
    await until(lambda: old.node.status().role is Role.DRAINING)
    promoting.cancel()
    old.node._context.roles.write_from_ms = 0
    await until(lambda: successor.node.lease_left_ms > 0)
    await successor.write(b"a", b"s1")
    await until(lambda: old.get(A) == b"s1")


async def test_leadership_is_not_transferred_to_an_ineligible_node(cluster: MemoryCluster) -> None:
    leader = cluster.nodes["n1"]
    leader.node.membership_changes.add_member(
        Member(NodeId("s1"), Mode.SNAPSHOTTER, Address("s1", 1), Address("s1", 2), 9)
    )
    await until(lambda: len(leader.node.membership.members) == 4)
    for name, why in (("n9", "not a member"), ("s1", "a snapshotter"), ("n1", "is already the leader")):
        with pytest.raises(BadRequest, match=why):
            await promote(leader, name)
    with pytest.raises(NotLeader):
        await promote(cluster.nodes["n2"], "n3")
    with pytest.raises(NotLeader, match="only n3 itself"):
        await promote(cluster.nodes["n2"], "n3", force=True)


async def test_a_forced_leader_waits_until_the_old_lease_has_expired(cluster: MemoryCluster) -> None:
    old, new = cluster.nodes["n1"], cluster.nodes["n2"]
    await old.write(b"a", b"s1")
    before_ms = new.node._context.clock.elapsed_ms()
    await promote(new, "n2", force=True)
    await until(lambda: new.node.leads)
    assert new.node.lease_left_ms == 0
    await new.write(b"a", b"s2")
    assert new.node._context.clock.elapsed_ms() - before_ms >= old_lease_ms(cluster.timing.lease_ms)
    assert new.node.lease_left_ms > 0
    await until(lambda: not old.node.leads)
    assert claims(cluster)[-1] == ("n2", Reason.FORCE)


async def test_another_leader_is_elected_if_the_successor_dies_at_once(cluster: MemoryCluster) -> None:
    old, successor = cluster.nodes["n1"], cluster.nodes["n2"]
    successor.node._context.reader.next = asyncio.Event().wait  # type: ignore[assignment,method-assign]
    await promote(old, "n2")
    await successor.stop()
    pending = asyncio.create_task(old.write(b"a", b"s1"))
    await until(lambda: any(it.node.lease_left_ms > 0 for it in (old, cluster.nodes["n3"])))
    ended = (await asyncio.gather(pending, return_exceptions=True))[0]
    assert isinstance(ended, int | NotLeader)


async def test_a_deposed_leader_answers_reads_once_it_has_caught_up(cluster: MemoryCluster) -> None:
    old, new = cluster.nodes["n1"], cluster.nodes["n2"]
    await old.write(b"a", b"s1")
    reader = old.node._context.reader
    resumed, read_next = asyncio.Event(), reader.next

    async def stalled() -> Sequence[Entry]:
        await resumed.wait()
        return await read_next()

    reader.next = stalled  # type: ignore[method-assign]
    await promote(new, "n2", force=True)
    await until(lambda: new.node.leads)
    await new.write(b"a", b"s2")
    await until(lambda: not old.node.leads)
    reading = asyncio.ensure_future(old.node.reads.read(None, lambda view: view.get(A)))
    await until(lambda: cluster.nodes["n3"].get(A) == b"s2")
    assert not reading.done() and old.get(A) == b"s1"
    resumed.set()
    assert await reading == b"s2"
    assert not isinstance(old.node.reads.view(None), asyncio.Future)  # from now on it reads like any other follower
