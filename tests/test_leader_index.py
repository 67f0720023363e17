"""The read index of followers: from the leader or, if it cannot be asked, from a barrier, never from the log's end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from replicator.errors import BrokerUnavailable, LogDamage, NotLeader, ReplicatorError, Stale
from replicator.log.memory import MemoryLog
from replicator.log.port import AppendOutcomeUnknown, AppendRefused, Entry
from replicator.node.election import Election
from replicator.node.health import NodeState
from replicator.node.node_link import CommittedOffset
from replicator.position import Author, Epoch, NodeId, Offset
from replicator.protocol.levels import Level, LevelKind
from replicator.protocol.timing import Timeouts
from replicator.records.codec import BARRIER
from replicator.records.types import Member, Mode, Timing
from replicator.steps import finish
from tests.memory_cluster import FaultyLog, MemoryCluster, MemoryLink, RunningNode, until
from tests.modes_cluster import ASYNC, STEADY, SUSPEND, SYNC, A, ModesCluster, begin_read, begin_write, read, stored

QUICK_STALE = Timeouts(read_ms=200)
BOUNDED = Level(LevelKind.BOUNDED, max_age_ms=1)


def barriers(log: MemoryLog) -> int:
    return sum(entry.payload == BARRIER for entry in log.entries)


def link_of(running: RunningNode) -> MemoryLink:
    link = running.node.reads.at_follower.index._source._link
    assert isinstance(link, MemoryLink)
    return link


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    """n1 is the leader. `a` is s0 at all nodes."""
    cluster = ModesCluster(tmp_path, timeouts=QUICK_STALE)
    await cluster.set_up(SUSPEND, ASYNC, SYNC, ASYNC)
    await cluster.n1.write(b"a", b"s0")
    await cluster.caught_up()
    yield cluster
    await cluster.stop()


async def test_a_deposed_broker_that_reports_its_old_end_makes_no_stale_read(cluster: ModesCluster) -> None:
    """n2 and n3 talk to a broker that was deposed and does not know it: they read nothing new, without an error."""
    end = await cluster.log.end()
    for follower in (cluster.n2, cluster.n3):
        cluster.stall(follower)
        assert await read(follower, A) == b"s0"
    with patch.object(cluster.log, "end", return_value=end):
        begin_write(cluster.n1, b"a", b"s1")
        await until(lambda: cluster.log.entries[-1].offset > end)
        for level in (Level(LevelKind.LINEARIZABLE), BOUNDED):
            with pytest.raises(Stale, match="cannot be answered here within 200 ms"):
                await read(cluster.n3, A, level)


async def test_a_deposed_broker_renews_no_lease_of_a_local_reader(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, follower_lease_ms=100), QUICK_STALE)
    await cluster.set_up(SUSPEND, ASYNC, SYNC)
    await cluster.n1.write(b"a", b"s0")
    await cluster.caught_up()
    assert await read(cluster.n2, A) == b"s0"
    cluster.stall(cluster.n2)
    with patch.object(cluster.log, "end", return_value=Offset(cluster.n2.machine.state.offset + 1)):
        await until(lambda: not cluster.n2.node.reads.at_follower.reads_locally)
        with pytest.raises(Stale):
            await read(cluster.n2, A)
    await cluster.stop()


async def test_reads_at_a_follower_send_the_log_no_request(cluster: ModesCluster) -> None:
    with patch.object(cluster.log, "end", side_effect=AssertionError("it was asked")):
        for _ in range(20):
            assert await read(cluster.n3, A) == await read(cluster.n3, A, BOUNDED) == b"s0"
    assert not barriers(cluster.log)


async def test_the_index_covers_an_append_in_flight_which_a_replica_may_show(tmp_path: Path) -> None:
    log = GatedLog()
    cluster = MemoryCluster(tmp_path, STEADY, log)
    leader = await cluster.start("n1")
    await cluster.leader()
    follower = await cluster.start("n2", priority=1)
    await leader.write(b"a", b"s0")
    await cluster.caught_up()
    await until(lambda: follower.node.state is NodeState.SERVING)
    log.answers.clear()
    writing = begin_write(leader, b"a", b"s1")
    await until(lambda: stored(follower, A) == b"s1")
    state = leader.machine.state
    asking = asyncio.create_task(leader.node.committed_offset(state.timeline, state.epoch))
    reading = await begin_read(follower, A)
    await asyncio.sleep(0)
    assert not (asking.done() or reading.done() or writing.done())
    log.answers.set()
    written = await writing
    assert isinstance(written, int) and (await asking).offset >= written
    assert await reading == b"s1"
    await cluster.stop()


class GatedLog(MemoryLog):
    """Answers to appends, which take effect at once, wait for `answers`."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()
        self.answers.set()

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        base = self.append_now(payloads)
        await self.answers.wait()
        return base


async def test_only_the_leader_of_that_timeline_and_epoch_or_a_later_one_answers(cluster: ModesCluster) -> None:
    state, ask = cluster.n1.machine.state, cluster.n1.node.committed_offset
    for epoch in (state.epoch, Epoch(state.epoch - 1)):
        answer = await ask(state.timeline, epoch)
        assert answer.offset >= state.offset and 0 < answer.lease_left_ms <= STEADY.lease_ms
    for timeline, epoch in ((state.timeline, Epoch(state.epoch + 1)), (bytes(16), state.epoch)):
        with pytest.raises(NotLeader, match="n1 does not lead epoch"):
            await ask(timeline, epoch)
    with pytest.raises(NotLeader, match="n2 does not lead epoch"):
        await cluster.n2.node.committed_offset(state.timeline, state.epoch)


async def test_a_leader_without_its_lease_does_not_answer(cluster: ModesCluster) -> None:
    state, roles = cluster.n1.machine.state, cluster.n1.node._context.roles
    with (
        patch.object(type(roles), "lease_left_ms", return_value=0.0),
        pytest.raises(Stale, match="n1 has not held its lease for 200 ms"),
    ):
        await cluster.n1.node.committed_offset(state.timeline, state.epoch)


async def test_reads_share_a_barrier_while_the_leader_cannot_be_asked(cluster: ModesCluster) -> None:
    link_of(cluster.n3).cut = True
    before = barriers(cluster.log)
    assert await asyncio.gather(*(read(cluster.n3, A) for _ in range(100))) == [b"s0"] * 100
    assert barriers(cluster.log) == before + 1
    offset = next(entry.offset for entry in cluster.log.entries if entry.payload == BARRIER)
    await until(lambda: cluster.n1.node.leads and cluster.n1.machine.state.leader_offset > offset)
    await cluster.n1.write(b"b", b"s1")  # the leader goes on after an append that was misplaced
    link_of(cluster.n3).cut = False
    assert await read(cluster.n3, A) == b"s0"
    assert barriers(cluster.log) == before + 1


async def test_reads_at_a_follower_go_on_when_the_leader_has_died(cluster: ModesCluster) -> None:
    await cluster.n1.write(b"a", b"s1")
    await cluster.n1.stop()
    assert await read(cluster.n3, A) == await read(cluster.n2, A) == b"s1"
    await cluster.take_over(cluster.n2)
    await until(lambda: cluster.n3.machine.state.epoch == cluster.n2.machine.state.epoch)
    for _ in range(20):  # on a busy machine, the new leader may answer too late for some
        before = barriers(cluster.log)
        assert await read(cluster.n3, A) == b"s1"
        if barriers(cluster.log) == before:
            return
    pytest.fail("each read needs a barrier, as if there were no leader")


@pytest.mark.parametrize("error", [AppendRefused("no"), AppendOutcomeUnknown("no answer")], ids=lambda it: str(it))
async def test_without_the_leader_and_without_a_barrier_a_read_is_stale(
    cluster: ModesCluster, error: ReplicatorError
) -> None:
    link_of(cluster.n3).cut = True
    with (
        patch.object(cluster.log, "append", side_effect=error),
        pytest.raises(Stale, match=f"The leader: the connection is refused. The log: {error}"),
    ):
        await read(cluster.n3, A)


@pytest.mark.parametrize("later", [0, 1])
@pytest.mark.parametrize("behind", [0, 1])
async def test_the_leader_of_another_log_is_not_trusted(cluster: ModesCluster, later: int, behind: int) -> None:
    """The node has read more than that leader has committed, and has not read its claim: that was lost by Kafka."""
    state = cluster.n3.machine.state
    answer = CommittedOffset(Offset(state.offset - behind), 100, Epoch(state.epoch + later), Author(NodeId("n1"), 1))
    with patch.object(link_of(cluster.n3), "committed_offset", return_value=answer):
        for level in (Level(LevelKind.LINEARIZABLE), BOUNDED):
            with pytest.raises(LogDamage, match="Kafka has lost the end of the log"):
                await read(cluster.n3, A, level)
    assert await read(cluster.n3, A) == b"s0"


async def test_a_leader_that_does_not_answer_is_asked_for_a_part_of_the_time_of_a_read(cluster: ModesCluster) -> None:
    async def committed_offset(*_: object) -> Offset:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    with patch.object(link_of(cluster.n3), "committed_offset", committed_offset):
        assert await read(cluster.n3, A) == b"s0"
    assert barriers(cluster.log) == 1


async def test_a_read_ends_although_the_leader_and_the_log_never_answer(cluster: ModesCluster) -> None:
    async def never(*_: object) -> CommittedOffset:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    with patch.object(link_of(cluster.n3), "committed_offset", never), patch.object(cluster.log, "append", never):
        for level in (Level(LevelKind.LINEARIZABLE), BOUNDED):
            with pytest.raises(Stale, match="cannot be answered here within 200 ms"):
                await read(cluster.n3, A, level)
    assert await read(cluster.n3, A) == b"s0"


async def test_a_read_ends_after_an_unexpected_error(cluster: ModesCluster, caplog: pytest.LogCaptureFixture) -> None:
    with (
        patch.object(link_of(cluster.n3), "committed_offset", side_effect=RuntimeError("a bug")),
        pytest.raises(Stale),
    ):
        await read(cluster.n3, A)
    assert await read(cluster.n3, A) == b"s0"
    gc.collect()
    assert "a bug" in caplog.text  # it is reported


async def test_questions_are_answered_while_appends_follow_one_another(tmp_path: Path) -> None:
    """The commit point is known for an instant only: not by chance when a question looks at it."""
    log = GatedLog()
    cluster = MemoryCluster(tmp_path, STEADY, log)
    leader = await cluster.start("n1")
    await cluster.leader()
    await leader.write(b"a", b"s0")
    state = leader.machine.state
    log.answers.clear()
    writing = begin_write(leader, b"a", b"s1")
    await until(lambda: len(log.entries) > state.offset + 1)
    asking = asyncio.create_task(leader.node.committed_offset(state.timeline, state.epoch))
    begin_write(leader, b"a", b"s2")  # sent as soon as the first is committed
    await asyncio.sleep(0.02)  # the question has been polled for a while
    log.answers.set()
    log.answers = asyncio.Event()
    written, answer = await writing, await asking
    assert isinstance(written, int) and answer.offset == written
    log.answers.set()
    await cluster.stop()


async def test_a_lease_that_rests_on_the_leaders_answer_does_not_outlive_the_leaders_lease(
    tmp_path: Path,
) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, follower_lease_ms=200))
    await cluster.set_up(SUSPEND, ASYNC, SYNC)
    ask = link_of(cluster.n2).committed_offset

    async def committed_offset(leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        return (await ask(leader, timeline, epoch))._replace(lease_left_ms=0.0)

    reads = cluster.n2.node.reads.at_follower
    await until(lambda: reads.reads_locally)
    with patch.object(link_of(cluster.n2), "committed_offset", committed_offset):
        await until(lambda: not reads.reads_locally)
        assert await read(cluster.n2, A) is None
        assert not reads.reads_locally
    await until(lambda: reads.reads_locally)
    await cluster.stop()


async def test_no_local_read_is_stale_after_a_forced_claim(tmp_path: Path) -> None:
    """n1, the old leader, and n2, which reads locally, reach each other, but Kafka refuses their connections."""
    cluster = ModesCluster(tmp_path, Timing(heartbeat_ms=50, lease_ms=300, election_ms=400, follower_lease_ms=290))
    logs = {name: CutLog(cluster.log) for name in ("n1", "n2")}
    await cluster.set_up(SUSPEND, SYNC, SYNC, SYNC, logs=logs)
    await cluster.n1.write(b"a", b"s0")
    await cluster.caught_up()
    await until(lambda: cluster.n2.node.reads.at_follower.reads_locally)
    for log in logs.values():
        log.cut = True
    cluster.stall(cluster.n2)
    await cluster.n3.node.transfer.promote(NodeId("n3"), force=True)
    await until(lambda: cluster.n3.node.leads)
    for name in ("n1", "n2"):
        cluster.n3.node.membership_changes.set_mode(NodeId(name), Mode.ASYNC)
    writing = begin_write(cluster.n3, b"a", b"s1")
    local_reads = 0
    while not writing.done():
        await asyncio.sleep(0.005)
        local_reads += cluster.n2.node.reads.at_follower.reads_locally
    assert isinstance(writing.result(), int) and local_reads
    assert not cluster.n2.node.reads.at_follower.reads_locally
    with pytest.raises(Stale):
        await read(cluster.n2, A)
    await cluster.stop()


class CutLog:
    """The log of a node whose connections are refused while it is `cut`."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        if self.cut:
            raise AppendRefused("the connection is refused")
        return await self._log.append(payloads)

    async def end(self) -> Offset:
        if self.cut:
            raise BrokerUnavailable("the connection is refused")
        return await self._log.end()


async def test_a_leader_that_resolves_an_append_waits_for_its_own_answer(tmp_path: Path) -> None:
    log = FaultyLog()
    cluster = MemoryCluster(tmp_path, STEADY, log)
    leader = await cluster.start("n1")
    await cluster.leader()
    log.fault, log.fault_at = "lose answer", b"s1"
    writing = begin_write(leader, b"a", b"s1")
    while leader.node.leads:  # noqa: ASYNC110 (it resolves the append within a few steps of the loop)
        await asyncio.sleep(0)
    assert await read(leader, A) == b"s1"
    assert isinstance(await writing, int)
    assert not barriers(log)
    await cluster.stop()


async def test_foreign_entries_before_each_append_do_not_end_the_lease(tmp_path: Path) -> None:
    """A misplaced append that counts renews the lease as any other."""
    log = IntrudedLog()
    cluster = MemoryCluster(tmp_path, Timing(heartbeat_ms=20, lease_ms=200, election_ms=30_000), log)
    leader = await cluster.start("n1")
    await cluster.leader()
    log.intruding = True
    start = log.intrusions
    await until(lambda: log.intrusions >= start + 30)  # that takes longer than a lease
    await until(lambda: leader.node.lease_left_ms > 0)
    await cluster.stop()


class IntrudedLog(MemoryLog):
    intruding = False
    intrusions = 0

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        if self.intruding:
            self.intrusions += 1
            self.append_now([BARRIER])
        return self.append_now(payloads)


async def test_every_reader_skips_a_barrier(cluster: ModesCluster) -> None:
    replica = cluster.n3.node._context.replica
    before = replica.state
    offset = Offset(before.offset + 1)
    cluster.stall(cluster.n3)
    assert finish(replica.read([Entry(offset, BARRIER)])).accepted == []
    assert replica.state == before._replace(offset=offset)


async def test_a_barrier_that_is_still_unread_does_not_restart_the_election_timer(cluster: ModesCluster) -> None:
    await cluster.n1.stop()
    await cluster.caught_up()
    context = cluster.n2.node._context
    election = Election(context)
    election._since_ms = expired_ms = context.clock.elapsed_ms() - 2 * STEADY.election_ms
    cluster.stall(cluster.n2)
    await cluster.log.append([BARRIER])
    entries = len(cluster.log.entries)
    await election.step()
    assert election._since_ms == expired_ms and len(cluster.log.entries) == entries
    cluster.wake(cluster.n2)
    await cluster.caught_up()
    await election.step()
    await until(lambda: cluster.n2.node.leads)
