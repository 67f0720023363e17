"""What a leader knows of its replicas from their acks."""

from __future__ import annotations

from math import inf

import pytest

from replicator.address import Address
from replicator.log.memory import MemoryAckTopic
from replicator.node.clock import SystemClock
from replicator.node.replica_progress import ReplicaProgress, ReplicaReport
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.records.codec import AckCodec
from replicator.records.types import Ack, Member, Membership, Mode

TIMELINE, EPOCH = b"t" * 16, Epoch(3)
N1, N2, N3 = (Author(NodeId(f"n{number}"), number) for number in (1, 2, 3))
TIMEOUT_MS = 1000


class ManualClock(SystemClock):
    now_ms = 0.0

    def elapsed_ms(self) -> float:
        return self.now_ms


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def ack(author: Author, offset: int) -> bytes:
    return AckCodec().encode(Ack(TIMELINE, author, Offset(offset), Seq(offset), EPOCH, 0))


def at(offset: int, epoch: Epoch = EPOCH) -> LogState:
    return LogState(TIMELINE, epoch, N1, offset=Offset(offset))


def leader_of(*replicas: Author, clock: ManualClock) -> ReplicaProgress:
    progress = ReplicaProgress(N1, MemoryAckTopic().open(), clock, lambda: None)
    members = tuple(
        Member(it.node, Mode.ASYNC, Address("h", 1), Address("h", 2), 0, it.incarnation) for it in (N1, *replicas)
    )
    progress.term(LogState(TIMELINE, EPOCH, N1), Membership(members=members)).__enter__()
    return progress


async def test_a_replica_without_acks_is_unresponsive_if_records_were_sent(clock: ManualClock) -> None:
    progress = leader_of(N2, N3, clock=clock)
    progress.record(ack(N2, 7))
    progress.record(ack(N3, 8))
    clock.now_ms = 1500
    progress.record(ack(N2, 9))
    clock.now_ms = 1700
    second, third = progress.reports(at(9), committed_ms=1600, timeout_ms=TIMEOUT_MS)
    assert second == ReplicaReport(N2.node, Offset(9), 200, is_responsive=True)
    assert third == ReplicaReport(N3.node, Offset(8), 1700, is_responsive=False)


@pytest.mark.parametrize("committed_ms", [900, -inf])
async def test_no_replica_is_unresponsive_because_the_log_takes_no_records(
    clock: ManualClock, committed_ms: float
) -> None:
    progress = leader_of(N2, clock=clock)
    progress.record(ack(N2, 7))
    clock.now_ms = 60_000
    (report,) = progress.reports(at(7), committed_ms, TIMEOUT_MS)
    assert report == ReplicaReport(N2.node, Offset(7), 60_000, is_responsive=True)


async def test_a_replica_that_has_not_acked_yet_has_as_long_as_any(clock: ManualClock) -> None:
    clock.now_ms = 5000
    progress = leader_of(N2, clock=clock)
    for now_ms, responsive in ((5900, True), (6100, False)):
        clock.now_ms = now_ms
        (report,) = progress.reports(at(7), now_ms, TIMEOUT_MS)
        assert report == ReplicaReport(N2.node, Offset(-1), now_ms - 5000, is_responsive=responsive)


async def test_a_replica_that_has_applied_a_record_before_its_leader_is_not_shown_beyond_it(clock: ManualClock) -> None:
    progress = leader_of(N2, clock=clock)
    progress.record(ack(N2, 9))
    (report,) = progress.reports(at(8), 0, TIMEOUT_MS)
    assert report.offset == 8


async def test_what_a_former_term_has_left_is_not_reported(clock: ManualClock) -> None:
    progress = leader_of(N2, clock=clock)
    progress.record(ack(N2, 9))
    assert not progress.reports(at(9, epoch=Epoch(4)), 0, TIMEOUT_MS)
