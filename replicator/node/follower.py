"""The follower: reads and applies the log, and stands for election when the leader has fallen silent."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import inf

from replicator.errors import BrokerUnavailable, NotLeader
from replicator.log.port import AppendInDoubt, AppendRefused, Entry
from replicator.node.role import Follow, Lead, Shared, claim_record, run_beside
from replicator.position import Author, Epoch, Offset
from replicator.protocol.candidates import rank
from replicator.protocol.commit import LogState
from replicator.protocol.confirmation import required
from replicator.protocol.roles import Event, Role
from replicator.records.types import Claim, Header, Membership, Reason

log = logging.getLogger(__name__)

DOUBT_PAUSE_MS = 50
STANDING_POLL_MS = 10
TIMELINE_BITS = 128


class Follower:
    def __init__(self, shared: Shared, follow: Follow) -> None:
        self._shared = shared
        self._follow = follow
        self._heard_ms = shared.clock.elapsed_ms()  # when the leader's last record was received
        self.last_record_ms = self._heard_ms  # the same, but for claims of its own that had no success
        self._luck = shared.random.random()
        self._claimed = follow.why  # the reason of the last accepted claim
        leads = shared.replica.state.leader
        self._heir = follow.heir if leads in (shared.author, follow.heir) else None  # not after somebody else's claim

    @property
    def holds_writes(self) -> bool:
        """Whether writes are kept until the heir is heard: their clients then find it when they try again."""
        return self._heir is not None

    async def run(self) -> Lead:
        """Until this node leads. Raises what reading and applying the log raise."""
        return await run_beside(self._read(), self._campaign())

    async def _read(self) -> Lead:
        shared = self._shared
        shared.reader.seek(Offset(shared.replica.state.offset + 1))
        while True:
            lead = self._promotion()
            if lead is not None:
                return lead
            self._take(await shared.reader.next())

    def _take(self, entries: Sequence[Entry]) -> None:
        shared = self._shared
        membership = shared.replica.machine.meta.membership
        accepted = shared.replica.read(entries)
        if accepted:
            self._heard_ms = self.last_record_ms = shared.clock.elapsed_ms()
        for offset, (header, body, _) in accepted:
            if type(body) is Claim:
                self._note_claim(header, body)
            elif shared.standing.role is Role.CANDIDATE:
                shared.standing.met(Event.OUTRUN)
            if type(body) is Membership:
                shared.standing.note_membership(membership, body, shared.clock.elapsed_ms(), shared.timing)
                membership = body
            elif header.author == self._heir:
                self._turn_away(header.author)
            if header.author == shared.author:
                if required(membership, shared.author.node).needed:
                    shared.inflight.land(header.epoch, header.seq, offset)
                else:
                    shared.inflight.applied(header.epoch, header.seq, offset)

    def _note_claim(self, header: Header, claim: Claim) -> None:
        shared = self._shared
        log.info("epoch %d: %s leads (%s)", claim.epoch, claim.leader, claim.reason)
        shared.inflight.fence(claim.epoch)
        sent_ms = shared.claims_sent_ms.pop(claim.epoch, None)
        if claim.leader != shared.author:
            shared.standing.met(Event.OTHER_CLAIM_ACCEPTED)
            shared.inflight.disown()
            if claim.leader != self._heir:
                self._turn_away(claim.leader)
            return
        shared.standing.met(Event.OWN_CLAIM_ACCEPTED)
        shared.standing.lease = shared.standing.lease.claimed(
            claim.reason,
            sent_ms if header.author == shared.author else None,
            shared.clock.elapsed_ms(),
            shared.timing.lease_ms,
        )
        self._claimed = claim.reason

    def _turn_away(self, leader: Author) -> None:
        self._heir = None
        self._shared.inflight.reject(NotLeader(f"{leader.node} leads now: the write was not sent. Ask it"))

    def _promotion(self) -> Lead | None:
        standing, state = self._shared.standing, self._shared.replica.state
        if standing.role is Role.CHECKING and state.offset >= self._follow.resume_after:
            standing.met(Event.STILL_LEADER)
        return Lead(self._claimed) if standing.role is Role.LEADING else None

    async def _campaign(self) -> None:
        """Claim: in doubt, until the claim is read; otherwise whenever the leader is silent for long enough."""
        shared = self._shared
        while True:
            match shared.standing.role:
                case Role.RESOLVING:
                    await self._claim(shared.replica.state, Reason.DOUBT)
                    await shared.clock.sleep(DOUBT_PAUSE_MS)
                case Role.FOLLOWING | Role.CANDIDATE if shared.standing.may_stand:
                    await self._stand()
                case Role.FOLLOWING:
                    await shared.clock.sleep(STANDING_POLL_MS)
                    self._heard_ms = shared.clock.elapsed_ms()  # those of higher priority may have had to wait, too
                case _:
                    await shared.clock.sleep(shared.timing.heartbeat_ms)

    async def _stand(self) -> None:
        shared = self._shared
        state = shared.replica.state
        wait_ms = self._heard_ms + self._patience_ms(state) - shared.clock.elapsed_ms()
        if wait_ms > 0:
            await shared.clock.sleep(min(wait_ms, shared.timing.election_ms))
            return
        if await self._has_read_all(state):
            await self._claim(state, Reason.ELECTION if state.leader else Reason.FIRST)
        self._heard_ms = shared.clock.elapsed_ms()
        self._luck = shared.random.random()

    def _patience_ms(self, state: LogState) -> float:
        """How long the leader may be silent."""
        shared = self._shared
        if state.leader is None:  # the log is empty: nobody to wait for but candidates of higher priority
            return shared.timing.step_ms * shared.priority + 1
        place = rank(shared.replica.machine.meta.membership, state.leader.node, shared.author.node)
        return inf if place is None else shared.timing.candidacy_ms(place, self._luck)

    async def _has_read_all(self, state: LogState) -> bool:
        """Whether the log was found to end at `state`, by a broker that answers as fast as a heartbeat should come.

        A claim over records that are still unread would be void; a broker that was away has held the leader up, too.
        """
        shared = self._shared
        asked_ms = shared.clock.elapsed_ms()
        try:
            end = await shared.log.end()
        except BrokerUnavailable as error:
            log.info("no election while Kafka does not answer: %s", error)
            return False
        late = shared.clock.elapsed_ms() - asked_ms > shared.timing.heartbeat_ms
        return not late and end == state.offset + 1 and state is shared.replica.state

    async def force(self) -> None:
        """Take the lead although somebody else may have it: an operator's word. Until this node has been made leader.

        Raises `BrokerUnavailable`.
        """
        shared = self._shared
        while shared.replica.state.leader != shared.author:
            await self._claim(shared.replica.state, Reason.FORCE)
            await shared.replica.applied(Offset(await shared.log.end() - 1))

    async def _claim(self, state: LogState, reason: Reason) -> None:
        shared = self._shared
        epoch = Epoch(state.epoch + 1)
        log.info("claiming epoch %d (%s), having read up to offset %d", epoch, reason, state.offset)
        if not state.timeline:
            state = state._replace(timeline=shared.random.getrandbits(TIMELINE_BITS).to_bytes(16, "big"))
        shared.standing.met(Event.CLAIM_SENT)
        shared.claims_sent_ms.setdefault(epoch, shared.clock.elapsed_ms())
        try:
            await shared.log.append([claim_record(shared, state, shared.author, reason)])
        except (AppendRefused, AppendInDoubt) as error:
            log.info("the claim of epoch %d: %s", epoch, error)
