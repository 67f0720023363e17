"""Suspend and invalidate mode: no replica shows a value that another one could still deny."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from replicator.errors import Busy, NoReplicas, ReplicatorError, Stale
from replicator.protocol.levels import EVENTUAL
from replicator.protocol.timing import Timing
from replicator.records.types import Body, Membership, Policy, Release, Suspend, Write
from tests.memory_cluster import RunningNode, until
from tests.modes_cluster import (
    ASYNC,
    INVALIDATE,
    STEADY,
    SUSPEND,
    SYNC,
    A,
    B,
    ModesCluster,
    begin_read,
    begin_write,
    read,
    stored,
)

QUICK_STALE = replace(STEADY, read_ms=200)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path, QUICK_STALE)
    yield cluster
    await cluster.stop()


async def set_up(cluster: ModesCluster, policy: Policy) -> None:
    """n1 leads and is async, so that it can die; n2 and n3 are sync, and may answer by themselves. `a` is s0."""
    await cluster.set_up(policy, ASYNC, SYNC, SYNC)
    await cluster.n1.write(b"a", b"s0")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s0")
    await until(lambda: not any(it.machine.suspended for it in cluster.nodes.values()))
    for running in (cluster.n2, cluster.n3):
        assert await read(running, A) == b"s0"
        assert running.node.reads.at_follower.reads_locally is (policy != Policy())


def is_suspended(running: RunningNode, key: bytes = A) -> bool:
    return key in running.machine.suspended


def since(cluster: ModesCluster, offset: int) -> list[Body]:
    """What the log says from there on, but for heartbeats and checkpoints."""
    return [body for body in cluster.bodies[offset:] if isinstance(body, Suspend | Write | Release | Membership)]


async def test_suspend_precedes_the_write_which_waits_for_all_acks_of_it(cluster: ModesCluster) -> None:
    await set_up(cluster, SUSPEND)
    start = len(cluster.log.entries)
    cluster.acks.hold("n2")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: is_suspended(cluster.n2) and is_suspended(cluster.n3))
    assert since(cluster, start) == [Suspend((A,))] and not writing.done()
    cluster.acks.let("n2")
    offset = await writing
    assert isinstance(offset, int)
    assert [type(body) for body in since(cluster, start)] == [Suspend, Write]
    await until(lambda: not (is_suspended(cluster.n2) or is_suspended(cluster.n3)))  # released by the write itself
    assert await read(cluster.n2, A) == await read(cluster.n3, A) == b"s1"


async def test_the_writes_of_one_group_are_announced_at_once(cluster: ModesCluster) -> None:
    await set_up(cluster, SUSPEND)
    start = len(cluster.log.entries)
    writes = [begin_write(cluster.n1, row, b"s1") for row in (b"a", b"b", b"a")]
    assert all(isinstance(ended, int) for ended in await asyncio.gather(*writes))
    assert [type(body) for body in since(cluster, start)] == [Suspend, Write, Write, Write]
    assert since(cluster, start)[0] == Suspend((A, B, A))


async def test_what_is_queued_behind_a_change_to_suspend_mode_is_announced(cluster: ModesCluster) -> None:
    await set_up(cluster, Policy())
    start = len(cluster.log.entries)
    writing = begin_write(cluster.n1, b"a", b"s1")
    await asyncio.sleep(0)
    cluster.n1.node.membership_changes.set_policy(SUSPEND)
    assert isinstance(await writing, int)
    assert [type(body) for body in since(cluster, start)] == [Membership, Suspend, Write]


@pytest.mark.parametrize("policy", [SUSPEND, INVALIDATE], ids=lambda policy: str(policy.write))
async def test_linearizable_reads_of_a_suspended_key_wait_and_no_others_do(
    cluster: ModesCluster, policy: Policy
) -> None:
    await set_up(cluster, policy)
    cluster.acks.hold("n2")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: is_suspended(cluster.n3))
    before = stored(cluster.n3, A)
    waiting = [await begin_read(running, A) for running in cluster.nodes.values()]
    for running in cluster.nodes.values():
        assert await read(running, B) is None
        assert await read(running, A, EVENTUAL) == stored(running, A)
    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, Stale) and "cannot be answered here within 200 ms" in str(ended)
    assert stored(cluster.n3, A) == before and not writing.done()
    reading = await begin_read(cluster.n3, A)
    cluster.acks.let("n2")
    assert await reading == b"s1"
    assert isinstance(await writing, int)


async def test_suspend_no_replica_shows_the_old_value_once_another_shows_the_new_one(cluster: ModesCluster) -> None:
    await set_up(cluster, SUSPEND)
    cluster.acks.hold("n3")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: is_suspended(cluster.n3))
    cluster.stall(cluster.n3)  # it has read the Suspend, and does not read the write
    cluster.acks.let("n3")
    await until(lambda: stored(cluster.n2, A) == b"s1")
    assert await read(cluster.n2, A) == b"s1"
    assert stored(cluster.n3, A) == b"s0" and stored(cluster.n1, A) == b"s0"
    at_n3, at_n1 = await begin_read(cluster.n3, A), await begin_read(cluster.n1, A)
    assert await read(cluster.n3, B) is None
    assert not (at_n3.done() or at_n1.done() or writing.done())
    cluster.wake(cluster.n3)
    assert await at_n3 == await at_n1 == b"s1"
    assert isinstance(await writing, int)


async def test_invalidate_no_replica_shows_the_new_value_while_another_shows_the_old_one(cluster: ModesCluster) -> None:
    await set_up(cluster, INVALIDATE)
    cluster.stall(cluster.n3)
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == b"s1")
    at_n2, at_n1 = await begin_read(cluster.n2, A), await begin_read(cluster.n1, A)
    assert await read(cluster.n3, A) == b"s0"  # it knows nothing of the write, and nobody has told of it
    assert not (at_n2.done() or at_n1.done() or writing.done())
    cluster.wake(cluster.n3)
    assert await at_n2 == await at_n1 == await read(cluster.n3, A) == b"s1"
    assert isinstance(await writing, int)


async def test_invalidate_takes_one_round_and_a_release_of_what_all_have(cluster: ModesCluster) -> None:
    await set_up(cluster, INVALIDATE)
    start = len(cluster.log.entries)
    cluster.acks.hold("n2", "n3")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s1")
    assert is_suspended(cluster.n2) and is_suspended(cluster.n3)
    reading = await begin_read(cluster.n2, A)
    cluster.acks.let("n2")
    await cluster.heard(cluster.n2)
    assert [type(body) for body in since(cluster, start)] == [Write]
    assert not (reading.done() or writing.done())
    cluster.acks.let("n3")
    assert await reading == b"s1"
    offset = await writing
    assert isinstance(offset, int)
    written, release = since(cluster, start)
    assert isinstance(written, Write) and isinstance(release, Release)
    assert not is_suspended(cluster.n2)


async def test_a_claim_releases_what_the_dead_leader_announced_and_never_wrote(cluster: ModesCluster) -> None:
    await set_up(cluster, SUSPEND)
    cluster.acks.hold("n2", "n3")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: is_suspended(cluster.n2) and is_suspended(cluster.n3))
    reading = await begin_read(cluster.n3, A)
    await cluster.n1.stop()
    ended = await writing
    assert isinstance(ended, Busy) and "not sent" in str(ended)
    assert not reading.done()
    cluster.acks.let("n2", "n3")
    await cluster.take_over(cluster.n2)
    assert await reading == await read(cluster.n2, A) == b"s0"
    assert len(cluster.said(Write)) == 1
    await cluster.n2.write(b"a", b"s2")
    assert await read(cluster.n3, A) == b"s2"


async def test_invalidate_a_new_leader_releases_what_the_dead_one_wrote_once_all_have_it(
    cluster: ModesCluster,
) -> None:
    await set_up(cluster, INVALIDATE)
    cluster.acks.hold("n2", "n3")
    start = len(cluster.log.entries)
    begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s1")
    await cluster.n1.stop()
    await cluster.take_over(cluster.n2)
    at_n2, at_n3 = await begin_read(cluster.n2, A), await begin_read(cluster.n3, A)
    grown = len(cluster.log.entries) + 3
    await until(lambda: cluster.n3.machine.state.offset >= grown)  # the new leader's heartbeats go on
    assert await read(cluster.n2, B) is None
    assert [type(body) for body in since(cluster, start)] == [Write]
    assert not (at_n2.done() or at_n3.done())  # a claim alone does not tell that n3 has the write
    cluster.acks.let("n3")
    assert await at_n2 == await at_n3 == b"s1"
    assert [type(body) for body in since(cluster, start)] == [Write, Release]


@pytest.mark.parametrize(
    ("timing", "error", "words"),
    [
        (replace(STEADY, sync_ms=300), NoReplicas, "no ack from n2"),
        (replace(STEADY, answer_ms=300), Busy, "the log takes no writes at the moment"),
    ],
    ids=["silent", "slow"],
)
async def test_a_write_that_is_given_up_takes_its_announcement_back(
    tmp_path: Path, timing: Timing, error: type[ReplicatorError], words: str
) -> None:
    cluster = ModesCluster(tmp_path, timing)
    await set_up(cluster, SUSPEND)
    start = len(cluster.log.entries)
    cluster.acks.hold("n2")
    ended = await begin_write(cluster.n1, b"a", b"s1")
    assert isinstance(ended, error) and words in str(ended)
    await until(lambda: since(cluster, start) == [Suspend((A,)), Suspend(())])
    for running in (cluster.n2, cluster.n3, cluster.n1):
        assert await read(running, A) == b"s0"
    cluster.acks.let("n2")
    await until(lambda: not cluster.n1.node.status().refusal)
    await cluster.n1.write(b"a", b"s2")
    assert await read(cluster.n3, A) == b"s2"
    await cluster.stop()


async def test_a_replica_that_knows_nothing_of_the_log_any_more_stops_answering_by_itself(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, follower_lease_ms=200, read_ms=200))
    await set_up(cluster, SUSPEND)
    cluster.stall(cluster.n3)
    assert await read(cluster.n3, A) == b"s0"
    await until(lambda: not cluster.n3.node.reads.at_follower.reads_locally)
    with pytest.raises(Stale, match="a read of this level cannot be answered here within 200 ms"):
        await read(cluster.n3, A)
    assert await read(cluster.n3, A, EVENTUAL) == b"s0"
    await cluster.stop()


async def test_a_key_stays_suspended_when_invalidate_mode_gives_way_to_suspend(cluster: ModesCluster) -> None:
    await set_up(cluster, INVALIDATE)
    start = len(cluster.log.entries)
    cluster.acks.hold("n2", "n3")
    first = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s1")
    cluster.n1.node.membership_changes.set_policy(SUSPEND)
    await until(lambda: cluster.n3.node.membership.policy == SUSPEND)
    cluster.stall(cluster.n3)
    second = begin_write(cluster.n1, b"a", b"s2")
    await until(lambda: Suspend((A,)) in since(cluster, start))
    cluster.acks.let("n2", "n3")  # n3 has the first write and has not read the Suspend
    assert isinstance(await first, int)
    await until(lambda: isinstance(since(cluster, start)[-1], Release))
    cluster.acks.hold("n3")
    cluster.wake(cluster.n3)
    await until(lambda: cluster.n3.machine.state.offset + 1 >= len(cluster.log.entries))
    cluster.stall(cluster.n3)  # it has read the Suspend and the Release, and does not read the second write
    cluster.acks.let("n3")
    await until(lambda: stored(cluster.n2, A) == b"s2")
    assert await read(cluster.n2, A) == b"s2"
    reading = await begin_read(cluster.n3, A)
    assert not reading.done()
    cluster.wake(cluster.n3)
    assert await reading == b"s2"
    assert isinstance(await second, int)
