"""Decides which members fetch a range of the log from Kafka, and how the others receive it.

For each range, all members but the leader are ordered by a hash of the range and of their names (rendezvous hashing,
Thaler and Ravishankar 1998). So each range has another order, and a member that joins or leaves moves few of the
others. The first `fanout` members fetch the range from Kafka. Each member sends it to `fanout` others: the member at
place p receives it from the one at place p // fanout - 1.

All members compute the same order from the same membership, so nobody has to coordinate it. If some have read another
membership, some ranges are fetched by more members, and no records are lost.
"""

from __future__ import annotations

from xxhash import xxh64_intdigest

from replicator.position import Author, NodeId, Seq
from replicator.records.types import Member, Membership

RANGE_SEQS = 1 << 16
"""Records of a range. A member may change its upstream after each."""


def range_of(seq: Seq, range_seqs: int) -> int:
    """The range of the record that follows `seq`."""
    return seq // range_seqs


def order(membership: Membership, leader: Author, range: int) -> list[Member]:
    others = (member for member in membership.members if member.node != leader.node)
    return sorted(others, key=lambda member: xxh64_intdigest(f"{range} {member.node}".encode()))


def place(members: list[Member], node: NodeId) -> int:
    """The last one if the node is not among them."""
    return next((at for at, member in enumerate(members) if member.node == node), len(members))


def senders(members: list[Member], own: NodeId, fanout: int) -> tuple[Member, ...]:
    """Which members send a range to this one, the nearest first; empty: it fetches the range from Kafka.

    `members`: in the order of the range.
    """
    at = place(members, own)
    found = []
    while at >= fanout:
        at = at // fanout - 1
        found.append(members[at])
    return tuple(found)
