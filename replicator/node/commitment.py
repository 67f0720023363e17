"""Committed writes that wait for the acks that the policy requires. The leader applies and answers them last.

committed ──acks of `protocol.ack_policy.required`──▶ confirmed: applied here, answered
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from replicator.errors import NoReplicas
from replicator.node.context import NodeContext
from replicator.node.replica_progress import ReplicaProgress
from replicator.node.writes import PendingWrite
from replicator.position import BEFORE_LOG, Offset, Seq
from replicator.protocol.ack_policy import required
from replicator.protocol.log_state import LogState
from replicator.records.types import Membership


class Group(NamedTuple):
    writes: Sequence[PendingWrite]
    state: LogState  # after the group


class Commitment:
    def __init__(self, context: NodeContext, progress: ReplicaProgress) -> None:
        self._context = context
        self._progress = progress
        self._groups: deque[Group] = deque()
        self._released = Seq(0)
        self.release_due: Seq | None = None  # keys written up to here can be read again once a `Release` is appended
        self.membership = context.replica.machine.meta.membership  # as of the last committed record
        self.requirement = required(self.membership, context.author.node)

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
        missing = self.requirement.missing(self._progress.is_responsive)
        if not missing:
            return None
        timeout_ms = self._context.timing.sync_ms
        return NoReplicas(
            f"no ack from {', '.join(missing)} for {timeout_ms} ms, and each write requires one: nothing was written. "
            "Writes resume when it is back, or make it async with `replicator replica set-mode`"
        )

    def add(self, group: Sequence[PendingWrite], state: LogState) -> None:
        """The group is committed; `state` is the state after it."""
        self._groups.append(Group(group, state))
        for pending in group:
            if type(pending.body) is Membership:
                self._adopt(pending.body)
        self.advance()

    def advance(self) -> None:
        """Apply and answer the confirmed writes. Raises what `Machine.apply` does."""
        groups, confirmed, writes = self._groups, self.confirmed, self._context.writes
        ready: list[Group] = []
        while groups and groups[0].state.offset <= confirmed:
            ready.append(groups.popleft())
        if ready:
            applied = [pending for group in ready for pending in group.writes]
            self._context.replica.apply([pending.body for pending in applied], ready[-1].state)
            for pending in applied:
                writes.apply(pending.epoch, pending.seq, pending.offset)
        writes.confirm(confirmed)
        self._release(confirmed)

    def _release(self, confirmed: Offset) -> None:
        """Resume reads of suspended keys: all replicas have applied the writes so far, also of earlier leaders."""
        replica = self._context.replica
        if not replica.machine.suspended or confirmed < replica.state.offset:
            return
        if any(it.written > self._released for it in replica.machine.suspended.values()):
            self._released = self.release_due = replica.state.seq

    def _adopt(self, membership: Membership) -> None:
        self._context.roles.membership_changed(self.membership, membership)
        self.membership = membership
        self.requirement = required(membership, self._context.author.node)
