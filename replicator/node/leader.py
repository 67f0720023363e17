"""The leader: puts what clients write into groups, appends each group as one batch, applies it last.

One append is in flight at a time; what arrives meanwhile is the next group. The broker answers with the offset of the
batch: if it is the next one, nobody else has appended and the group is committed. If not, or without an answer, the
leader becomes a follower that reads what happened (`role`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from replicator.errors import BrokerUnavailable, Busy, LogDamage, ReplicatorError, StoreFull
from replicator.log.port import AppendInDoubt, AppendRefused
from replicator.node.inflight import Done, Pending
from replicator.node.role import Follow, Lead, Shared, claim_record, run_beside
from replicator.position import Author, Offset, Seq
from replicator.protocol.commit import LogState
from replicator.protocol.limits import GROUP_BYTES, GROUP_RECORDS
from replicator.records.codec import link
from replicator.records.fast import HeaderWriter
from replicator.records.types import VERSION, Body, Checkpoint, Heartbeat, Membership, Reason

log = logging.getLogger(__name__)

CHECKPOINT_MS = 5_000
REFUSED_PAUSE_MS = 100


@dataclass(frozen=True, slots=True)
class Handover:
    heir: Author
    done: asyncio.Future[None]

    def fail(self, error: ReplicatorError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Leader:
    def __init__(self, shared: Shared, lead: Lead) -> None:
        self._shared = shared
        self._state = shared.replica.state  # of the log, as far as it is committed
        self._wake = asyncio.Event()
        self._lease_from_ms = lead.lease_from_ms
        self._proposed: Membership | None = None
        self._handover: Handover | None = None
        self._sent_ms = shared.clock.elapsed_ms()
        self._checked_ms = shared.clock.elapsed_ms()

    def lease_left_ms(self) -> float:
        """How long reads here are sure to see all that was written anywhere; 0 if they are not now."""
        now_ms = self._shared.clock.elapsed_ms()
        if self._lease_from_ms is None or now_ms < self._shared.restraint.until_ms:
            return 0.0
        return max(0.0, self._lease_from_ms + self._shared.timing.lease_ms - now_ms)

    def wake(self) -> None:
        """To be called when something was added to `inflight`."""
        self._wake.set()

    async def run(self) -> Follow:
        """Until this node does not know whether it still leads. Raises `LogDamage`, `Diverged`, `StoreError`."""
        if self._lease_from_ms is None:
            self._enqueue(Heartbeat())
        self.wake()
        try:
            return await run_beside(self._flush(), self._beat(), self._wait_out())
        finally:
            if self._handover is not None:
                self._handover.fail(Busy("the lead was lost meanwhile. See `replicator status`"))

    @property
    def membership(self) -> Membership:
        """As it will be once all that is in flight is applied."""
        return self._proposed or self._shared.replica.machine.meta.membership

    def propose(self, membership: Membership) -> None:
        """Make `membership` the one of the cluster."""
        self._proposed = membership

        def settled(error: ReplicatorError | None, offset: Offset) -> None:
            if self._proposed is membership:  # applied, or void with all that came after it
                self._proposed = None

        self._enqueue(membership, settled)

    def _enqueue(self, body: Body, done: Done | None = None) -> None:
        self._shared.inflight.add_own(self._own(body, done))
        self.wake()

    def hand_over(self, heir: Author) -> asyncio.Future[None]:
        """Let `heir`, which has caught up, lead: no write is sent any more, and the claim follows the last one.

        The future ends once the claim is in the log. It raises `Busy` if this node goes on leading.
        """
        if self._handover is not None:
            raise Busy(f"the lead is being given to {self._handover.heir.node}")
        self._handover = Handover(heir, asyncio.get_running_loop().create_future())
        self.wake()
        return self._handover.done

    def _own(self, body: Body, done: Done | None = None) -> Pending:
        """A record of the leader's own."""
        shared = self._shared
        deadline_ms = shared.clock.elapsed_ms() + shared.timing.answer_ms
        return Pending(body, shared.replica.codec.encode_body(body), {}, done, deadline_ms)

    def _check(self) -> None:
        """Put a checkpoint before the next group, now and then, while the store stands at the end of the log."""
        shared = self._shared
        now_ms = shared.clock.elapsed_ms()
        if now_ms - self._checked_ms >= CHECKPOINT_MS and not shared.inflight.sent:
            meta = shared.replica.machine.meta
            shared.inflight.add_own(self._own(Checkpoint(meta.digest, meta.entries)))
            self._checked_ms = now_ms

    async def _flush(self) -> Follow:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while group := self._next_group():
                follow = await self._append(group)
                if follow is not None:
                    return follow
            if self._handover is not None:
                follow = await self._give_away(self._handover)
                if follow is not None:
                    return follow

    def _next_group(self) -> list[Pending]:
        inflight = self._shared.inflight
        if inflight.queued:
            self._check()
        group = inflight.take_own()
        if self._handover is None and self._shared.clock.elapsed_ms() >= self._shared.restraint.until_ms:
            group += inflight.take(GROUP_RECORDS, GROUP_BYTES)
        return group

    async def _give_away(self, handover: Handover) -> Follow | None:
        """Serve nothing any more, and let a claim for another node follow."""
        shared, state = self._shared, self._state
        lease_from_ms, self._lease_from_ms = self._lease_from_ms, None
        log.info("giving the lead to %s, which has caught up", handover.heir)
        try:
            base = await shared.log.append([claim_record(shared, state, handover.heir, Reason.HANDOVER)])
        except AppendRefused as error:
            self._lease_from_ms, self._handover = lease_from_ms, None
            handover.fail(Busy(f"the lead was not given away: {error}"))
            self.wake()
            return None
        except AppendInDoubt as error:
            return Follow(why=str(error), resume_after=state.offset, doubt=state.epoch)
        if base != state.offset + 1:
            return self._misplaced(base, Offset(state.offset + 1), 1)
        handover.done.set_result(None)
        return Follow(f"gave the lead to {handover.heir.node}", resume_after=base, heir=handover.heir)

    async def _append(self, group: list[Pending]) -> Follow | None:
        shared = self._shared
        expected = Offset(self._state.offset + 1)
        payloads, state = self._number(group)
        self._sent_ms = sent_ms = shared.clock.elapsed_ms()
        try:
            base = await shared.log.append(payloads)
        except AppendRefused as error:
            shared.inflight.reject(Busy(f"not written: {error}"))
            await self._after_refusal()
            return None
        except AppendInDoubt as error:
            return Follow(why=str(error), resume_after=self._state.offset, doubt=self._state.epoch)
        if base != expected:
            return self._misplaced(base, expected, len(group))
        self._lease_from_ms = sent_ms
        try:
            self._commit(group, state)
        except StoreFull as error:
            return Follow(why=str(error), resume_after=self._state.offset)
        return None

    def _number(self, group: list[Pending]) -> tuple[list[bytes], LogState]:
        """Give each write its place behind all that is committed: the records, and the state behind them."""
        state, author = self._state, self._shared.author
        writer = HeaderWriter(VERSION, state.timeline, state.epoch, author, self._shared.clock.wall_us())
        epoch, seq, chain, offset = state.epoch, state.seq, state.chain, state.offset
        payloads = []
        for pending in group:
            seq, offset = Seq(seq + 1), Offset(offset + 1)
            chain = link(chain, pending.encoded)
            pending.epoch, pending.seq, pending.offset = epoch, seq, offset
            payloads.append(writer.write(seq, chain) + pending.encoded)
        return payloads, state._replace(seq=seq, chain=chain, offset=offset, leader_offset=offset)

    def _commit(self, group: list[Pending], state: LogState) -> None:
        shared = self._shared
        self._state = state
        shared.replica.apply([pending.body for pending in group], state)
        for pending in group:
            shared.inflight.applied(pending.epoch, pending.seq, pending.offset)

    def _misplaced(self, base: Offset, expected: Offset, count: int) -> Follow:
        if base < expected:
            raise LogDamage(
                f"the log gave offset {base} to a record whose place is {expected}: it has lost its tail. "
                "Restore the broker's data, or the cluster from a snapshot"
            )
        return Follow(why=f"others wrote at offset {expected}", resume_after=Offset(base + count - 1))

    async def _after_refusal(self) -> None:
        """Is it the log itself that is gone? Raises `LogDamage`."""
        try:
            await self._shared.log.end()
        except BrokerUnavailable as error:
            log.warning("%s", error)
        await self._shared.clock.sleep(REFUSED_PAUSE_MS)

    async def _wait_out(self) -> None:
        """What has queued up during the restraint goes on when it is over."""
        shared = self._shared
        while (left_ms := shared.restraint.until_ms - shared.clock.elapsed_ms()) > 0:
            await shared.clock.sleep(left_ms)
        self.wake()

    async def _beat(self) -> None:
        """Keep the lease while nobody writes."""
        shared = self._shared
        while True:
            due_ms = self._sent_ms + shared.timing.heartbeat_ms
            now_ms = shared.clock.elapsed_ms()
            if now_ms < due_ms:
                await shared.clock.sleep(due_ms - now_ms)
            elif shared.inflight.sent:
                await shared.clock.sleep(shared.timing.heartbeat_ms)
            else:
                self._enqueue(Heartbeat())
                self._sent_ms = now_ms
