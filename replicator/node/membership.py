"""Changes of the members and of the write policy, requested at the leader by an operator or a new node."""

from __future__ import annotations

import logging
from dataclasses import replace

from replicator.errors import BadRequest
from replicator.node.client_writes import check_leads
from replicator.node.context import NodeContext
from replicator.node.writes import PendingWrite
from replicator.position import NodeId
from replicator.protocol.membership import with_joined, with_member, with_mode, with_policy, without_member
from replicator.records.types import Member, Membership, Mode, Policy

logger = logging.getLogger(__name__)


class MembershipChanges:
    """Operators' requests raise `NotLeader` or `Busy` at a node that is not leader."""

    def __init__(self, context: NodeContext, own: Member) -> None:
        """`own`: as what this node is to be registered."""
        self._context = context
        self._own = own
        self._latest: Membership = context.replica.machine.meta.membership  # the last one that was proposed here
        self._record: PendingWrite | None = None  # of `_latest`
        self._registration: PendingWrite | None = None  # the last one

    @property
    def latest(self) -> Membership:
        """The membership once all changes in flight are applied."""
        if self._record is not None and self._record.in_flight:
            return self._latest
        return self._context.replica.machine.meta.membership

    def add_member(self, member: Member) -> None:
        """Add `member`, or update all its fields but its mode."""
        check_leads(self._context)
        known = self.latest.get(member.node)
        self._propose(with_member(self.latest, replace(member, mode=known.mode) if known else member))

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

    def register(self) -> None:
        """A new leader that is not a member, or whose address has changed, adds itself."""
        known = self.latest.get(self._own.node)
        registered = replace(self._own, mode=known.mode) if known else self._own
        if known != registered:
            self._registration = self._propose(with_member(self.latest, registered))

    def repeat_refused_registration(self) -> None:
        if self._registration is not None and self._registration.was_refused:
            self._registration = None
            self.register()

    def promote_joining(self, node: NodeId) -> None:
        """A joining member has caught up."""
        logger.info("%s has caught up: writes require its acks from now on", node)
        self._propose(with_joined(self.latest, node))

    def _propose(self, membership: Membership) -> PendingWrite:
        record = self._context.enqueue_own(membership)
        self._latest, self._record = membership, record
        return record
