"""Acks: a follower says how far it has applied the log, a leader listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from replicator.errors import BrokerUnavailable, Busy, Unblocked
from replicator.log.port import Acks
from replicator.node.clock import Clock
from replicator.position import BEFORE_LOG, Author, NodeId, Offset
from replicator.records.codec import AckCodec, NotARecord
from replicator.records.types import Ack

logger = logging.getLogger(__name__)

RETRY_MS = 200


@dataclass(frozen=True, slots=True)
class LastAck:
    ack: Ack
    at_ms: float  # on this node's clock


class ReplicaProgress:
    """How far each replica has said it is."""

    def __init__(self, own: NodeId, acks: Acks, clock: Clock, silence_ms: float) -> None:
        """`silence_ms`: after which a replica counts as gone."""
        self._own = own
        self._silence_ms = silence_ms
        self._since_ms = clock.elapsed_ms()
        self._term = 0  # changes when this node begins and ceases to lead
        self.latest: dict[NodeId, LastAck] = {}
        self.on_acks: Callable[[], None] = lambda: None
        self._acks = acks
        self._clock = clock
        self._codec = AckCodec()
        self._changed = asyncio.Event()

    async def listen(self) -> None:
        """For as long as this node leads."""
        self.latest.clear()
        self._since_ms = self._clock.elapsed_ms()
        self._term += 1
        try:
            await self._listen()
        finally:
            self._term += 1
            self._wake()

    async def _listen(self) -> None:
        skipped = False
        while True:
            try:
                if not skipped:  # what came while another node led
                    await self._acks.skip()
                    skipped = True
                payloads = await self._acks.receive()
            except BrokerUnavailable as error:
                logger.info("%s", error)
                await self._clock.sleep(RETRY_MS)
                continue
            for payload in payloads:
                self._note(payload)
            self._wake()
            self.on_acks()

    def _wake(self) -> None:
        """Whoever waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def acked(self, node: NodeId) -> Offset:
        heard = self.latest.get(node)
        return BEFORE_LOG if heard is None else heard.ack.offset

    def is_heard(self, node: NodeId) -> bool:
        """Whether it is not silent for too long; who was never heard of had the time since this node leads."""
        heard = self.latest.get(node)
        since_ms = self._since_ms if heard is None else heard.at_ms
        return self._clock.elapsed_ms() - since_ms <= self._silence_ms

    def count(self, offset: Offset) -> int:
        """How many replicas have applied up to `offset`."""
        return sum(heard.ack.offset >= offset for heard in self.latest.values())

    async def wait(self, offset: Offset, replicas: int, timeout_ms: float) -> int:
        """Wait until so many replicas have applied `offset`, or for `timeout_ms` (0: for ever); how many have.

        Raises `Unblocked` if this node ceases to lead.
        """
        term = self._term
        deadline_ms = self._clock.elapsed_ms() + timeout_ms if timeout_ms else None
        while self.count(offset) < replicas:
            if self._term != term:
                raise Unblocked("force unblock from blocking operation, instance state changed (master -> replica?)")
            if deadline_ms is None:
                await self._changed.wait()
                continue
            left_ms = deadline_ms - self._clock.elapsed_ms()
            if left_ms <= 0:
                break
            await _either(self._changed.wait(), self._clock.sleep(left_ms))
        return self.count(offset)

    async def reached(self, node: NodeId, offset: Offset, timeout_ms: float) -> Author:
        """`node` in its present life: it has said from now on that it has applied `offset`.

        Raises `Busy` if that takes longer.
        """
        asked_ms = self._clock.elapsed_ms()
        while (heard := self.latest.get(node)) is None or heard.at_ms < asked_ms or heard.ack.offset < offset:
            left_ms = asked_ms + timeout_ms - self._clock.elapsed_ms()
            if left_ms <= 0:
                stands = "has not been heard of" if heard is None else f"is at offset {heard.ack.offset} of {offset}"
                raise Busy(f"{node} {stands}: it cannot lead before it has caught up. Try again, or choose another")
            await _either(self._changed.wait(), self._clock.sleep(left_ms))
        return heard.ack.author

    def _note(self, payload: bytes) -> None:
        try:
            ack = self._codec.decode(payload)
        except NotARecord as error:
            logger.warning("%s", error)
            return
        if ack.author.node != self._own:  # from when this node followed
            self.latest[ack.author.node] = LastAck(ack, self._clock.elapsed_ms())


async def _either(*waits: object) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
