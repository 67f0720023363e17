"""Decides from which process a follower receives the records of the log: its upstream.

    wanted    upstreams, in order of preference
    leader    the leader
    a node    that node, then the leader
    auto      its parent in a tree of all members, then the parent of that one, and so on up to the leader
    gossip    the same in the tree of the next range of the log, whose root is Kafka (`gossip`)

The root of the tree is the leader. The candidates follow in their order (`candidates`), then the snapshotters; each has
`fanout` children. All members compute the same tree from the same membership, so it has no loops. There may be a loop
while members have read different memberships, or if nodes name each other: `ReplicationBacklog.set_downstream` ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from replicator import position
from replicator.position import FANOUT, GOSSIP, LEADER, Author, NodeId, Offset, Seq
from replicator.protocol.candidates import in_order
from replicator.protocol.gossip import RANGE_SEQS, members_of_range
from replicator.records.types import Member, Membership


@dataclass(frozen=True, slots=True)
class UpstreamRule:
    """How a process chooses its upstream."""

    wanted: str = LEADER  # or `AUTO`, `GOSSIP`, the id of a node
    fanout: int = FANOUT
    range_seqs: int = RANGE_SEQS

    def range_of(self, seq: Seq) -> int:
        """The range of the record that follows `seq`; always 0 if the upstream does not depend on it."""
        return seq // self.range_seqs if self.wanted == GOSSIP else 0


DEFAULT_UPSTREAM = UpstreamRule()


def upstreams(
    rule: UpstreamRule, membership: Membership, leader: Author, own: Author, seq: Seq
) -> tuple[Member, ...] | None:
    """`seq`: what this process has read. None: it fetches the records that follow from Kafka.

    Empty if this process is the leader, or if that is not registered. A process that is not registered, because it has
    not caught up, has the place of its node, or the last one; a leader sends it nothing.
    """
    root = membership.get(leader.node)
    if root is None or root.author != leader or own == leader:
        return ()
    found: tuple[Member, ...]
    match rule.wanted:
        case position.GOSSIP:
            return ancestors(members_of_range(membership, leader, rule.range_of(seq)), own.node, rule.fanout) or None
        case position.LEADER:
            found = (root,)
        case position.AUTO:
            found = (*ancestors(members_of_tree(membership, root), own.node, rule.fanout), root)
        case _:
            named = membership.get(NodeId(rule.wanted))
            found = (root,) if named is None or named.author in (own, leader) else (named, root)
    return found if membership.includes(own) else tuple(member for member in found if member != root)


class Distance(NamedTuple):
    """Of a follower from the end of the log."""

    applied: Offset
    end: Offset  # of the log: the offset of the next append

    @property
    def entries(self) -> int:
        return self.end - 1 - self.applied


def falls_behind(before: Distance, now: Distance) -> bool:
    """Whether an upstream sends less than is appended: its follower is not even where the log ended `before`."""
    return now.applied < before.end - 1 and now.entries >= before.entries


def members_of_tree(membership: Membership, root: Member) -> list[Member]:
    """All members but the root, level by level."""
    candidates = in_order(membership, root.node)
    return candidates + [member for member in membership.members if member != root and member not in candidates]


def ancestors(members: Sequence[Member], own: NodeId, fanout: int) -> tuple[Member, ...]:
    """The parent of a node, the parent of that one, and so on up to a child of the root; empty: the root is its parent.

    `members`: of the tree without its root, level by level. A node that is not among them comes last.
    """
    place = next((place for place, member in enumerate(members) if member.node == own), len(members))
    found = []
    while place >= fanout:
        place = place // fanout - 1
        found.append(members[place])
    return tuple(found)
