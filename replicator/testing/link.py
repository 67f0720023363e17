"""The network of one process, and its faults."""

from __future__ import annotations

from replicator.testing.kafka import Kafka
from replicator.testing.partition import Replica


class Link:
    """Of one process. Once it is cut (the process was killed), it carries no new messages."""

    def __init__(self, kafka: Kafka, name: str) -> None:
        self.kafka = kafka
        self.name = name
        self.cut = False
        self.stalled_until_s = 0.0  # this process receives no entries of the log until then
        self.away_until_s = 0.0  # this process alone cannot reach any broker
        self.isolated_until_s = 0.0  # this process and the other nodes cannot reach each other
        self.unsent_until_s = 0.0  # no message over a stream reaches this process until then
        self.unreachable_until_s: dict[int, float] = {}  # by broker: this process cannot reach it
        self.lag_ms = kafka.rng.choice((0.0, 0.0, 10.0, 200.0))  # maximum extra delay of its reads

    def down_ms(self, replica: Replica) -> float:
        """How long a request to that broker that is sent now waits before it arrives."""
        until_s = max(self.away_until_s, self.unreachable_until_s.get(replica.broker, 0.0))
        return max(self.kafka.down_ms(replica), (until_s - self.kafka.loop.time()) * 1000)

    @property
    def isolated(self) -> bool:
        return self.kafka.loop.time() < self.isolated_until_s

    def heal(self) -> None:
        self.stalled_until_s = self.away_until_s = self.isolated_until_s = self.unsent_until_s = 0.0
        self.unreachable_until_s.clear()
