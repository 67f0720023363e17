"""Elections: a follower claims the next epoch when the leader's heartbeats have timed out."""

from __future__ import annotations

import logging
from math import inf

from replicator.errors import BrokerUnavailable
from replicator.intervals import ELECTION_RETRY_MS, ELIGIBLE_POLL_MS, SLOW_END_MS, TIMING_POLL_MS
from replicator.node.claim import send_claim
from replicator.node.context import NodeContext
from replicator.position import Offset
from replicator.protocol.candidates import rank
from replicator.protocol.log_state import LogState
from replicator.protocol.timing import candidacy_ms
from replicator.records.types import Reason

logger = logging.getLogger(__name__)


class Election:
    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._since_ms = context.clock.elapsed_ms()  # when the election timer was last started
        self._jitter = context.random.random()

    def restart_timer(self) -> None:
        """A record of the leader was received."""
        self._since_ms = self._context.clock.elapsed_ms()

    async def step(self) -> None:
        """Wait for a part of the election timeout, or claim if it has passed."""
        context = self._context
        if not context.roles.eligible:
            await context.clock.sleep(ELIGIBLE_POLL_MS)
            self.restart_timer()  # nodes that are preferred to this one may have had to wait, too
            return
        state = context.replica.state
        wait_ms = self._since_ms + self._timeout_ms(state) - context.clock.elapsed_ms()
        if wait_ms > 0:
            await context.clock.sleep(min(wait_ms, context.timing.election_ms, TIMING_POLL_MS))
            return
        end = await self._log_end()
        if end is not None and (end > state.offset + 1 or state is not context.replica.state):
            # a claim over unread records would be void; reading one of the leader restarts the timer
            await context.clock.sleep(ELECTION_RETRY_MS)
            return
        if end is not None:  # if it ends before what this node has read, the offset of the claim proves that
            await send_claim(context, Reason.ELECTION if state.leader else Reason.FIRST)
        self.restart_timer()
        self._jitter = context.random.random()

    def _timeout_ms(self, state: LogState) -> float:
        """How long to wait for a record of the leader."""
        context = self._context
        if state.leader is None:  # the log is empty: candidates with a lower priority number claim first
            return context.timing.step_ms * context.priority + 1
        membership, own = context.replica.machine.meta.membership, context.author.node
        position = rank(membership, state.leader.node, own)
        if position is None:
            return inf
        unused_ms = context.replica.leader_unused_ms
        extra_ms = context.pace.extra_candidacy_ms(membership, context.author, context.timing, unused_ms)
        return candidacy_ms(context.timing, position, self._jitter) + extra_ms

    async def _log_end(self) -> Offset | None:
        """The end of the log; None unless a broker answers within one heartbeat interval.

        A slow broker may have delayed the heartbeats, too.
        """
        context = self._context
        asked_ms = context.clock.elapsed_ms()
        try:
            end = await context.log.end()
        except BrokerUnavailable as error:
            logger.info("no election while Kafka does not answer: %s", error)
            return None
        late = context.clock.elapsed_ms() - asked_ms > max(context.timing.heartbeat_ms, SLOW_END_MS)
        return None if late else end
