"""The leader: puts what clients write into groups, appends each group as one batch, applies it last.

One append is in flight at a time; what arrives meanwhile is the next group. The broker answers with the offset of the
batch: if it is the next one, nobody else has appended and the group is committed. If not, or without an answer, the
leader becomes a follower that reads what happened (`role`). What is committed waits for acks (`commitment`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from replicator.errors import BrokerUnavailable, Busy, LogDamage, NoReplicas, ReplicatorError
from replicator.limits import GROUP_BYTES, GROUP_RECORDS
from replicator.log.port import AppendOutcomeUnknown, AppendRefused
from replicator.node.announcement import Announcement
from replicator.node.commitment import Commitment
from replicator.node.context import Follow, NodeContext, claim_record, run_with_background
from replicator.node.replica_progress import ReplicaProgress
from replicator.node.writes import Done, PendingWrite
from replicator.position import Author, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.protocol.membership import with_joined
from replicator.protocol.roles import Event, Role
from replicator.protocol.suspension import Suspension
from replicator.records.codec import link
from replicator.records.fast import HeaderWriter
from replicator.records.types import (
    VERSION,
    Body,
    Checkpoint,
    Heartbeat,
    Membership,
    Mode,
    Reason,
    Release,
    WriteMode,
)

logger = logging.getLogger(__name__)

CHECKPOINT_MS = 5_000
REFUSED_PAUSE_MS = 100
HANDOVER_MS = 2_000


@dataclass(frozen=True, slots=True)
class Handover:
    heir: Author
    done: asyncio.Future[None]
    deadline_ms: float

    def fail(self, error: ReplicatorError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Leader:
    def __init__(self, context: NodeContext, book: ReplicaProgress) -> None:
        self._context = context
        self._book = book
        self._state = context.replica.state  # of the log, as far as it is committed
        self._commitment = Commitment(context, book)
        self._announcement = Announcement(context, self._commitment, self._enqueue)
        self._wake = asyncio.Event()
        self._proposed: Membership | None = None
        self._handover: Handover | None = None
        self._appending = False
        self._last = self._state.offset  # where its last append stands
        self._sent_ms = context.clock.elapsed_ms()
        self._checked_ms = context.clock.elapsed_ms()
        self._reviewed = self._state.offset  # where the log ended at the last review
        self._inherited = self._state.seq
        self.refusal: NoReplicas | None = None  # why no write is taken now

    def lease_left_ms(self) -> float:
        """How long reads here are sure to see all that was written anywhere; 0 if they are not now."""
        context = self._context
        if context.standing.role is not Role.LEADING:
            return 0.0
        return context.standing.lease.left_ms(context.clock.elapsed_ms(), context.timing.lease_ms)

    def inherited_write(self, suspension: Suspension) -> bool:
        """Whether an earlier leader wrote the key, and replicas may not have read it yet."""
        return 0 < suspension.written <= self._inherited

    def wake(self) -> None:
        """To be called when something was added to `inflight`."""
        self._wake.set()

    async def run(self) -> Follow:
        """Until this node does not know whether it still leads. Raises `LogDamage`, `Diverged`, `StoreError`."""
        if self._context.standing.lease.from_ms is None:
            self._enqueue(Heartbeat())
        self._announcement.take_back_old()
        self._book.on_acks = self._on_acks
        self.wake()
        try:
            return await run_with_background(self._flush(), self._beat())
        finally:
            self._book.on_acks = lambda: None
            if self._handover is not None:
                self._handover.fail(Busy("the lead was lost meanwhile. See `replicator status`"))

    def interrupted(self, why: str) -> Follow:
        """What comes after an error that ended `run`: an append may have been in flight."""
        standing = self._context.standing
        if standing.role in (Role.LEADING, Role.HANDING_OVER):
            standing.met(Event.APPEND_OUTCOME_UNKNOWN if self._appending else Event.NOT_APPLIED)
        return Follow(why, resume_after=max(self._state.offset, self._last))

    @property
    def membership(self) -> Membership:
        """As it will be once all that is in flight is applied."""
        return self._proposed or self._commitment.membership

    def propose(self, membership: Membership) -> None:
        """Make `membership` the one of the cluster."""
        self._proposed = membership

        def settled(error: ReplicatorError | None, offset: Offset) -> None:
            if self._proposed is membership:  # applied, or void with all that came after it
                self._proposed = None

        self._enqueue(membership, settled)

    def hand_over(self, heir: Author) -> asyncio.Future[None]:
        """Let `heir`, which has caught up, lead: no write is sent any more, and the claim follows the last one.

        The future ends once the claim is in the log. It raises `Busy` if this node goes on leading.
        """
        if self._handover is not None:
            raise Busy(f"the lead is being given to {self._handover.heir.node}")
        deadline_ms = self._context.clock.elapsed_ms() + HANDOVER_MS
        self._handover = Handover(heir, asyncio.get_running_loop().create_future(), deadline_ms)
        self.wake()
        return self._handover.done

    def review(self) -> None:
        """To be called now and then: who is silent, who has caught up, what takes too long."""
        context, handover = self._context, self._handover
        self._refuse(self._commitment.refusal)
        for member in self.membership.members:
            if member.mode is Mode.JOINING and self._book.acked(member.node) >= self._reviewed:
                logger.info("%s has caught up: writes wait for it from now on", member.node)
                self.propose(with_joined(self.membership, member.node))
        self._reviewed = self._state.offset
        if handover is not None and context.clock.elapsed_ms() > handover.deadline_ms and not self._appending:
            self._handover = None
            handover.fail(Busy("the lead was not given away: what is in the log has not been confirmed in time"))
        self.wake()

    def _refuse(self, refusal: NoReplicas | None) -> None:
        if (refusal is None) is not (self.refusal is None):
            logger.warning("%s", refusal or "all replicas that writes wait for are heard again")
        self.refusal = refusal
        if refusal is not None:
            self._context.inflight.give_up(refusal)

    def _on_acks(self) -> None:
        self._commitment.advance()
        if self.refusal is not None:
            self._refuse(self._commitment.refusal)
        self.wake()

    def _enqueue(self, body: Body, done: Done | None = None) -> PendingWrite:
        """A record of the leader's own."""
        context = self._context
        deadline_ms = context.clock.elapsed_ms() + context.timing.answer_ms
        pending = PendingWrite(body, context.replica.codec.encode_body(body), {}, done, deadline_ms)
        context.inflight.add_own(pending)
        self.wake()
        return pending

    async def _flush(self) -> Follow:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while group := self._next_group():
                follow = await self._append(group)
                if follow is not None:
                    return follow
            if self._handover is not None and not self._commitment.waits and not self._restrained:
                follow = await self._give_away(self._handover)
                if follow is not None:
                    return follow

    @property
    def _restrained(self) -> bool:
        return self._context.standing.holds_writes(self._context.clock.elapsed_ms())

    def _next_group(self) -> list[PendingWrite]:
        """The leader's own records, and clients' writes behind them if they may be sent."""
        inflight, mode = self._context.inflight, self._commitment.membership.policy.write
        checks = self._check() if inflight.queued else False
        if self._commitment.release_due is not None:
            self._enqueue(Release(self._commitment.release_due))
            self._commitment.release_due = None
        own = inflight.take_own()
        if checks or self._handover is not None or self._restrained or any(type(it.body) is Membership for it in own):
            return own  # what follows another membership is written under its policy
        if mode is WriteMode.SUSPEND or self._announcement.open:
            return own + self._announcement.next_group(announce=mode is WriteMode.SUSPEND)
        writes = inflight.next(GROUP_RECORDS, GROUP_BYTES)
        inflight.take(writes)
        return own + writes

    def _check(self) -> bool:
        """Now and then, put a checkpoint before the next group; whether writes have to wait for that.

        It is taken while the store stands at the end of the log.
        """
        context = self._context
        now_ms = context.clock.elapsed_ms()
        if now_ms - self._checked_ms < CHECKPOINT_MS:
            return False
        if context.inflight.sent:
            return True
        meta = context.replica.machine.meta
        self._enqueue(Checkpoint(meta.digest, meta.entries))
        self._checked_ms = now_ms
        return False

    async def _append(self, group: list[PendingWrite]) -> Follow | None:
        context = self._context
        expected = Offset(self._state.offset + 1)
        payloads, state = self._number(group)
        self._sent_ms = sent_ms = context.clock.elapsed_ms()
        self._appending = True
        try:
            base = await context.log.append(payloads)
        except AppendRefused as error:
            self._appending = False
            context.inflight.refuse(group, Busy(f"not written: {error}"))
            await self._after_refusal()
            return None
        except AppendOutcomeUnknown as error:
            context.standing.met(Event.APPEND_OUTCOME_UNKNOWN)
            return Follow(str(error))
        self._appending = False
        if base != expected:
            return self._misplaced(base, expected, len(group))
        context.standing.lease = context.standing.lease.renewed(sent_ms)
        self._state = state
        self._commitment.add(group, state)
        return None

    def _number(self, group: list[PendingWrite]) -> tuple[list[bytes], LogState]:
        """Give each write its place behind all that is committed: the records, and the state behind them."""
        state, author = self._state, self._context.author
        writer = HeaderWriter(VERSION, state.timeline, state.epoch, author, self._context.clock.wall_us())
        epoch, seq, chain, offset = state.epoch, state.seq, state.chain, state.offset
        payloads = []
        for pending in group:
            seq, offset = Seq(seq + 1), Offset(offset + 1)
            chain = link(chain, pending.encoded)
            pending.epoch, pending.seq, pending.offset = epoch, seq, offset
            payloads.append(writer.write(seq, chain) + pending.encoded)
        return payloads, state._replace(seq=seq, chain=chain, offset=offset, leader_offset=offset)

    def _misplaced(self, base: Offset, expected: Offset, count: int) -> Follow:
        if base < expected:
            raise LogDamage(
                f"the log gave offset {base} to a record whose place is {expected}: it has lost its tail. "
                "Restore the broker's data, or the cluster from a snapshot"
            )
        self._context.standing.met(Event.MISPLACED)
        self._last = Offset(base + count - 1)
        return Follow(f"others wrote at offset {expected}", resume_after=self._last)

    async def _give_away(self, handover: Handover) -> Follow | None:
        """Serve nothing any more, and let a claim for another node follow."""
        context, state = self._context, self._state
        context.standing.met(Event.HANDOVER_STARTED)
        logger.info("giving the lead to %s, which has caught up", handover.heir)
        self._appending = True
        try:
            base = await context.log.append([claim_record(context, state, handover.heir, Reason.HANDOVER)])
        except AppendRefused as error:
            self._appending = False
            context.standing.met(Event.HANDOVER_REFUSED)
            self._handover = None
            handover.fail(Busy(f"the lead was not given away: {error}"))
            self.wake()
            return None
        except AppendOutcomeUnknown as error:
            context.standing.met(Event.APPEND_OUTCOME_UNKNOWN)
            return Follow(str(error))
        self._appending = False
        if base != state.offset + 1:
            return self._misplaced(base, Offset(state.offset + 1), 1)
        handover.done.set_result(None)
        context.standing.met(Event.OTHER_CLAIM_ACCEPTED)
        return Follow(f"gave the lead to {handover.heir.node}", resume_after=base, heir=handover.heir)

    async def _after_refusal(self) -> None:
        """Is it the log itself that is gone? Raises `LogDamage`."""
        try:
            await self._context.log.end()
        except BrokerUnavailable as error:
            logger.warning("%s", error)
        await self._context.clock.sleep(REFUSED_PAUSE_MS)

    async def _beat(self) -> None:
        """Keep the lease while nobody writes."""
        context = self._context
        while True:
            due_ms = self._sent_ms + context.timing.heartbeat_ms
            now_ms = context.clock.elapsed_ms()
            if now_ms < due_ms:
                await context.clock.sleep(due_ms - now_ms)
            elif self._appending:
                await context.clock.sleep(context.timing.heartbeat_ms)
            else:
                self._enqueue(Heartbeat())
                self._sent_ms = now_ms
