"""Changes of the membership: each yields the full membership that a record then carries."""

from __future__ import annotations

from dataclasses import replace

from replicator.errors import BadRequest
from replicator.position import NodeId
from replicator.records.types import Member, Membership


def with_member(membership: Membership, member: Member) -> Membership:
    """`member` added, or in the place of the one of its name."""
    others = tuple(known for known in membership.members if known.node != member.node)
    return replace(membership, members=tuple(sorted((*others, member), key=lambda known: known.node)))


def without_member(membership: Membership, node: NodeId) -> Membership:
    """Raises `BadRequest`."""
    if membership.get(node) is None:
        raise BadRequest(f"{node} is no member: see `replicator status`")
    return replace(membership, members=tuple(known for known in membership.members if known.node != node))
