"""A simulated Kafka for a cluster: the brokers of the log, the ack topic, and the messages to and from them.

A request travels to a broker, is executed there, and the answer travels back. If the process is paused or killed
meanwhile, the broker still executes the request.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from replicator.limits import MAX_BATCH_BYTES
from replicator.log.kafka.partition import encode_batch
from replicator.testing.faults import Faults
from replicator.testing.loop import SimLoop
from replicator.testing.partition import Partition, Replica

TOPIC_ID = "simulated"

T = TypeVar("T")


def deliver(answer: asyncio.Future[T], outcome: T | Exception) -> None:
    """The answer to a request has arrived; the asker may have given up."""
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class Kafka:
    def __init__(self, loop: SimLoop, rng: random.Random, faults: Faults, trace: Callable[[str], None]) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.trace = trace
        self.partition = Partition(rng.choice((1, 3, 3)))
        self.ack_channels: list[Callable[[bytes], None]] = []
        self.acks_missing_until_s = 0.0  # the ack topic was deleted, and nobody has created it again
        self._down_until_s = dict.fromkeys(range(len(self.partition.replicas)), 0.0)

    def later(self, delay_ms: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call back after `delay_ms`, even if the calling process is paused or killed meanwhile."""
        return self.loop.call_later(delay_ms / 1000, callback, *args, context=self.loop.outside.context)

    def message_ms(self) -> float:
        return self.faults.message_ms(self.rng)

    def take_down(self, replica: Replica, duration_s: float) -> None:
        self._down_until_s[replica.broker] = self.loop.time() + duration_s

    def take_all_down(self, duration_s: float) -> None:
        for replica in self.partition.replicas:
            self.take_down(replica, duration_s)

    def down_ms(self, replica: Replica) -> float:
        """Remaining time of the outage."""
        return max(0.0, (self._down_until_s[replica.broker] - self.loop.time()) * 1000)

    def heal(self) -> None:
        self.acks_missing_until_s = 0.0
        self._down_until_s = dict.fromkeys(self._down_until_s, 0.0)
        for replica in self.partition.replicas:
            if replica.cut_off or not replica.in_sync:
                self.partition.rejoin(replica)

    def append(self, payloads: Sequence[bytes]) -> None:
        """By a foreign producer."""
        batch = encode_batch(payloads, MAX_BATCH_BYTES)
        assert batch is not None
        self.partition.append(batch, len(payloads), self.loop.time())

    def publish_ack(self, payload: bytes) -> None:
        for channel in self.ack_channels:
            if self.rng.random() >= self.faults.ack_lost:
                self.later(self.message_ms(), channel, payload)
