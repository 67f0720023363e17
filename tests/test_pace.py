"""An idle leader: few heartbeats in the log, elections and reads as ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.position import Author, NodeId
from replicator.protocol.levels import LINEARIZABLE
from replicator.protocol.pace import Pace, followers_answer, stream_interval_ms
from replicator.protocol.timing import candidacy_ms, check, stream_timeout_ms
from replicator.records.types import Member, Membership, Mode, Policy, Timing, WriteMode
from replicator.testing.cluster import SimNode
from replicator.testing.faults import NO_FAULTS
from replicator.testing.kafka import Kafka
from replicator.testing.loop import SimLoop
from replicator.testing.operator import Operator
from tests.memory_cluster import MemoryStream, until
from tests.modes_cluster import ASYNC, A, ModesCluster, read

TIMING = Timing(heartbeat_ms=200, lease_ms=400, election_ms=60_000, sync_ms=20_000, follower_lease_ms=400)
PACE = Pace(quiet_after_ms=300, quiet_heartbeat_ms=600_000)
LEADER = Author(NodeId("n1"), 1)


def member(name: str, mode: Mode = ASYNC, incarnation: int = 1) -> Member:
    return Member(NodeId(name), mode, Address(name, 1), Address(name, 2), 0, incarnation)


def test_all_members_that_may_lead_must_have_acked_lately() -> None:
    membership = Membership((member("n1"), member("n2"), member("n3", Mode.SYNC), member("n4", Mode.SNAPSHOTTER)))
    n2, n3 = Author(NodeId("n2"), 1), Author(NodeId("n3"), 1)
    late = 1_000 - TIMING.heartbeat_ms
    assert followers_answer(membership, LEADER, {n2: 1_000, n3: late}, 1_000, TIMING)
    assert not followers_answer(membership, LEADER, {n2: 1_000, n3: late - 1}, 1_000, TIMING)
    assert not followers_answer(membership, LEADER, {n2: 1_000}, 1_000, TIMING)
    assert not followers_answer(membership, LEADER, {n2: 1_000, Author(NodeId("n3"), 2): 1_000}, 1_000, TIMING)
    assert followers_answer(Membership((member("n1"),)), LEADER, {}, 1_000, TIMING)


def test_a_process_that_is_not_a_member_lets_a_quiet_leader_append_first() -> None:
    pace = Pace()
    membership = Membership((member("n1"), member("n2")))
    assert pace.extra_candidacy_ms(membership, NodeId("n2")) == 0
    assert pace.extra_candidacy_ms(membership, NodeId("n3")) == pace.log_interval_ms(Timing())
    assert pace.extra_candidacy_ms(Membership(), NodeId("n3")) == 0  # the log is empty


def test_a_member_that_misses_heartbeats_reads_a_record_before_it_starts_an_election() -> None:
    """With every timing that is allowed: the leader appends one no later than three intervals after the last one."""
    for heartbeat_ms, lease, election in product((1, 10, 250, 4_000), (2, 2.4, 5), (1.1, 1.25, 4)):
        lease_ms = int(heartbeat_ms * lease)
        election_ms = max(int(lease_ms * election), int(lease_ms * 1.1) + 1)
        timing = Timing(heartbeat_ms, lease_ms, election_ms, follower_lease_ms=1, sync_ms=lease_ms)
        check(timing)
        appended_ms = 3 * stream_interval_ms(timing)
        assert stream_interval_ms(timing) < stream_timeout_ms(timing) < election_ms
        assert appended_ms < candidacy_ms(timing, 0, 0)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path, TIMING)
    cluster.stream_limit, cluster.pace = 99, PACE
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    yield cluster
    await cluster.stop()


async def quiet(cluster: ModesCluster) -> None:
    """Wait until the lease of n1 has ended, because it is quiet."""
    await until(lambda: (it := cluster.n1.node.status()).is_quiet and it.lease_left_ms == 0)


def stream_of(cluster: ModesCluster, name: str) -> MemoryStream:
    return cluster.nodes[name].link.opened[-1]


async def heartbeats(cluster: ModesCluster, count: int) -> None:
    """Wait until n2 has received that many more."""
    end = stream_of(cluster, "n2").sink.heartbeats + count
    await until(lambda: stream_of(cluster, "n2").sink.heartbeats >= end)


async def test_the_log_of_an_idle_cluster_does_not_grow(cluster: ModesCluster) -> None:
    await quiet(cluster)
    records, heard_ms = len(cluster.log.entries), cluster.n2.node._context.roles.last_heard_ms
    await heartbeats(cluster, 5)
    assert len(cluster.log.entries) == records
    assert cluster.n2.node._context.roles.last_heard_ms > heard_ms
    assert cluster.n1.node.holds_leadership and cluster.n1.node.last_acks.keys() == {"n2", "n3"}


async def test_a_read_that_needs_the_lease_renews_it(cluster: ModesCluster) -> None:
    await cluster.n1.write(b"a", b"s1")
    for node in (cluster.n1, cluster.n2):
        await quiet(cluster)
        records = len(cluster.log.entries)
        assert await read(node, A, LINEARIZABLE) == b"s1"
        assert len(cluster.log.entries) == records + 1
        assert cluster.n1.node.lease_left_ms > 0


async def test_a_write_needs_no_lease(cluster: ModesCluster) -> None:
    await quiet(cluster)
    offset = await cluster.n1.write(b"a", b"s1")
    assert offset == len(cluster.log.entries) - 1
    await until(lambda: not cluster.n1.node.status().is_quiet)


async def test_a_follower_that_does_not_ack_ends_the_quiet_pace(cluster: ModesCluster) -> None:
    await quiet(cluster)
    records = len(cluster.log.entries)
    stream_of(cluster, "n2").loses_acks = True
    await until(lambda: len(cluster.log.entries) > records)
    await until(lambda: not cluster.n1.node.status().is_quiet)


async def test_a_follower_without_a_stream_ends_the_quiet_pace(cluster: ModesCluster) -> None:
    await quiet(cluster)
    records = len(cluster.log.entries)
    cluster.n3.link.stream_limit = 0
    stream_of(cluster, "n3").close()
    await until(lambda: len(cluster.log.entries) > records)
    await until(lambda: not cluster.n1.node.status().is_quiet)


def test_there_are_no_elections_while_the_leader_is_quiet(tmp_path: Path) -> None:
    """In a minute of virtual time, the leader appends few heartbeats, and the followers wait for as long as ever."""
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

    loop.run(main(), 100_000)
    assert 10 <= ends[1] - ends[0] <= 13
