"""Those who wait until a number of replicas have applied an offset (WAIT), by number, the lowest offset first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence

from replicator.errors import Unblocked
from replicator.position import BEFORE_LOG, Offset

_CANCELLED = 100
"""So many waits that have ended without acks are kept at most. Bounds memory."""

_Waiter = tuple[Offset, int, asyncio.Future[None]]


class AckWaiters:
    def __init__(self) -> None:
        self._heaps: dict[int, list[_Waiter]] = {}  # by number of replicas
        self._order = itertools.count()
        self._cancelled = 0  # waits in `_heaps` that have ended

    async def wait(self, offset: Offset, replicas: int, timeout_ms: float) -> None:
        """Until they have applied `offset`, or for `timeout_ms` (0: no timeout). Raises `Unblocked` after `fail`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heaps.setdefault(replicas, []), (offset, next(self._order), future))
        try:
            async with asyncio.timeout(timeout_ms / 1000 if timeout_ms else None):
                await future
        except TimeoutError:
            pass
        finally:
            if future.cancelled():
                self._cancelled += 1
                if self._cancelled == _CANCELLED:
                    self._remove_cancelled()

    def advance(self, acked: Sequence[Offset]) -> None:
        """`acked`: the offset that each replica has applied."""
        best = sorted(acked, reverse=True)
        for replicas, heap in self._heaps.items():
            reached = best[replicas - 1] if replicas <= len(best) else BEFORE_LOG
            while heap and heap[0][0] <= reached:
                future = heapq.heappop(heap)[2]
                if not future.done():
                    future.set_result(None)

    def fail(self, why: str) -> None:
        heaps, self._heaps = self._heaps, {}
        for heap in heaps.values():
            for *_, future in heap:
                if not future.done():
                    future.set_exception(Unblocked(why))

    def _remove_cancelled(self) -> None:
        self._cancelled = 0
        for replicas, heap in list(self._heaps.items()):
            heap[:] = [waiter for waiter in heap if not waiter[2].done()]
            heapq.heapify(heap)
            if not heap:
                del self._heaps[replicas]
