"""Changes of the members and of the write policy, requested at the leader by an operator or a node that starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from replicator.errors import BadRequest
from replicator.node.client_writes import check_leads
from replicator.node.context import NodeContext
from replicator.node.writes import PendingWrite
from replicator.position import Author, NodeId
from replicator.protocol.membership import (
    with_joined,
    with_member,
    with_mode,
    with_policy,
    with_version,
    without_member,
)
from replicator.protocol.registration import with_registration
from replicator.records.types import Member, Membership, Mode, Policy

logger = logging.getLogger(__name__)


class Proposal(NamedTuple):
    membership: Membership
    record: PendingWrite


class MembershipChanges:
    """Operators' requests raise `NotLeader` or `Busy` at a node that is not leader."""

    def __init__(self, context: NodeContext, own: Member) -> None:
        """`own`: as what this node is to be registered."""
        self._context = context
        self._own = own
        self._proposals: list[Proposal] = []  # each contains the changes of those before it
        self._registration: PendingWrite | None = None  # the last one

    @property
    def latest(self) -> Membership:
        """The membership once all changes in flight are applied."""
        while self._proposals and not self._proposals[-1].record.in_flight:
            self._proposals.pop()
        return self._proposals[-1].membership if self._proposals else self._context.replica.machine.meta.membership

    def add_member(self, member: Member) -> None:
        """Add `member`, or update its addresses and its priority."""
        check_leads(self._context)
        known = self.latest.get(member.node)
        if known is not None:
            member = replace(member, mode=known.mode, incarnation=known.incarnation)
        self._propose(with_member(self.latest, member))

    def register(self, member: Member, replaces: int) -> None:
        """The process `member` registers in the place of another one (`protocol.registration`). Raises `BadRequest`."""
        check_leads(self._context)
        self._register(member, replaces)

    def remove_member(self, node: NodeId) -> None:
        """Raises `BadRequest`: not a member, the leader, or the policy could not be met any more."""
        check_leads(self._context)
        if node == self._context.author.node:
            raise BadRequest(f"{node} is the leader: transfer leadership to another node first")
        self._propose(without_member(self.latest, node))

    def set_mode(self, node: NodeId, mode: Mode) -> None:
        """Raises `BadRequest`: not a member, or the policy could not be met any more."""
        check_leads(self._context)
        self._propose(with_mode(self.latest, node, mode, self._context.author.node))

    def set_policy(self, policy: Policy) -> None:
        """Raises `BadRequest`: it could not be met."""
        check_leads(self._context)
        self._propose(with_policy(self.latest, policy))

    def register_leader(self) -> None:
        """A new leader registers itself, unless it has done so as a follower."""
        self._registration = self._register(self._own, self._context.registration.ask(self.latest))

    def repeat_refused_registration(self) -> None:
        if self._registration is not None and self._registration.was_refused:
            self.register_leader()

    def promote_joining(self, node: NodeId) -> None:
        """A joining member has caught up."""
        logger.info("%s has caught up: writes require its acks from now on", node)
        self._propose(with_joined(self.latest, node))

    def raise_version(self, versions: Mapping[Author, int]) -> None:
        """`versions`: the newest version of records that each of these processes reads."""
        changed = with_version(self.latest, self._context.author, versions)
        if changed != self.latest:
            logger.info("all members read records of version %d: they are written from now on", changed.version)
            self._propose(changed)

    def _register(self, member: Member, replaces: int) -> PendingWrite | None:
        """None if it is registered already."""
        changed = with_registration(self.latest, member, replaces, self._context.author)
        return None if changed == self.latest else self._propose(changed)

    def _propose(self, membership: Membership) -> PendingWrite:
        record = self._context.enqueue_own(membership)
        self._proposals.append(Proposal(membership, record))
        return record
