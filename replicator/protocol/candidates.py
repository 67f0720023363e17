"""Decides which members may become leader, and in which order they start an election.

Sync replicas come first, because their stores are the most advanced. The order among them, and among the others, is by
priority, then by name.
"""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.position import NodeId
from replicator.records.types import Member, Membership, Mode


def check_may_lead(membership: Membership, node: NodeId) -> None:
    """Raises `BadRequest` if `node` is not a member, or cannot become leader."""
    member = membership.get(node)
    if member is None:
        raise BadRequest(f"{node} is not a member: see `replicator status`")
    if member.mode is Mode.SNAPSHOTTER:
        raise BadRequest(f"{node} is a snapshotter, and a snapshotter cannot become leader: choose another node")


def in_order(membership: Membership, leader: NodeId) -> list[Member]:
    """The members that may become leader after `leader`."""
    return sorted(
        (member for member in membership.members if member.node != leader and member.mode is not Mode.SNAPSHOTTER),
        key=lambda member: (member.mode is not Mode.SYNC, member.priority, member.node),
    )


def rank(membership: Membership, leader: NodeId, node: NodeId) -> int | None:
    """The position of `node` (from 0) in the order of candidates after `leader`; None if it cannot become leader.

    A node that is not a member yet comes after all members.
    """
    own = membership.get(node)
    if own is not None and own.mode is Mode.SNAPSHOTTER:
        return None
    order = in_order(membership, leader)
    return order.index(own) if own in order else len(order)
