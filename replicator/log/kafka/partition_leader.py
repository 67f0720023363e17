"""Finds the leader of a partition. All brokers are asked, and the highest leader epoch in their answers counts.

A former leader that is cut off from the other brokers does not know that there is another one: it answers requests for
metadata, for records and for the end of the log as it did before. Its leader epoch is lower than the present one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from replicator.errors import BrokerUnavailable
from replicator.log.kafka.brokers import (
    Brokers,
    KnownTopic,
    PartitionLeader,
    TopicAnswer,
    UnknownTopic,
    UnknownTopicReason,
)

NO_EPOCH = -1

logger = logging.getLogger(__name__)


class LeaderLookup:
    """One for all clients of a partition: what one of them learns is known to the others.

    `recreate` is called if all brokers that answer report that the topic does not exist.
    """

    def __init__(self, brokers: Brokers, topic: str, *, recreate: Callable[[], Awaitable[None]] | None = None) -> None:
        self.brokers = brokers
        self.topic = topic
        self.epoch = NO_EPOCH  # the highest known one: a connection of a lower epoch is to a former leader
        self._recreate = recreate
        self._listeners: list[Callable[[], None]] = []
        self._finding: asyncio.Task[PartitionLeader] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def find(self) -> PartitionLeader:
        """Raises `BrokerUnavailable`. Concurrent calls share the requests."""
        if self._finding is None:
            self._finding = asyncio.create_task(self._find())
            self._finding.add_done_callback(self._found)
        return await asyncio.shield(self._finding)  # cancelling one caller must not cancel the others

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call it whenever `epoch` has changed."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        self._listeners.remove(listener)

    def watch(self, interval_ms: int) -> None:
        """Until `close`: learn of a new leader even if the former one still answers."""
        self._watching = asyncio.create_task(self._watch(interval_ms))

    async def close(self) -> None:
        tasks = [task for task in (self._watching, self._finding) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, interval_ms: int) -> None:
        while True:
            await asyncio.sleep(interval_ms / 1000)
            with contextlib.suppress(BrokerUnavailable):  # the requests of the clients fail on their own
                await self.find()

    def _found(self, finding: asyncio.Task[PartitionLeader]) -> None:
        self._finding = None
        if not finding.cancelled():
            finding.exception()  # retrieved: all callers may have been cancelled

    async def _find(self) -> PartitionLeader:
        asked = len(self.brokers.addresses)
        answers = await self.brokers.ask(
            self.topic, lambda answers: any(leader.epoch >= self.epoch for leader in _leaders(answers))
        )
        leaders = _leaders(answers)
        if not leaders:
            raise await self._without_leader(answers)
        best = max(leaders, key=lambda leader: leader.epoch)
        # A topic that was created again begins with a low epoch; a former leader that is cut off is in the minority.
        if best.epoch < self.epoch and 2 * len(answers) <= asked:
            raise self.brokers.unavailable(
                f"{len(answers)} of {asked} brokers answer, and do not know the leader of epoch {self.epoch}"
            )
        self.brokers.advertised = next(
            answer.brokers for answer in answers if isinstance(answer, KnownTopic) and answer.leader == best
        )
        if best.epoch != self.epoch:
            logger.info("%s: broker %d is the leader of its partition in epoch %d", self.topic, best.node, best.epoch)
            self.epoch = best.epoch
            for listener in self._listeners:
                listener()
        return best

    async def _without_leader(self, answers: Sequence[TopicAnswer]) -> BrokerUnavailable:
        unknown = [answer for answer in answers if isinstance(answer, UnknownTopic)]
        missing = [answer for answer in unknown if answer.reason is UnknownTopicReason.MISSING]
        if self._recreate is not None and len(missing) == len(answers):
            await self._recreate()
        denied = next((answer.trouble for answer in unknown if answer.reason is UnknownTopicReason.DENIED), None)
        if denied is not None:  # neither the address is wrong, nor is Kafka down
            return BrokerUnavailable(denied)
        return self.brokers.unavailable(unknown[0].trouble if unknown else f"topic {self.topic} has no leader")


def _leaders(answers: Sequence[TopicAnswer]) -> list[PartitionLeader]:
    return [answer.leader for answer in answers if isinstance(answer, KnownTopic) and answer.leader is not None]
