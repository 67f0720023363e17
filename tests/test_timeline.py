"""The end of a timeline, and the beginning of the next (`protocol.timeline`)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError, LogDamage, LogEnded, LogTrimmed, ReplicatorError, Stale, StoreError, Unknown
from replicator.log.memory import MemoryLog
from replicator.node.health import NodeState
from replicator.node.log_start import continues_another
from replicator.position import BEFORE_LOG, Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.acceptance import judge
from replicator.protocol.levels import Level, LevelKind
from replicator.protocol.log_state import LogState, Void
from replicator.protocol.timeline import (
    check_not_ended,
    content_of,
    continued_as,
    continues_a_restore,
    last_claim,
)
from replicator.records.codec import AckCodec, RecordCodec
from replicator.records.types import Ack, Checkpoint, Claim, Header, Heartbeat, Membership, Reason, Record
from replicator.recovery.accepted_log import bounds_of, read_accepted
from replicator.recovery.new_timeline import (
    NewTimeline,
    apply_first_records,
    begin_log,
    end_log,
    first_records,
)
from replicator.store import snapshot
from replicator.store.machine import open_machine, read_meta
from replicator.store.rebase import rebase, without_processes
from tests.copies import restore_copy
from tests.healing_node import HealingCluster
from tests.memory_cluster import MemoryCluster, until

NEW = NewTimeline("ab" * 16, 7, 1_700_000_000_000_000)
CODEC = RecordCodec()
LEADER = Author(NodeId("n1"), 1)


def decoded(payloads: list[bytes]) -> list[Record]:
    return [CODEC.decode(payload, b"") for payload in payloads]


contents = st.tuples(st.integers(1, 4), st.integers(1, 6), st.binary(min_size=1, max_size=1)).map(
    lambda it: LogState(epoch=Epoch(it[0]), seq=Seq(it[1]), chain=it[2] * 8)
)


class TestBeginning:
    @given(contents, contents)
    def test_only_a_store_with_the_content_accepts_the_first_record(self, content: LogState, other: LogState) -> None:
        first, *_ = decoded(first_records(NEW, content, 5, 1, Membership()).payloads)
        assert judge(content, Offset(0), first)[1] is None
        try:
            state, void = judge(other, Offset(0), first)
        except LogDamage:
            assert other.epoch < content.epoch
        else:
            assert (void is None) == (other == content)
            assert void is None or state.timeline == b""

    @given(contents)
    def test_an_empty_store_refuses_it(self, content: LogState) -> None:
        first, *_ = decoded(first_records(NEW, content, 5, 1, Membership()).payloads)
        with pytest.raises(LogTrimmed, match="was restored from a snapshot, and this store is empty"):
            judge(LogState(), Offset(0), first)

    @given(contents, contents)
    def test_a_store_with_another_content_accepts_nothing_after_it_either(
        self, content: LogState, other: LogState
    ) -> None:
        records = decoded(first_records(NEW, content, 5, 1, Membership()).payloads)
        state, accepted = other, 0
        try:
            for offset, record in enumerate(records):
                state, void = judge(state, Offset(offset), record)
                accepted += void is None
        except LogDamage:
            pass
        assert accepted == (len(records) if other == content else 0)

    @given(contents)
    def test_the_state_after_it(self, content: LogState) -> None:
        state = first_records(NEW, content, 5, 1, Membership()).state
        assert (state.timeline.hex(), state.epoch, state.seq) == (NEW.timeline, content.epoch + 1, content.seq + 3)
        assert (state.offset, state.leader_offset, state.leader) == (2, 2, NEW.author)

    def test_the_content_is_named_by_all_records_that_made_it(self) -> None:
        assert content_of(RUNNING) == LogState(epoch=RUNNING.epoch, seq=RUNNING.seq, chain=RUNNING.chain)

    def test_a_repetition_writes_the_same_records(self) -> None:
        content = LogState(epoch=Epoch(2), seq=Seq(3), chain=b"12345678")
        assert first_records(NEW, content, 5, 1, Membership()) == first_records(NEW, content, 5, 1, Membership())

    def test_a_claim_of_the_first_epoch_is_not_of_a_restored_cluster(self) -> None:
        claim = Claim(LEADER, Epoch(1), BEFORE_LOG, Reason.FIRST)
        assert not continues_a_restore(LogState(), claim)
        assert continues_a_restore(LogState(), replace(claim, epoch=Epoch(2)))
        assert not continues_a_restore(LogState(b"x" * 16, Epoch(1)), replace(claim, epoch=Epoch(3)))


RUNNING = LogState(b"t" * 16, Epoch(3), LEADER, Seq(9), b"chain123", Offset(20), Offset(20))


def record(body: Claim | Heartbeat, author: Author, state: LogState) -> Record:
    epoch = body.epoch if isinstance(body, Claim) else state.epoch
    seq = state.seq if isinstance(body, Claim) else Seq(state.seq + 1)
    header = Header(3, state.timeline, epoch, author, seq, 0, state.chain)
    return Record(header, body, CODEC.encode_body(body))


def ended() -> LogState:
    claim = last_claim(RUNNING, "shop-2")
    state, void = judge(RUNNING, Offset(21), record(claim, Author(NodeId("any"), 5), RUNNING))
    assert void is None
    return state


class TestEnd:
    def test_the_state_names_the_cluster_that_continues(self) -> None:
        assert continued_as(RUNNING) is None and continued_as(LogState()) is None
        assert continued_as(ended()) == "shop-2"
        check_not_ended(RUNNING)
        with pytest.raises(
            LogEnded, match=r"restored to an earlier point, as cluster shop-2, and its log ended at offset 21"
        ):
            check_not_ended(ended())

    @given(st.sampled_from(Reason), st.integers(1, 9), st.sampled_from(["n1", "n2"]), st.integers(-1, 30))
    def test_no_claim_is_accepted_after_it(self, reason: Reason, epoch: int, node: str, observed: int) -> None:
        state, author = ended(), Author(NodeId(node), 1)
        claim = Claim(author, Epoch(epoch), Offset(observed), reason)
        after, void = judge(state, Offset(22), record(claim, author, state))
        assert void in (Void.ENDED, Void.OTHER_EPOCH)
        assert after == state._replace(offset=Offset(22))

    def test_no_data_are_accepted_after_it(self) -> None:
        state = ended()
        for before in (RUNNING, state):
            _, void = judge(state, Offset(22), record(Heartbeat(), LEADER, before))
            assert void in (Void.NOT_THE_LEADER, Void.OTHER_EPOCH)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path / "nodes")
    try:
        yield cluster
    finally:
        await cluster.stop()


async def state_of(cluster: MemoryCluster, name: str) -> LogState:
    return cluster.nodes[name].machine.state


async def test_every_node_stops_when_the_log_has_ended(cluster: MemoryCluster) -> None:
    for name in ("n1", "n2"):
        await cluster.start(name)
    leader = await cluster.leader()
    await leader.write(b"k", b"s1")
    assert await end_log(cluster.log, LogState(), "test-2", NEW) == "test-2"
    with pytest.raises(ReplicatorError):
        await leader.write(b"k", b"s2")
    await until(lambda: all(it.node.state is NodeState.FAILED for it in cluster.nodes.values()))
    for running in cluster.nodes.values():
        with pytest.raises(LogEnded, match="test-2"):
            running.node.store()
    end = await cluster.log.end()
    assert await end_log(cluster.log, LogState(), "test-3", NEW) == "test-2"  # it has ended once
    await cluster.nodes["n2"].stop()
    again = await cluster.start("n2")
    await until(lambda: again.node.state is NodeState.FAILED)
    assert "was restored to an earlier point, as cluster test-2" in again.node.status().trouble
    assert await cluster.log.end() == end  # nobody claims


async def test_nothing_is_confirmed_after_the_end(cluster: MemoryCluster) -> None:
    for name in ("n1", "n2"):
        await cluster.start(name)
    leader, confirmed, refused = await cluster.leader(), list[Offset](), list[ReplicatorError]()

    async def write(number: int) -> None:
        try:
            confirmed.append(await leader.write(b"k%d" % number, b"s1"))
        except ReplicatorError as error:
            refused.append(error)

    async def keep_writing() -> None:
        for number in range(0, 2000, 10):
            await asyncio.gather(*(write(number + more) for more in range(10)))

    writing = asyncio.create_task(keep_writing())
    await until(lambda: len(confirmed) > 100)
    await end_log(cluster.log, LogState(), "test-2", NEW)
    await writing
    state = [it async for it in read_accepted(cluster.log, LogState(), await bounds_of(cluster.log))][-1].state
    assert continued_as(state) == "test-2"
    assert max(confirmed) < state.leader_offset
    assert len(confirmed) + len(refused) == 2000 and refused
    assert not any(isinstance(error, Unknown) for error in refused)


async def restored(cluster: MemoryCluster, folder: Path, log: MemoryLog, new: NewTimeline = NEW) -> Path:
    """A store with the content of the leader, at the beginning of the new log."""
    leader = await cluster.leader()
    leader.machine.reserve_for_copy()
    taken = await asyncio.to_thread(snapshot.take, leader.machine.copy_to, folder / "snapshots")
    store = folder / "restored"
    restore_copy(folder / "snapshots" / taken.name, store)
    rebase(store, "test", log.identity, content_of, without_processes)
    payloads = apply_first_records(store, "test", log.identity, new)
    await begin_log(log, "test.wal", payloads)
    await begin_log(log, "test.wal", payloads)  # repeated, it does nothing
    assert await log.end() == len(payloads)
    return store


async def test_a_restored_cluster_serves_its_content_on_another_timeline(
    cluster: MemoryCluster, tmp_path: Path
) -> None:
    await cluster.start("n1")
    await cluster.register(await cluster.start("n2", priority=1))
    leader = await cluster.leader()
    await leader.write(b"k", b"s1")
    old_token, old_state = leader.node.token(BEFORE_LOG), leader.machine.state
    digest = leader.machine.meta.digest
    log = MemoryLog()
    store = await restored(cluster, tmp_path, log)
    await leader.write(b"k", b"slater")

    second = MemoryCluster(tmp_path / "second", log=log)
    try:
        for name in ("n1", "n2"):
            shutil.copytree(store, tmp_path / "second" / name)
            running = await second.start(name)
            assert running.machine.meta.digest == digest
        new_leader = await second.leader()
        assert new_leader.get(b"kv\0k\0\1") == b"s1"
        assert new_leader.machine.state.timeline.hex() == NEW.timeline
        assert new_leader.machine.state.epoch > old_state.epoch
        await new_leader.write(b"k", b"sanother")
        await second.caught_up()
        assert len({it.machine.meta.digest for it in second.nodes.values()}) == 1

        for running in second.nodes.values():
            with pytest.raises(Stale, match=f"the token is of timeline {old_token.timeline}"):
                running.node.reads.view(Level(LevelKind.SESSION, token=old_token))

        claimed = Author(NodeId("n2"), second.nodes["n2"].member.incarnation)
        ack = Ack(old_state.timeline, claimed, Offset(10**6), Seq(10**6), new_leader.machine.state.epoch, 0)
        second.acks.publish(AckCodec().encode(ack))
        await new_leader.write(b"k", b"sone more")
        assert all(it.offset < 10**6 for it in new_leader.node.replicas)

        empty = await second.start("n3")
        await until(lambda: empty.node.state is NodeState.FAILED)
        assert "start from a snapshot of this cluster" in empty.node.status().trouble
    finally:
        await second.stop()


async def test_members_are_kept_and_their_processes_are_not(cluster: MemoryCluster, tmp_path: Path) -> None:
    await cluster.start("n1")
    await cluster.register(await cluster.start("n2", priority=1))
    before = (await cluster.leader()).machine.meta.membership
    meta = read_meta(await restored(cluster, tmp_path, MemoryLog()))
    assert meta is not None and [it.node for it in meta.membership.members] == ["n1", "n2"]
    assert meta.membership == replace(before, members=tuple(replace(it, incarnation=0) for it in before.members))
    assert all(it.incarnation for it in before.members)


async def test_a_store_of_the_former_log_is_refused(cluster: MemoryCluster, tmp_path: Path) -> None:
    await cluster.start("n1")
    await (await cluster.leader()).write(b"k", b"s1")
    log = MemoryLog()
    await restored(cluster, tmp_path, log)
    await cluster.stop()
    with pytest.raises(LogDamage, match="follows the topic with id"):
        open_machine(tmp_path / "nodes" / "n1", "test", log.identity)
    with pytest.raises(StoreError, match=r"belongs to cluster test, not test-2.* start from a snapshot of test-2"):
        open_machine(tmp_path / "nodes" / "n1", "test-2", log.identity)


async def test_a_store_of_another_restore_is_refused(cluster: MemoryCluster, tmp_path: Path) -> None:
    """It has the id of the topic, but other first records."""
    await cluster.start("n1")
    leader = await cluster.leader()
    await leader.write(b"k", b"s1")
    log = MemoryLog(identity="same")
    store = await restored(cluster, tmp_path / "1", log)
    await leader.write(b"k", b"s2")
    other = await restored(cluster, tmp_path / "2", MemoryLog(identity="same"))
    assert read_meta(store) != read_meta(other)
    second = MemoryCluster(tmp_path / "second", log=log)
    shutil.copytree(other, tmp_path / "second" / "n1")
    try:
        running = await second.start("n1")
        await until(lambda: running.node.state is NodeState.FAILED)
        assert "the log holds another record at offset" in running.node.status().trouble
        assert await log.end() == 3
    finally:
        await second.stop()


async def test_snapshots_of_equal_content_on_two_timelines_have_different_names(
    cluster: MemoryCluster, tmp_path: Path
) -> None:
    await cluster.start("n1")
    await (await cluster.leader()).write(b"k", b"s1")
    taken = []
    for number in (1, 2):
        new, log = replace(NEW, incarnation=number), MemoryLog()
        store = await restored(cluster, tmp_path / str(number), log, new)
        machine = open_machine(store, "test", log.identity)
        taken.append(snapshot.take(machine.copy_to, tmp_path / "copies"))
        machine.close()
    first, second = taken
    assert (first.offset, first.digest) == (second.offset, second.digest)
    assert first.name != second.name


async def test_an_empty_node_of_a_restored_cluster_starts_from_a_snapshot(
    cluster: MemoryCluster, tmp_path: Path
) -> None:
    await cluster.start("n1")
    await (await cluster.leader()).write(b"k", b"s1")
    log, second = MemoryLog(), HealingCluster(tmp_path / "second")
    store = await restored(cluster, tmp_path, log)
    second.log = log
    try:
        shutil.copytree(store, tmp_path / "second" / "n1")
        await second.start("n1")
        node = second.start_healing("n2", priority=1)
        await until(lambda: any("there is no snapshot in" in report for report in node.reports))
        await node.kill()
        machine = open_machine(store, "test", log.identity)
        taken = snapshot.take(machine.copy_to, tmp_path / "second" / "snapshots")
        machine.close()
        node = second.start_healing("n2", priority=1)
        await node.healed()
        assert node.history.last is not None and node.history.last.source == taken.name
        assert node.node.get(b"kv\0k\0\1") == b"s1"
    finally:
        await second.stop()


async def test_a_log_with_other_records_is_not_begun(cluster: MemoryCluster, tmp_path: Path) -> None:
    await cluster.start("n1")
    await cluster.leader()
    with pytest.raises(ConfigError, match=r"topic test\.wal has records of another cluster: choose another --name"):
        await begin_log(cluster.log, "test.wal", [b"1", b"2", b"3"])


async def test_whether_a_log_continues_another(cluster: MemoryCluster, tmp_path: Path) -> None:
    assert not await continues_another(cluster.log)
    await cluster.start("n1")
    await (await cluster.leader()).write(b"k", b"s1")
    assert not await continues_another(cluster.log)
    log = MemoryLog()
    await restored(cluster, tmp_path, log)
    assert await continues_another(log)
    foreign = MemoryLog()
    foreign.append_now([b"of another program"])
    assert not await continues_another(foreign)


def test_the_checkpoint_is_that_of_the_content() -> None:
    content = LogState(epoch=Epoch(2), seq=Seq(3), chain=b"12345678")
    assert first_records(NEW, content, 5, 1, Membership()).bodies[1] == Checkpoint(5, 1)
