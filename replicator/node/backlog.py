"""The last records that this leader has committed, and the followers that it sends them to.

A record is sent only once it is committed, so it is in the log. Offsets are contiguous: a misplaced append or an
unknown outcome ends the backlog and all streams. Only between a follower's position and the first record may the log
have void entries. A follower that misses a record, or whose stream times out, reads the log (`record_source`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Protocol

from replicator.errors import BadRequest, Busy, NotLeader
from replicator.limits import REPLICATION_BACKLOG_BYTES
from replicator.position import Author, Epoch, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.records.chain import GENESIS
from replicator.records.types import VERSION, Membership

logger = logging.getLogger(__name__)

RECORD_OVERHEAD_BYTES = 500
"""What a record takes in memory besides its payload."""


class StreamRequest(NamedTuple):
    """Of a process that has read the log up to `seq`. The chain covers all accepted records up to there."""

    timeline: bytes
    epoch: Epoch
    seq: Seq
    chain: bytes
    author: Author
    version: int  # the newest version of records that it reads

    @staticmethod
    def of(state: LogState, author: Author) -> StreamRequest:
        """From this program."""
        return StreamRequest(state.timeline, state.epoch, state.seq, state.chain, author, VERSION)


class RecordEnd(NamedTuple):
    """The state of the log after a record."""

    seq: Seq
    chain: bytes


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: it is encoded once for all followers
class CommittedBatch:
    """What was appended at once: records with consecutive offsets."""

    base: Offset  # of the first record
    payloads: Sequence[bytes]
    ends: Sequence[RecordEnd]  # of each record

    @property
    def size_bytes(self) -> int:
        """Of the payloads, and of what else is kept in memory for each."""
        return sum(map(len, self.payloads)) + RECORD_OVERHEAD_BYTES * len(self.payloads)


class RecordSink(Protocol):
    """The leader's end of a stream to one follower."""

    def send(self, batch: CommittedBatch) -> None: ...

    def request_ack(self) -> None:
        """Request an ack of what was sent before."""
        ...

    def send_heartbeat(self) -> None:
        """Show that the leader is alive, and request an ack."""
        ...

    def close(self) -> None: ...


class ReplicationBacklog:
    def __init__(self, own: Author) -> None:
        self._own = own
        self._batches: deque[CommittedBatch] = deque()
        self._bytes = 0  # of all batches
        self._term: tuple[bytes, Epoch] | None = None  # timeline and epoch; None: this node does not append now
        self._start = RecordEnd(Seq(0), GENESIS)  # before the first batch
        self._streams: dict[RecordSink, StreamRequest] = {}  # in the order in which they began; one for each node
        self._requesting = False  # acks, before the event loop goes on

    @contextmanager
    def term(self, state: LogState) -> Iterator[None]:
        """Held while this node appends, from `state` on. At its end, all streams are closed."""
        self._term, self._start = (state.timeline, state.epoch), RecordEnd(state.seq, state.chain)
        try:
            yield
        finally:
            self._term = None
            self._batches.clear()
            self._bytes = 0
            for sink in list(self._streams):
                self._close(sink, "this node does not append now")

    def add(self, batch: CommittedBatch) -> None:
        """Send a committed batch. Its offsets follow those of the batch before."""
        self._batches.append(batch)
        self._bytes += batch.size_bytes
        while self._bytes > REPLICATION_BACKLOG_BYTES and len(self._batches) > 1:
            first = self._batches.popleft()
            self._bytes -= first.size_bytes
            self._start = first.ends[-1]
        for sink in list(self._streams):
            sink.send(batch)

    def start_stream(self, request: StreamRequest, sink: RecordSink, membership: Membership) -> CommittedBatch | None:
        """Begin to send records to `sink`. Returns those that the caller sends first.

        Raises `NotLeader`; `BadRequest` if the process is not registered; `Busy` if the backlog does not reach back to
        that seq, or its chain differs.
        """
        timeline, epoch, seq, after, author, _ = request
        if (timeline, epoch) != self._term:
            raise NotLeader(f"this node does not lead epoch {epoch} of timeline {timeline.hex()}")
        if author == self._own or not membership.includes(author):
            raise BadRequest(f"{author} is not a follower that is registered")
        if RecordEnd(seq, after) not in self._ends():
            raise Busy(f"the records after seq {seq} are not in the backlog: read the log")
        for former in [it for it, known in self._streams.items() if known.author.node == author.node]:
            self._close(former, "the node has opened another one")
        self._streams[sink] = request
        logger.info("sending records to %s, from seq %d on", author, seq + 1)
        return self._after(seq)

    def end_stream(self, sink: RecordSink) -> None:
        """The connection was lost."""
        request = self._streams.pop(sink, None)
        if request is not None:
            logger.info("sending no more records to %s: the connection was closed", request.author)

    def _close(self, sink: RecordSink, why: str) -> None:
        logger.info("closing the stream of records to %s: %s", self._streams.pop(sink).author, why)
        sink.close()

    def follower(self, sink: RecordSink) -> Author | None:
        """The process at the other end; None if the stream has ended."""
        request = self._streams.get(sink)
        return None if request is None else request.author

    def followers(self) -> frozenset[Author]:
        """The processes that receive records now."""
        return frozenset(request.author for request in self._streams.values())

    def request_acks(self) -> None:
        """Request one ack of each follower, however often this is called before the event loop goes on."""
        if self._streams and not self._requesting:
            self._requesting = True
            asyncio.get_running_loop().call_soon(self._send_requests)

    def send_heartbeats(self) -> None:
        """To each follower. Each requests an ack."""
        for sink in list(self._streams):
            sink.send_heartbeat()

    def versions(self) -> dict[Author, int]:
        """The newest version of records that each follower reads."""
        return {request.author: request.version for request in self._streams.values()}

    def _send_requests(self) -> None:
        self._requesting = False
        for sink in list(self._streams):
            sink.request_ack()

    def _ends(self) -> Iterator[RecordEnd]:
        """The positions from which on followers may receive records."""
        return chain([self._start], *(batch.ends for batch in self._batches))

    def _after(self, seq: Seq) -> CommittedBatch | None:
        """All records after that one, as one batch."""
        payloads = [payload for batch in self._batches for payload in batch.payloads]
        ends = [end for batch in self._batches for end in batch.ends]
        skipped = sum(end.seq <= seq for end in ends)
        if skipped == len(ends):
            return None
        return CommittedBatch(Offset(self._batches[0].base + skipped), payloads[skipped:], ends[skipped:])
