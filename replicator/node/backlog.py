"""The last accepted records of this term, and the followers that this node sends them to.

The leader adds a record once it is committed, a follower once it has applied it (`relay`): so it is in the log. A
misplaced append or an unknown outcome of the leader, and a claim that a follower has read, end all streams. A receiver
judges each record as if it had read it in the log; if it misses one, or its stream times out, it reads the log
(`record_source`). The log may have void entries between two batches.

The latest batches are in memory, and what was dropped from there is on disk (`disk_tail`). A follower whose position is
on disk is sent what it lacks as fast as it reads it, and each record as it comes from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Protocol

from replicator.errors import BadRequest, Busy, NotLeader
from replicator.limits import FEED_BYTES, MAX_FANOUT, REPLICATION_BACKLOG_BYTES
from replicator.node.committed_batch import CommittedBatch, RecordEnd, joined
from replicator.node.disk_tail import DiskTail
from replicator.position import Author, Epoch, Seq
from replicator.protocol.log_state import LogState
from replicator.records.chain import GENESIS
from replicator.records.types import VERSION, Membership

logger = logging.getLogger(__name__)


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


class RecordSink(Protocol):
    """The sender's end of a stream to one follower."""

    def send(self, batch: CommittedBatch) -> None: ...

    def request_ack(self) -> None:
        """Request an ack of what was sent before."""
        ...

    def send_heartbeat(self) -> None:
        """Report that the leader is alive, and request an ack."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """What waits for the follower to read."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Stream:
    request: StreamRequest
    downstream: Mapping[Author, int]  # the processes that receive records through the follower, and their versions
    fed_to: RecordEnd | None  # what it was sent last, while it lacks records that are on disk; None: it lacks none


class ReplicationBacklog:
    def __init__(
        self, own: Author, tail: DiskTail | None = None, memory_bytes: int = REPLICATION_BACKLOG_BYTES
    ) -> None:
        """`tail`: for what is dropped from memory."""
        self._own = own
        self._tail = tail
        self._memory_bytes = memory_bytes
        self._leads = False  # in this term; a leader sends to registered processes only, and keeps nothing on disk
        self.has_behind = asyncio.Event()  # set while a follower lacks records that are on disk
        self._batches: deque[CommittedBatch] = deque()
        self._bytes = 0  # of all batches
        self._term: tuple[bytes, Epoch] | None = None  # timeline and epoch; None: this node sends no records now
        self._start = RecordEnd(Seq(0), GENESIS)  # before the first batch
        self._streams: dict[RecordSink, _Stream] = {}  # in the order in which they began; one for each node
        self._receivers: dict[Author, int] | None = {}  # None: not known
        self.receivers_changed = asyncio.Event()  # set when `receivers` may have; who waits for it clears it
        self._requesting = False  # acks, before the event loop goes on

    @contextmanager
    def term(self, state: LogState, *, leads: bool) -> Iterator[None]:
        """Held while this node sends records, from `state` on. At its end, all streams are closed.

        `leads`: whether it is their leader. A leader keeps nothing on disk: followers have more time for it.
        """
        self._leads = leads
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
        if self._tail is not None:
            self._tail.clear()
        for sink in list(self._streams):
            self._close(sink, why)

    def add(self, batch: CommittedBatch) -> None:
        """Send a batch that follows the one before. Nothing happens outside a term."""
        if self._term is None:
            return
        self._batches.append(batch)
        self._bytes += batch.size_bytes
        while self._bytes > self._memory_bytes and len(self._batches) > 1:
            first = self._batches.popleft()
            self._bytes -= first.size_bytes
            self._keep_on_disk(first)
            self._start = first.ends[-1]
        for sink, stream in list(self._streams.items()):
            if stream.fed_to is None:
                sink.send(batch)

    def _keep_on_disk(self, batch: CommittedBatch) -> None:
        if self._tail is None or self._leads:
            return
        try:
            self._tail.append(batch, self._start)
        except OSError as error:
            self._cease_to_use_disk(error)

    def _on_disk_after(self, position: RecordEnd) -> list[CommittedBatch] | None:
        """As `DiskTail.after`; None also if the disk cannot be read."""
        try:
            return None if self._tail is None else self._tail.after(position)
        except OSError as error:
            self._cease_to_use_disk(error)
            return None

    def _cease_to_use_disk(self, error: OSError) -> None:
        assert self._tail is not None
        logger.warning("records for followers that are behind are kept in memory only: %s", error)
        self._tail.clear()
        self._tail = None

    def start_stream(self, request: StreamRequest, sink: RecordSink, membership: Membership) -> list[CommittedBatch]:
        """Begin to send records to `sink`. Returns those that the caller sends first; `feed` sends those on disk.

        A process that is not registered does not end the stream of the one that is. Raises `NotLeader`; `BadRequest` if
        this node leads and the process is not registered; `Busy` if the backlog does not reach back to that seq, or its
        chain differs.
        """
        timeline, epoch, seq, after, author, _ = request
        if (timeline, epoch) != self._term:
            raise NotLeader(f"this node has no records of epoch {epoch} of timeline {timeline.hex()}")
        is_registered = membership.includes(author)
        if author == self._own or (self._leads and not is_registered):
            raise BadRequest(f"{author} is not a follower that is registered")
        if not is_registered and self._unregistered(membership) >= MAX_FANOUT:
            raise Busy(f"this node sends records to {MAX_FANOUT} processes that are not registered: read the log")
        position = RecordEnd(seq, after)
        in_memory = position in self._ends()
        if not in_memory and self._on_disk_after(position) is None:
            raise Busy(f"the records after seq {seq} are not in the backlog: read the log")
        for former, known in list(self._streams.items()):
            other = known.request.author
            if other == author or (is_registered and other.node == author.node):
                self._close(former, "the node has opened another one")
        self._streams[sink] = _Stream(request, {}, None if in_memory else position)
        self._note_change()
        logger.info("sending records to %s, from seq %d on", author, seq + 1)
        if in_memory:
            return self._after(seq)
        self.has_behind.set()
        return []

    def feed(self) -> bool:
        """Send the follower that lacks most more of what is on disk. False: none has read what it was sent."""
        behind = [it for it, stream in self._streams.items() if stream.fed_to is not None]
        if not behind:
            self.has_behind.clear()
        ready = [sink for sink in behind if sink.unsent_bytes < FEED_BYTES]
        if not ready:
            return False
        sink = min(ready, key=self._fed_seq)
        self._feed(sink, self._streams[sink])
        return True

    def _fed_seq(self, sink: RecordSink) -> Seq:
        fed_to = self._streams[sink].fed_to
        assert fed_to is not None
        return fed_to.seq

    def _feed(self, sink: RecordSink, stream: _Stream) -> None:
        assert stream.fed_to is not None
        batches = self._on_disk_after(stream.fed_to)
        if not batches and stream.fed_to in self._ends():
            batches, stream.fed_to = self._after(stream.fed_to.seq), None
        if batches is None:
            self._close(sink, "its position is no longer in the backlog")
            return
        for batch in joined(batches):
            sink.send(batch)
            if stream.fed_to is not None:
                stream.fed_to = batch.ends[-1]

    def end_stream(self, sink: RecordSink) -> None:
        """The connection was lost."""
        stream = self._streams.pop(sink, None)
        if stream is not None:
            self._note_change()
            logger.info("sending no more records to %s: the connection was closed", stream.request.author)

    def _close(self, sink: RecordSink, why: str) -> None:
        logger.info("closing the stream of records to %s: %s", self._streams.pop(sink).request.author, why)
        self._note_change()
        sink.close()

    def _unregistered(self, membership: Membership) -> int:
        """Number of streams to processes that are not registered."""
        return sum(not membership.includes(stream.request.author) for stream in self._streams.values())

    def set_downstream(self, sink: RecordSink, downstream: Mapping[Author, int], membership: Membership) -> None:
        """The processes that receive records through that follower, with the newest version that each reads.

        If this process is one of them, it receives what it sends: the stream is closed. Of those that are not
        registered, only the first `MAX_FANOUT` are kept.
        """
        stream = self._streams.get(sink)
        if stream is None:
            return
        if self._own in downstream:
            self._close(sink, "this node receives records through it")
            return
        registered = frozenset(member.author for member in membership.members)
        unregistered = [author for author in downstream if author not in registered]
        ignored = frozenset(unregistered[MAX_FANOUT:])
        stream.downstream = {author: version for author, version in downstream.items() if author not in ignored}
        self._note_change()

    def receivers_over(self, sink: RecordSink) -> dict[Author, int]:
        """The processes that receive records over that stream, with the newest version that each reads.

        Empty if the stream has ended.
        """
        stream = self._streams.get(sink)
        return {} if stream is None else {**stream.downstream, stream.request.author: stream.request.version}

    @property
    def uses_disk(self) -> bool:
        return self._tail is not None

    @property
    def receivers(self) -> Mapping[Author, int]:
        """The processes that receive records from here, as of `receivers_over`."""
        if self._receivers is None:
            self._receivers = dict(chain.from_iterable(self.receivers_over(sink).items() for sink in self._streams))
        return self._receivers

    def _note_change(self) -> None:
        """`receivers` may have changed."""
        self._receivers = None
        self.receivers_changed.set()

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
        """All records in memory after that one."""
        return [rest for batch in self._batches if (rest := batch.after(seq)) is not None]
