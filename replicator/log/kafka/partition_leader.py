"""Finds the leader of a partition. All brokers are asked, and the highest leader epoch in their answers counts.

A former leader that is cut off from the other brokers does not know that there is another one: it answers requests for
metadata, for records and for the end of the log as it did before. Its leader epoch is lower than the present one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from replicator.errors import BrokerUnavailable
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.topic_answers import (
    KnownTopic,
    PartitionLeader,
    TopicAnswers,
    UnknownTopic,
    UnknownTopicReason,
)

NO_EPOCH = -1

logger = logging.getLogger(__name__)


class LeaderLookup:
    """One for all clients of a partition: what one of them learns is known to the others.

    `recreate` is called if all brokers that answer report that the topic does not exist.
    """

    def __init__(
        self,
        brokers: Brokers,
        topic: str,
        topic_id: str | None = None,
        *,
        recreate: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`topic_id`: None if the topic may be deleted and created again; then that of most brokers counts."""
        self.brokers = brokers
        self.topic = topic
        self.epoch = NO_EPOCH  # the highest known one: a connection of a lower epoch is to a former leader
        self._topic_id = topic_id
        self._id = ""  # of the topic that has `epoch`
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
                self._take(await self.brokers.ask(self.topic, lambda answers: False))  # the others may be slower

    def _found(self, finding: asyncio.Task[PartitionLeader]) -> None:
        self._finding = None
        if not finding.cancelled():
            finding.exception()  # retrieved: all callers may have been cancelled

    async def _find(self) -> PartitionLeader:
        answers = await self.brokers.ask(self.topic, self._suffice)
        found = self._take(answers)
        if found is None:
            raise await self._without_leader(answers)
        return found

    def _suffice(self, answers: TopicAnswers) -> bool:
        """Whether the leader is probably among them."""
        epochs = [leader.epoch for leader in answers.leaders(self._topic_id or self._id)]
        if self.epoch == NO_EPOCH or not epochs:
            return answers.are_most and answers.agreed() is not None
        return max(epochs) >= self.epoch

    def _take(self, answers: TopicAnswers) -> PartitionLeader | None:
        """The leader of the highest epoch; None if there is none. Raises `BrokerUnavailable`."""
        agreed = answers.agreed()
        id = self._topic_id or (agreed.id if isinstance(agreed, KnownTopic) else self._id)
        best = max(answers.leaders(id), key=lambda leader: leader.epoch, default=None)
        if best is None:
            return None
        if id == self._id and best.epoch < self.epoch:  # the epochs of a topic that was created again begin with 0
            raise self.brokers.unavailable(
                f"the brokers that answer do not know the leader of epoch {self.epoch}. {answers.describe()}"
            )
        if (id, best.epoch) != (self._id, self.epoch):
            logger.info("%s: broker %d is the leader of its partition in epoch %d", self.topic, best.node, best.epoch)
            self._id, self.epoch = id, best.epoch
            for listener in self._listeners:
                listener()
        return best

    async def _without_leader(self, answers: TopicAnswers) -> BrokerUnavailable:
        unknown = [answer for answer in answers.by_address.values() if isinstance(answer, UnknownTopic)]
        missing = [answer for answer in unknown if answer.reason is UnknownTopicReason.MISSING]
        if self._recreate is not None and len(missing) == len(answers.by_address) and answers.agreed() is not None:
            await self._recreate()
        denied = next((answer.trouble for answer in unknown if answer.reason is UnknownTopicReason.DENIED), None)
        if denied is not None:  # neither the address is wrong, nor is Kafka down
            return BrokerUnavailable(denied)
        return self.brokers.unavailable(unknown[0].trouble if unknown else f"topic {self.topic} has no leader")
