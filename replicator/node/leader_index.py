"""The leader's answer to the question of a read index: its committed offset, while it holds its lease.

The lease proves that no other leader has confirmed a write. So all that was confirmed or shown anywhere, before the
question arrived, was appended by this leader or before its term, and is at or below the offset. Kafka cannot answer
this question: a broker that was deposed as leader of the partition, and does not know it yet, reports its old end.
"""

from __future__ import annotations

import asyncio

from replicator.errors import NotLeader, Stale
from replicator.intervals import LEASE_POLL_MS
from replicator.node.context import NodeContext
from replicator.node.health import NodeHealth
from replicator.node.node_link import CommittedOffset
from replicator.position import Epoch


class LeaderIndex:
    def __init__(self, context: NodeContext, health: NodeHealth) -> None:
        self._context = context
        self._health = health

    async def committed_offset(self, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        """Everything that was confirmed, or shown by any node, before this call is at or below the offset.

        A leader that resolves an append is waited for. Raises `NotLeader` (of that timeline, in that epoch or a later
        one), `Stale` (it takes too long), and why this node serves no clients.
        """
        context = self._context
        try:
            async with asyncio.timeout(context.timeouts.read_ms / 1000):
                while True:
                    self._check_leads(timeline, epoch)
                    if (answer := await self._answer_of_term(timeline, epoch)) is not None:
                        return answer
        except TimeoutError:
            raise Stale(f"{context.author.node} has not held its lease for {context.timeouts.read_ms} ms") from None

    async def _answer_of_term(self, timeline: bytes, epoch: Epoch) -> CommittedOffset | None:
        """None if this node may have lost leadership since the offset was known: another leader may have written."""
        context, term = self._context, self._context.replica.state.epoch
        context.roles.lease_used = True
        committed = context.commit_point.get()
        while context.replica.state.epoch == term:
            left_ms = context.roles.lease_left_ms()
            if not committed.done():
                await asyncio.wait([committed], timeout=LEASE_POLL_MS / 1000)
            elif left_ms > 0:
                return CommittedOffset(committed.result(), left_ms, term, context.author)
            else:
                context.roles.lease_needed.set()
                await context.clock.sleep(LEASE_POLL_MS)
            self._check_leads(timeline, epoch)
        return None

    def _check_leads(self, timeline: bytes, epoch: Epoch) -> None:
        self._health.store()
        state = self._context.replica.state
        if state.leader != self._context.author or state.timeline != timeline or state.epoch < epoch:
            raise NotLeader(f"{self._context.author.node} does not lead epoch {epoch} of timeline {timeline.hex()}")
