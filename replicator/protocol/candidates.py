"""Who stands for election first: sync replicas, whose stores are the most advanced, then by priority, then by name."""

from __future__ import annotations

from replicator.position import NodeId
from replicator.records.types import Membership, Mode


def rank(membership: Membership, leader: NodeId | None, node: NodeId) -> int:
    """The place of `node` among those that may follow `leader`, from 0; a node that is no member comes after all."""
    order = sorted(
        (member for member in membership.members if member.node != leader and member.mode is not Mode.SNAPSHOTTER),
        key=lambda member: (member.mode is not Mode.SYNC, member.priority, member.node),
    )
    names = [member.node for member in order]
    return names.index(node) if node in names else len(names)
