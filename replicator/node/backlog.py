"""The last accepted records of this term, and the followers that this node sends them to.

The leader adds a record once it is committed, a follower once it has applied it (`relay`): so it is in the log. A
misplaced append or an unknown outcome of the leader, and a claim that a follower has read, end all streams. A receiver
judges each record as if it had read it in the log; if it misses one, or its stream times out, it reads the log
(`record_source`). The log may have void entries between two batches.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
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
    """The sender's end of a stream to one follower."""

    def send(self, batch: CommittedBatch) -> None: ...

    def request_ack(self) -> None:
        """Request an ack of what was sent before."""
        ...

    def send_heartbeat(self) -> None:
        """Report that the leader is alive, and request an ack."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Stream:
    request: StreamRequest
    below: Mapping[Author, int]  # the processes that the follower sends records to, directly or not, and their versions


class ReplicationBacklog:
    def __init__(self, own: Author) -> None:
        self._own = own
        self._batches: deque[CommittedBatch] = deque()
        self._bytes = 0  # of all batches
        self._term: tuple[bytes, Epoch] | None = None  # timeline and epoch; None: this node sends no records now
        self._start = RecordEnd(Seq(0), GENESIS)  # before the first batch
        self._streams: dict[RecordSink, _Stream] = {}  # in the order in which they began; one for each node
        self.receivers_changed = asyncio.Event()  # set when `receivers` may have; who waits for it clears it
        self._requesting = False  # acks, before the event loop goes on

    @contextmanager
    def term(self, state: LogState) -> Iterator[None]:
        """Held while this node sends records, from `state` on. At its end, all streams are closed."""
        self.restart(state.timeline, state.epoch, RecordEnd(state.seq, state.chain))
        try:
            yield
        finally:
            self.stop()

    def restart(self, timeline: bytes, epoch: Epoch, start: RecordEnd) -> None:
        """Another term has begun. All streams are closed."""
        self.stop("another term has begun")
        self._term, self._start = (timeline, epoch), start

    def stop(self, why: str = "this node sends no records now") -> None:
        """All streams are closed, and none begins until `term` or `restart`."""
        self._term = None
        self._batches.clear()
        self._bytes = 0
        for sink in list(self._streams):
            self._close(sink, why)

    def add(self, batch: CommittedBatch) -> None:
        """Send a batch that follows the one before."""
        self._batches.append(batch)
        self._bytes += batch.size_bytes
        while self._bytes > REPLICATION_BACKLOG_BYTES and len(self._batches) > 1:
            first = self._batches.popleft()
            self._bytes -= first.size_bytes
            self._start = first.ends[-1]
        for sink in list(self._streams):
            sink.send(batch)

    def start_stream(self, request: StreamRequest, sink: RecordSink, membership: Membership) -> list[CommittedBatch]:
        """Begin to send records to `sink`. Returns those that the caller sends first.

        Raises `NotLeader`; `BadRequest` if the process is not registered; `Busy` if the backlog does not reach back to
        that seq, or its chain differs.
        """
        timeline, epoch, seq, after, author, _ = request
        if (timeline, epoch) != self._term:
            raise NotLeader(f"this node has no records of epoch {epoch} of timeline {timeline.hex()}")
        if author == self._own or not membership.includes(author):
            raise BadRequest(f"{author} is not a follower that is registered")
        if RecordEnd(seq, after) not in self._ends():
            raise Busy(f"the records after seq {seq} are not in the backlog: read the log")
        for former in [it for it, known in self._streams.items() if known.request.author.node == author.node]:
            self._close(former, "the node has opened another one")
        self._streams[sink] = _Stream(request, {})
        self.receivers_changed.set()
        logger.info("sending records to %s, from seq %d on", author, seq + 1)
        return self._after(seq)

    def end_stream(self, sink: RecordSink) -> None:
        """The connection was lost."""
        stream = self._streams.pop(sink, None)
        if stream is not None:
            self.receivers_changed.set()
            logger.info("sending no more records to %s: the connection was closed", stream.request.author)

    def _close(self, sink: RecordSink, why: str) -> None:
        logger.info("closing the stream of records to %s: %s", self._streams.pop(sink).request.author, why)
        self.receivers_changed.set()
        sink.close()

    def set_below(self, sink: RecordSink, below: Mapping[Author, int]) -> None:
        """The processes that receive records by way of that follower, with the newest version that each reads.

        If this process is one of them, it receives what it sends: the stream is closed.
        """
        stream = self._streams.get(sink)
        if stream is None:
            return
        if self._own in below:
            self._close(sink, "this node receives records by way of it")
            return
        stream.below = below
        self.receivers_changed.set()

    def receivers_over(self, sink: RecordSink) -> dict[Author, int]:
        """The processes that receive records over that stream, with the newest version that each reads.

        Empty if the stream has ended.
        """
        stream = self._streams.get(sink)
        return {} if stream is None else {**stream.below, stream.request.author: stream.request.version}

    @property
    def receivers(self) -> dict[Author, int]:
        """The processes that receive records from here, as of `receivers_over`."""
        return dict(chain.from_iterable(self.receivers_over(sink).items() for sink in self._streams))

    def request_acks(self) -> None:
        """Request one ack of each follower, however often this is called before the event loop goes on."""
        if self._streams and not self._requesting:
            self._requesting = True
            asyncio.get_running_loop().call_soon(self._send_requests)

    def send_heartbeats(self) -> None:
        """To each follower. Each requests an ack."""
        for sink in list(self._streams):
            sink.send_heartbeat()

    def _send_requests(self) -> None:
        self._requesting = False
        for sink in list(self._streams):
            sink.request_ack()

    def _ends(self) -> Iterator[RecordEnd]:
        """The positions from which on followers may receive records."""
        return chain([self._start], *(batch.ends for batch in self._batches))

    def _after(self, seq: Seq) -> list[CommittedBatch]:
        """All records after that one."""
        batches = [it for it in self._batches if it.ends[-1].seq > seq]
        if batches and (known := sum(end.seq <= seq for end in batches[0].ends)):
            base, payloads, ends = batches[0].base, batches[0].payloads, batches[0].ends
            batches[0] = CommittedBatch(Offset(base + known), payloads[known:], ends[known:])
        return batches
