"""What is in the log and waits for the acks that the policy asks for. The leader applies it last, and answers then.

committed ──acks of `protocol.confirmation.required`──▶ confirmed: applied here, answered
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from replicator.errors import NoReplicas
from replicator.node.context import NodeContext
from replicator.node.replica_progress import ReplicaProgress
from replicator.node.writes import PendingWrite
from replicator.position import Offset, Seq
from replicator.protocol.ack_policy import required
from replicator.protocol.log_state import LogState
from replicator.records.types import Membership


class Group(NamedTuple):
    pendings: Sequence[PendingWrite]
    state: LogState  # behind it


class Commitment:
    def __init__(self, context: NodeContext, book: ReplicaProgress) -> None:
        self._context = context
        self._book = book
        self._groups: deque[Group] = deque()
        self._released = Seq(0)
        self.release_due: Seq | None = None
        self.membership = context.replica.machine.meta.membership  # as of the last committed record
        self.requirement = required(self.membership, context.author.node)

    @property
    def waits(self) -> bool:
        """Whether something is committed and not confirmed."""
        return bool(self._groups)

    @property
    def confirmed(self) -> Offset:
        """The last offset that all have applied who have to."""
        if self._context.standing.holds_writes(self._context.clock.elapsed_ms()):
            return Offset(-1)
        return self.requirement.confirmed(self._book.acked)

    @property
    def refusal(self) -> NoReplicas | None:
        """Why no write can be confirmed now."""
        missing = self.requirement.missing(self._book.is_heard)
        if not missing:
            return None
        silent_ms = self._context.timing.sync_ms
        names = ", ".join(missing)
        return NoReplicas(
            f"{names} must have each write, and has not been heard of for {silent_ms} ms: nothing was written. "
            f"Writes go on when it is back, or set it async with `replicator replica set-mode`"
        )

    def add(self, group: Sequence[PendingWrite], state: LogState) -> None:
        """Records that are in the log now."""
        self._groups.append(Group(group, state))
        for pending in group:
            if type(pending.body) is Membership:
                self._adopt(pending.body)
        self.advance()

    def advance(self) -> None:
        """Apply and answer what is confirmed. Raises what `Machine.apply` does."""
        groups, confirmed, inflight = self._groups, self.confirmed, self._context.inflight
        ready: list[Group] = []
        while groups and groups[0].state.offset <= confirmed:
            ready.append(groups.popleft())
        if ready:
            pendings = [pending for group in ready for pending in group.pendings]
            self._context.replica.apply([pending.body for pending in pendings], ready[-1].state)
            for pending in pendings:
                inflight.applied(pending.epoch, pending.seq, pending.offset)
        inflight.confirm(confirmed)
        self._release(confirmed)

    def _release(self, confirmed: Offset) -> None:
        """All replicas have what was written up to here, also under an earlier leader: it may be read again."""
        replica = self._context.replica
        if not replica.machine.suspended or confirmed < replica.state.offset:
            return
        if any(it.written > self._released for it in replica.machine.suspended.values()):
            self._released = self.release_due = replica.state.seq

    def _adopt(self, membership: Membership) -> None:
        context = self._context
        context.standing.note_membership(self.membership, membership, context.clock.elapsed_ms(), context.timing)
        self.membership = membership
        self.requirement = required(membership, context.author.node)
