"""Rules of the streams between nodes, broken on purpose as in `simulation_mutations`."""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import AbstractContextManager
from math import inf
from unittest.mock import patch

from replicator.node.appending import AppendOutcome
from replicator.node.backlog import RecordSink, ReplicationBacklog, StreamRequest
from replicator.node.committed_batch import CommittedBatch
from replicator.node.leader import Leader
from replicator.node.record_source import RecordSource
from replicator.node.relay import Relay
from replicator.node.replica_progress import ReplicaProgress
from replicator.position import Author, Offset
from replicator.protocol.log_state import LogState
from replicator.records.codec import AckCodec
from replicator.records.types import Membership, Record


def sent_records_are_taken_as_they_come() -> AbstractContextManager[object]:
    """A follower applies what a leader sends, whether it follows what it has read or not."""

    def judge_sent(state: LogState, offset: Offset, record: Record) -> LogState:
        header = record.header
        return state._replace(seq=header.seq, chain=header.chain, offset=offset, leader_offset=offset)

    return patch("replicator.node.replica.judge_sent", judge_sent)


def records_are_sent_before_they_are_committed() -> AbstractContextManager[object]:
    """A leader sends a record whose append may fail."""

    async def append(self: Leader, payloads: Sequence[bytes]) -> AppendOutcome:
        batch = CommittedBatch(Offset(self._state.offset + 1), payloads, [])
        for sink in list(self._backlog._streams):
            sink.send(batch)
        return await genuine(self, payloads)

    genuine = Leader._append
    return patch.object(Leader, "_append", append)


def followers_wait_for_their_leader_for_ever() -> AbstractContextManager[object]:
    """A follower reads the log again only if the connection is lost."""
    return patch("replicator.node.record_source.stream_timeout_ms", lambda timing: inf)


def stores_are_not_compared_after_a_stream() -> AbstractContextManager[object]:
    """A follower reads the log on where the leader has ceased to send."""

    def end_stream(self: RecordSource, why: str) -> None:
        self.close()
        self._reader._go_on()

    return patch.object(RecordSource, "end_stream", end_stream)


def leaders_send_to_followers_with_another_past() -> AbstractContextManager[object]:
    """A follower may have read records that Kafka has lost: its acks are of these."""

    def start_stream(
        self: ReplicationBacklog, request: StreamRequest, sink: RecordSink, membership: Membership
    ) -> list[CommittedBatch]:
        chain = next((end.chain for end in self._ends() if end.seq == request.seq), request.chain)
        return genuine(self, request._replace(chain=chain), sink, membership)

    genuine = ReplicationBacklog.start_stream
    return patch.object(ReplicationBacklog, "start_stream", start_stream)


def acks_of_earlier_terms_count() -> AbstractContextManager[object]:
    """A replica may have acked records that Kafka has lost, and others are at their offsets now."""

    def record(self: ReplicaProgress, payload: bytes, senders: Container[Author] | None = None) -> None:
        ack = self._codec.decode(payload)
        genuine(self, self._codec.encode(ack._replace(epoch=self._epoch)), senders)

    genuine = ReplicaProgress.record
    return patch.object(ReplicaProgress, "record", record)


def followers_ack_for_those_below() -> AbstractContextManager[object]:
    """A follower passes on acks as if all below it had applied what it has applied itself."""

    def pass_on(self: Relay, acks: Sequence[bytes], senders: Container[Author]) -> None:
        offset = self._replica.state.offset
        genuine(self, [codec.encode(codec.decode(ack)._replace(offset=offset)) for ack in acks], senders)

    genuine, codec = Relay.pass_on, AckCodec()
    return patch.object(Relay, "pass_on", pass_on)


def ranges_are_fetched_from_the_end_of_the_log() -> AbstractContextManager[object]:
    """In gossip, a follower that is to fetch a range fetches what is appended from then on."""

    def fetch_range(self: RecordSource) -> None:
        if self.stream is not None:
            self.close()
            self._context.reader.seek(Offset(self._context.replica.state.offset + 3))

    return patch.object(RecordSource, "_fetch_range", fetch_range)
