"""How far each replica has applied the log, according to its acks. A node receives them while it is leader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from replicator.errors import BrokerUnavailable, Busy, Unblocked
from replicator.intervals import ACK_RETRY_MS
from replicator.log.port import Acks
from replicator.node.clock import Clock
from replicator.position import BEFORE_LOG, Author, NodeId, Offset
from replicator.records.codec import AckCodec, NotARecord
from replicator.records.types import Ack

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LastAck:
    ack: Ack
    at_ms: float  # when it was received, on this node's clock


class ReplicaProgress:
    def __init__(self, own: NodeId, acks: Acks, clock: Clock) -> None:
        self._own = own
        self._term_start_ms = clock.elapsed_ms()
        self._timeline = b""
        self._term = 0  # changes when this node becomes leader, and when it loses leadership
        self._skip_old = True  # acks that were sent while another node was leader
        self._acks = acks
        self._clock = clock
        self._codec = AckCodec()
        self._changed = asyncio.Event()
        self.latest: dict[NodeId, LastAck] = {}

    @contextmanager
    def term(self, timeline: bytes) -> Iterator[None]:
        """To be held while this node is leader. At its end, all waits for acks end.

        Acks of another timeline are ignored.
        """
        self._timeline = timeline
        self.latest.clear()
        self._term_start_ms = self._clock.elapsed_ms()
        self._term += 1
        self._skip_old = True
        try:
            yield
        finally:
            self._term += 1
            self._wake()

    async def receive(self) -> None:
        """Wait for the next acks, and record them."""
        while True:
            try:
                if self._skip_old:
                    await self._acks.skip()
                    self._skip_old = False
                payloads = await self._acks.receive()
                break
            except BrokerUnavailable as error:
                logger.info("%s", error)
                await self._clock.sleep(ACK_RETRY_MS)
        for payload in payloads:
            self._note(payload)
        self._wake()

    def acked(self, node: NodeId) -> Offset:
        last = self.latest.get(node)
        return BEFORE_LOG if last is None else last.ack.offset

    def is_responsive(self, node: NodeId, timeout_ms: float) -> bool:
        """Whether its last ack is not older; without one, the time counts from when this node became leader."""
        last = self.latest.get(node)
        since_ms = self._term_start_ms if last is None else last.at_ms
        return self._clock.elapsed_ms() - since_ms <= timeout_ms

    def count(self, offset: Offset) -> int:
        """How many replicas have applied up to `offset`."""
        return sum(last.ack.offset >= offset for last in self.latest.values())

    async def wait(self, offset: Offset, replicas: int, timeout_ms: float) -> int:
        """Wait until `replicas` of them have applied `offset`, or for `timeout_ms` (0: no timeout).

        Returns how many have. Raises `Unblocked` if this node loses leadership.
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
            await self._changed_within(left_ms)
        return self.count(offset)

    async def caught_up(self, node: NodeId, offset: Offset, timeout_ms: float) -> Author:
        """Wait for a new ack of `node` that it has applied `offset`. Returns the author of that ack.

        Raises `Busy` after `timeout_ms`.
        """
        asked_ms = self._clock.elapsed_ms()
        while (last := self.latest.get(node)) is None or last.at_ms < asked_ms or last.ack.offset < offset:
            left_ms = asked_ms + timeout_ms - self._clock.elapsed_ms()
            if left_ms <= 0:
                state = "is unresponsive" if last is None else f"is at offset {last.ack.offset} of {offset}"
                raise Busy(
                    f"{node} {state}: it cannot become leader before it has caught up. Try again, or choose another"
                )
            await self._changed_within(left_ms)
        return last.ack.author

    def _note(self, payload: bytes) -> None:
        try:
            ack = self._codec.decode(payload)
        except NotARecord as error:
            logger.warning("%s", error)
            return
        own = ack.author.node == self._own  # from when this node was a follower
        if not own and ack.timeline == self._timeline:
            self.latest[ack.author.node] = LastAck(ack, self._clock.elapsed_ms())

    def _wake(self) -> None:
        """Wake all waiters, so that they check their conditions again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _changed_within(self, timeout_ms: float) -> None:
        tasks = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(self._clock.sleep(timeout_ms))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
