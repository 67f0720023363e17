"""Who stands for election first: sync replicas, whose stores are the most advanced, then by priority, then by name."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.position import NodeId
from replicator.records.types import Membership, Mode


def check_may_lead(membership: Membership, node: NodeId) -> None:
    """Raises `BadRequest` if `node` is no member, or one that never leads."""
    member = membership.get(node)
    if member is None:
        raise BadRequest(f"{node} is no member: see `replicator status`")
    if member.mode is Mode.SNAPSHOTTER:
        raise BadRequest(f"{node} is a snapshotter, which never leads: choose another")


def rank(membership: Membership, leader: NodeId, node: NodeId) -> int | None:
    """The place of `node` among those that may follow `leader`, from 0; None: it never leads.

    A node that is no member yet comes after all that are.
    """
    own = membership.get(node)
    if own is not None and own.mode is Mode.SNAPSHOTTER:
        return None
    order = sorted(
        (member for member in membership.members if member.node != leader and member.mode is not Mode.SNAPSHOTTER),
        key=lambda member: (member.mode is not Mode.SYNC, member.priority, member.node),
    )
    return order.index(own) if own in order else len(order)
