"""Suspend and invalidate mode: linearizable reads at replicas never go back to an older value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from replicator.errors import Busy, NoReplicas, ReplicatorError, Stale
from replicator.node import announcement
from replicator.protocol.levels import EVENTUAL, Level, LevelKind
from replicator.protocol.timing import DEFAULT_TIMEOUTS, Timeouts
from replicator.records.types import Body, Group, Membership, Policy, Release, Suspend, Timing, Write
from tests.memory_cluster import WAIT_S, RunningNode, submit, until
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

QUICK_STALE = Timeouts(read_ms=200)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path, timeouts=QUICK_STALE)
    yield cluster
    await cluster.stop()


async def set_up(cluster: ModesCluster, policy: Policy) -> None:
    """n1 is the leader and async, so that it can be stopped; n2 and n3 are sync and may read locally. `a` is s0."""
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
    """The records from that offset on, without heartbeats and checkpoints."""
    return [
        body for body in cluster.bodies[offset:] if isinstance(body, Suspend | Write | Group | Release | Membership)
    ]


async def test_the_suspend_record_precedes_the_write_which_waits_for_all_its_acks(cluster: ModesCluster) -> None:
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


async def test_the_writes_of_one_group_share_a_suspend_record(cluster: ModesCluster) -> None:
    await set_up(cluster, SUSPEND)
    start = len(cluster.log.entries)
    writes = [begin_write(cluster.n1, row, b"s1") for row in (b"a", b"b", b"a")]
    assert all(isinstance(ended, int) for ended in await asyncio.gather(*writes))
    assert [type(body) for body in since(cluster, start)] == [Suspend, Group]
    assert since(cluster, start)[0] == Suspend((A, B, A))


async def test_writes_queued_after_a_change_to_suspend_mode_are_announced(cluster: ModesCluster) -> None:
    await set_up(cluster, Policy())
    start = len(cluster.log.entries)
    writing = begin_write(cluster.n1, b"a", b"s1")
    await asyncio.sleep(0)
    cluster.n1.node.membership_changes.set_policy(SUSPEND)
    assert isinstance(await writing, int)
    assert [type(body) for body in since(cluster, start)] == [Membership, Suspend, Write]


@pytest.mark.parametrize("policy", [SUSPEND, INVALIDATE], ids=lambda policy: str(policy.write))
async def test_only_linearizable_reads_of_a_suspended_key_wait(cluster: ModesCluster, policy: Policy) -> None:
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


@pytest.mark.parametrize("max_records", [0, 1])
async def test_a_bounded_read_that_asks_for_the_end_does_not_wait_for_a_suspended_key(
    cluster: ModesCluster, max_records: int
) -> None:
    await set_up(cluster, INVALIDATE)
    cluster.acks.hold("n3")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: is_suspended(cluster.n2))
    await asyncio.sleep(0.002)
    assert await read(cluster.n2, A, Level(LevelKind.BOUNDED, 1, max_records)) == b"s1"
    cluster.acks.let("n3")
    await writing


async def test_in_suspend_mode_no_replica_shows_the_old_value_after_another_shows_the_new_one(
    cluster: ModesCluster,
) -> None:
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


async def test_in_invalidate_mode_no_replica_shows_the_new_value_while_another_shows_the_old_one(
    cluster: ModesCluster,
) -> None:
    await set_up(cluster, INVALIDATE)
    cluster.stall(cluster.n3)
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == b"s1")
    at_n2, at_n1 = await begin_read(cluster.n2, A), await begin_read(cluster.n1, A)
    assert await read(cluster.n3, A) == b"s0"  # it has not read the write, and no replica has shown it
    assert not (at_n2.done() or at_n1.done() or writing.done())
    cluster.wake(cluster.n3)
    assert await at_n2 == await at_n1 == await read(cluster.n3, A) == b"s1"
    assert isinstance(await writing, int)


async def test_invalidate_mode_takes_one_round_and_a_release_once_all_have_the_write(cluster: ModesCluster) -> None:
    await set_up(cluster, INVALIDATE)
    start = len(cluster.log.entries)
    cluster.acks.hold("n2", "n3")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s1")
    assert is_suspended(cluster.n2) and is_suspended(cluster.n3)
    reading = await begin_read(cluster.n2, A)
    cluster.acks.let("n2")
    await cluster.acked(cluster.n2)
    assert [type(body) for body in since(cluster, start)] == [Write]
    assert not (reading.done() or writing.done())
    cluster.acks.let("n3")
    assert await reading == b"s1"
    offset = await writing
    assert isinstance(offset, int)
    written, release = since(cluster, start)
    assert isinstance(written, Write) and isinstance(release, Release)
    assert not is_suspended(cluster.n2)


async def test_a_claim_resumes_keys_that_the_dead_leader_announced_and_did_not_write(cluster: ModesCluster) -> None:
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
    assert len(cluster.bodies_of(Write)) == 1
    await cluster.n2.write(b"a", b"s2")
    assert await read(cluster.n3, A) == b"s2"


async def test_in_invalidate_mode_a_new_leader_releases_the_writes_of_the_dead_one_once_all_have_them(
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
    await until(lambda: cluster.n3.machine.state.offset >= grown)  # the new leader sends heartbeats
    assert await read(cluster.n2, B) is None
    assert [type(body) for body in since(cluster, start)] == [Write]
    assert not (at_n2.done() or at_n3.done())  # a claim alone does not prove that n3 has the write
    cluster.acks.let("n3")
    assert await at_n2 == await at_n3 == b"s1"
    assert [type(body) for body in since(cluster, start)] == [Write, Release]


async def test_a_transaction_without_changes_shows_no_inherited_value_before_all_replicas_have_it(
    cluster: ModesCluster,
) -> None:
    await set_up(cluster, INVALIDATE)
    cluster.stall(cluster.n3)
    begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == b"s1")
    await cluster.n1.stop()
    await cluster.take_over(cluster.n2)
    transaction = cluster.n2.node.begin()
    assert transaction.get(A) == b"s1"
    ending = asyncio.create_task(submit(cluster.n2.node, transaction))
    await asyncio.sleep(0)
    assert await read(cluster.n3, A) == b"s0"
    assert not ending.done()
    cluster.wake(cluster.n3)
    await ending
    await until(lambda: not cluster.n3.machine.suspended)
    assert await read(cluster.n3, A) == b"s1"


@pytest.mark.parametrize(
    ("timing", "timeouts", "error", "words"),
    [
        (replace(STEADY, sync_ms=300), DEFAULT_TIMEOUTS, NoReplicas, "no ack from n2"),
        (STEADY, Timeouts(answer_ms=300), Busy, "the log takes no writes at the moment"),
    ],
    ids=["unresponsive", "slow"],
)
async def test_a_failed_write_withdraws_its_announcement(
    tmp_path: Path, timing: Timing, timeouts: Timeouts, error: type[ReplicatorError], words: str
) -> None:
    cluster = ModesCluster(tmp_path, timing, timeouts)
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


async def test_a_release_that_the_log_refuses_is_sent_again(cluster: ModesCluster) -> None:
    await set_up(cluster, INVALIDATE)
    start = len(cluster.log.entries)
    cluster.refuse_once(lambda body: isinstance(body, Release))
    await cluster.n1.write(b"a", b"s1")
    await until(lambda: not any(it.machine.suspended for it in cluster.nodes.values()))
    assert [type(body) for body in since(cluster, start)] == [Write, Release]
    assert await read(cluster.n2, A) == b"s1"


async def test_a_withdrawal_that_the_log_refuses_is_sent_again(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, sync_ms=300))
    await set_up(cluster, SUSPEND)
    start = len(cluster.log.entries)
    cluster.acks.hold("n2")
    cluster.refuse_once(lambda body: body == Suspend(()))
    assert isinstance(await begin_write(cluster.n1, b"a", b"s1"), NoReplicas)
    cluster.acks.let("n2")
    await until(lambda: not any(it.machine.suspended for it in cluster.nodes.values()))
    assert since(cluster, start) == [Suspend((A,)), Suspend(())]
    assert await read(cluster.n2, A) == b"s0"
    await cluster.stop()


async def test_a_group_and_the_next_announcement_are_two_appends_if_they_are_large(
    cluster: ModesCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_up(cluster, SUSPEND)
    monkeypatch.setattr(announcement, "GROUP_BYTES", 1_000)
    monkeypatch.setattr(cluster.log, "_max_payload_bytes", 2_000)
    start = len(cluster.log.entries)
    transactions = []
    for number in range(4):
        transaction = cluster.n1.node.begin()
        for row in range(20):
            transaction.put("kv", b"%d %s" % (number, b"%045d" % row), b"", b"s")
        transactions.append(submit(cluster.n1.node, transaction))
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*transactions)
    assert [type(body) for body in since(cluster, start)] == [Suspend, Write] * 4


async def test_a_replica_that_cannot_read_the_log_stops_answering_when_its_lease_expires(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, follower_lease_ms=200), QUICK_STALE)
    await set_up(cluster, SUSPEND)
    cluster.stall(cluster.n3)
    assert await read(cluster.n3, A) == b"s0"
    await until(lambda: not cluster.n3.node.reads.at_follower.reads_locally)
    with pytest.raises(Stale, match="a read of this level cannot be answered here within 200 ms"):
        await read(cluster.n3, A)
    assert await read(cluster.n3, A, EVENTUAL) == b"s0"
    await cluster.stop()


async def test_a_key_stays_suspended_when_the_mode_changes_from_invalidate_to_suspend(cluster: ModesCluster) -> None:
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
