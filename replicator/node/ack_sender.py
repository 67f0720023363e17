"""Sends the acks of a follower, which report how far it has applied the log.

Acks go to the ack topic. While the leader streams records, they also go to the leader over that connection: immediately
if writes wait for this replica, otherwise when the leader requests one. The topic then gets one every
`STREAMING_ACK_MS`, in case the connection loses acks.
"""

from __future__ import annotations

import asyncio
import contextlib

from replicator.errors import BrokerUnavailable
from replicator.intervals import ACK_RETRY_MS, ASYNC_ACK_MS, STREAMING_ACK_MS
from replicator.log.port import Acks
from replicator.node.clock import Clock
from replicator.node.node_link import RecordStream
from replicator.node.outage_log import OutageLog
from replicator.node.record_source import RecordSource
from replicator.node.replica import Replica
from replicator.position import BEFORE_LOG, Author, Offset
from replicator.records.codec import AckCodec
from replicator.records.types import Ack, Mode


class AckSender:
    """At most one ack to the topic is in flight. It covers everything that was applied since the last one.

    A process acks nothing before it has read its registration, because only then it counts as its node.
    """

    def __init__(
        self, author: Author, replica: Replica, acks: Acks, clock: Clock, source: RecordSource, outage: OutageLog
    ) -> None:
        """`outage`: of the acks to the topic."""
        self._author = author
        self._replica = replica
        self._acks = acks
        self._clock = clock
        self._source = source
        self._codec = AckCodec()
        self._outage = outage
        self._streamed: tuple[RecordStream | None, Offset] = None, BEFORE_LOG  # the last offset acked over this stream

    @property
    def _is_waited_for(self) -> bool:
        own = self._replica.machine.meta.membership.get(self._author.node)
        return own is not None and own.mode in (Mode.SYNC, Mode.JOINING)

    @property
    def _is_registered(self) -> bool:
        return self._replica.machine.meta.membership.includes(self._author)

    def after_read(self, *, ack_requested: bool) -> None:
        """Ack over the stream what was received and applied, if writes wait for that, or if the leader requests it."""
        stream, offset = self._source.stream, self._replica.state.offset
        if stream is None or not self._is_registered or (self._streamed == (stream, offset) and not ack_requested):
            return
        if ack_requested or self._is_waited_for:
            stream.ack(self._ack())
            self._streamed = stream, offset

    async def run(self) -> None:
        """Run until cancelled: send acks to the topic."""
        acked = Offset(self._replica.state.offset - 1)  # first, report the position of the store
        while True:
            await self._replica.changed(since=acked)
            offset = self._replica.state.offset
            if self._is_registered:
                try:
                    await self._acks.send(self._ack())
                except BrokerUnavailable as error:
                    self._outage.failed(error)
                    await self._clock.sleep(ACK_RETRY_MS)
                    continue
                self._outage.ended()
            acked = offset
            await self._pause()

    async def _pause(self) -> None:
        """Between two acks to the topic: none if writes wait for them."""
        if self._source.stream is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STREAMING_ACK_MS / 1000):
                    await self._source.stream_ended.wait()
        elif not self._is_waited_for:
            await self._clock.sleep(ASYNC_ACK_MS)

    def _ack(self) -> bytes:
        state = self._replica.state
        return self._codec.encode(
            Ack(state.timeline, self._author, state.offset, state.seq, state.epoch, self._clock.wall_us())
        )
