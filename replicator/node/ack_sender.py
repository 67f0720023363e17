"""Sends the acks of a follower, which report how far it has applied the log.

They go to the ack topic, and to the leader over a link while there is one: at once if writes wait for this replica, or
if the leader asks for one. The topic gets fewer then, which make up for those that a link has lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from replicator.errors import BrokerUnavailable
from replicator.intervals import ACK_RETRY_MS, ASYNC_ACK_MS, LINKED_ACK_MS
from replicator.log.port import Acks
from replicator.node.clock import Clock
from replicator.node.leader_link import RecordStream
from replicator.node.replica import Replica
from replicator.position import BEFORE_LOG, Author, Offset
from replicator.records.codec import AckCodec
from replicator.records.types import Ack, Mode

logger = logging.getLogger(__name__)


class AckSender:
    """At most one ack to the topic is in flight. It covers everything that was applied since the last one.

    A process acks nothing before it has read its registration, because only then it counts as its node.
    """

    def __init__(self, author: Author, replica: Replica, acks: Acks, clock: Clock) -> None:
        self._author = author
        self._replica = replica
        self._acks = acks
        self._clock = clock
        self._codec = AckCodec()
        self._stream: RecordStream | None = None  # over which acks go to the leader
        self._unlinked = asyncio.Event()  # set while there is none
        self._unlinked.set()
        self._sent = BEFORE_LOG  # the last offset that was acked over the stream

    @property
    def _is_waited_for(self) -> bool:
        own = self._replica.machine.meta.membership.get(self._author.node)
        return own is not None and own.mode in (Mode.SYNC, Mode.JOINING)

    @property
    def _is_registered(self) -> bool:
        return self._replica.machine.meta.membership.includes(self._author)

    def ack_over(self, stream: RecordStream | None, *, at_once: bool) -> None:
        """To be called after each read. `stream`: where the records come from, if they are sent by the leader.

        `at_once`: also if no write waits for this replica.
        """
        if stream is not self._stream:
            self._stream, self._sent = stream, BEFORE_LOG
            if stream is None:
                self._unlinked.set()
            else:
                self._unlinked.clear()
        if stream is None or not (at_once or self._is_waited_for):
            return
        offset = self._replica.state.offset
        if self._is_registered and (at_once or offset > self._sent):
            stream.ack(self._ack())
            self._sent = offset

    async def run(self) -> None:
        """Send acks to the topic."""
        acked = Offset(self._replica.state.offset - 1)  # first, report the position of the store
        while True:
            await self._replica.applied(Offset(acked + 1))
            offset = self._replica.state.offset
            if self._is_registered:
                try:
                    await self._acks.send(self._ack())
                except BrokerUnavailable as error:
                    logger.info("%s", error)
                    await self._clock.sleep(ACK_RETRY_MS)
                    continue
            acked = offset
            await self._pause()

    async def _pause(self) -> None:
        """Between two acks to the topic: none if writes wait for them."""
        if self._stream is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINKED_ACK_MS / 1000):
                    await self._unlinked.wait()
        elif not self._is_waited_for:
            await self._clock.sleep(ASYNC_ACK_MS)

    def _ack(self) -> bytes:
        state = self._replica.state
        return self._codec.encode(
            Ack(state.timeline, self._author, state.offset, state.seq, state.epoch, self._clock.wall_us())
        )
