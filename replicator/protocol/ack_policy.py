"""Whose acks a write waits for.

    policy               a write is answered once it is in the stores of
    async                the leader
    sync, all            the leader and all sync members
    sync, quorum K       the leader and K sync members
    sync, named a, b     the leader, a and b
    suspend, invalidate  the leader and all sync members

A leader that is a sync member itself is one of them: it applies last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replicator.position import NodeId, Offset
from replicator.records.types import Membership, Mode, WaitFor, WriteMode

ENDLESS = Offset(2**63 - 1)


class Requirement(NamedTuple):
    replicas: tuple[NodeId, ...] = ()  # the leader is none of them
    needed: int = 0  # how many of them have to ack

    def confirmed(self, acked: Callable[[NodeId], Offset]) -> Offset:
        """The last offset that enough of them have applied, given how far each is; `ENDLESS` if none is needed."""
        if not self.needed:
            return ENDLESS
        if self.needed > len(self.replicas):
            return Offset(-1)
        return sorted(map(acked, self.replicas), reverse=True)[self.needed - 1]

    def missing(self, is_responsive: Callable[[NodeId], bool]) -> tuple[NodeId, ...]:
        """Who is silent, if too few are heard to go on; else nobody."""
        silent = tuple(node for node in self.replicas if not is_responsive(node))
        return silent if len(self.replicas) - len(silent) < self.needed else ()


def required(membership: Membership, leader: NodeId) -> Requirement:
    """What a write of that leader waits for."""
    policy = membership.policy
    if policy.write is WriteMode.ASYNC:
        return Requirement()
    members = sync_members(membership)
    if policy.write is WriteMode.SYNC and policy.wait_for is WaitFor.NAMED:
        members = policy.named
    others = tuple(node for node in members if node != leader)
    if policy.write is WriteMode.SYNC and policy.wait_for is WaitFor.QUORUM:
        return Requirement(others, max(0, policy.quorum - (leader in members)))
    return Requirement(others, len(others))


def sync_members(membership: Membership) -> tuple[NodeId, ...]:
    return tuple(member.node for member in membership.members if member.mode is Mode.SYNC)


def local_readers(membership: Membership) -> frozenset[NodeId]:
    """Who may answer linearizable reads without asking the log, as every write waits for it twice over."""
    if membership.policy.write not in (WriteMode.SUSPEND, WriteMode.INVALIDATE):
        return frozenset()
    return frozenset(sync_members(membership))
