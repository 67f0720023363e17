"""Committed writes that wait for the acks that the policy requires. The leader applies and answers them last.

committed ──acks of `protocol.ack_policy.required`──▶ confirmed: applied here, answered
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from replicator.errors import NoReplicas
from replicator.log.port import Entry
from replicator.node.context import NodeContext
from replicator.node.replica_progress import ReplicaProgress
from replicator.node.timing import follow
from replicator.node.writes import PendingWrite
from replicator.position import BEFORE_LOG, Author, Offset, Seq
from replicator.protocol.ack_policy import required
from replicator.protocol.log_state import LogState
from replicator.records.types import Membership, Release, Timing


class Group(NamedTuple):
    writes: Sequence[PendingWrite]
    state: LogState  # after the group
    committed_ms: float
    written_us: int  # as in the headers of its records
    changing: Sequence[Entry]  # those of its records that change rows


class Commitment:
    def __init__(self, context: NodeContext, progress: ReplicaProgress) -> None:
        self._context = context
        self._progress = progress
        self._groups: deque[Group] = deque()
        self._release: PendingWrite | None = None  # the last one
        self._released = Seq(0)  # up to where it releases keys
        self.membership = context.replica.machine.meta.membership  # as of the last committed record
        self.requirement = required(self.membership, context.author)

    @property
    def waits(self) -> bool:
        """Whether any write is committed but not confirmed."""
        return bool(self._groups)

    @property
    def confirmed(self) -> Offset:
        """The last offset that all required replicas have applied."""
        if self._context.roles.delays_writes():
            return BEFORE_LOG
        return self.requirement.confirmed(self._progress.acked)

    @property
    def refusal(self) -> NoReplicas | None:
        """Why no write can be confirmed now."""
        progress, timeout_ms = self._progress, self._context.timing.sync_ms
        if missing := self.requirement.missing(lambda it: progress.is_responsive(it, timeout_ms)):
            why = f"no ack from {', '.join(it.node for it in missing)} for {timeout_ms} ms"
        elif late := self._late():
            why = f"no ack from {', '.join(it.node for it in late)} to what was written {timeout_ms} ms ago"
        else:
            return None
        failure = self._context.roles.append_failure
        if failure is not None and not failure.log_answers:
            return NoReplicas(why, f": Kafka takes no records from this node, so nothing was written. {failure.cause}")
        return NoReplicas(
            why,
            ", and each write requires one: nothing was written. Writes resume when it is back and has caught up, or "
            "make it async with `replicator replica set-mode`",
        )

    def _late(self) -> Sequence[Author]:
        """Replicas that a write needs and whose acks are late, although they respond."""
        progress, overdue, timeout_ms = self._progress, self._overdue, self._context.timing.sync_ms
        return self.requirement.missing(
            lambda it: progress.is_responsive(it, timeout_ms) and progress.acked(it) >= overdue
        )

    @property
    def _overdue(self) -> Offset:
        """The last offset whose acks are late."""
        committed_ms = self._context.clock.elapsed_ms() - self._context.timing.sync_ms
        late = takewhile(lambda group: group.committed_ms < committed_ms, self._groups)
        return max((group.state.offset for group in late), default=BEFORE_LOG)

    def add(
        self,
        group: Sequence[PendingWrite],
        state: LogState,
        sent_ms: float,
        written_us: int,
        changing: Sequence[Entry],
    ) -> None:
        """The group is committed. `sent_ms`: when it was sent; `state`, `written_us`, `changing`: as in `Group`."""
        now_ms = self._context.clock.elapsed_ms()
        self._groups.append(Group(group, state, now_ms, written_us, changing))
        self._progress.note_committed(state.offset, now_ms)
        self._context.latencies.append.observe((now_ms - sent_ms) / 1000)
        before = self.membership
        for pending in group:  # in the order of the log: what a removal waits for depends on the timing before it
            if type(pending.body) is Membership:
                self._adopt(pending.body)
            elif type(pending.body) is Timing:
                follow(self._context, pending.body)
        if self.membership is not before:
            self._progress.set_members(self.membership)
        self.advance()

    def advance(self) -> None:
        """Apply and answer the confirmed writes. Raises what `Machine.apply` does."""
        groups, confirmed, writes = self._groups, self.confirmed, self._context.writes
        ready: list[Group] = []
        while groups and groups[0].state.offset <= confirmed:
            ready.append(groups.popleft())
        if ready:
            if self.requirement.needed:
                self._observe_acks(ready)
            applied = [pending for group in ready for pending in group.writes]
            replica, last = self._context.replica, ready[-1]
            commands = [place for place, pending in enumerate(applied) if pending.is_command]
            replica.apply([pending.body for pending in applied], last.state, last.written_us, commands)
            for group in ready:
                replica.recent.add(group.changing)
                if replica.change_listener is not None:
                    replica.change_listener(group.written_us, [pending.body for pending in group.writes])
            for pending in applied:
                writes.apply(pending.epoch, pending.seq, pending.offset)
        writes.confirm(confirmed)
        self._release_confirmed(confirmed)

    def _observe_acks(self, groups: Sequence[Group]) -> None:
        now_s, ack_latency = self._context.clock.peek_s(), self._context.latencies.ack
        for group in groups:
            ack_latency.observe(now_s - group.committed_ms / 1000)

    def _release_confirmed(self, confirmed: Offset) -> None:
        """Resume reads of suspended keys: all replicas have applied the writes so far, also of earlier leaders.

        Not twice, unless the log has refused the record.
        """
        replica = self._context.replica
        if not replica.machine.suspended or confirmed < replica.state.offset:
            return
        if self._release is not None and not self._release.in_flight:
            self._released = Seq(0)  # what it released is not suspended any more
        if any(it.written > self._released for it in replica.machine.suspended.values()):
            self._released = replica.state.seq
            self._release = self._context.enqueue_own(Release(self._released))

    def _adopt(self, membership: Membership) -> None:
        self._context.roles.membership_changed(self.membership, membership)
        self.membership = membership
        self.requirement = required(membership, self._context.author)
