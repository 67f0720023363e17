"""The read index of linearizable reads: asks the log for its end, and waits until the store has applied that much.

One request is in flight at a time; all reads that arrive meanwhile share the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from replicator.errors import BrokerUnavailable, ReplicatorError, Stale
from replicator.node.context import NodeContext
from replicator.position import Offset
from replicator.store.view import View


def read_timed_out(context: NodeContext) -> Stale:
    return Stale(
        f"a read of this level cannot be answered here within {context.timing.read_ms} ms: this node is at offset "
        f"{context.replica.state.offset}. Try again, ask another node, or use a weaker level"
    )


class ReadIndex:
    def __init__(self, context: NodeContext, view: Callable[[], View]) -> None:
        """`view`: the one that reads get once the store has reached the end of the log. It raises why they get none."""
        self._context = context
        self._view = view
        self._asked_ms = -inf  # when the last answered request was sent
        self._end = Offset(0)  # the answer to it
        self._asking = asyncio.Lock()
        self._next: asyncio.Future[View] | None = None  # of the reads that wait for the next request
        self._rounds: set[asyncio.Task[None]] = set()
        self.fresh_ms = -inf  # the latest time as of which the store is known to have all records of the log

    @property
    def age_ms(self) -> float:
        """How long ago the store was last known to have all records of the log."""
        return self._context.clock.elapsed_ms() - self.fresh_ms

    def is_within(self, max_age_ms: float, max_records: int) -> bool:
        """Whether the store has all records that were in the log `max_age_ms` ago, except the last `max_records`."""
        if self.age_ms <= max_age_ms:
            return True
        known = self._context.clock.elapsed_ms() - self._asked_ms <= max_age_ms
        return known and self._context.replica.state.offset >= self._end - 1 - max_records

    def reached(self) -> asyncio.Future[View]:
        """Ends once the store has all records that are in the log now. Many reads share the future.

        Raises `Stale`, and what `view` raises.
        """
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            task = loop.create_task(self._round())
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)
        return self._next

    async def reached_except(self, max_records: int) -> None:
        """Wait until the store has all records that are in the log now, except the last ones. Raises `Stale`."""
        _, end = await self._ask()
        await self._context.replica.applied(Offset(end - 1 - max_records))

    async def _round(self) -> None:
        context = self._context
        async with self._asking:
            joined, self._next = self._next, None
            assert joined is not None
            try:
                asked_ms, end = await self._ask()
            except ReplicatorError as error:
                _fail(joined, error)
                return
        try:
            async with asyncio.timeout(context.timing.read_ms / 1000):
                await context.replica.applied(Offset(end - 1))
        except TimeoutError:
            _fail(joined, read_timed_out(context))
            return
        self.fresh_ms = max(self.fresh_ms, asked_ms)
        try:
            view = self._view()
        except ReplicatorError as error:
            _fail(joined, error)
            return
        if not joined.done():
            joined.set_result(view)

    async def _ask(self) -> tuple[float, Offset]:
        """When the request was sent (ms), and the end of the log. Raises `Stale`."""
        asked_ms = self._context.clock.elapsed_ms()
        try:
            end = await self._context.log.end()
        except BrokerUnavailable as error:
            raise Stale(f"this replica cannot find out how current it is: {error}") from error
        if asked_ms > self._asked_ms:
            self._asked_ms, self._end = asked_ms, end
        return asked_ms, end


def _fail(future: asyncio.Future[View], error: ReplicatorError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be waiting any more
