"""Suspend mode: no write is sent before every sync replica has stopped answering reads of its keys.

queued ──Suspend{keys}──▶ announced ──acks──▶ sent, with the Suspend of the next group behind it
                              └─────given up, never sent──▶ Suspend{}, which takes it back
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.limits import GROUP_BYTES, GROUP_RECORDS
from replicator.node.commitment import Commitment
from replicator.node.context import NodeContext
from replicator.node.writes import PendingWrite
from replicator.records.types import Body, Suspend


class Announcement:
    """Which writes at the head of the queue are announced."""

    def __init__(self, context: NodeContext, commitment: Commitment, own: Callable[[Body], PendingWrite]) -> None:
        self._inflight = context.inflight
        self._machine = context.replica.machine
        self._commitment = commitment
        self._own = own  # makes a record of the leader's own, queued
        self._writes: list[PendingWrite] = []
        self._suspend: PendingWrite | None = None
        self._given_up = 0

    def take_back_old(self) -> None:
        """What an earlier leader, or this node before a doubt, has announced and not written."""
        if any(it.awaited for it in self._machine.suspended.values()):
            self._own(Suspend(()))

    @property
    def open(self) -> bool:
        return self._suspend is not None

    def next_group(self, announce: bool) -> list[PendingWrite]:
        """The writes that may be sent now and, if it is asked for, the announcement of the next ones."""
        inflight = self._inflight
        if self._suspend is not None and self._given_up != inflight.given_up:
            self._suspend = None
            self._own(Suspend(()))
            return inflight.take_own()
        group: list[PendingWrite] = []
        if self._suspend is not None:
            if self._commitment.confirmed < self._suspend.offset:
                return []
            group, self._suspend = self._writes, None
            inflight.take(group)
        if not announce:
            return group
        upcoming = inflight.next(GROUP_RECORDS, GROUP_BYTES)
        keys = [key for pending in upcoming for key in pending.changes]
        if not keys:
            inflight.take(upcoming)
            return group + upcoming
        self._writes, self._given_up = upcoming, inflight.given_up
        self._suspend = self._own(Suspend(tuple(keys)))
        return group + inflight.take_own()
