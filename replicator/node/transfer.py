"""Changes of leadership at an operator's request: a transfer by the leader, or a forced claim without it."""

from __future__ import annotations

from replicator.errors import BadRequest, Busy, NotLeader
from replicator.intervals import CATCH_UP_TIMEOUT_MS, DRAIN_TIMEOUT_MS
from replicator.node.claim import send_claim
from replicator.node.client_writes import check_leads
from replicator.node.context import NodeContext
from replicator.node.health import NodeHealth
from replicator.node.replica_progress import ReplicaProgress
from replicator.position import NodeId, Offset
from replicator.protocol.candidates import check_may_lead
from replicator.protocol.roles import TRANSITIONS, Event
from replicator.records.types import Reason


class LeadershipTransfer:
    def __init__(self, context: NodeContext, progress: ReplicaProgress, health: NodeHealth) -> None:
        self._context = context
        self._progress = progress
        self._health = health

    async def promote(self, node: NodeId, *, force: bool) -> None:
        """Make `node` the leader. With `force`, `node` must be this node, which claims whichever node is leader.

        Raises `NotLeader` (ask the leader; with `force`, ask `node`), `BadRequest`, `Busy`, `BrokerUnavailable`, and,
        with `force`, as `NodeHealth.store`.
        """
        context, own = self._context, self._context.author.node
        check_may_lead(context.replica.machine.meta.membership, node)
        if context.roles.role.leads and node == own:
            raise BadRequest(f"{node} is already the leader")
        if not force:
            check_leads(context)
            successor = await self._progress.caught_up(node, context.replica.state.offset, CATCH_UP_TIMEOUT_MS)
            check_leads(context)
            await context.roles.request_transfer(successor, DRAIN_TIMEOUT_MS)
        elif node == own:
            self._health.store()
            await self._force()
        else:
            raise NotLeader(f"only {node} itself can force its own claim: ask it")

    async def _force(self) -> None:
        context = self._context
        while context.replica.state.leader != context.author:
            if (context.roles.role, Event.CLAIM_SENT) not in TRANSITIONS:
                raise Busy(f"{context.author.node} is {context.roles.role}: it cannot claim now. Try again")
            await send_claim(context, Reason.FORCE)
            await context.replica.applied(Offset(await context.log.end() - 1))
