"""Followers that receive records from other followers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from replicator.node.committed_batch import CommittedBatch
from replicator.position import GOSSIP, NodeId
from replicator.protocol.upstream import UpstreamRule
from replicator.records.types import Policy
from tests.memory_cluster import RunningNode, until
from tests.modes_cluster import ALL, ASYNC, SYNC, A, ModesCluster, read


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    """n3 receives from n2, n4 from n3."""
    cluster = ModesCluster(tmp_path)
    cluster.stream_limit = 99
    cluster.upstreams = {"n3": UpstreamRule("n2"), "n4": UpstreamRule("n3")}
    yield cluster
    await cluster.stop()


def upstream(running: RunningNode) -> str | None:
    return running.node.status().upstream


async def form(cluster: ModesCluster, **upstreams: str | None) -> None:
    """Wait until records come from these."""
    await until(lambda: all(upstream(cluster.nodes[name]) == wanted for name, wanted in upstreams.items()))


async def test_records_are_passed_on_although_the_log_cannot_be_read(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC, ASYNC)
    await form(cluster, n2="n1", n3="n2", n4="n3")
    for name in ("n2", "n3", "n4"):
        cluster.stall(cluster.nodes[name])
    for value in (b"\xff1", b"\xff2", b"\xff3"):
        offset = await cluster.n1.write(b"a", value)
    await until(lambda: cluster.nodes["n4"].machine.state.offset >= offset)
    await until(lambda: cluster.nodes["n4"].machine.state.chain == cluster.n1.machine.state.chain)
    assert cluster.nodes["n4"].get(A) == b"\xff3"
    assert [it.member.node for it in cluster.nodes.values() if it.node._backlog.receivers] == ["n1", "n2", "n3"]


async def test_acks_are_passed_on_to_the_leader(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, SYNC, SYNC)
    await form(cluster, n2="n1", n3="n2", n4="n3")
    cluster.acks.hold("n2", "n3", "n4")
    offset = await cluster.n1.write(b"a", b"\xff1")
    assert {it.ack.offset for it in cluster.n1.node.last_acks.values()} == {offset}
    await until(lambda: len(cluster.n1.node._backlog.receivers) == 3)


async def test_a_node_that_reads_from_kafka_passes_records_on_and_acks_to_the_topic(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    await form(cluster, n2="n1", n3="n2")
    cluster.n2.link.stream_limit = 0
    cluster.n2.link.opened[-1].close()
    await form(cluster, n2=None, n3="n2")
    cluster.stall(cluster.n3)
    offset = await cluster.n1.write(b"a", b"\xff1")
    await until(lambda: cluster.n3.machine.state.offset >= offset)
    assert upstream(cluster.n3) == "n2"
    assert await cluster.n1.node.wait_acked(offset, 2, 10_000) == 2


async def test_an_upstream_that_dies_is_replaced_and_taken_again(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    await form(cluster, n3="n2")
    await cluster.n2.stop()
    await form(cluster, n3="n1")
    offset = await cluster.n1.write(b"a", b"\xff1")
    await until(lambda: cluster.n3.machine.state.offset >= offset)
    await cluster.register(await cluster.start("n2", priority=1))
    await form(cluster, n2="n1", n3="n2")
    offset = await cluster.n1.write(b"a", b"\xff2")
    await until(lambda: cluster.n3.machine.state.offset >= offset)
    await until(lambda: cluster.n3.machine.state.chain == cluster.n1.machine.state.chain)


async def test_a_stalled_upstream_is_replaced(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    await form(cluster, n3="n2")
    cluster.n3.link.opened[-1].sink.stalled = True
    offset = await cluster.n1.write(b"a", b"\xff1")
    await until(lambda: cluster.n3.machine.state.offset >= offset)
    await until(lambda: cluster.n3.machine.state.chain == cluster.n1.machine.state.chain)


async def test_an_upstream_that_sends_less_than_is_appended_is_replaced(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    await form(cluster, n3="n2")
    stream = cluster.n3.link.opened[-1]
    delayed: list[CommittedBatch] = []
    stream.sink.send, send = delayed.append, stream.sink.send  # type: ignore[method-assign,assignment]
    for number in range(3_000):
        offset = await cluster.n1.write(b"a", b"\xff%d" % number)
        if number % 4 == 0 and delayed:
            send(delayed.pop(0))  # it is a contact, but one of four is too few
        await asyncio.sleep(0.01)
        if upstream(cluster.n3) != "n2":
            break
    else:
        pytest.fail("it is still the upstream")
    await until(lambda: cluster.n3.machine.state.offset >= offset)
    assert len(delayed) > 10


async def test_nodes_that_name_each_other_receive_records(cluster: ModesCluster) -> None:
    cluster.upstreams = {"n2": UpstreamRule("n3"), "n3": UpstreamRule("n2")}
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    for value in (b"\xff1", b"\xff2", b"\xff3"):
        offset = await cluster.n1.write(b"a", value)
        await until(lambda offset=offset: all(it.machine.state.offset >= offset for it in cluster.nodes.values()))  # type: ignore[misc]
    await until(lambda: {upstream(cluster.n2), upstream(cluster.n3)} in ({"n1", "n2"}, {"n1", "n3"}))


async def test_a_circle_of_three_ends(cluster: ModesCluster) -> None:
    cluster.upstreams = {"n2": UpstreamRule("n4"), "n3": UpstreamRule("n2"), "n4": UpstreamRule("n3")}
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC, ASYNC)
    await until(lambda: sorted(upstream(it) or "" for it in cluster.nodes.values()).count("n1") == 1)
    offset = await cluster.n1.write(b"a", b"\xff1")
    await until(lambda: all(it.machine.state.offset >= offset for it in cluster.nodes.values()))


async def test_a_new_leader_has_a_tree_of_its_own(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, SYNC, SYNC)
    await form(cluster, n2="n1", n3="n2", n4="n3")
    await cluster.n1.node.transfer.promote(NodeId("n2"), force=False)
    await until(lambda: cluster.n2.node.leads)
    await form(cluster, n1="n2", n3="n2", n4="n3")
    await cluster.n2.write(b"a", b"\xff1")
    assert await read(cluster.nodes["n4"], A) == b"\xff1"


GOSSIP_RULE = UpstreamRule(GOSSIP, fanout=1, range_seqs=4)


async def test_ranges_come_from_kafka_and_from_each_other(cluster: ModesCluster) -> None:
    names = ("n1", "n2", "n3", "n4")
    cluster.upstreams = dict.fromkeys(names, GOSSIP_RULE)
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC, ASYNC)
    followers = [cluster.nodes[name] for name in names[1:]]
    fetched: set[str] = set()
    received: set[str] = set()
    for number in range(100):
        offset = await cluster.n1.write(b"a", b"\xff%d" % number)
        await until(lambda offset=offset: all(it.machine.state.offset >= offset for it in followers))  # type: ignore[misc]
        for it in followers:
            (fetched if upstream(it) is None else received).add(it.member.node)
    assert fetched == received == {"n2", "n3", "n4"}
    await until(lambda: len({it.machine.state.chain for it in cluster.nodes.values()}) == 1)


async def test_ranges_arrive_although_a_follower_has_died(cluster: ModesCluster) -> None:
    names = ("n1", "n2", "n3", "n4")
    cluster.upstreams = dict.fromkeys(names, GOSSIP_RULE)
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC, ASYNC)
    await cluster.nodes["n4"].stop()
    for number in range(60):
        offset = await cluster.n1.write(b"a", b"\xff%d" % number)
        await until(
            lambda offset=offset: all(cluster.nodes[it].machine.state.offset >= offset for it in names[1:3])  # type: ignore[misc]
        )
    await until(lambda: len({cluster.nodes[it].machine.state.chain for it in names[:3]}) == 1)


async def test_a_fanout_larger_than_the_cluster(cluster: ModesCluster) -> None:
    cluster.upstreams = dict.fromkeys(("n1", "n2", "n3"), UpstreamRule(GOSSIP, fanout=64, range_seqs=4))
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    for number in range(10):
        offset = await cluster.n1.write(b"a", b"\xff%d" % number)
        await until(lambda offset=offset: all(it.machine.state.offset >= offset for it in cluster.nodes.values()))  # type: ignore[misc]
        assert upstream(cluster.n2) is upstream(cluster.n3) is None


async def test_a_chain_of_ten(cluster: ModesCluster) -> None:
    cluster.upstreams = {f"n{number}": UpstreamRule(f"n{number - 1}") for number in range(2, 11)}
    await cluster.set_up(Policy(), *[ASYNC] * 10)
    await form(cluster, **{f"n{number}": f"n{number - 1}" for number in range(2, 11)})
    cluster.stall(cluster.nodes["n10"])
    offset = await cluster.n1.write(b"a", b"\xff1")
    await until(lambda: cluster.nodes["n10"].machine.state.offset >= offset)
    await until(lambda: cluster.nodes["n10"].machine.state.chain == cluster.n1.machine.state.chain)
    assert await cluster.n1.node.wait_acked(offset, 9, 10_000) == 9
