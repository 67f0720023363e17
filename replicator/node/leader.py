"""The leader: appends clients' writes in groups, each as one batch, and applies a group once it is confirmed.

One append is in flight at a time; writes that arrive meanwhile form the next group. A committed group waits for acks
(`commitment`). If an append is misplaced or its outcome is unknown (`appending`), the node reads the log to resolve it
(`resolution`). If the log refuses an append, the group and the queued writes fail, and the node remains leader.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from replicator.errors import BrokerUnavailable, Busy, NoReplicas, StoreFull
from replicator.intervals import CHECKPOINT_MS, REFUSED_PAUSE_MS, REVIEW_MS
from replicator.limits import GROUP_BYTES, GROUP_RECORDS
from replicator.log.port import Entry
from replicator.node.announcement import Announcement
from replicator.node.appending import (
    Appender,
    AppendOutcome,
    AppendState,
    Committed,
    Misplaced,
    OutcomeUnknown,
    Refused,
)
from replicator.node.background import run_with_background
from replicator.node.backlog import ReplicationBacklog
from replicator.node.claim import claim_record
from replicator.node.commitment import Commitment
from replicator.node.committed_batch import CommittedBatch, RecordEnd
from replicator.node.context import NodeContext
from replicator.node.grouping import in_records
from replicator.node.heartbeats import Heartbeats
from replicator.node.membership import MembershipChanges
from replicator.node.outage_log import OutageLog
from replicator.node.replica_progress import ReplicaProgress
from replicator.node.timing import TimingChanges
from replicator.node.writes import PendingWrite
from replicator.position import Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.protocol.roles import Role
from replicator.records.chain import link
from replicator.records.fast import HeaderWriter
from replicator.records.types import Checkpoint, Heartbeat, Membership, Mode, Reason, Write, WriteMode

logger = logging.getLogger(__name__)


class NumberedGroup(NamedTuple):
    batch: CommittedBatch  # not sent yet
    state: LogState  # after the group
    written_us: int  # in the headers of its records, by the wall clock
    changing: Sequence[Entry]  # those of its records that change rows


class Leader:
    """One term, or its part up to an append that is misplaced or has an unknown outcome."""

    def __init__(
        self,
        context: NodeContext,
        backlog: ReplicationBacklog,
        progress: ReplicaProgress,
        membership: MembershipChanges,
        timing: TimingChanges,
    ) -> None:
        self._context = context
        self._backlog = backlog
        self._progress = progress
        self._membership = membership
        self._timing = timing
        self._state = context.replica.state  # of the log, up to the last committed record
        self._appender = Appender(context.log, context.clock)
        self._outage = OutageLog(logger, "appending to Kafka")
        self._heartbeats = Heartbeats(context, self._appender, backlog, progress)
        self._commitment = Commitment(context, progress)
        self._announcement = Announcement(context, self._commitment)
        self._checkpoint_ms = context.clock.elapsed_ms()  # when the last one was queued
        self._reviewed = self._state.offset  # where the log ended at the last review

    async def run(self) -> None:
        """Run until this node is no longer leader, or does not know whether it is.

        Raises `LogDamage`, `Diverged`, `StoreError`. If it raises `StoreFull`, the role has changed to one that reads.
        """
        context = self._context
        context.commit_point.set_known(self._state.offset)
        if context.roles.lease.from_ms is None:
            context.enqueue_own(Heartbeat())
        context.writes.arrived.set()
        try:
            with (
                self._progress.term(self._state, self._commitment.membership),
                self._backlog.term(self._state, leads=True),
            ):
                self._refuse(self._commitment.refusal)  # as in the part of this term before
                await run_with_background(
                    self._append_groups(),
                    self._heartbeats.run(),
                    self._progress.receive_from_topic(),
                    self._advance_on_acks(),
                    self._review_periodically(),
                )
        except StoreFull:
            self._settle_full_store()
            raise
        finally:
            context.commit_point.set_unknown()
            context.writes.refusal = None

    def _settle_full_store(self) -> None:
        roles = self._context.roles
        if not roles.role.leads:
            return
        if self._appender.state is AppendState.IN_FLIGHT:
            roles.append_unknown()
        else:
            roles.append_not_applied(max(self._state.offset, self._appender.last))

    # Appending

    async def _append_groups(self) -> None:
        context = self._context
        writes = context.writes
        while True:
            await writes.arrived.wait()
            writes.arrived.clear()
            while group := self._next_group():
                batch, state, written_us, changing = self._number(group)
                outcome = await self._append(batch.payloads)
                if isinstance(outcome, Committed):
                    context.roles.append_committed(outcome.sent_ms)
                    self._outage.ended()
                    self._state = state
                    context.commit_point.set_known(state.offset)
                    self._backlog.add(batch)
                    if any(type(it.body) is not Heartbeat for it in group):
                        self._heartbeats.note_use(outcome.sent_ms)
                    self._commitment.add(group, state, outcome.sent_ms, written_us, changing)
                elif isinstance(outcome, Refused):
                    context.roles.append_failed(outcome.error)
                    self._heartbeats.note_use(self._appender.sent_ms)
                    writes.refuse(group, Busy(f"the log refused the write: {outcome.error}"))
                    await self._check_log()
                else:
                    self._stop_appending(outcome)
                    return
            if self._is_drained and await self._transfer():
                return

    async def _append(self, payloads: Sequence[bytes]) -> AppendOutcome:
        """After any outcome but `Refused`, the caller says what is committed."""
        commit_point = self._context.commit_point
        commit_point.set_unknown()
        outcome = await self._appender.append(payloads, Offset(self._state.offset + 1))
        if isinstance(outcome, Refused):
            commit_point.set_known(self._state.offset)
        return outcome

    @property
    def _is_drained(self) -> bool:
        """Whether a transfer was requested, and all writes that were sent are confirmed."""
        roles = self._context.roles
        return roles.role is Role.DRAINING and not self._commitment.waits and not roles.delays_writes()

    def _stop_appending(self, outcome: Misplaced | OutcomeUnknown) -> None:
        """The writes that were sent stay in flight until their outcome is read in the log."""
        if isinstance(outcome, Misplaced):
            logger.info("another node may have appended at offset %d", self._state.offset + 1)
            self._context.roles.append_misplaced(outcome.last, outcome.sent_ms)
        else:
            logger.info("%s", outcome.error)
            self._context.roles.append_failed(outcome.error)
            self._context.roles.append_unknown()

    def _next_group(self) -> list[PendingWrite]:
        """The leader's own records, followed by clients' writes if they may be sent."""
        roles, writes = self._context.roles, self._context.writes
        mode = self._commitment.membership.policy.write
        requested = self._context.replica.checkpoints.is_requested
        checkpoint_due = self._queue_checkpoint() if writes.queued or requested else False
        self._announcement.withdraw_unwritten()
        own = writes.send_own()
        if checkpoint_due or roles.role is not Role.LEADER or roles.delays_writes():
            return own
        if any(type(it.body) is Membership for it in own):
            return own  # later writes wait until it is committed, and follow its policy
        if mode is WriteMode.SUSPEND or self._announcement.open:
            return own + self._announcement.next_group(announce=mode is WriteMode.SUSPEND)
        group = writes.next(GROUP_RECORDS, GROUP_BYTES)
        writes.send(group)
        return own + group

    def _queue_checkpoint(self) -> bool:
        """Queue a checkpoint every `CHECKPOINT_MS`, or if one is requested, before the next group.

        It is possible only while the store has all rows of the log. Returns whether writes have to wait until then.
        """
        context, now_ms = self._context, self._context.clock.elapsed_ms()
        hook = context.replica.checkpoints
        if now_ms - self._checkpoint_ms < CHECKPOINT_MS and not hook.is_requested:
            return False
        if context.writes.changes_sent:
            return True
        meta = context.replica.machine.meta
        hook.queued(context.enqueue_own(Checkpoint(meta.digest, meta.entries)))
        self._checkpoint_ms = now_ms
        return False

    def _number(self, group: list[PendingWrite]) -> NumberedGroup:
        """Assign epoch, seq and offset to each write."""
        state = self._state
        epoch, seq, chain, offset = state.epoch, state.seq, state.chain, state.offset
        payloads: list[bytes] = []
        ends: list[RecordEnd] = []
        changing: list[Entry] = []
        time_us = self._context.clock.wall_us()
        for version, encoded, writes in in_records(group, self._commitment.membership.version):
            offset = Offset(offset + 1)
            chain = link(chain, encoded)
            header = HeaderWriter(version, state.timeline, epoch, self._context.author, time_us).write(
                Seq(seq + 1), chain
            )
            payloads.append(header + encoded)
            for pending in writes:
                seq = Seq(seq + 1)
                pending.epoch, pending.seq, pending.offset = epoch, seq, offset
            ends.append(RecordEnd(seq, chain))
            first = writes[0]
            if first.is_command:  # with its changes in the place of the command
                changing.append(Entry(offset, header + self._context.replica.codec.encode_body(first.body)))
            elif type(first.body) is Write:
                changing.append(Entry(offset, payloads[-1]))
        batch = CommittedBatch(Offset(state.offset + 1), payloads, ends)
        after = state._replace(seq=seq, chain=chain, offset=offset, leader_offset=offset)
        return NumberedGroup(batch, after, time_us, changing)

    async def _check_log(self) -> None:
        """After a refusal: raises `LogDamage` if the topic was deleted or recreated."""
        try:
            await self._context.log.end()
        except BrokerUnavailable as error:
            self._context.roles.log_asked(answers=False)
            self._outage.failed(error)
        else:
            self._context.roles.log_asked(answers=True)
        await self._context.clock.sleep(REFUSED_PAUSE_MS)

    async def _transfer(self) -> bool:
        """Stop serving, and append the claim that names the successor. Returns whether this node stops leading."""
        context, roles, transfer = self._context, self._context.roles, self._context.roles.transfer
        if transfer is None:
            return False
        roles.transfer_claim_sent()
        logger.info("transferring leadership to %s, which has caught up", transfer.successor)
        claim = claim_record(context, self._state, transfer.successor, Reason.HANDOVER)
        outcome = await self._append([claim])
        match outcome:
            case Committed():
                roles.transfer_committed()
            case Refused(error):
                roles.transfer_refused(error)
                return False
            case _:
                self._stop_appending(outcome)
        return True

    # In the background

    async def _advance_on_acks(self) -> None:
        writes, arrived = self._context.writes, self._progress.arrived
        while True:
            await arrived.wait()
            arrived.clear()
            self._commitment.advance()
            if writes.refusal is not None:
                self._refuse(self._commitment.refusal)
            writes.arrived.set()

    async def _review_periodically(self) -> None:
        while True:
            await self._context.clock.sleep(REVIEW_MS)
            self.review()

    def review(self) -> None:
        """Check for refused records, unresponsive or joining replicas, and an overdue transfer."""
        context, roles = self._context, self._context.roles
        self._timing.append_first()
        self._membership.repeat_refused_registration()
        self._membership.raise_version(self._backlog.receivers)
        self._refuse(self._commitment.refusal)
        for member in self._membership.latest.members:
            if member.mode is Mode.JOINING and self._progress.acked(member.author) >= self._reviewed:
                self._membership.promote_joining(member.node)
        self._reviewed = self._state.offset
        transfer = roles.transfer
        overdue = transfer is not None and context.clock.elapsed_ms() > transfer.deadline_ms
        if roles.role is Role.DRAINING and overdue:
            roles.transfer_timed_out()
        context.writes.arrived.set()

    def _refuse(self, refusal: NoReplicas | None) -> None:
        writes = self._context.writes
        if (refusal is None) is not (writes.refusal is None):
            logger.warning("%s", refusal or "all replicas whose acks writes require respond again")
        writes.refusal = refusal
        if refusal is not None:
            writes.fail_queued(refusal)
