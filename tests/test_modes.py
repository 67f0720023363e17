"""Sync mode: the acks that a write waits for, and the effect of failures and of changed members or policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from unittest.mock import AsyncMock, patch

import pytest

from replicator.errors import BadRequest, Diverged, Loading, LogDamage, NoReplicas, Stale, Unblocked, Unknown
from replicator.log.memory import MemoryAckTopic
from replicator.node import leader as leader_module
from replicator.node.health import NodeState
from replicator.node.leader import Leader
from replicator.position import NodeId, Offset, Token
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level, LevelKind
from replicator.protocol.roles import Role
from replicator.protocol.timing import Timeouts, old_lease_ms
from replicator.records.codec import BARRIER, AckCodec
from replicator.records.types import (
    Ack,
    Checkpoint,
    Heartbeat,
    Membership,
    Mode,
    Policy,
    Timing,
    WaitFor,
    Write,
    WriteMode,
)
from tests.memory_cluster import RunningNode, until
from tests.modes_cluster import (
    ALL,
    ASYNC,
    INVALIDATE,
    JOINING,
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

N2, N3 = NodeId("n2"), NodeId("n3")
QUORUM = Policy(WriteMode.SYNC, WaitFor.QUORUM, quorum=1)
NAMED = Policy(WriteMode.SYNC, WaitFor.NAMED, named=(N3,))

SHORT_SYNC, SHORT_ANSWERS = replace(STEADY, sync_ms=300), Timeouts(answer_ms=300)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path)
    yield cluster
    await cluster.stop()


def refusal(running: RunningNode) -> str:
    return running.node.status().refusal


async def review(running: RunningNode) -> None:
    """Wait until the leader has done several times what it does periodically."""
    reviews = 0
    genuine = Leader.review

    def counted(self: Leader) -> None:
        nonlocal reviews
        genuine(self)
        reviews += self._context is running.node._context

    with patch.object(Leader, "review", counted), patch.object(leader_module, "REVIEW_MS", 1):
        await until(lambda: reviews >= 5)


async def test_the_leader_applies_last_and_only_eventual_reads_can_see_this(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    await cluster.n1.write(b"a", b"s0")
    cluster.acks.hold("n2", "n3")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == b"s1")
    assert stored(cluster.n1, A) == b"s0"  # a follower shows the value before the leader does
    at_the_leader, as_usual = await begin_read(cluster.n1, A), await begin_read(cluster.n1, A, None)
    assert await read(cluster.n2, A) == await read(cluster.n3, A) == b"s1"
    assert await read(cluster.n1, B) is None  # nothing is in flight there
    assert not (writing.done() or at_the_leader.done() or as_usual.done())
    cluster.acks.let("n2", "n3")
    assert await at_the_leader == await as_usual == b"s1"
    assert isinstance(await writing, int)
    assert stored(cluster.n1, A) == b"s1"


async def test_a_write_waits_for_every_sync_member_and_for_no_other(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, ASYNC, SYNC, ASYNC)
    cluster.acks.hold("n3")
    await cluster.n1.write(b"a", b"s1")
    cluster.acks.hold("n2")
    writing = begin_write(cluster.n1, b"a", b"s2")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s2")
    cluster.acks.let("n3")
    await cluster.acked(cluster.n3)
    assert not writing.done()
    cluster.acks.let("n2")
    assert isinstance(await writing, int)


async def test_writes_are_refused_while_a_sync_member_is_unresponsive_and_resume_with_it(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, SHORT_SYNC, SHORT_ANSWERS)
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    await cluster.n1.write(b"a", b"s1")
    cluster.acks.hold("n2")
    await until(lambda: "n2" in refusal(cluster.n1))
    for _ in range(3):
        with pytest.raises(NoReplicas, match="no ack from n2 for 300 ms, .* nothing was written") as caught:  # noqa: RUF043
            await cluster.n1.write(b"a", b"s2")
        assert "make it async" in str(caught.value)
    assert len(cluster.bodies_of(Write)) == 1
    for running in cluster.nodes.values():
        assert await read(running, A) == await read(running, A, EVENTUAL) == await read(running, A, None) == b"s1"
    cluster.acks.let("n2")
    await until(lambda: not refusal(cluster.n1))
    await cluster.n1.write(b"a", b"s3")
    await cluster.stop()


def ack(cluster: ModesCluster, node: str, offset: int, timeline: bytes | None = None) -> None:
    """An ack that the node did not send."""
    state = cluster.n1.machine.state
    author = cluster.nodes[node].member.author
    told = Ack(timeline or state.timeline, author, Offset(offset), state.seq, state.epoch, 0)
    MemoryAckTopic.publish(cluster.acks, AckCodec().encode(told))


async def test_writes_are_refused_while_a_sync_member_is_heard_but_behind(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, SHORT_SYNC, SHORT_ANSWERS)
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    await cluster.n1.write(b"a", b"s1")
    cluster.acks.hold("n2")

    def heard() -> bool:
        ack(cluster, "n2", 1)
        return "no ack from n2 to what was written 300 ms ago" in refusal(cluster.n1)

    await until(heard)
    with pytest.raises(NoReplicas, match="nothing was written"):
        await cluster.n1.write(b"a", b"s2")
    assert len(cluster.bodies_of(Write)) == 1
    cluster.acks.let("n2")
    await until(lambda: not refusal(cluster.n1))
    await cluster.n1.write(b"a", b"s3")
    await cluster.stop()


async def test_acks_of_another_timeline_do_not_count(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    cluster.acks.hold("n2", "n3")  # so that no ack of n3 follows the one below
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s1")
    ack(cluster, "n2", 1_000_000, timeline=b"another timeline")
    ack(cluster, "n3", 1_000_000)
    await until(lambda: cluster.n1.node.last_acks[N3].ack.offset == 1_000_000)
    assert not writing.done()
    cluster.acks.let("n2", "n3")
    assert isinstance(await writing, int)


async def test_an_unresponsive_member_is_never_made_async_automatically(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, SHORT_SYNC, SHORT_ANSWERS)
    await cluster.set_up(ALL, ASYNC, SYNC, SYNC)
    before = cluster.bodies_of(Membership)
    cluster.acks.hold("n2")
    await until(lambda: "n2" in refusal(cluster.n1))
    await review(cluster.n1)
    await cluster.n1.stop()
    await cluster.take_over(cluster.n3)
    await until(lambda: "n2" in refusal(cluster.n3))
    await review(cluster.n3)
    assert cluster.bodies_of(Membership) == before
    assert cluster.n3.node.membership.policy == ALL
    await cluster.stop()


async def test_a_read_that_waits_for_an_unacked_write_says_whose_ack_is_missing(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, SHORT_SYNC, Timeouts(read_ms=50))
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    cluster.acks.hold("n2")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n3, A) == b"s1" and "n2" in refusal(cluster.n1))
    state = cluster.n3.machine.state
    session = Level(LevelKind.SESSION, token=Token(state.timeline.hex(), state.offset))
    for level in (LINEARIZABLE, Level(LevelKind.BOUNDED, max_age_ms=100), session):
        with pytest.raises(Stale, match=r"Writes wait for replicas: no ack from n2 for 300 ms\. Try again"):
            await read(cluster.n1, A, level)
    await cluster.stop()
    await writing


async def test_a_read_that_waits_for_a_write_says_so_before_its_acks_are_late(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, timeouts=Timeouts(read_ms=50))
    await cluster.set_up(SUSPEND, SYNC, SYNC, SYNC)
    cluster.acks.hold("n2")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: A in cluster.n3.machine.suspended)
    for running in (cluster.n1, cluster.n3):
        with pytest.raises(Stale, match="A write to a key of the read is in flight"):
            await read(running, A)
    await cluster.stop()
    await writing


async def test_an_unacked_write_in_the_log_has_an_unknown_outcome_and_takes_effect_later(
    tmp_path: Path,
) -> None:
    cluster = ModesCluster(tmp_path, SHORT_SYNC, SHORT_ANSWERS)
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    cluster.acks.hold("n2")
    ended = await begin_write(cluster.n1, b"a", b"s1")
    assert isinstance(ended, Unknown)
    assert isinstance(cluster.bodies[ended.offset], Write)
    assert stored(cluster.n1, A) is None
    cluster.acks.let("n2")
    assert await read(cluster.n1, A) == b"s1"
    await cluster.stop()


async def test_a_write_has_an_unknown_outcome_if_leadership_is_lost_before_its_acks(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    cluster.acks.hold("n2", "n3")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == b"s1")
    await cluster.n2.node.transfer.promote(N2, force=True)
    ended = await writing
    assert isinstance(ended, Unknown) and "lost leadership before the acks" in str(ended)
    assert isinstance(cluster.bodies[ended.offset], Write)
    await until(lambda: stored(cluster.n1, A) == b"s1")


async def test_a_quorum_continues_without_the_members_it_does_not_need(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, SHORT_SYNC, SHORT_ANSWERS)
    await cluster.set_up(QUORUM, ASYNC, SYNC, SYNC)
    cluster.acks.hold("n2")
    await cluster.n1.write(b"a", b"s1")
    await until(lambda: not cluster.n1.node._progress.is_responsive(cluster.n2.member.author, SHORT_SYNC.sync_ms))
    await cluster.n1.write(b"a", b"s2")
    cluster.acks.hold("n3")
    await until(lambda: "n2, n3" in refusal(cluster.n1))
    with pytest.raises(NoReplicas):
        await cluster.n1.write(b"a", b"s3")
    cluster.acks.let("n2")
    await until(lambda: not refusal(cluster.n1))
    await cluster.n1.write(b"a", b"s4")
    await cluster.stop()


async def test_a_named_member_is_waited_for_and_the_other_sync_members_are_not(cluster: ModesCluster) -> None:
    await cluster.set_up(NAMED, SYNC, SYNC, SYNC)
    cluster.acks.hold("n2")
    await cluster.n1.write(b"a", b"s1")
    cluster.acks.hold("n3")
    writing = begin_write(cluster.n1, b"a", b"s2")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s2")
    cluster.acks.let("n2")
    await cluster.acked(cluster.n2)
    assert not writing.done()
    cluster.acks.let("n3")
    assert isinstance(await writing, int)


async def test_a_joining_member_is_waited_for_from_its_sync_record_on(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, ASYNC)
    cluster.stall(cluster.n3)
    await cluster.n1.write(b"a", b"s1")
    await review(cluster.n1)  # n3 has not what is in the log by now
    cluster.n1.node.membership_changes.set_mode(N3, SYNC)
    await until(lambda: cluster.modes == [SYNC, SYNC, JOINING])
    await review(cluster.n1)
    writing = begin_write(cluster.n1, b"a", b"s2")
    await until(lambda: stored(cluster.n2, A) == b"s2")
    assert cluster.bodies_of(Membership)[-1].members[2].mode is JOINING
    assert isinstance(await writing, int) and stored(cluster.n3, A) is None
    cluster.wake(cluster.n3)
    await until(lambda: cluster.modes == [SYNC, SYNC, SYNC])
    assert [it.members[2].mode for it in cluster.bodies_of(Membership)[-2:]] == [JOINING, SYNC]
    assert stored(cluster.n3, A) == b"s2"
    cluster.acks.hold("n3")
    writing = begin_write(cluster.n1, b"a", b"s3")
    await until(lambda: stored(cluster.n2, A) == stored(cluster.n3, A) == b"s3")
    assert not writing.done()
    cluster.acks.let("n3")
    assert isinstance(await writing, int)


@pytest.mark.parametrize(
    ("before", "after"),
    list(permutations([Policy(), ALL, QUORUM, NAMED, SUSPEND, INVALIDATE], 2)),
    ids=lambda policy: f"{policy.write}-{policy.wait_for}",
)
async def test_every_write_in_flight_completes_after_a_change_of_policy(
    tmp_path: Path, before: Policy, after: Policy
) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, follower_lease_ms=20))
    await cluster.set_up(before, SYNC, SYNC, SYNC)
    writes = []
    for number in range(30):
        if number == 15:
            cluster.n1.node.membership_changes.set_policy(after)
        writes.append(begin_write(cluster.n1, b"%d" % (number % 7), b"s%d" % number))
        await asyncio.sleep(0)
    assert all(isinstance(ended, int) for ended in await asyncio.gather(*writes))
    await until(lambda: not any(it.machine.suspended for it in cluster.nodes.values()))
    await until(lambda: all(it.node.membership.policy == after for it in cluster.nodes.values()))
    for running in cluster.nodes.values():
        assert await read(running, A.replace(b"a", b"1")) == b"s29"
    await cluster.stop()


@pytest.mark.parametrize("policy", [ALL, SUSPEND, INVALIDATE], ids=lambda policy: str(policy.write))
@pytest.mark.parametrize("removed", [False, True], ids=["set async", "removed"])
async def test_writes_continue_once_a_member_that_is_cut_off_is_no_longer_sync(
    tmp_path: Path, policy: Policy, removed: bool
) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, follower_lease_ms=200))
    await cluster.set_up(policy, SYNC, SYNC, SYNC)
    await read(cluster.n3, A)  # it may now read locally until its lease expires
    cluster.stall(cluster.n3)
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == b"s1" or bool(cluster.n2.machine.suspended))
    assert not writing.done()
    membership_changes, clock = cluster.n1.node.membership_changes, cluster.n1.node._context.clock
    before_ms = clock.elapsed_ms()
    if removed:
        membership_changes.remove_member(N3)
    else:
        membership_changes.set_mode(N3, ASYNC)
    assert isinstance(await writing, int)
    if policy is not ALL:
        assert clock.elapsed_ms() - before_ms >= old_lease_ms(cluster.timing.follower_lease_ms)
    await cluster.stop()


async def test_a_checkpoint_does_not_wait_for_the_acks_of_heartbeats(cluster: ModesCluster) -> None:
    """A heartbeat is always on its way if acks take longer than the time between two."""
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    cluster.acks.hold("n3")
    heartbeats = len(cluster.bodies_of(Heartbeat))
    await until(lambda: len(cluster.bodies_of(Heartbeat)) > heartbeats)
    with patch.object(leader_module, "CHECKPOINT_MS", 0):
        writing = begin_write(cluster.n1, b"a", b"s1")
        await until(lambda: isinstance(cluster.bodies[-1], Write))
    assert isinstance(cluster.bodies[-2], Checkpoint)
    cluster.acks.let("n3")
    assert isinstance(await writing, int)


async def test_a_forced_leader_waits_for_replicas_that_were_removed_before_it_was_restarted(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, lease_ms=1_500, follower_lease_ms=1_500))
    await cluster.set_up(SUSPEND, ASYNC, SYNC, SYNC)
    cluster.stall(cluster.n3)
    assert await read(cluster.n3, A) is None
    cluster.n1.node.membership_changes.set_mode(N3, ASYNC)
    await until(lambda: cluster.n2.node.membership.members[2].mode is ASYNC)
    await cluster.n1.stop()
    await cluster.n2.stop()
    await cluster.start("n2")
    await until(lambda: cluster.n2.node.state is NodeState.SERVING)
    await cluster.n2.node.transfer.promote(N2, force=True)
    assert cluster.n3.node.reads.at_follower.reads_locally
    await cluster.n2.write(b"a", b"s1")
    assert not cluster.n3.node.reads.at_follower.reads_locally
    await cluster.stop()


async def test_leadership_is_transferred_once_all_records_are_confirmed(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    cluster.acks.hold("n3")
    writing = begin_write(cluster.n1, b"a", b"s1")
    await until(lambda: stored(cluster.n2, A) == b"s1")
    promoting = asyncio.create_task(cluster.n1.node.transfer.promote(N2, force=False))
    await until(lambda: cluster.n1.node.status().role is Role.DRAINING)
    assert not promoting.done() and not writing.done()
    cluster.acks.let("n3")
    await promoting
    assert isinstance(await writing, int)
    await until(lambda: cluster.n2.node.lease_left_ms > 0)
    await cluster.n2.write(b"a", b"s2")
    assert stored(cluster.n1, A) == stored(cluster.n3, A) == b"s2"


async def test_the_last_sync_member_can_neither_be_removed_nor_become_async(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, ASYNC, SYNC, ASYNC)
    before = cluster.bodies_of(Membership)
    membership_changes = cluster.n1.node.membership_changes
    with pytest.raises(BadRequest, match="there would be none"):
        membership_changes.remove_member(N2)
    with pytest.raises(BadRequest, match="there would be none"):
        membership_changes.set_mode(N2, ASYNC)
    await cluster.n1.write(b"a", b"s1")
    assert cluster.bodies_of(Membership) == before


async def test_a_change_of_a_mode_includes_one_that_is_overdue(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, SHORT_SYNC, SHORT_ANSWERS)
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    cluster.acks.hold("n2", "n3")
    changes = cluster.n1.node.membership_changes
    changes.set_mode(N3, ASYNC)
    with pytest.raises(Unknown):
        await cluster.n1.write(b"a", b"s1")  # was submitted later, so the change is overdue, too
    assert changes.latest != cluster.n1.node.membership  # which still waits for the ack of n2
    changes.set_mode(N2, ASYNC)
    await until(lambda: cluster.modes == [SYNC, ASYNC, ASYNC])
    assert changes.latest == cluster.n1.node.membership
    await cluster.stop()


async def test_a_snapshotter_applies_records_and_serves_no_clients(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, ASYNC)
    cluster.n1.node.membership_changes.set_mode(N3, Mode.SNAPSHOTTER)
    await until(lambda: cluster.n3.node.membership.members[2].mode is Mode.SNAPSHOTTER)
    await cluster.n1.write(b"a", b"s1")
    await cluster.caught_up()
    assert cluster.n3.machine.view.get(A) == b"s1"
    for level in (None, EVENTUAL, LINEARIZABLE):
        with pytest.raises(BadRequest, match="n3 is a snapshotter, which serves no clients"):
            await read(cluster.n3, A, level)
    with pytest.raises(BadRequest, match="n3 is a snapshotter"):
        cluster.n3.node.token(cluster.n3.machine.state.offset)


async def test_a_read_that_waits_when_the_leader_fails_is_not_answered(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC)
    await cluster.n1.write(b"a", b"s1")
    cluster.acks.hold("n2")
    writing = begin_write(cluster.n1, b"a", b"s2")
    reading = await begin_read(cluster.n1, A)
    truncated = patch.object(cluster.log, "append", AsyncMock(return_value=Offset(0)))
    with truncated, pytest.raises(LogDamage):
        await reading
    assert isinstance(await writing, Unknown)


async def test_a_read_that_waits_when_the_leader_stops_shows_no_older_value(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await cluster.n1.write(b"a", b"s1")
    append, never = cluster.log.append, asyncio.Event()

    async def no_answer(payloads: Sequence[bytes]) -> Offset:
        base = await append(payloads)
        if payloads != [BARRIER]:
            await never.wait()
        return base

    with patch.object(cluster.log, "append", no_answer):
        writing = begin_write(cluster.n1, b"a", b"s2")
        await until(lambda: cluster.n2.get(A) == b"s2")
        assert await read(cluster.n2, A) == b"s2"
        reading = await begin_read(cluster.n1, A)
        cluster.n1.task.cancel()
        with pytest.raises(Loading, match="n1 is stopping"):
            await reading
    assert isinstance(await writing, Unknown)


async def test_a_read_that_waits_when_a_follower_fails_is_not_answered(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await cluster.n1.write(b"a", b"s1")
    await cluster.caught_up()
    answered = asyncio.Event()
    end = Offset(len(cluster.log.entries))

    async def late_end() -> Offset:
        await answered.wait()
        return end

    with patch.object(cluster.log, "end", late_end):
        reading = await begin_read(cluster.n2, A)
        cluster.n2.node._fail(Diverged("a checkpoint differs"))
        answered.set()
        with pytest.raises(Diverged):
            await reading


async def test_a_wait_for_acks_ends_when_leadership_is_lost(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    offset = await cluster.n1.write(b"a", b"s1")
    waiting = asyncio.create_task(cluster.n1.node.wait_acked(offset, 5, 0))
    await asyncio.sleep(0)
    await cluster.n1.node.transfer.promote(N2, force=False)
    with pytest.raises(Unblocked, match="instance state changed"):
        await waiting


async def test_foreign_entries_do_not_hide_an_unresponsive_replica(tmp_path: Path) -> None:
    """Each makes the leader read the log, and begin a new part of its term."""
    timing = Timing(heartbeat_ms=20, lease_ms=20_000, election_ms=30_000, sync_ms=200, follower_lease_ms=10_000)
    cluster = ModesCluster(tmp_path, timing)
    try:
        await cluster.set_up(ALL, SYNC, SYNC)
        await cluster.n2.stop()
        async with asyncio.timeout(20):
            while not cluster.n1.node.status().refusal:
                cluster.log.append_now([BARRIER])
                await asyncio.sleep(0.05)
    finally:
        await cluster.stop()
