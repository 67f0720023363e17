"""Decides which replicas must ack a write before the leader confirms it.

    policy               a write is confirmed once these have applied it
    async                the leader
    sync, all            the leader and all sync members
    sync, quorum K       the leader and K sync members
    sync, named a, b     the leader, a and b
    suspend, invalidate  the leader and all sync members

A leader that is a sync member counts towards the quorum. The leader applies a write last.

Members are processes here: a leader that has not registered yet (`registration`) waits for the process that has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replicator.position import Author, Offset
from replicator.records.types import Membership, Mode, WaitFor, WriteMode

MAX_OFFSET = Offset(2**63 - 1)


class AckRequirement(NamedTuple):
    replicas: tuple[Author, ...] = ()  # never includes the leader
    needed: int = 0  # number of `replicas` that must ack

    def confirmed(self, acked: Callable[[Author], Offset]) -> Offset:
        """The last offset that enough replicas have acked, given the ack of each; `MAX_OFFSET` if no ack is needed."""
        if not self.needed:
            return MAX_OFFSET
        if self.needed > len(self.replicas):
            return Offset(-1)
        return sorted(map(acked, self.replicas), reverse=True)[self.needed - 1]

    def missing(self, is_responsive: Callable[[Author], bool]) -> tuple[Author, ...]:
        """The unresponsive replicas, if too few others are left to confirm a write; otherwise empty."""
        unresponsive = tuple(replica for replica in self.replicas if not is_responsive(replica))
        return unresponsive if len(self.replicas) - len(unresponsive) < self.needed else ()


def required(membership: Membership, leader: Author) -> AckRequirement:
    """The acks that a write of `leader` waits for."""
    policy = membership.policy
    if policy.write is WriteMode.ASYNC:
        return AckRequirement()
    members = sync_members(membership)
    if policy.write is WriteMode.SYNC and policy.wait_for is WaitFor.NAMED:
        members = tuple(member.author for member in membership.members if member.node in policy.named)
    others = tuple(member for member in members if member != leader)
    if policy.write is WriteMode.SYNC and policy.wait_for is WaitFor.QUORUM:
        return AckRequirement(others, max(0, policy.quorum - (leader in members)))
    return AckRequirement(others, len(others))


def sync_members(membership: Membership) -> tuple[Author, ...]:
    return tuple(member.author for member in membership.members if member.mode is Mode.SYNC)


def local_readers(membership: Membership) -> frozenset[Author]:
    """Processes that may answer linearizable reads without asking the leader.

    In suspend and invalidate mode, a write is not confirmed until each of them has suspended its keys and acked it.
    """
    if membership.policy.write not in (WriteMode.SUSPEND, WriteMode.INVALIDATE):
        return frozenset()
    return frozenset(sync_members(membership))
