"""Changes of the membership and of the sync policy, as an operator or a new node asks for them at the leader."""

from __future__ import annotations

import logging
from dataclasses import replace

from replicator.errors import BadRequest, ReplicatorError
from replicator.node.client_writes import check_leads
from replicator.node.context import NodeContext
from replicator.position import NodeId, Offset
from replicator.protocol.membership import with_joined, with_member, with_mode, with_policy, without_member
from replicator.records.types import Member, Membership, Mode, Policy

logger = logging.getLogger(__name__)


class MembershipChanges:
    """All raise `NotLeader` or `Busy` at a node that does not lead."""

    def __init__(self, context: NodeContext, own: Member) -> None:
        """`own`: as what this node is to be registered."""
        self._context = context
        self._own = own
        self._proposed: Membership | None = None  # the latest that is in flight

    @property
    def latest(self) -> Membership:
        """As it will be once all that is in flight is applied."""
        return self._proposed or self._context.replica.machine.meta.membership

    def add_member(self, member: Member) -> None:
        """Add `member`, or change what is known of it but for its mode."""
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
        """A leader that the log does not know, or knows under another address, adds itself.

        To be called again: the log may refuse the record.
        """
        known = self.latest.get(self._own.node)
        registered = replace(self._own, mode=known.mode) if known else self._own
        if known != registered:
            self._propose(with_member(self.latest, registered))

    def promote_joining(self, node: NodeId) -> None:
        """A joining member has caught up."""
        logger.info("%s has caught up: writes require its acks from now on", node)
        self._propose(with_joined(self.latest, node))

    def _propose(self, membership: Membership) -> None:
        self._proposed = membership

        def ended(error: ReplicatorError | None, offset: Offset) -> None:
            if self._proposed is membership:  # applied, or failed with all that came after it
                self._proposed = None

        self._context.enqueue_own(membership, ended)
