"""The leader: puts what clients write into groups, appends each group as one batch, applies it last.

One append is in flight at a time; what arrives meanwhile is the next group. The broker answers with the offset of the
batch: if it is the next one, nobody else has appended and the group is committed. If not, or without an answer, the
leader becomes a follower that reads what happened (`role`).
"""

from __future__ import annotations

import asyncio
import logging

from replicator.errors import BrokerUnavailable, Busy, LogDamage, ReplicatorError, StoreFull
from replicator.log.port import AppendInDoubt, AppendRefused
from replicator.node.inflight import Done, Pending
from replicator.node.role import Follow, Lead, Shared, run_beside
from replicator.position import Offset, Seq
from replicator.protocol.commit import LogState
from replicator.protocol.limits import GROUP_BYTES, GROUP_RECORDS
from replicator.records.codec import link
from replicator.records.fast import HeaderWriter
from replicator.records.types import VERSION, Body, Checkpoint, Heartbeat, Membership

log = logging.getLogger(__name__)

CHECKPOINT_MS = 5_000
REFUSED_PAUSE_MS = 100


class Leader:
    def __init__(self, shared: Shared, lead: Lead) -> None:
        self._shared = shared
        self._state = shared.replica.state  # of the log, as far as it is committed
        self._wake = asyncio.Event()
        self._lease_from_ms = lead.lease_from_ms
        self._serve_from_ms = lead.serve_from_ms
        self._proposed: Membership | None = None
        self._sent_ms = shared.clock.elapsed_ms()
        self._checked_ms = shared.clock.elapsed_ms()

    def lease_left_ms(self) -> float:
        """How long reads here are sure to see all that was written anywhere; 0 if they are not now."""
        now_ms = self._shared.clock.elapsed_ms()
        if self._lease_from_ms is None or now_ms < self._serve_from_ms:
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
        return await run_beside(self._flush(), self._beat())

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
        self._shared.inflight.add(self._own(body, done))
        self.wake()

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
            shared.inflight.add_first(self._own(Checkpoint(meta.digest, meta.entries)))
            self._checked_ms = now_ms

    async def _flush(self) -> Follow:
        inflight = self._shared.inflight
        while True:
            await self._wake.wait()
            self._wake.clear()
            while inflight.queued:
                self._check()
                follow = await self._append(inflight.take(GROUP_RECORDS, GROUP_BYTES))
                if follow is not None:
                    return follow

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

    async def _beat(self) -> None:
        """Keep the lease while nobody writes."""
        shared = self._shared
        while True:
            due_ms = self._sent_ms + shared.timing.heartbeat_ms
            now_ms = shared.clock.elapsed_ms()
            if now_ms < due_ms:
                await shared.clock.sleep(due_ms - now_ms)
            elif shared.inflight:
                await shared.clock.sleep(shared.timing.heartbeat_ms)
            else:
                self._enqueue(Heartbeat())
                self._sent_ms = now_ms
