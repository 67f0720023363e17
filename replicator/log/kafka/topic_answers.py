"""What the brokers of a Kafka know of a topic, and what most of them agree on.

A broker that is cut off from the others does not know what they have changed since. So one answer proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from replicator.address import Address


class PartitionLeader(NamedTuple):
    epoch: int
    node: int
    address: Address


@dataclass(frozen=True, slots=True)
class KnownTopic:
    kafka: str  # the id of the Kafka
    brokers: frozenset[Address]  # that are up, as far as the one that answers knows
    id: str
    leader: PartitionLeader | None  # None: there is none now


class UnknownTopicReason(Enum):
    """Why a broker reports nothing about a topic."""

    MISSING = auto()
    DENIED = auto()  # this login may not describe it
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class UnknownTopic:
    kafka: str
    brokers: frozenset[Address]
    reason: UnknownTopicReason
    trouble: str


TopicAnswer = KnownTopic | UnknownTopic


@dataclass(frozen=True, slots=True)
class TopicAnswers:
    """Of the brokers of one Kafka, by the address that was asked. Two addresses may be of the same broker."""

    by_address: Mapping[Address, TopicAnswer] = field(default_factory=dict)
    asked: int = 0  # addresses

    @property
    def brokers(self) -> frozenset[Address]:
        """The addresses of all brokers that some answer names, one for each."""
        return frozenset().union(*(answer.brokers for answer in self.by_address.values()))

    @property
    def votes(self) -> list[TopicAnswer]:
        """One for each broker that has answered."""
        brokers = self.brokers
        return [answer for address, answer in self.by_address.items() if address in brokers]

    @property
    def are_most(self) -> bool:
        """Whether more than half of the addresses have answered."""
        return 2 * len(self.by_address) > self.asked

    def agreed(self) -> TopicAnswer | None:
        """An answer with which more than half of the brokers agree, as to the id of the topic; None if there is none.

        A topic that is missing at some brokers and known to others is just being created or deleted: no answer either.
        """
        votes, brokers = self.votes, self.brokers
        groups = Counter(_id_or_reason(answer) for answer in votes)
        if any(isinstance(answer, KnownTopic) for answer in votes):
            groups.pop(UnknownTopicReason.MISSING, None)
        for said, count in groups.items():
            if 2 * count > len(brokers):
                return next(answer for answer in votes if _id_or_reason(answer) == said)
        return None

    def leaders(self, id: str) -> list[PartitionLeader]:
        """Of the topic with that id, as the brokers know them."""
        known = (answer for answer in self.by_address.values() if isinstance(answer, KnownTopic))
        return [answer.leader for answer in known if answer.id == id and answer.leader is not None]

    def describe(self) -> str:
        said = {it.id if isinstance(it, KnownTopic) else it.trouble for it in self.by_address.values()}
        return f"{len(self.votes)} of {len(self.brokers)} brokers answer: {', '.join(sorted(said))}"


def _id_or_reason(answer: TopicAnswer) -> str | UnknownTopicReason:
    return answer.id if isinstance(answer, KnownTopic) else answer.reason
