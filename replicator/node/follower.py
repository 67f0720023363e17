"""The follower: reads and applies the log, and stands for election when the leader has fallen silent."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import inf

from replicator.errors import BrokerUnavailable, NotLeader
from replicator.log.port import AppendOutcomeUnknown, AppendRefused, Entry
from replicator.node.context import Follow, Lead, NodeContext, claim_record, run_with_background
from replicator.position import Author, Epoch, Offset
from replicator.protocol.ack_policy import required
from replicator.protocol.candidates import rank
from replicator.protocol.log_state import LogState
from replicator.protocol.roles import Event, Role
from replicator.records.types import Claim, Header, Membership, Reason

logger = logging.getLogger(__name__)

DOUBT_PAUSE_MS = 50
STANDING_POLL_MS = 10
TIMELINE_BITS = 128


class Follower:
    def __init__(self, context: NodeContext, follow: Follow) -> None:
        self._context = context
        self._follow = follow
        self._heard_ms = context.clock.elapsed_ms()  # when the leader's last record was received
        self.last_record_ms = self._heard_ms  # the same, but for claims of its own that had no success
        self._luck = context.random.random()
        self._claimed = follow.why  # the reason of the last accepted claim
        leads = context.replica.state.leader
        self._heir = follow.heir if leads in (context.author, follow.heir) else None  # not after somebody else's claim

    @property
    def holds_writes(self) -> bool:
        """Whether writes are kept until the heir is heard: their clients then find it when they try again."""
        return self._heir is not None

    async def run(self) -> Lead:
        """Until this node leads. Raises what reading and applying the log raise."""
        return await run_with_background(self._read(), self._campaign())

    async def _read(self) -> Lead:
        context = self._context
        context.reader.seek(Offset(context.replica.state.offset + 1))
        while True:
            lead = self._promotion()
            if lead is not None:
                return lead
            self._take(await context.reader.next())

    def _take(self, entries: Sequence[Entry]) -> None:
        context = self._context
        membership = context.replica.machine.meta.membership
        accepted = context.replica.read(entries)
        if accepted:
            self._heard_ms = self.last_record_ms = context.clock.elapsed_ms()
        for offset, (header, body, _) in accepted:
            if type(body) is Claim:
                self._note_claim(header, body)
            elif context.standing.role is Role.CANDIDATE:
                context.standing.met(Event.OUTRUN)
            if type(body) is Membership:
                context.standing.note_membership(membership, body, context.clock.elapsed_ms(), context.timing)
                membership = body
            elif header.author == self._heir:
                self._turn_away(header.author)
            if header.author == context.author:
                if required(membership, context.author.node).needed:
                    context.inflight.land(header.epoch, header.seq, offset)
                else:
                    context.inflight.applied(header.epoch, header.seq, offset)

    def _note_claim(self, header: Header, claim: Claim) -> None:
        context = self._context
        logger.info("epoch %d: %s leads (%s)", claim.epoch, claim.leader, claim.reason)
        context.inflight.fence(claim.epoch)
        sent_ms = context.claims_sent_ms.pop(claim.epoch, None)
        if claim.leader != context.author:
            context.standing.met(Event.OTHER_CLAIM_ACCEPTED)
            context.inflight.disown()
            if claim.leader != self._heir:
                self._turn_away(claim.leader)
            return
        context.standing.met(Event.OWN_CLAIM_ACCEPTED)
        context.standing.lease = context.standing.lease.claimed(
            claim.reason,
            sent_ms if header.author == context.author else None,
            context.clock.elapsed_ms(),
            context.timing.lease_ms,
        )
        self._claimed = claim.reason

    def _turn_away(self, leader: Author) -> None:
        self._heir = None
        self._context.inflight.reject(NotLeader(f"{leader.node} leads now: the write was not sent. Ask it"))

    def _promotion(self) -> Lead | None:
        standing, state = self._context.standing, self._context.replica.state
        if standing.role is Role.CHECKING and state.offset >= self._follow.resume_after:
            standing.met(Event.STILL_LEADER)
        return Lead(self._claimed) if standing.role is Role.LEADING else None

    async def _campaign(self) -> None:
        """Claim: in doubt, until the claim is read; otherwise whenever the leader is silent for long enough."""
        context = self._context
        while True:
            match context.standing.role:
                case Role.RESOLVING:
                    await self._claim(context.replica.state, Reason.RESOLVE)
                    await context.clock.sleep(DOUBT_PAUSE_MS)
                case Role.FOLLOWING | Role.CANDIDATE if context.standing.may_stand:
                    await self._stand()
                case Role.FOLLOWING:
                    await context.clock.sleep(STANDING_POLL_MS)
                    self._heard_ms = context.clock.elapsed_ms()  # those of higher priority may have had to wait, too
                case _:
                    await context.clock.sleep(context.timing.heartbeat_ms)

    async def _stand(self) -> None:
        context = self._context
        state = context.replica.state
        wait_ms = self._heard_ms + self._patience_ms(state) - context.clock.elapsed_ms()
        if wait_ms > 0:
            await context.clock.sleep(min(wait_ms, context.timing.election_ms))
            return
        if await self._has_read_all(state):
            await self._claim(state, Reason.ELECTION if state.leader else Reason.FIRST)
        self._heard_ms = context.clock.elapsed_ms()
        self._luck = context.random.random()

    def _patience_ms(self, state: LogState) -> float:
        """How long the leader may be silent."""
        context = self._context
        if state.leader is None:  # the log is empty: nobody to wait for but candidates of higher priority
            return context.timing.step_ms * context.priority + 1
        place = rank(context.replica.machine.meta.membership, state.leader.node, context.author.node)
        return inf if place is None else context.timing.candidacy_ms(place, self._luck)

    async def _has_read_all(self, state: LogState) -> bool:
        """Whether the log was found to end at `state`, by a broker that answers as fast as a heartbeat should come.

        A claim over records that are still unread would be void; a broker that was away has held the leader up, too.
        """
        context = self._context
        asked_ms = context.clock.elapsed_ms()
        try:
            end = await context.log.end()
        except BrokerUnavailable as error:
            logger.info("no election while Kafka does not answer: %s", error)
            return False
        late = context.clock.elapsed_ms() - asked_ms > context.timing.heartbeat_ms
        return not late and end == state.offset + 1 and state is context.replica.state

    async def force(self) -> None:
        """Take the lead although somebody else may have it: an operator's word. Until this node has been made leader.

        Raises `BrokerUnavailable`.
        """
        context = self._context
        while context.replica.state.leader != context.author:
            await self._claim(context.replica.state, Reason.FORCE)
            await context.replica.applied(Offset(await context.log.end() - 1))

    async def _claim(self, state: LogState, reason: Reason) -> None:
        context = self._context
        epoch = Epoch(state.epoch + 1)
        logger.info("claiming epoch %d (%s), having read up to offset %d", epoch, reason, state.offset)
        if not state.timeline:
            state = state._replace(timeline=context.random.getrandbits(TIMELINE_BITS).to_bytes(16, "big"))
        context.standing.met(Event.CLAIM_SENT)
        context.claims_sent_ms.setdefault(epoch, context.clock.elapsed_ms())
        try:
            await context.log.append([claim_record(context, state, context.author, reason)])
        except (AppendRefused, AppendOutcomeUnknown) as error:
            logger.info("the claim of epoch %d: %s", epoch, error)
