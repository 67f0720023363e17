"""Sends the acks of a follower, which report how far it has applied the log."""

from __future__ import annotations

import logging

from replicator.errors import BrokerUnavailable
from replicator.intervals import ACK_RETRY_MS
from replicator.log.port import Acks
from replicator.node.clock import Clock
from replicator.node.replica import Replica
from replicator.position import Author, Offset
from replicator.records.codec import AckCodec
from replicator.records.types import Ack, Mode

logger = logging.getLogger(__name__)


class AckSender:
    """At most one ack is in flight. It covers everything that was applied since the last one.

    A process acks nothing before it has read its registration, because only then it counts as its node.
    """

    def __init__(self, author: Author, replica: Replica, acks: Acks, clock: Clock, async_pause_ms: float) -> None:
        self._author = author
        self._replica = replica
        self._acks = acks
        self._clock = clock
        self._async_pause_ms = async_pause_ms
        self._codec = AckCodec()

    @property
    def _pause_ms(self) -> float:
        """Between two acks; 0 for sync and joining replicas, because the leader waits for them."""
        own = self._replica.machine.meta.membership.get(self._author.node)
        return 0.0 if own is not None and own.mode in (Mode.SYNC, Mode.JOINING) else self._async_pause_ms

    @property
    def _is_registered(self) -> bool:
        return self._replica.machine.meta.membership.includes(self._author)

    async def run(self) -> None:
        acked = Offset(self._replica.state.offset - 1)  # first, report the position of the store
        while True:
            await self._replica.applied(Offset(acked + 1))
            state = self._replica.state
            ack = Ack(state.timeline, self._author, state.offset, state.seq, state.epoch, self._clock.wall_us())
            if self._is_registered:
                try:
                    await self._acks.send(self._codec.encode(ack))
                except BrokerUnavailable as error:
                    logger.info("%s", error)
                    await self._clock.sleep(ACK_RETRY_MS)
                    continue
            acked = state.offset
            pause_ms = self._pause_ms
            if pause_ms:
                await self._clock.sleep(pause_ms)
