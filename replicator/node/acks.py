"""Acks: a follower says how far it has applied the log, a leader listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from replicator.errors import BrokerUnavailable, Busy, Unblocked
from replicator.log.port import Acks
from replicator.node.clock import Clock
from replicator.node.replica import Replica
from replicator.position import BEFORE_LOG, Author, NodeId, Offset
from replicator.records.codec import AckCodec, NotARecord
from replicator.records.types import Ack, Mode

log = logging.getLogger(__name__)

RETRY_MS = 200


class AckSender:
    """One ack in flight; it speaks for all that was applied since the last one."""

    def __init__(self, author: Author, replica: Replica, acks: Acks, clock: Clock, async_pause_ms: float) -> None:
        self._author = author
        self._replica = replica
        self._acks = acks
        self._clock = clock
        self._async_pause_ms = async_pause_ms
        self._codec = AckCodec()

    @property
    def _pause_ms(self) -> float:
        """A leader waits for sync replicas, and for those that are to become one."""
        own = self._replica.machine.meta.membership.get(self._author.node)
        return 0.0 if own is not None and own.mode in (Mode.SYNC, Mode.JOINING) else self._async_pause_ms

    async def run(self) -> None:
        acked = Offset(self._replica.state.offset - 1)  # at first, say where this node begins
        while True:
            await self._replica.applied(Offset(acked + 1))
            state = self._replica.state
            ack = Ack(state.timeline, self._author, state.offset, state.seq, state.epoch, self._clock.wall_us())
            if state.timeline:
                try:
                    await self._acks.send(self._codec.encode(ack))
                except BrokerUnavailable as error:
                    log.info("%s", error)
                    await self._clock.sleep(RETRY_MS)
                    continue
            acked = state.offset
            pause_ms = self._pause_ms
            if pause_ms:
                await self._clock.sleep(pause_ms)


@dataclass(frozen=True, slots=True)
class Heard:
    ack: Ack
    at_ms: float  # on this node's clock


class AckBook:
    """How far each replica has said it is."""

    def __init__(self, own: NodeId, acks: Acks, clock: Clock, silence_ms: float) -> None:
        """`silence_ms`: after which a replica counts as gone."""
        self._own = own
        self._silence_ms = silence_ms
        self._since_ms = clock.elapsed_ms()
        self._term = 0  # changes when this node begins and ceases to lead
        self.latest: dict[NodeId, Heard] = {}
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
                log.info("%s", error)
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
            log.warning("%s", error)
            return
        if ack.author.node != self._own:  # from when this node followed
            self.latest[ack.author.node] = Heard(ack, self._clock.elapsed_ms())


async def _either(*waits: object) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
