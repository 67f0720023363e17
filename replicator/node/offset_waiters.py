"""Those who wait for an offset, the lowest first."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from replicator.errors import ReplicatorError
from replicator.position import Offset


class OffsetWaiters:
    def __init__(self) -> None:
        self._heap: list[tuple[Offset, int, asyncio.Future[None]]] = []
        self._cancelled = 0  # those in `_heap` who wait no longer: at most as many as those who do
        self._order = itertools.count()

    def __len__(self) -> int:
        """0 if nobody waits."""
        return len(self._heap)

    @property
    def lowest(self) -> Offset | None:
        """The lowest offset that is waited for."""
        while self._heap and self._heap[0][2].done():
            self._pop()
        return self._heap[0][0] if self._heap else None

    async def wait(self, offset: Offset) -> None:
        """Until `advance` reaches it. Raises the error of `fail`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (offset, next(self._order), future))
        try:
            await future
        except asyncio.CancelledError:
            self._note_cancelled()
            raise

    def advance(self, offset: Offset) -> None:
        while self._heap and self._heap[0][0] <= offset:
            future = self._pop()
            if not future.done():
                future.set_result(None)

    def fail(self, error: ReplicatorError) -> None:
        """All wait in vain."""
        heap, self._heap, self._cancelled = self._heap, [], 0
        for *_, future in heap:
            if not future.done():
                future.set_exception(error)

    def _pop(self) -> asyncio.Future[None]:
        future = heapq.heappop(self._heap)[2]
        self._cancelled -= future.cancelled()
        return future

    def _note_cancelled(self) -> None:
        self._cancelled += 1
        if 2 * self._cancelled > len(self._heap):
            self._heap = [waiter for waiter in self._heap if not waiter[2].done()]
            heapq.heapify(self._heap)
            self._cancelled = 0
