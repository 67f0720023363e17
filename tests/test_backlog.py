"""The records that a leader keeps for followers, and from where on they may receive them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.errors import BadRequest, Busy, NotLeader
from replicator.limits import MAX_FANOUT, SLICE_ENTRIES
from replicator.node import disk_tail
from replicator.node.backlog import ReplicationBacklog, StreamRequest
from replicator.node.committed_batch import JOINED_BYTES, CommittedBatch, RecordEnd, joined
from replicator.node.disk_tail import DiskTail
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.records.types import Member, Membership, Mode

STATE = LogState(timeline=b"t" * 16, epoch=Epoch(2), seq=Seq(10), chain=b"chain 10", offset=Offset(20))
N1, N2, N3 = (Author(NodeId(name), 7) for name in ("n1", "n2", "n3"))
MEMBERS = Membership(
    tuple(Member(it.node, Mode.ASYNC, Address("h", 1), Address("h", 2), 0, it.incarnation) for it in (N1, N2, N3))
)


class Sink:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.closed = False
        self.unsent_bytes = 0

    def send(self, batch: CommittedBatch) -> None:
        self.records += batch.payloads

    def request_ack(self) -> None:
        self.records.append(b"ack?")

    def send_heartbeat(self) -> None:
        self.records.append(b"heartbeat")

    def close(self) -> None:
        self.closed = True


def batch(base: int, *last_seqs: int) -> CommittedBatch:
    """Records from that offset on. A record may hold several transactions, each with a seq."""
    payloads = [b"record %d" % seq for seq in last_seqs]
    return CommittedBatch(Offset(base), payloads, [RecordEnd(Seq(seq), b"chain %d" % seq) for seq in last_seqs])


def request(seq: int, chain: bytes = b"", epoch: int = 2, timeline: bytes = b"t" * 16) -> StreamRequest:
    return StreamRequest(timeline, Epoch(epoch), Seq(seq), chain or b"chain %d" % seq, N2, 3)


@pytest.fixture
def backlog() -> ReplicationBacklog:
    return ReplicationBacklog(N1)


def start(backlog: ReplicationBacklog, asked: StreamRequest, sink: Sink | None = None) -> list[bytes]:
    """The records that the caller sends first."""
    return [record for it in backlog.start_stream(asked, sink or Sink(), MEMBERS) for record in it.payloads]


def named(*seqs: int) -> list[bytes]:
    return [b"record %d" % seq for seq in seqs]


@pytest.mark.parametrize(
    ("seq", "base", "records"), [(10, 31, [12, 13, 20, 21]), (12, 32, [13, 20, 21]), (13, 33, [20, 21]), (21, 0, [])]
)
def test_a_follower_receives_what_follows_its_position(
    backlog: ReplicationBacklog, seq: int, base: int, records: list[int]
) -> None:
    sink = Sink()
    with backlog.term(STATE, leads=True):
        backlog.add(batch(31, 12, 13))
        backlog.add(batch(33, 20, 21))
        missing = backlog.start_stream(request(seq), sink, MEMBERS)
        assert [it.base for it in missing][:1] == [base][: len(missing)]
        for it in missing:
            sink.send(it)
        backlog.add(batch(35, 22))
    assert sink.records == named(*records, 22)
    assert sink.closed


@pytest.mark.parametrize(
    "asked", [request(10, epoch=1), request(10, epoch=3), request(10, timeline=b"u" * 16)], ids=str
)
def test_only_a_follower_of_this_term_receives_records(backlog: ReplicationBacklog, asked: StreamRequest) -> None:
    with backlog.term(STATE, leads=True), pytest.raises(NotLeader, match="has no records of epoch"):
        start(backlog, asked)
    with pytest.raises(NotLeader):
        start(backlog, request(10))


@pytest.mark.parametrize("author", [N1, N2._replace(incarnation=8), Author(NodeId("n9"), 7)], ids=str)
def test_only_a_process_that_is_registered_receives_records(backlog: ReplicationBacklog, author: Author) -> None:
    with backlog.term(STATE, leads=True), pytest.raises(BadRequest, match="not a follower that is registered"):
        start(backlog, request(10)._replace(author=author))


@pytest.mark.parametrize(
    "asked", [request(9), request(14), request(11), request(10, b"other"), request(12, b"other")], ids=str
)
def test_a_follower_with_another_past_or_too_far_away_is_refused(
    backlog: ReplicationBacklog, asked: StreamRequest
) -> None:
    sink = Sink()
    with backlog.term(STATE, leads=True):
        backlog.add(batch(31, 12, 13))
        with pytest.raises(Busy, match="read the log"):
            start(backlog, asked, sink)
        backlog.add(batch(33, 14))
    assert not sink.records and not sink.closed


def test_the_oldest_batches_are_dropped() -> None:
    backlog = ReplicationBacklog(N1, memory_bytes=2 * batch(31, 11, 12).size_bytes)
    with backlog.term(STATE, leads=True):
        for first in (11, 13, 15):
            backlog.add(batch(first + 20, first, first + 1))
        with pytest.raises(Busy):
            start(backlog, request(11))
        assert start(backlog, request(12)) == named(13, 14, 15, 16)
        large = CommittedBatch(Offset(37), [bytes(5_000)], [RecordEnd(Seq(17), b"chain 17")])
        backlog.add(large)  # it is kept
        assert start(backlog, request(16)) == list(large.payloads)


async def test_a_follower_that_has_left_receives_nothing(backlog: ReplicationBacklog) -> None:
    left, stays = Sink(), Sink()
    with backlog.term(STATE, leads=True):
        start(backlog, request(10), left)
        start(backlog, request(10)._replace(author=N3), stays)
        assert backlog.receivers == {N2: 3, N3: 3}
        backlog.end_stream(left)
        assert (backlog.receivers_over(left), backlog.receivers_over(stays)) == ({}, {N3: 3})
        backlog.add(batch(31, 11))
        for _ in range(3):
            backlog.request_acks()
        await asyncio.sleep(0)
    assert not left.records and not left.closed
    assert stays.records == [b"record 11", b"ack?"]


def test_a_node_has_one_stream(backlog: ReplicationBacklog) -> None:
    former, present = Sink(), Sink()
    with backlog.term(STATE, leads=True):
        start(backlog, request(10), former)
        start(backlog, request(10), present)
        assert (former.closed, present.closed) == (True, False)
        backlog.add(batch(31, 11))
    assert not former.records and present.records == named(11)


def test_the_log_says_why_a_stream_ends(backlog: ReplicationBacklog, caplog: pytest.LogCaptureFixture) -> None:
    former, lost, present = Sink(), Sink(), Sink()
    with caplog.at_level(logging.INFO, "replicator.node.backlog"), backlog.term(STATE, leads=True):
        start(backlog, request(10), former)
        start(backlog, request(10), lost)
        backlog.end_stream(former)  # its connection ends after the stream
        backlog.end_stream(lost)
        start(backlog, request(10), present)
    assert [it for it in caplog.messages if not it.startswith("sending records")] == [
        f"closing the stream of records to {N2}: the node has opened another one",
        f"sending no more records to {N2}: the connection was closed",
        f"closing the stream of records to {N2}: this node sends no records now",
    ]


def test_a_new_term_knows_nothing_of_the_one_before(backlog: ReplicationBacklog) -> None:
    with backlog.term(STATE, leads=True):
        backlog.add(batch(31, 11))
    with backlog.term(STATE._replace(epoch=Epoch(3), seq=Seq(12), chain=b"chain 12"), leads=True):
        assert not start(backlog, request(12, epoch=3))
        with pytest.raises(Busy):
            start(backlog, request(11, epoch=3))


def test_a_follower_sends_to_a_process_that_is_not_registered_yet(backlog: ReplicationBacklog) -> None:
    registered, other, sink = Sink(), Sink(), Sink()
    asked = request(10)
    with backlog.term(STATE, leads=False):
        start(backlog, asked, registered)
        unregistered = asked._replace(author=N2._replace(incarnation=8))
        for it in (other, sink):
            assert start(backlog, unregistered, it) == []
        assert (registered.closed, other.closed, sink.closed) == (False, True, False)
        start(backlog, asked)
        assert registered.closed and sink.closed


def test_the_processes_that_are_not_registered_are_few(backlog: ReplicationBacklog) -> None:
    unregistered = [request(10)._replace(author=Author(NodeId(f"u{number}"), 1)) for number in range(MAX_FANOUT + 1)]
    sink = Sink()
    with backlog.term(STATE, leads=False):
        for asked in unregistered[:-1]:
            backlog.start_stream(asked, Sink(), MEMBERS)
        with pytest.raises(Busy, match=f"{MAX_FANOUT} processes that are not registered"):
            backlog.start_stream(unregistered[-1], Sink(), MEMBERS)
        start(backlog, request(10), sink)
        downstream = {Author(NodeId(f"d{number}"), 1): 3 for number in range(1_000)} | {N3: 3}
        backlog.set_downstream(sink, downstream, MEMBERS)
        assert len(backlog.receivers_over(sink)) == MAX_FANOUT + 2 and N3 in backlog.receivers
        backlog.set_downstream(sink, {N1: 3}, MEMBERS)
        assert sink.closed and len(backlog.receivers) == MAX_FANOUT


def test_small_batches_are_sent_together() -> None:
    batches = [batch(31, 1, 2), batch(33, 3), batch(40, 4), batch(41, 5)]
    assert [(it.base, it.payloads, it.ends[-1].seq) for it in joined(batches)] == [
        (31, named(1, 2, 3), 3),
        (40, named(4, 5), 5),
    ]
    large = [CommittedBatch(Offset(at), [bytes(JOINED_BYTES)], [RecordEnd(Seq(at), b"")]) for at in range(3)]
    assert list(joined(large)) == large
    full = [batch(31, 1), batch(32, *range(2, 2 + SLICE_ENTRIES))]  # together they would be refused as one message
    assert list(joined(full)) == full


def feed(backlog: ReplicationBacklog) -> None:
    """As long as anyone takes something."""
    while backlog.feed():
        pass


def test_a_follower_far_behind_is_fed_from_disk(tmp_path: Path) -> None:
    memory_bytes = 2 * batch(31, 11, 12).size_bytes
    backlog, sink = ReplicationBacklog(N1, DiskTail(tmp_path, 1 << 20), memory_bytes), Sink()
    with backlog.term(STATE, leads=False):
        for first in range(11, 31, 2):
            backlog.add(batch(first + 20, first, first + 1))
        with pytest.raises(Busy):
            start(backlog, request(11, b"other"))
        assert start(backlog, request(11), sink) == []
        backlog.add(batch(51, 31, 32))
        assert not sink.records
        feed(backlog)
        assert sink.records == named(*range(12, 33))
        backlog.add(batch(53, 33))
        assert sink.records == named(*range(12, 34))
        backlog.restart(STATE.timeline, Epoch(3), RecordEnd(Seq(34), b"chain 34"))
        assert sink.closed
        with pytest.raises(NotLeader):
            start(backlog, request(11))


def test_a_follower_that_does_not_read_is_fed_no_more(tmp_path: Path) -> None:
    backlog, sink, other = ReplicationBacklog(N1, DiskTail(tmp_path, 1 << 20), 1), Sink(), Sink()
    with backlog.term(STATE, leads=False):
        for seq in range(11, 21):
            backlog.add(batch(seq + 20, seq))
        sink.unsent_bytes = 1 << 30
        start(backlog, request(10), sink)
        asked = request(10)._replace(author=N3)
        assert backlog.start_stream(asked, other, MEMBERS) == []
        feed(backlog)
        assert other.records == named(*range(11, 21)) and not sink.records


def test_without_a_disk_the_rest_of_the_backlog_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_tail, "CHUNK_BYTES", 1)
    backlog = ReplicationBacklog(N1, DiskTail(tmp_path / "missing", 1 << 20), 1)
    with backlog.term(STATE, leads=False):
        for seq in range(11, 14):
            backlog.add(batch(seq + 20, seq))
        assert start(backlog, request(12)) == named(13)
        with pytest.raises(Busy):
            start(backlog, request(11))
    assert caplog.text.count("kept in memory only") == 1
