"""Changes of leadership on request: a transfer by the leader, also because it stops, or a forced claim without it."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from replicator.errors import BadRequest, Busy, Definite, NotLeader
from replicator.intervals import (
    CATCH_UP_TIMEOUT_MS,
    DRAIN_TIMEOUT_MS,
    STOP_CATCH_UP_TIMEOUT_MS,
    STOP_TRANSFER_TIMEOUT_MS,
)
from replicator.node.backlog import ReplicationBacklog
from replicator.node.claim import send_claim
from replicator.node.client_writes import check_leads
from replicator.node.context import NodeContext
from replicator.node.health import NodeHealth
from replicator.node.replica_progress import ReplicaProgress
from replicator.position import NodeId, Offset
from replicator.protocol.candidates import check_may_lead, in_order
from replicator.protocol.roles import TRANSITIONS, Event
from replicator.records.types import Reason

logger = logging.getLogger(__name__)


class LeadershipTransfer:
    def __init__(
        self, context: NodeContext, backlog: ReplicationBacklog, progress: ReplicaProgress, health: NodeHealth
    ) -> None:
        self._context = context
        self._backlog = backlog
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
            await self._transfer(node, CATCH_UP_TIMEOUT_MS)
        elif node == own:
            self._health.store()
            await self._force()
        else:
            raise NotLeader(f"only {node} itself can force its own claim: ask it")

    async def before_stop(self) -> None:
        """If this node is leader and a follower receives its records, make that one the leader.

        A transfer that is in progress is completed instead. Without such a follower, or if it takes too long, the
        others elect a leader once this node has stopped.
        """
        context = self._context
        own = context.author.node
        try:
            async with asyncio.timeout(STOP_TRANSFER_TIMEOUT_MS / 1000):
                if context.roles.transfer is not None:
                    with contextlib.suppress(Definite):
                        await asyncio.shield(context.roles.transfer.done)
                for member in in_order(context.replica.machine.meta.membership, own):
                    if not context.roles.role.leads:
                        return
                    if member.author in self._backlog.receivers:
                        try:
                            await self._transfer(member.node, STOP_CATCH_UP_TIMEOUT_MS)
                        except Definite as error:
                            logger.info("%s", error)
        except TimeoutError:
            logger.warning("%s stops without having transferred leadership in time", own)

    async def _transfer(self, node: NodeId, catch_up_timeout_ms: float) -> None:
        """Raises `NotLeader`, `Busy`."""
        context = self._context
        check_leads(context)
        successor = await self._progress.caught_up(node, context.replica.state.offset, catch_up_timeout_ms)
        check_leads(context)
        await context.roles.request_transfer(successor, DRAIN_TIMEOUT_MS)

    async def _force(self) -> None:
        context = self._context
        while context.replica.state.leader != context.author:
            if (context.roles.role, Event.CLAIM_SENT) not in TRANSITIONS:
                raise Busy(f"{context.author.node} is {context.roles.role}: it cannot claim now. Try again")
            await send_claim(context, Reason.FORCE)
            await context.replica.applied(Offset(await context.log.end() - 1))
