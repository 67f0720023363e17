"""How records spread among many followers: the decisions of `protocol.upstream`, without nodes and stores.

A record is sent from one node to the next in `HOP_MS` on average. A follower whose upstream has failed waits for
`GAP_MS`, and asks the next one above, or Kafka. The closed form is for equal hops and no failures.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TypeAlias

from replicator.address import Address
from replicator.position import AUTO, GOSSIP, NodeId
from replicator.protocol.gossip import members_of_range
from replicator.protocol.upstream import ancestors, members_of_tree
from replicator.records.types import Member, Membership, Mode

Upstreams: TypeAlias = Mapping[NodeId, Sequence[Member]]
"""Of each follower, in order of preference; none: it fetches the records from Kafka. In the order of the tree."""

HOP_MS = 1.0  # uniformly distributed from half of it to one and a half
GAP_MS = 750.0  # `protocol.timing.stream_timeout_ms` of the default timing is below that
KAFKA = "Kafka"


@dataclass(frozen=True, slots=True)
class SpreadPlan:
    nodes: int  # that receive records
    fanout: int
    ranges: int = 20  # each with one record
    failed: float = 0.0  # the share of nodes that are registered and do not answer; at least one node answers
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one kind of upstream."""

    upstream: str
    times_ms: Sequence[float]  # sorted: from the record's append until a follower has it, of all ranges
    copies: Mapping[str, float]  # that a node, or Kafka, has sent of a record on average

    def percentile_ms(self, share: float) -> float:
        """The time after which that share of the followers has a record."""
        return self.times_ms[min(len(self.times_ms) - 1, int(len(self.times_ms) * share))]

    @property
    def from_kafka(self) -> float:
        return self.copies.get(KAFKA, 0.0)

    @property
    def most_copies(self) -> float:
        """Of the node that sends most."""
        return max((count for node, count in self.copies.items() if node != KAFKA), default=0.0)


def levels(nodes: int, fanout: int) -> int:
    """The depth of a tree in which the root and each node send to `fanout` others. Closed form: `docs/scaling.md`."""
    level = above = 0
    while above < nodes:
        level += 1
        above += fanout**level
    return level


def reached(level: int, nodes: int, fanout: int) -> float:
    """The share of nodes in the levels 1 to `level`."""
    return min(1.0, math.fsum(fanout**it for it in range(1, level + 1)) / nodes)


def simulate_spread(plan: SpreadPlan) -> list[Spread]:
    """In a tree (`AUTO`) and in gossip."""
    names = [NodeId(f"n{number}") for number in range(plan.nodes + 1)]
    leader, *followers = (Member(it, Mode.ASYNC, Address("h", 1), Address("h", 2), 0, 1) for it in names)
    membership = Membership((leader, *followers))
    tree = _upstreams(members_of_tree(membership, leader), plan.fanout)
    in_tree = {node: (*upstreams, leader) for node, upstreams in tree.items()}
    in_gossip = (
        _upstreams(members_of_range(membership, leader.author, number), plan.fanout) for number in range(plan.ranges)
    )
    return [
        _Model(plan, leader, followers).run(AUTO, repeat(in_tree, plan.ranges)),
        _Model(plan, leader, followers).run(GOSSIP, in_gossip),
    ]


def _upstreams(members: Sequence[Member], fanout: int) -> Upstreams:
    return {member.node: ancestors(members, member.node, fanout) for member in members}


class _Model:
    def __init__(self, plan: SpreadPlan, leader: Member, followers: Sequence[Member]) -> None:
        self._plan = plan
        self._leader = leader
        count = min(round(plan.failed * len(followers)), len(followers) - 1)
        failed = random.Random(plan.seed).sample(followers, count)
        self._failed = frozenset(member.node for member in failed)
        self._copies: Counter[str] = Counter()

    def run(self, upstream: str, ranges: Iterable[Upstreams]) -> Spread:
        rng = random.Random(f"{self._plan.seed} {upstream}")
        times = [time for upstreams in ranges for time in self._one_range(upstreams, rng)]
        copies = {node: count / self._plan.ranges for node, count in self._copies.items()}
        return Spread(upstream, sorted(times), copies)

    def _one_range(self, upstreams: Upstreams, rng: random.Random) -> list[float]:
        """When the record arrives at each follower."""
        arrival_ms: dict[str, float] = {self._leader.node: 0.0, KAFKA: 0.0}
        for node, above in upstreams.items():  # a node comes after its upstreams
            if node in self._failed:
                continue
            sender = next((it.node for it in above if it.node not in self._failed), KAFKA)
            self._copies[sender] += 1
            waited_ms = GAP_MS if above and above[0].node in self._failed else 0.0
            arrival_ms[node] = max(arrival_ms[sender], waited_ms) + HOP_MS * rng.uniform(0.5, 1.5)
        return [time for node, time in arrival_ms.items() if node in upstreams]
