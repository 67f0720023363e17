"""How records spread among many followers: the decisions of `protocol.upstream`, without nodes and stores.

A record is sent from one node to the next in `HOP_MS` on average. A follower whose upstream has failed waits for
`GAP_MS`, and asks the next one above, or Kafka. The closed form is for equal hops and no failures.
"""

from __future__ import annotations

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
"""Of each follower, in order of preference; none: it fetches the records from Kafka."""

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
    """The depth of a tree in which the root and each node send to `fanout` others; in closed form: `docs/scaling.md`."""
    level = above = 0
    while above < nodes:
        level += 1
        above += fanout**level
    return level


def reached(level: int, nodes: int, fanout: int) -> float:
    """The share of nodes in the levels 1 to `level`."""
    return min(1.0, sum(fanout**it for it in range(1, level + 1)) / nodes)


def simulate_spread(plan: SpreadPlan) -> list[Spread]:
    """In a tree (`AUTO`) and in gossip."""
    names = [NodeId(f"n{number}") for number in range(plan.nodes + 1)]
    leader, *followers = (Member(it, Mode.ASYNC, Address("h", 1), Address("h", 2), 0, 1) for it in names)
    membership = Membership((leader, *followers))
    tree = members_of_tree(membership, leader)
    in_tree = {it.node: (*ancestors(tree, it.node, plan.fanout), leader) for it in followers}
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
        self._rng = random.Random(plan.seed)
        self._leader = leader
        failed = self._rng.sample(followers, min(round(plan.failed * len(followers)), len(followers) - 1))
        self._failed = frozenset(member.node for member in failed)
        self._copies: Counter[str] = Counter()

    def run(self, upstream: str, ranges: Iterable[Upstreams]) -> Spread:
        times = [time for upstreams in ranges for time in self._one_range(upstreams)]
        copies = {node: count / self._plan.ranges for node, count in self._copies.items()}
        return Spread(upstream, sorted(times), copies)

    def _one_range(self, upstreams: Upstreams) -> list[float]:
        known: dict[NodeId, float] = {self._leader.node: 0.0}
        return [self._time(node, upstreams, known) for node in upstreams if node not in self._failed]

    def _time(self, node: NodeId, upstreams: Upstreams, known: dict[NodeId, float]) -> float:
        """When the record arrives at a follower."""
        if node not in known:
            came, waited = 0.0, 0.0
            for upstream in upstreams[node]:
                if upstream.node not in self._failed:
                    came = self._time(upstream.node, upstreams, known)
                    self._copies[upstream.node] += 1
                    break
                waited = GAP_MS  # it asks all above at once, when it has waited for one
            else:
                self._copies[KAFKA] += 1
            known[node] = max(came, waited) + HOP_MS * self._rng.uniform(0.5, 1.5)
        return known[node]
