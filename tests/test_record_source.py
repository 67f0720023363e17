"""Followers that receive records from the leader, and go back to the log when anything is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from replicator.log.port import Entry
from replicator.node.ack_sender import AckSender
from replicator.node.node_link import ReceivedRecords, StreamSignal
from replicator.node.record_source import SourceName
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.acceptance import judge_sent
from replicator.protocol.log_state import LogState
from replicator.protocol.timing import check, stream_timeout_ms
from replicator.records.chain import link
from replicator.records.codec import AckCodec, RecordCodec
from replicator.records.types import (
    VERSION,
    Ack,
    Claim,
    Header,
    Heartbeat,
    Policy,
    Reason,
    Record,
    Single,
    Timing,
    Write,
)
from tests.memory_cluster import MemoryStream, RunningNode, until
from tests.modes_cluster import ALL, ASYNC, STEADY, SYNC, A, ModesCluster, begin_write, read

QUICK = Timing(heartbeat_ms=20, lease_ms=20_000, election_ms=25_000, sync_ms=20_000, follower_lease_ms=10_000)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path)
    cluster.stream_limit = 99
    yield cluster
    await cluster.stop()


async def stream_of(running: RunningNode) -> MemoryStream:
    """Once records come over it."""
    await until(lambda: bool(running.link.opened))
    stream = running.link.opened[-1]
    await until(lambda: stream.taken > 0)
    return stream


async def test_records_come_from_the_leader_although_the_log_cannot_be_read(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await stream_of(cluster.n2)
    cluster.stall(cluster.n2)
    offset = await cluster.n1.write(b"a", b"1")
    await until(lambda: cluster.n2.machine.state.offset >= offset)
    assert cluster.n2.machine.state.chain == cluster.n1.machine.state.chain


async def test_a_lost_message_sends_the_follower_to_the_log(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    stream = await stream_of(cluster.n2)
    stream.sink.stalled = True
    await cluster.n1.write(b"a", b"1")
    stream.sink.stalled = False
    await cluster.n1.write(b"b", b"2")
    await cluster.caught_up()
    assert cluster.n2.machine.state == cluster.n1.machine.state
    await until(lambda: len(cluster.n2.link.opened) > 1)  # and it comes back


async def test_a_follower_reads_the_log_once_the_leader_sends_nothing(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    stream = await stream_of(cluster.n2)
    context = cluster.n2.node._context
    context.roles.timing = context.roles.timing._replace(
        current=Timing(heartbeat_ms=20, lease_ms=50, election_ms=60, follower_lease_ms=50, sync_ms=50)
    )
    stream.sink.stalled = True
    stream.deliver(ReceivedRecords((), StreamSignal.GETACK))  # which is not a record
    await cluster.n1.write(b"a", b"1")
    await cluster.caught_up()
    assert cluster.n2.machine.state.chain == cluster.n1.machine.state.chain


async def test_a_record_that_does_not_follow_is_not_applied(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    stream = await stream_of(cluster.n2)
    state = cluster.n1.machine.state
    header = Header(VERSION, state.timeline, state.epoch, cluster.n1.node._context.author, Seq(1_000), 0, bytes(8))
    future = RecordCodec().encode(header, RecordCodec().encode_body(Heartbeat()))
    for payload in (b"not a record", b"", future):
        stream = await stream_of(cluster.n2)
        opened = len(cluster.n2.link.opened)
        offset = Offset(cluster.n2.machine.state.offset + 1)
        stream.deliver(ReceivedRecords([Entry(offset, payload)], None))
        await until(lambda opened=opened: len(cluster.n2.link.opened) > opened)  # type: ignore[misc]
    await cluster.n1.write(b"a", b"1")
    await cluster.caught_up()
    assert cluster.n2.machine.state.chain == cluster.n1.machine.state.chain
    assert cluster.n2.node.status().void_records == 0


async def test_a_foreign_entry_ends_the_stream_until_the_follower_has_read_it(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await stream_of(cluster.n2)
    cluster.log.append_now([b"foreign"])
    await cluster.n1.write(b"a", b"1")  # the leader reads the log to find it
    await cluster.n1.write(b"b", b"2")
    await cluster.caught_up()
    await until(lambda: len(cluster.n2.link.opened) > 1)
    assert cluster.n2.machine.state.chain == cluster.n1.machine.state.chain


async def test_the_status_says_where_the_records_come_from(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    stream = await stream_of(cluster.n2)
    assert cluster.n2.node.status().source is SourceName.LEADER
    assert cluster.n1.node.status().source is None
    cluster.n2.link.stream_limit = 0
    stream.close()
    await until(lambda: cluster.n2.node.status().source is SourceName.KAFKA)


async def test_the_stream_ends_with_the_term_of_the_leader(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    stream = await stream_of(cluster.n2)
    await cluster.n1.node.transfer.promote(NodeId("n2"), force=False)
    await until(lambda: cluster.n2.node.leads)
    assert stream.sink.closed
    await stream_of(cluster.n1)
    offset = await cluster.n2.write(b"a", b"1")
    await until(lambda: cluster.n1.machine.state.offset >= offset)


async def test_a_sync_write_is_acked_over_the_stream(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC)
    await stream_of(cluster.n2)
    cluster.acks.hold("n2")
    for row in (b"a", b"b", b"c"):
        await cluster.n1.write(row, b"1")
    assert cluster.n1.node.last_acks[NodeId("n2")].ack.offset >= cluster.n1.machine.state.offset - 1


async def test_the_ack_topic_makes_up_for_acks_that_the_stream_loses(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC)
    stream = await stream_of(cluster.n2)
    stream.loses_acks = True
    await cluster.n1.write(b"a", b"1")
    assert stream.acks


async def test_a_lost_stream_sends_acks_to_the_topic_at_once(
    cluster: ModesCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.node.ack_sender.STREAMING_ACK_MS", 3_600_000)
    await cluster.set_up(ALL, SYNC, SYNC)
    stream = await stream_of(cluster.n2)
    await cluster.n1.write(b"a", b"1")
    cluster.n2.link.stream_limit = 0
    stream.close()
    await cluster.n1.write(b"b", b"1")


async def test_wait_asks_an_async_follower_for_its_ack(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    stream = await stream_of(cluster.n2)
    cluster.acks.hold("n2")
    before = len(stream.acks)
    offset = await cluster.n1.write(b"a", b"1")
    assert await cluster.n1.node.wait_acked(offset, 1, 10_000) == 1
    assert len(stream.acks) == before + 1


async def test_acks_that_overtake_each_other_do_not_go_back(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    stream = await stream_of(cluster.n2)
    cluster.acks.hold("n2")
    first = await cluster.n1.write(b"a", b"1")
    assert await cluster.n1.node.wait_acked(first, 1, 10_000) == 1
    second = await cluster.n1.write(b"b", b"1")
    assert await cluster.n1.node.wait_acked(second, 1, 10_000) == 1
    cluster.n1.node.record_acks(stream.sink, [stream.acks[-2]])
    assert cluster.n1.node.last_acks[NodeId("n2")].ack.offset >= second


async def test_a_process_that_is_not_registered_acks_nothing_over_a_stream(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC)
    stream = await stream_of(cluster.n2)
    node = cluster.n2.node
    assert node._source is not None and node._source.stream is stream
    author, acks = Author(NodeId("n2"), 1), cluster.acks.open()
    stranger = AckSender(author, node._context.replica, acks, cluster.clock, node._source, node._ack_outage)
    sent = len(stream.acks)
    stranger.after_read(ack_requested=True)
    assert len(stream.acks) == sent


async def test_a_stream_carries_the_acks_of_its_follower_only(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC, ASYNC)
    stream = await stream_of(cluster.n2)
    state, author = cluster.n1.machine.state, cluster.n3.node._context.author
    forged = Ack(state.timeline, author, Offset(10**9), state.seq, state.epoch, 0)
    cluster.n1.node.record_acks(stream.sink, [AckCodec().encode(forged)])
    await cluster.acked(cluster.n3)
    assert cluster.n1.node.last_acks[NodeId("n3")].ack.offset < 10**9


async def test_acks_of_an_earlier_term_do_not_count(cluster: ModesCluster) -> None:
    """Kafka may have lost what they are of."""
    await cluster.set_up(ALL, SYNC, SYNC, SYNC)
    cluster.acks.hold("n2")
    stream = await stream_of(cluster.n2)
    stream.loses_acks = True
    writing = begin_write(cluster.n1, b"a", b"1")
    await until(lambda: cluster.n2.machine.state.offset >= len(cluster.log.entries) - 1)
    await cluster.n1.stop()
    cluster.stall(cluster.n2)
    cluster.n2.link.cut = True
    await cluster.take_over(cluster.n3)
    state, n1 = cluster.n3.machine.state, cluster.n1.node._context.author

    def heard(timestamp_us: int) -> bool:
        """Whether n3 has received an ack of n1 with that time, of which there is one more now."""
        ack = Ack(state.timeline, n1, state.offset, state.seq, state.epoch, timestamp_us)
        cluster.acks.publish(AckCodec().encode(ack))
        last = cluster.n3.node.last_acks.get(n1.node)
        return last is not None and last.ack.timestamp_us == timestamp_us

    await until(lambda: heard(1))  # a new leader does not receive acks at once
    cluster.acks.let("n2")
    await until(lambda: heard(2))  # which came after those of n2
    assert NodeId("n2") not in cluster.n3.node.last_acks
    writing.cancel()


SLOW = Timing(heartbeat_ms=4_000, lease_ms=20_000, election_ms=30_000, sync_ms=20_000, follower_lease_ms=10_000)


async def test_a_read_that_waits_for_an_offset_does_not_wait_for_a_silent_leader(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path, SLOW)
    cluster.stream_limit = 99
    try:
        await cluster.set_up(Policy(), ASYNC, ASYNC)
        await cluster.n1.write(b"a", b"1")
        stream = await stream_of(cluster.n2)
        stream.sink.stalled = True
        offset = await cluster.n1.write(b"a", b"2")
        cluster.n2.link.cut = True  # it appends a barrier
        await read(cluster.n2, A)  # within `read_ms`
        assert cluster.n2.machine.state.offset > offset
    finally:
        await cluster.stop()


async def test_a_token_beyond_the_log_ends_no_stream(cluster: ModesCluster) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await stream_of(cluster.n2)
    replica = cluster.n2.node._context.replica
    waiting = asyncio.create_task(replica.changed(since=Offset(10**9)))
    await asyncio.sleep(0)
    assert replica.awaited is None
    waiting.cancel()


async def test_a_new_stream_acks_what_was_read_from_kafka_before(cluster: ModesCluster) -> None:
    cluster.stream_limit = 0
    await cluster.set_up(ALL, SYNC, SYNC)
    cluster.acks.hold("n2")
    writing = begin_write(cluster.n1, b"a", b"1")
    await until(lambda: cluster.n2.machine.state.offset >= len(cluster.log.entries) - 1)
    cluster.n2.link.stream_limit = 1
    assert isinstance(await writing, int)


async def test_records_are_applied_in_slices(cluster: ModesCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    await stream_of(cluster.n2)
    monkeypatch.setattr("replicator.node.replica.SLICE_CHANGES", 3)
    monkeypatch.setattr("replicator.node.grouping.RECORD_CHANGES", 2)
    most = 0
    for running in (cluster.n2, await cluster.start("n3", priority=2)):  # by the stream, and from Kafka
        replica = running.node._context.replica
        genuine = replica.apply

        def apply(
            bodies: Sequence[Single],
            state: LogState,
            written_us: int,
            commands: Sequence[int] = (),
            genuine: Any = genuine,
        ) -> None:
            nonlocal most
            most = max(most, sum(isinstance(body, Write) for body in bodies))
            genuine(bodies, state, written_us, commands)

        replica.apply = apply  # type: ignore[method-assign]
        await asyncio.gather(*(begin_write(cluster.n1, b"k%d" % number, b"v") for number in range(40)))
        await cluster.caught_up()
    assert most == 4
    assert len({it.machine.meta.digest for it in cluster.nodes.values()}) == 1


def test_a_follower_waits_longer_than_a_heartbeat_and_less_than_an_election_timeout() -> None:
    for timing in (Timing(), STEADY, QUICK, Timing(heartbeat_ms=300, lease_ms=600, election_ms=660)):
        check(timing)
        assert timing.heartbeat_ms < stream_timeout_ms(timing) <= timing.election_ms / 2 + timing.heartbeat_ms / 2


LEADER = Author(NodeId("n1"), 1)
HEARTBEAT = Heartbeat()
STATE = LogState(b"t" * 16, Epoch(1), LEADER, Seq(5), b"c" * 8, Offset(7), Offset(6))


def record(body: Heartbeat | Claim = HEARTBEAT, **changes: object) -> Record:
    encoded = b"body"
    header = Header(VERSION, STATE.timeline, STATE.epoch, LEADER, Seq(6), 0, link(STATE.chain, encoded))
    return Record(header._replace(**changes), body, encoded)  # type: ignore[arg-type]


def test_the_next_record_of_the_leader_is_taken_at_any_later_offset() -> None:
    for offset in (Offset(8), Offset(20)):
        after = judge_sent(STATE, offset, record())
        assert after == STATE._replace(
            seq=Seq(6), chain=link(STATE.chain, b"body"), offset=offset, leader_offset=offset
        )


@pytest.mark.parametrize(
    "sent",
    [
        record(seq=Seq(7)),
        record(seq=Seq(5)),
        record(chain=b"another "),
        record(epoch=Epoch(2)),
        record(timeline=b"u" * 16),
        record(author=Author(NodeId("n1"), 2)),
        record(Claim(LEADER, Epoch(2), Offset(7), Reason.HANDOVER)),
    ],
    ids=["a gap", "a repetition", "another chain", "another epoch", "another timeline", "another author", "a claim"],
)
def test_any_other_record_is_left_to_the_log(sent: Record) -> None:
    assert judge_sent(STATE, Offset(8), sent) is None


def test_a_record_at_an_offset_that_was_read_is_left_to_the_log() -> None:
    assert judge_sent(STATE, Offset(7), record()) is None


async def test_many_writes_at_once_reach_all_followers(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC, ASYNC)
    for running in (cluster.n2, cluster.n3):
        await stream_of(running)
        cluster.stall(running)
    writes = [begin_write(cluster.n1, b"k%d" % number, b"v") for number in range(500)]
    await asyncio.gather(*writes)
    await cluster.caught_up()
    digests = {it.machine.meta.digest for it in cluster.nodes.values()}
    assert len(digests) == 1
