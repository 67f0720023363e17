"""The order of the replies of one connection.

The reply of a write is pending until the write is acknowledged; replies after it wait behind it. All replies that are
ready are sent in one write to the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from replicator.errors import ReplicatorError
from replicator.limits import MAX_READY_BYTES
from replicator.position import BEFORE_LOG, Offset
from replicator.server.redis.resp import encode, error_reply
from replicator.server.stats import Stats

NO_WRITE = -1.0
"""In the place of the time when a write began, for a reply that is not one of a write."""


class PendingReply:
    """One place in the order. It is the `done` of its write: called with the outcome, it becomes ready."""

    __slots__ = ("began_s", "data", "ready", "replies", "size")

    def __init__(self, replies: Replies, data: bytes, ready: bool) -> None:
        self.replies = replies
        self.began_s = NO_WRITE if ready else replies.began_s
        self.data = data  # encoded; replaced if the write fails
        self.ready = ready
        self.size = len(data)  # counted in `pending_bytes`

    def __call__(self, error: ReplicatorError | None, offset: Offset) -> None:
        replies = self.replies
        if error is None:
            replies.last_offset = offset
            replies.stats.writes_ok += 1
        else:
            replies.stats.count_failure(error)
            self.data = encode(error_reply(error), 2)  # the same in RESP3
        self.ready = True
        replies.advance_soon()


class Replies:
    """`on_advance` is called after pending replies have become ready, with the time by the clock."""

    def __init__(self, stats: Stats, on_advance: Callable[[float], None], clock: Callable[[], float]) -> None:
        self.stats = stats
        self.began_s = 0.0  # by the clock, when the commands began that run now
        self._clock = clock
        self.transport: asyncio.Transport  # once there is one
        self.last_offset = BEFORE_LOG  # of the last write that was acknowledged
        self.pending: deque[PendingReply] = deque()  # in order; the first is not ready, or `_advance` is scheduled
        self.pending_bytes = 0
        self._ready: list[bytes] = []  # before all that are pending
        self._ready_bytes = 0  # of `_ready`, but for replies that were pending
        self._on_advance = on_advance
        self._call_soon = asyncio.get_running_loop().call_soon  # kept: to look the loop up takes a system call
        self._scheduled = False  # `_advance`

    def add(self, data: bytes) -> None:
        if self.pending:
            self.pending.append(PendingReply(self, data, True))
            self.pending_bytes += len(data)
        else:
            self.send(data)

    def add_pending(self, data: bytes) -> PendingReply:
        """`data` is the reply if the write is acknowledged."""
        reply = PendingReply(self, data, False)
        self.pending.append(reply)
        self.pending_bytes += len(data)
        return reply

    def send(self, data: bytes) -> None:
        """As `add`, for a caller that knows that no reply is pending.

        Large replies are flushed early, so that the transport can detect a client that does not read.
        """
        self._ready.append(data)
        self._ready_bytes += len(data)
        if self._ready_bytes > MAX_READY_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._ready:
            ready, self._ready, self._ready_bytes = self._ready, [], 0
            if not self.transport.is_closing():
                self.transport.write(ready[0] if len(ready) == 1 else b"".join(ready))

    def advance_soon(self) -> None:
        """Replies that become ready in one iteration of the loop are sent together."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._advance)

    def _advance(self) -> None:
        self._scheduled = False
        pending, ready = self.pending, self._ready
        now_s, began_s, writes = self._clock(), NO_WRITE, 0  # writes that began together are observed together
        while pending and pending[0].ready:
            reply = pending.popleft()
            self.pending_bytes -= reply.size
            ready.append(reply.data)
            if reply.began_s == NO_WRITE:
                continue
            if reply.began_s != began_s:
                if writes:
                    self.stats.writes.observe(now_s - began_s, writes)
                began_s, writes = reply.began_s, 0
            writes += 1
        if writes:
            self.stats.writes.observe(now_s - began_s, writes)
        self._on_advance(now_s)
