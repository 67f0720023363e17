"""An idle leader: few heartbeats in the log, elections and reads as before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import product
from math import inf
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.errors import BrokerUnavailable, Busy
from replicator.log.port import AppendRefused
from replicator.position import Author, NodeId, Offset
from replicator.protocol.levels import LINEARIZABLE
from replicator.protocol.pace import ALWAYS_STEADY, Pace, stream_interval_ms
from replicator.protocol.timing import MAX_DRIFT, candidacy_ms, check, stream_timeout_ms
from replicator.records.types import Member, Membership, Mode, Policy, Timing, WriteMode
from replicator.testing.cluster import Running, SimNode
from replicator.testing.faults import NO_FAULTS
from replicator.testing.kafka import Kafka
from replicator.testing.loop import SimLoop
from replicator.testing.operator import Operator
from tests.memory_cluster import MemoryStream, until
from tests.modes_cluster import ASYNC, A, ModesCluster, read

TIMING = Timing(heartbeat_ms=200, lease_ms=400, election_ms=60_000, sync_ms=20_000, follower_lease_ms=400)
PACE = Pace(idle_after_ms=300, idle_heartbeat_ms=600_000)
SNAPSHOTTER = Mode.SNAPSHOTTER


def allowed_timings() -> list[Timing]:
    timings = []
    for heartbeat_ms, lease, election in product((1, 10, 250, 4_000), (2, 2.4, 5), (1.1, 1.25, 4)):
        lease_ms = int(heartbeat_ms * lease)
        election_ms = max(int(lease_ms * election), int(lease_ms * 1.1) + 1)
        timing = Timing(heartbeat_ms, lease_ms, election_ms, follower_lease_ms=1, sync_ms=lease_ms)
        check(timing)
        timings.append(timing)
    return timings


@pytest.mark.parametrize("timing", allowed_timings(), ids=str)
def test_a_member_that_misses_heartbeats_reads_a_record_before_it_starts_an_election(timing: Timing) -> None:
    """The leader appends one no later than three intervals after the last heartbeat that the member has received."""
    appended_ms = 3 * stream_interval_ms(timing)
    assert stream_interval_ms(timing) < stream_timeout_ms(timing) < timing.election_ms
    assert appended_ms < candidacy_ms(timing, 0, 0)


@pytest.mark.parametrize("timing", allowed_timings(), ids=str)
def test_a_process_that_is_not_a_member_reads_two_heartbeats_before_it_starts_an_election(timing: Timing) -> None:
    pace, author = Pace(), Author(NodeId("n2"), 1)
    member = Member(NodeId("n2"), ASYNC, Address("n2", 1), Address("n2", 2), 0, author.incarnation)
    former = Author(NodeId("n2"), 2)  # another process of the member
    assert pace.extra_candidacy_ms(Membership((member,)), author, timing, inf) == 0
    assert pace.extra_candidacy_ms(Membership(), author, timing, inf) == 0  # the log is empty
    assert ALWAYS_STEADY.extra_candidacy_ms(Membership((member,)), former, timing, inf) == 0
    waits_ms = candidacy_ms(timing, 0, 0) + pace.extra_candidacy_ms(Membership((member,)), former, timing, inf)
    late_ms = pace.log_interval_ms(timing) + stream_interval_ms(timing)  # it may wait for an interval over the streams
    assert waits_ms > late_ms * (1 + MAX_DRIFT)


@pytest.mark.parametrize("timing", allowed_timings(), ids=str)
def test_a_process_that_is_not_a_member_does_not_wait_longer_for_a_leader_that_was_in_use(timing: Timing) -> None:
    """The next heartbeat was due before the leader could be idle, even if it was late by an interval."""
    pace, author = Pace(), Author(NodeId("n2"), 1)
    membership = Membership((Member(NodeId("n1"), ASYNC, Address("n1", 1), Address("n1", 2), 0, 1),))
    longest_ms = pace.idle_after_ms - 2 * timing.heartbeat_ms
    assert pace.extra_candidacy_ms(membership, author, timing, longest_ms) > 0
    assert pace.extra_candidacy_ms(membership, author, timing, longest_ms - 1) == 0


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path, TIMING)
    cluster.stream_limit, cluster.pace = 99, PACE
    await cluster.set_up(Policy(), ASYNC, ASYNC, SNAPSHOTTER)
    yield cluster
    await cluster.stop()


async def idle(cluster: ModesCluster) -> None:
    """Wait until the lease of n1 has ended, because it is idle."""
    await until(lambda: (it := cluster.n1.node.status()).is_idle and it.lease_left_ms == 0)


async def steady(cluster: ModesCluster) -> None:
    """Wait until n1 has appended heartbeats again, and is not idle."""
    records = len(cluster.log.entries)
    await until(lambda: len(cluster.log.entries) > records + 1 and not cluster.n1.node.status().is_idle)


def stream_of(cluster: ModesCluster, name: str) -> MemoryStream:
    return cluster.nodes[name].link.opened[-1]


async def heartbeats(cluster: ModesCluster, count: int) -> None:
    """Wait until n2 has been sent that many more."""
    end = stream_of(cluster, "n2").sink.heartbeats + count
    await until(lambda: stream_of(cluster, "n2").sink.heartbeats >= end)


async def test_the_log_of_an_idle_cluster_does_not_grow(cluster: ModesCluster) -> None:
    await idle(cluster)
    records, contact_ms = len(cluster.log.entries), cluster.n2.node._context.roles.last_contact_ms
    await heartbeats(cluster, 5)
    assert len(cluster.log.entries) == records
    assert cluster.n2.node._context.roles.last_contact_ms > contact_ms
    assert cluster.n1.node.holds_leadership and cluster.n1.node.last_acks.keys() == {"n2", "n3"}


async def test_a_read_that_needs_the_lease_renews_it(cluster: ModesCluster) -> None:
    await cluster.n1.write(b"a", b"s1")
    for node in (cluster.n1, cluster.n2):
        await idle(cluster)
        records = len(cluster.log.entries)
        assert await read(node, A, LINEARIZABLE) == b"s1"
        assert len(cluster.log.entries) == records + 1
        assert cluster.n1.node.lease_left_ms > 0


async def test_a_leader_that_is_read_from_is_not_idle(cluster: ModesCluster) -> None:
    end = len(cluster.log.entries) + 5
    while len(cluster.log.entries) < end:
        await read(cluster.n1, A, LINEARIZABLE)
        await asyncio.sleep(0.01)  # between two reads of a client
        assert not cluster.n1.node.status().is_idle


async def test_a_write_ends_the_idle_pace_and_needs_no_lease(cluster: ModesCluster) -> None:
    await idle(cluster)
    offset = await cluster.n1.write(b"a", b"s1")
    assert offset == len(cluster.log.entries) - 1
    assert not cluster.n1.node.status().is_idle and cluster.n1.node.lease_left_ms > 0


async def test_a_follower_that_does_not_ack_ends_the_idle_pace(cluster: ModesCluster) -> None:
    await idle(cluster)
    stream_of(cluster, "n2").loses_acks = True
    await steady(cluster)


@pytest.mark.parametrize("name", ["n2", "n3"])
async def test_a_member_without_a_stream_ends_the_idle_pace(cluster: ModesCluster, name: str) -> None:
    await idle(cluster)
    cluster.nodes[name].link.stream_limit = 0
    stream_of(cluster, name).close()
    await steady(cluster)


async def test_a_leader_without_kafka_does_not_stay_idle(cluster: ModesCluster) -> None:
    """It loses its lease, and sends no heartbeats over the streams: others start an election."""

    async def end() -> Offset:
        raise BrokerUnavailable("connection refused")

    async def append(payloads: object) -> Offset:
        raise AppendRefused("connection refused")

    genuine, log = (cluster.log.end, cluster.log.append), cluster.log
    await idle(cluster)
    log.end, log.append = end, append  # type: ignore[method-assign]
    await until(lambda: not cluster.n1.node.holds_leadership)
    status = cluster.n1.node.status()
    assert not status.kafka_answers and status.outage_ms is not None
    streams = cluster.n2.link.opened
    sent = sum(stream.sink.heartbeats for stream in streams)
    with pytest.raises(Busy):
        await cluster.n1.write(b"a", b"s1")
    await until(lambda: cluster.n2.node.status().source == "kafka")
    assert sum(stream.sink.heartbeats for stream in streams) == sent
    log.end, log.append = genuine  # type: ignore[method-assign]
    await idle(cluster)
    assert cluster.n1.node.status().kafka_answers


def test_there_are_no_elections_while_the_leader_is_idle(tmp_path: Path) -> None:
    """In a minute of virtual time, the leader appends few heartbeats, and the followers wait as before."""
    rng = random.Random(1)
    loop = SimLoop(rng)  # type: ignore[abstract]  # it has no sockets, signals, threads or subprocesses
    kafka = Kafka(loop, rng, NO_FAULTS, lambda line: None)
    peers: dict[str, SimNode] = {}
    for priority, name in enumerate(("n1", "n2", "n3")):
        peers[name] = SimNode(name, priority, tmp_path / name, kafka, Timing(), peers, Pace(1_000, 5_000))
    operator = Operator(list(peers.values()), loop, rng, WriteMode.ASYNC, lambda line: None)
    ends = []

    async def main() -> None:
        for node in peers.values():
            node.start()
        await operator.set_up()
        for _ in range(2):
            await asyncio.sleep(60)
            ends.append(len(kafka.partition.log.entries()))
        for node in peers.values():
            assert node.life is not None
            assert node.life.machine.state.epoch == 1
            await node.kill(system=False)

    loop.run(main(), 200_000)
    assert 10 <= ends[1] - ends[0] <= 13


@pytest.mark.parametrize(("killed_after_s", "least_s", "most_s"), [(0.1, 0, 2), (20, 5, 12)], ids=["in use", "idle"])
def test_a_first_leader_is_replaced_by_a_node_that_has_not_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after_s: float, least_s: float, most_s: float
) -> None:
    """It waits longer only if the leader may have been idle, and starts no election while it is."""

    async def register(*_: object) -> None:
        pass

    monkeypatch.setattr(SimNode, "_register", register)
    rng = random.Random(1)
    loop = SimLoop(rng)  # type: ignore[abstract]  # it has no sockets, signals, threads or subprocesses
    kafka = Kafka(loop, rng, NO_FAULTS, lambda line: None)
    peers: dict[str, SimNode] = {}
    for priority, name in enumerate(("n1", "n2", "n3")):
        peers[name] = SimNode(name, priority, tmp_path / name, kafka, Timing(), peers, Pace(3_000, 5_000))

    def lives() -> list[Running]:
        return [it for node in peers.values() for it in node.lives]

    async def main() -> None:
        for node in peers.values():
            node.start()
        await until(lambda: all(it.machine.state.epoch == 1 for it in lives()))
        await asyncio.sleep(killed_after_s)
        assert all(it.machine.state.epoch == 1 for it in lives())
        await peers["n1"].kill(system=False)
        killed_s = loop.time()
        await until(lambda: any(it.node.leads for it in lives()))
        assert least_s < loop.time() - killed_s < most_s
        for it in lives():
            await peers[it.author.node].kill(system=False)

    loop.run(main(), 200_000)
