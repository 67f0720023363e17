"""Waits for a number of replicas to apply an offset (WAIT)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from replicator.errors import ReplicatorError
from replicator.limits import MAX_CANCELLED_WAITS
from replicator.node.offset_waiters import OffsetWaiters
from replicator.position import Offset


class AckWaiters:
    def __init__(self) -> None:
        self._waiters: dict[int, OffsetWaiters] = {}  # by number of replicas
        self._cancelled = 0  # waits in `_waiters` that have ended

    async def wait(self, offset: Offset, replicas: int, timeout_ms: float) -> None:
        """Wait until that many replicas have applied `offset`, or for `timeout_ms` (0: no timeout).

        Raises the error of `fail`.
        """
        waiters = self._waiters.setdefault(replicas, OffsetWaiters())
        try:
            async with asyncio.timeout(timeout_ms / 1000 if timeout_ms else None):
                await waiters.wait(offset)
        except TimeoutError:
            self._note_cancelled()
        except asyncio.CancelledError:
            self._note_cancelled()
            raise

    def advance(self, acked: Sequence[Offset]) -> None:
        """`acked`: the offset that each replica has applied."""
        best = sorted(acked, reverse=True)
        for replicas in [it for it in self._waiters if it <= len(best)]:
            self._waiters[replicas].advance(best[replicas - 1])
            if not len(self._waiters[replicas]):
                del self._waiters[replicas]

    def fail(self, error: ReplicatorError) -> None:
        for waiters in self._waiters.values():
            waiters.fail(error)

    def _note_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled >= MAX_CANCELLED_WAITS:
            self._cancelled = 0
            for waiters in self._waiters.values():
                waiters.remove_cancelled()
            self._waiters = {replicas: waiters for replicas, waiters in self._waiters.items() if len(waiters)}
