"""As of when this store is known to hold all that the log held: by asking the log for its end, and reaching it.

One question at a time is under way; all reads that come meanwhile share the next one.
"""

from __future__ import annotations

import asyncio
from math import inf

from replicator.errors import BrokerUnavailable, ReplicatorError, Stale
from replicator.node.context import NodeContext
from replicator.position import Offset


def too_late(context: NodeContext) -> Stale:
    return Stale(
        f"a read of this level cannot be answered here within {context.timing.read_ms} ms: this node is at offset "
        f"{context.replica.state.offset}. Ask again, another node, or for less"
    )


class ReadIndex:
    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._asked_ms = -inf  # when the last question was sent that has been answered
        self._end = Offset(0)  # the answer
        self.fresh_ms = -inf  # when the store certainly held all
        self._asking = asyncio.Lock()
        self._next: asyncio.Future[None] | None = None  # who waits for the next question
        self._rounds: set[asyncio.Task[None]] = set()

    @property
    def age_ms(self) -> float:
        return self._context.clock.elapsed_ms() - self.fresh_ms

    def is_within(self, max_age_ms: float, max_records: int) -> bool:
        """Whether all is here but `max_records` of what there was so long ago."""
        if self.age_ms <= max_age_ms:
            return True
        known = self._context.clock.elapsed_ms() - self._asked_ms <= max_age_ms
        return known and self._context.replica.state.offset >= self._end - 1 - max_records

    def reached(self) -> asyncio.Future[None]:
        """NodeContext by many: ends once the store holds all that the log holds now. It raises `Stale`."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            task = asyncio.get_running_loop().create_task(self._round())
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)
        return self._next

    async def reach(self, max_records: int = 0) -> None:
        """Wait until the store holds all that the log holds now, but for `max_records`. Raises `Stale`."""
        if max_records:
            _, end = await self._ask()
            await self._context.replica.applied(Offset(end - 1 - max_records))
        else:
            await asyncio.shield(self.reached())

    async def _round(self) -> None:
        context = self._context
        async with self._asking:
            joined, self._next = self._next, None
            assert joined is not None
            try:
                asked_ms, end = await self._ask()
            except ReplicatorError as error:
                joined.set_exception(error)
                joined.exception()  # whoever has gone away does not miss it
                return
        try:
            async with asyncio.timeout(context.timing.read_ms / 1000):
                await context.replica.applied(Offset(end - 1))
        except TimeoutError:
            joined.set_exception(too_late(context))
            joined.exception()
            return
        self.fresh_ms = max(self.fresh_ms, asked_ms)
        joined.set_result(None)

    async def _ask(self) -> tuple[float, Offset]:
        """When the question was sent (ms), and the end. Raises `Stale`."""
        asked_ms = self._context.clock.elapsed_ms()
        try:
            end = await self._context.log.end()
        except BrokerUnavailable as error:
            raise Stale(f"how current this replica is cannot be found out: {error}") from error
        if asked_ms > self._asked_ms:
            self._asked_ms, self._end = asked_ms, end
        return asked_ms, end
