"""Commits how far this node has applied the log, so that Kafka's tools show its lag."""

from __future__ import annotations

import logging
from collections.abc import Callable

from replicator.errors import BrokerUnavailable
from replicator.intervals import OFFSET_COMMIT_MS, REFUSED_OFFSET_COMMIT_MS
from replicator.log.port import AppliedOffsets, OffsetCommitRefused
from replicator.node.clock import Clock
from replicator.node.outage_log import OutageLog
from replicator.position import Offset

logger = logging.getLogger(__name__)


class AppliedReporter:
    """A failure is logged, and affects nothing else."""

    def __init__(self, next_offset: Callable[[], Offset | None], offsets: AppliedOffsets, clock: Clock) -> None:
        """`next_offset`: the offset that this node applies next; None while another process counts as this node."""
        self._next_offset = next_offset
        self._offsets = offsets
        self._clock = clock
        self._outage = OutageLog(logger, "committing the applied offset to Kafka")
        self._refused = False
        self._committed: Offset | None = None

    async def run(self) -> None:
        """Run until cancelled. Closes the port."""
        try:
            while True:
                next_offset, pause_ms = self._next_offset(), OFFSET_COMMIT_MS
                if next_offset not in (None, self._committed):
                    pause_ms = await self._commit(next_offset)
                await self._clock.sleep(pause_ms)
        finally:
            self._offsets.close()

    async def _commit(self, next_offset: Offset) -> int:
        """Returns the pause until the next attempt, in ms."""
        try:
            await self._offsets.commit(next_offset)
        except BrokerUnavailable as error:
            self._outage.failed(error)
            return OFFSET_COMMIT_MS
        except OffsetCommitRefused as error:
            if not self._refused:
                logger.warning("%s", error)
            self._refused = True
            return REFUSED_OFFSET_COMMIT_MS
        self._outage.ended()
        self._refused = False
        self._committed = next_offset
        return OFFSET_COMMIT_MS
