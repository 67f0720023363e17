"""Decides from which process a follower receives the records of the log: its upstream.

    wanted    upstreams, in order of preference
    leader    the leader
    a node    that node, then the leader
    auto      its parent in a tree of all members, then the parent of that one, and so on up to the leader

The root of the tree is the leader. The candidates follow in their order (`candidates`), then the snapshotters; each has
`FANOUT` children. All members compute the same tree from the same membership, so it has no loops. While they have read
different ones, or if a named node is itself below the node that names it, there may be a loop: `node.relay` ends it.
"""

from __future__ import annotations

from replicator.position import AUTO, LEADER, Author, NodeId
from replicator.protocol.candidates import in_order
from replicator.records.types import Member, Membership

FANOUT = 4
"""Followers that receive records from the same process, in the tree of `AUTO`."""


def upstreams(membership: Membership, leader: Author, own: Author, wanted: str) -> tuple[Member, ...]:
    """`wanted`: `LEADER`, `AUTO` or the id of a node.

    Empty if this process is the leader, or if one of both is not registered.
    """
    root = membership.get(leader.node)
    if root is None or root.author != leader or own == leader or not membership.includes(own):
        return ()
    if wanted == AUTO:
        return _ancestors(_breadth_first(membership, root), own)
    named = membership.get(NodeId(wanted)) if wanted != LEADER else None
    return (root,) if named is None or named.author in (own, leader) else (named, root)


def _breadth_first(membership: Membership, root: Member) -> list[Member]:
    candidates = in_order(membership, root.node)
    others = [member for member in membership.members if member != root and member not in candidates]
    return [root, *candidates, *others]


def _ancestors(order: list[Member], own: Author) -> tuple[Member, ...]:
    """From the parent to the root."""
    at = next(index for index, member in enumerate(order) if member.author == own)
    ancestors = []
    while at:
        at = (at - 1) // FANOUT
        ancestors.append(order[at])
    return tuple(ancestors)
