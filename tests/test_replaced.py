"""Two processes of one node: the last one to register counts, and the other one stops serving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from replicator.errors import BadRequest, LogDamage, NotLeader, Replaced, Stale
from replicator.log.memory import MemoryAckTopic
from replicator.node.health import NodeState
from replicator.node.index_source import IndexSource
from replicator.node.membership import MembershipChanges
from replicator.position import Author, NodeId, Offset
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE
from replicator.protocol.timing import Timeouts, old_lease_ms
from replicator.records.codec import AckCodec
from replicator.records.types import Ack, Membership, Policy
from tests.memory_cluster import RunningNode, until
from tests.modes_cluster import (
    ALL,
    ASYNC,
    INVALIDATE,
    STEADY,
    SUSPEND,
    SYNC,
    A,
    ModesCluster,
    begin_write,
    read,
    stored,
)
from tests.test_admin import HttpServers

N1, N2 = NodeId("n1"), NodeId("n2")
SHORT_LEASE = replace(STEADY, follower_lease_ms=200)
SHORT_READS = Timeouts(read_ms=500)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path, SHORT_LEASE, SHORT_READS)
    yield cluster
    await cluster.stop()


async def start_elsewhere(cluster: ModesCluster, name: str = "n2") -> RunningNode:
    """Another process of this node, which has caught up and has not registered."""
    running = await cluster.start(name, priority=1, resp="elsewhere:1", folder=f"{name}-elsewhere")
    await until(lambda: running.node.state is NodeState.SERVING)
    await cluster.caught_up()
    return running


def may_read_locally(running: RunningNode) -> bool:
    return running.node.reads.at_follower.reads_locally


async def shows_until_its_lease_ends(running: RunningNode, value: bytes, writing: asyncio.Task[object]) -> None:
    """The write does not end while this process answers linearizable reads of A without asking the leader."""
    while may_read_locally(running):
        view = running.node.reads.view(LINEARIZABLE)
        if isinstance(view, asyncio.Future):  # the lease ended between the two questions
            view.cancel()
            break
        assert view.get(A) == value
        assert not writing.done()
        await asyncio.sleep(0.001)
    assert not may_read_locally(running)


async def test_a_process_that_was_replaced_stops_serving_and_says_why(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, ASYNC)
    first = cluster.n2
    await cluster.register(await start_elsewhere(cluster))
    await until(lambda: first.node.state is NodeState.REPLACED)
    trouble = first.node.status().trouble
    assert trouble.startswith("another process runs as n2, at elsewhere:1, since 20")
    assert "Stop this one, or give it another --id and --dir." in trouble
    for level in (None, EVENTUAL, LINEARIZABLE):
        with pytest.raises(Replaced, match="another process runs as n2"):
            await read(first, A, level)
    with pytest.raises(NotLeader, match="The leader is n1"):
        await first.write(b"a", b"s1")
    with pytest.raises(Replaced):
        await first.node.transfer.promote(N2, force=True)
    state = first.machine.state
    with pytest.raises(Replaced):
        await first.node.committed_offset(state.timeline, state.epoch)
    await cluster.n1.write(b"a", b"s1")
    assert first.machine.state.offset == state.offset  # it reads the log no more
    first.node._fail(LogDamage("of no interest any more"))
    assert first.node.state is NodeState.REPLACED
    await first.stop()
    assert first.node.state is NodeState.REPLACED


async def test_a_process_that_was_replaced_never_asks_to_be_registered_again(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, ASYNC)
    first, late = cluster.n2, cluster.n2.node.ask_to_register()
    second = await start_elsewhere(cluster)
    await cluster.register(second)
    with pytest.raises(BadRequest, match="another process has registered as n2, at elsewhere:1"):
        cluster.n1.node.membership_changes.register(first.member, late)
    assert second.node.is_registered and not first.node.is_registered


async def test_of_two_processes_that_start_at_once_the_first_to_register_wins(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, ASYNC)
    await cluster.n2.stop()
    second = await start_elsewhere(cluster)
    third = await cluster.start("n2", priority=1)
    await until(lambda: third.node.state is NodeState.SERVING)
    asked = {it: it.node.ask_to_register() for it in (second, third)}
    changes = cluster.n1.node.membership_changes
    changes.register(third.member, asked[third])
    with pytest.raises(BadRequest, match="another process has registered as n2"):
        changes.register(second.member, asked[second])
    await until(lambda: second.node.state is NodeState.REPLACED and third.node.is_registered)


async def test_acks_of_a_process_that_was_replaced_do_not_count(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, ASYNC)
    first, second = cluster.n2, await start_elsewhere(cluster)
    await cluster.register(second)
    await cluster.acked(second)
    cluster.stall(second)
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n3, A) == b"s1")
    cluster.acks.hold("n3")
    state = cluster.n3.machine.state
    for running, offset in ((first, state.offset), (cluster.n3, Offset(1_000_000))):
        ack = Ack(state.timeline, running.member.author, offset, state.seq, state.epoch, 0)
        MemoryAckTopic.publish(cluster.acks, AckCodec().encode(ack))
    await until(lambda: cluster.n1.node.last_acks[NodeId("n3")].ack.offset == 1_000_000)
    assert cluster.n1.node.last_acks[N2].ack.author == second.member.author
    assert await cluster.n1.node.wait_acked(state.offset, 2, 1) == 1
    assert not writing.done()
    cluster.wake(second)
    assert isinstance(await writing, int)


async def test_a_process_acks_nothing_before_it_is_registered(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC)
    authors: list[Author] = []
    publish, codec = cluster.acks.publish, AckCodec()

    def note(payload: bytes) -> None:
        authors.append(codec.decode(payload).author)
        publish(payload)

    cluster.acks.publish = note  # type: ignore[method-assign]
    second = await start_elsewhere(cluster)
    await until(lambda: len(authors) > 5)  # for heartbeats
    assert set(authors) == {cluster._started[1].member.author}
    await cluster.register(second)
    await until(lambda: second.member.author in authors)


@pytest.mark.parametrize("policy", [SUSPEND, INVALIDATE], ids=lambda policy: str(policy.write))
async def test_writes_wait_until_a_process_that_was_replaced_reads_locally_no_more(
    cluster: ModesCluster, policy: Policy
) -> None:
    await cluster.set_up(policy, ASYNC, SYNC)
    await cluster.n1.write(b"a", b"s0")
    await cluster.caught_up()
    first, second = cluster.n2, await start_elsewhere(cluster)
    assert await read(first, A) == b"s0"
    cluster.stall(first)
    clock, before_ms = first.node._context.clock, first.node._context.clock.elapsed_ms()
    await cluster.register(second)
    writing = begin_write(cluster.n1, b"a", b"s1")
    await shows_until_its_lease_ends(first, b"s0", writing)
    assert isinstance(await writing, int)
    assert clock.elapsed_ms() - before_ms >= old_lease_ms(cluster.timing.follower_lease_ms)
    cluster.wake(first)
    await until(lambda: first.node.state is NodeState.REPLACED)
    assert await read(second, A) == b"s1"


async def test_a_new_process_reads_locally_only_once_it_is_registered(cluster: ModesCluster) -> None:
    await cluster.set_up(SUSPEND, ASYNC, SYNC)
    second = await start_elsewhere(cluster)
    assert await read(second, A) is None  # it has asked the leader for the index
    assert not may_read_locally(second)
    await cluster.register(second)
    await until(lambda: may_read_locally(second))


async def test_a_process_that_becomes_leader_waits_for_the_one_that_was_registered(cluster: ModesCluster) -> None:
    """The first process reads locally on. The second is elected, and the log refuses its registration at first."""
    await cluster.set_up(INVALIDATE, ASYNC, SYNC)
    await cluster.n1.write(b"a", b"s0")
    await cluster.caught_up()
    first, second = cluster.n2, await start_elsewhere(cluster)
    no_barriers = patch.object(IndexSource, "ask", side_effect=Stale("it would displace the appends of the leader"))
    with no_barriers, patch.object(MembershipChanges, "repeat_refused_registration"):
        await cluster.n1.stop()
        cluster.stall(first)
        cluster.refuse_once(lambda body: isinstance(body, Membership))
        await cluster.take_over(second)
        changes = second.node.membership_changes
        await until(lambda: changes._registration is not None and changes._registration.was_refused)
        first.node.reads.at_follower.index.fresh_ms = first.node._context.clock.elapsed_ms()
        writing = begin_write(second, b"a", b"s1")
        await until(lambda: any(b"s1" in entry.payload for entry in cluster.log.entries))
        await shows_until_its_lease_ends(first, b"s0", writing)
    cluster.wake(first)
    await until(lambda: first.node.state is NodeState.REPLACED)
    await writing
    await until(lambda: second.node.is_registered)


async def test_a_leader_refuses_another_process_of_its_id(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, ASYNC)
    other = await cluster.start("n1", folder="n1-elsewhere")
    cluster.nodes["n1"] = leader = next(it for it in cluster._started if it.node.leads)
    await until(lambda: other.node.state is NodeState.SERVING)
    with pytest.raises(BadRequest, match="n1 is the leader and runs in another process, at n1:1: stop that process"):
        leader.node.membership_changes.register(other.member, other.node.ask_to_register())
    await leader.write(b"a", b"s1")
    assert leader.node.is_registered and other.node.state is NodeState.SERVING


async def test_a_change_that_the_log_refuses_takes_no_earlier_one_with_it(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    changes, second = cluster.n1.node.membership_changes, await start_elsewhere(cluster)
    cluster.stall(second)
    changes.register(second.member, second.node.ask_to_register())
    await until(lambda: changes._proposals[-1].record.offset >= 0)  # it is in the log, and waits for its ack
    cluster.refuse_once(lambda body: isinstance(body, Membership))
    changes.set_mode(NodeId("n3"), ASYNC)
    await until(lambda: changes._proposals[-1].record.was_refused)
    assert changes.latest.includes(second.member.author)
    changes.set_mode(NodeId("n3"), ASYNC)
    cluster.wake(second)
    await until(lambda: second.node.membership.members[2].mode is ASYNC)
    assert second.node.is_registered


async def test_a_process_that_was_replaced_is_not_ready_and_needs_no_restart(tmp_path: Path) -> None:
    servers = HttpServers(tmp_path)
    cluster = servers.cluster = ModesCluster(tmp_path)
    await cluster.set_up(ALL, SYNC, ASYNC)
    first = cluster.n2
    client = await servers.open(first)
    await cluster.register(await start_elsewhere(cluster))
    await until(lambda: first.node.state is NodeState.REPLACED)
    assert (await client.ask("GET", "/healthz"))[0] == 200
    status, answer = await client.ask("GET", "/readyz")
    assert status == 503 and answer["error"].startswith("replaced. another process runs as n2, at elsewhere:1")
    assert (await client.ask("GET", "/replica"))[0] == 503
    assert (await client.ask("GET", "/status"))[1]["node"]["state"] == "replaced"
    await servers.close()
