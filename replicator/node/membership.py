"""What an operator asks of a cluster through one of its nodes: who belongs to it, in which mode, and who leads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from replicator.errors import BadRequest, NotLeader
from replicator.node.context import NodeContext
from replicator.node.follower import Follower
from replicator.node.leader import Leader
from replicator.node.replica_progress import ReplicaProgress
from replicator.position import NodeId
from replicator.protocol.candidates import check_may_lead
from replicator.protocol.membership import with_member, with_mode, with_policy, without_member
from replicator.records.types import Member, Mode, Policy
from replicator.store.view import View

CATCH_UP_MS = 10_000  # which a node that is to lead may take to catch up


class Operations:
    def __init__(
        self,
        context: NodeContext,
        book: ReplicaProgress,
        role: Callable[[], Leader | Follower],
        leader: Callable[[], Leader],
        store: Callable[[], View],
    ) -> None:
        """`leader` raises why this node is none, `store` why it serves nobody."""
        self._context = context
        self._book = book
        self._role = role
        self._leader = leader
        self._store = store

    def enrol(self, member: Member) -> None:
        """Make `member` part of the cluster, or change what is known of it but for its mode. Raises `NotLeader`."""
        leader = self._leader()
        known = leader.membership.get(member.node)
        leader.propose(with_member(leader.membership, replace(member, mode=known.mode) if known else member))

    def set_mode(self, node: NodeId, mode: Mode) -> None:
        """Raises `NotLeader`, `BadRequest` (no member, or the policy could not be met any more)."""
        leader = self._leader()
        leader.propose(with_mode(leader.membership, node, mode, self._context.author.node))

    def set_policy(self, policy: Policy) -> None:
        """Raises `NotLeader`, `BadRequest` (it could not be met)."""
        leader = self._leader()
        leader.propose(with_policy(leader.membership, policy))

    def expel(self, node: NodeId) -> None:
        """Raises `NotLeader`, `BadRequest` (no member, the leader, or the policy could not be met any more)."""
        leader = self._leader()
        if node == self._context.author.node:
            raise BadRequest(f"{node} leads: give the lead to another node first")
        leader.propose(without_member(leader.membership, node))

    async def promote(self, node: NodeId, *, force: bool) -> None:
        """Let `node` lead. With `force` it has to be this node, which takes the lead, whoever has it.

        Raises `NotLeader` (ask the leader; for `force`, ask `node`), `BadRequest`, `Busy`, `BrokerUnavailable`, and why
        a node that is forced to lead serves nobody.
        """
        role, own = self._role(), self._context.author.node
        check_may_lead(self._context.replica.machine.meta.membership, node)
        if isinstance(role, Leader) and node == own:
            raise BadRequest(f"{node} leads already")
        if not force:
            leader = self._leader()
            heir = await self._book.reached(node, self._context.replica.state.offset, CATCH_UP_MS)
            await leader.hand_over(heir)
        elif isinstance(role, Follower) and node == own:
            self._store()
            await role.force()
        else:
            raise NotLeader(f"only {node} itself can take the lead by force: ask it")
