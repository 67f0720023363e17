"""Lets a comparison of all stores (`store_comparison`) have the state of this one at a checkpoint in the log."""

from __future__ import annotations

from collections.abc import Callable

from replicator.node.writes import PendingWrite
from replicator.position import Offset


class CheckpointHook:
    def __init__(self) -> None:
        self.is_requested = False  # the leader appends one as soon as it can
        self.on_applied: Callable[[Offset], None] | None = None
        """For a follower: called when one is applied, and nothing after it. None: batches go on after a checkpoint."""
        self.on_queued: Callable[[PendingWrite], None] | None = None
        """For the leader: called with one that shows the present state, as no change precedes it in the log."""

    def queued(self, pending: PendingWrite) -> None:
        self.is_requested = False
        if self.on_queued is not None:
            self.on_queued(pending)
