"""Waits for a number of replicas to apply an offset (WAIT)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from replicator.errors import ReplicatorError
from replicator.node.offset_waiters import OffsetWaiters
from replicator.position import Offset


class AckWaiters:
    def __init__(self) -> None:
        self._waiters: dict[int, OffsetWaiters] = {}  # by number of replicas; none of them is empty

    async def wait(self, offset: Offset, replicas: int, timeout_ms: float) -> None:
        """Wait until that many replicas have applied `offset`, or for `timeout_ms` (0: no timeout).

        Raises the error of `fail`.
        """
        waiters = self._waiters.setdefault(replicas, OffsetWaiters())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_ms / 1000 if timeout_ms else None):
                    await waiters.wait(offset)
        finally:
            self._remove_empty(replicas)

    def advance(self, acked: Sequence[Offset]) -> None:
        """`acked`: the offset that each replica has applied."""
        best = sorted(acked, reverse=True)
        for replicas in [it for it in self._waiters if it <= len(best)]:
            self._waiters[replicas].advance(best[replicas - 1])
            self._remove_empty(replicas)

    def fail(self, error: ReplicatorError) -> None:
        waiters, self._waiters = self._waiters, {}
        for it in waiters.values():
            it.fail(error)

    def _remove_empty(self, replicas: int) -> None:
        if replicas in self._waiters and not len(self._waiters[replicas]):
            del self._waiters[replicas]
