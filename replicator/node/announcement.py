"""Suspend mode: no write is sent before every sync replica has stopped answering reads of its keys.

queued ──Suspend{keys}──▶ announced ──acks──▶ sent, followed by the Suspend of the next group
                              └──never sent: refused or overdue──▶ Suspend{}, which withdraws the announcement
"""

from __future__ import annotations

from replicator.limits import GROUP_BYTES, GROUP_RECORDS
from replicator.node.commitment import Commitment
from replicator.node.context import NodeContext
from replicator.node.writes import PendingWrite
from replicator.records.types import Suspend


class Announcement:
    """The announced writes at the head of the queue."""

    def __init__(self, context: NodeContext, commitment: Commitment) -> None:
        self._context = context
        self._commitment = commitment
        self._announced: list[PendingWrite] = []  # not empty while `_suspend` is set; they fail all together, if at all
        self._suspend: PendingWrite | None = None  # the record that announces them; None: they are sent
        self._withdrawal: PendingWrite | None = None  # the last one

    @property
    def open(self) -> bool:
        """Whether writes are announced."""
        return self._suspend is not None

    def withdraw_unwritten(self) -> None:
        """Withdraw what the store awaits and this leader will not write: dropped, or announced before this term.

        Once for each announcement, and again if the log refuses the record.
        """
        if self._suspend is not None:
            if self._announced[0].in_flight:
                return
            self._suspend = None
        elif not self._are_awaited_in_vain():
            return
        self._withdrawal = self._context.enqueue_own(Suspend(()))

    def _are_awaited_in_vain(self) -> bool:
        """Whether the store awaits writes of which none is in flight, and neither is their withdrawal."""
        suspended = self._context.replica.machine.suspended
        last = (*self._announced, *filter(None, (self._withdrawal,)))
        return any(it.awaited for it in suspended.values()) and not any(it.in_flight for it in last)

    def next_group(self, announce: bool) -> list[PendingWrite]:
        """The writes that may be sent now and, if `announce`, the announcement of the next ones."""
        writes = self._context.writes
        group: list[PendingWrite] = []
        if self._suspend is not None:
            if not self._suspend.seq or self._commitment.confirmed < self._suspend.offset:
                return []
            group, self._suspend = self._announced, None
            writes.send(group)
        if not announce:
            return group
        upcoming = writes.next(GROUP_RECORDS, GROUP_BYTES)
        keys = [key for pending in upcoming for key in pending.changes]
        if not keys:
            writes.send(upcoming)
            return group + upcoming
        self._announced = upcoming
        self._suspend = self._context.enqueue_own(Suspend(tuple(keys)))
        if group and sum(len(it.encoded) for it in group) + len(self._suspend.encoded) > GROUP_BYTES:
            return group  # the announcement follows in the next append
        return group + writes.send_own()
