"""Suspend mode: no write is sent before every sync replica has stopped answering reads of its keys.

queued ──Suspend{keys}──▶ announced ──acks──▶ sent, followed by the Suspend of the next group
                              └──never sent: refused or overdue──▶ Suspend{}, which withdraws the announcement
"""

from __future__ import annotations

from replicator.limits import GROUP_BYTES, GROUP_RECORDS
from replicator.node.commitment import Commitment
from replicator.node.context import NodeContext
from replicator.node.writes import PendingWrite, WriteState
from replicator.records.types import Suspend


class Announcement:
    """The announced writes at the head of the queue."""

    def __init__(self, context: NodeContext, commitment: Commitment) -> None:
        self._context = context
        self._commitment = commitment
        self._announced: list[PendingWrite] = []  # not empty while `_suspend` is set; they fail all together, if at all
        self._suspend: PendingWrite | None = None  # the record that announces them; None: nothing is announced

    def withdraw_old(self) -> None:
        """Withdraw keys that an earlier leader, or this node in an earlier term, announced but did not write."""
        if any(it.awaited for it in self._context.replica.machine.suspended.values()):
            self._context.enqueue_own(Suspend(()))

    @property
    def open(self) -> bool:
        """Whether writes are announced."""
        return self._suspend is not None

    def next_group(self, announce: bool) -> list[PendingWrite]:
        """The writes that may be sent now and, if `announce`, the announcement of the next ones."""
        writes = self._context.writes
        if self._suspend is not None and self._announced[0].state is not WriteState.QUEUED:  # they have failed
            self._suspend = None
            self._context.enqueue_own(Suspend(()))
            return writes.send_own()
        group: list[PendingWrite] = []
        if self._suspend is not None:
            if self._commitment.confirmed < self._suspend.offset:
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
        return group + writes.send_own()
