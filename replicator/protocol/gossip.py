"""Decides which members fetch a range of the log from Kafka, and in which order the others receive it.

For each range, all members but the leader are ordered by a hash of the range and of their names (rendezvous hashing,
Thaler and Ravishankar 1998). So each range has another order, and a member that joins or leaves moves few of the
others. They form a tree in that order, whose root is Kafka (`upstream.ancestors`): the first `fanout` members fetch the
range from Kafka, and each member sends it to `fanout` others.

All members compute the same order from the same membership, so they need no coordination. If some have read another
membership, some ranges are fetched by more members, and no records are lost.
"""

from __future__ import annotations

from xxhash import xxh64_intdigest

from replicator.position import Author
from replicator.records.types import Member, Membership

RANGE_SEQS = 1 << 16
"""Records of a range. A member may change its upstream after each."""


def members_of_range(membership: Membership, leader: Author, number: int) -> list[Member]:
    """All members but the leader, in the order in which they receive that range."""
    others = (member for member in membership.members if member.node != leader.node)
    return sorted(others, key=lambda member: xxh64_intdigest(f"{number} {member.node}".encode()))
