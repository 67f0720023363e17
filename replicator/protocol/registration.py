"""Decides which process of a node counts, if several run under its id: the one that registered last.

The membership has the incarnation of that process. Only its acks count, and only it may answer linearizable reads
without asking the leader (`ack_policy`). A process asks the leader to register it once it has read the log, and repeats
that until it reads its registration. The request names the incarnation that the process wants to replace: the one that
it has read in the membership. The leader decides:

    the membership has     the request
    no member of that id   adds the member, if it replaces nobody (0)
    its own incarnation    updates the addresses: it is a repetition
    the one it replaces    takes that one's place, and keeps the mode
    another one            is refused: another process has registered meanwhile, or the request is late

The leader refuses any other process of its own id, because it is running itself.

A process that has asked, and then reads that another process has registered, has been replaced. It stops for good, and
does not ask again. So of two processes the one that registers later wins, and no request of the other one, however late
it arrives, can win back: it names an incarnation that the membership does not have any more.

A claim needs no such rule. A candidate has read all that the leader wrote, so also its own replacement, or its claim is
void (`claims`). After a forced claim or a transfer, a process may read its replacement before the claim that names it.
It stops there, and another node is elected.
"""

from __future__ import annotations

from dataclasses import replace

from replicator.errors import BadRequest
from replicator.position import Author, NodeId
from replicator.protocol.membership import with_member
from replicator.records.types import Member, Membership

NOBODY = 0
"""The incarnation of a member of which no process has registered."""


def registered(membership: Membership, node: NodeId) -> int:
    """The incarnation that counts as `node`; `NOBODY` also if it is not a member."""
    member = membership.get(node)
    return NOBODY if member is None else member.incarnation


def with_registration(membership: Membership, member: Member, replaces: int, leader: Author) -> Membership:
    """The process `member` registers in the place of the incarnation `replaces`; the mode of a known member is kept.

    Raises `BadRequest` if another process counts as this node.
    """
    known = membership.get(member.node)
    where = f", at {known.resp}" if known else ""
    if member.node == leader.node and member.author != leader:
        raise BadRequest(
            f"{member.node} is the leader and runs in another process{where}: stop that process first, or give this "
            "one another --id"
        )
    if registered(membership, member.node) not in (member.incarnation, replaces):
        if known is None:
            raise BadRequest(
                f"{member.node} was removed after this process had read the membership: it asks again once it has read "
                "that"
            )
        raise BadRequest(
            f"another process has registered as {member.node}{where}: stop the one that should not run. This one asks "
            "again, or stops as replaced, once it has read that"
        )
    return with_member(membership, replace(member, mode=known.mode) if known else member)


def is_replaced(membership: Membership, own: Author, replaces: int) -> bool:
    """Whether a process that asked to replace the incarnation `replaces` has been replaced."""
    return registered(membership, own.node) not in (NOBODY, own.incarnation, replaces)
