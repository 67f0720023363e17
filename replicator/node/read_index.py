"""The read index of linearizable reads: asks `IndexSource`, and waits until the store has applied that much.

One request is in flight at a time; all reads that arrive meanwhile share the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TypeVar

from replicator.errors import ReplicatorError, Stale
from replicator.node.context import NodeContext
from replicator.node.index_source import IndexAnswer, IndexSource
from replicator.position import Offset
from replicator.store.view import View

T = TypeVar("T")


def read_timed_out(context: NodeContext) -> Stale:
    return Stale(
        f"a read of this level cannot be answered here within {context.timeouts.read_ms} ms: this node is at offset "
        f"{context.replica.state.offset}. Try again, ask another node, or use a weaker level"
    )


class _Round:
    """One request, and all reads that wait for its answer, or for the store to reach it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[IndexAnswer] = loop.create_future()
        self.reached: asyncio.Future[View] = loop.create_future()


class ReadIndex:
    def __init__(self, context: NodeContext, source: IndexSource, view: Callable[[], View]) -> None:
        """`view`: the one that reads get once the store has reached the index. It raises why they get none."""
        self._context = context
        self._source = source
        self._view = view
        self._last = IndexAnswer(-inf, Offset(0))  # the answer to the latest request that was answered
        self._asking = asyncio.Lock()
        self._next: _Round | None = None  # of the reads that wait for the next request
        self._tasks: set[asyncio.Task[None]] = set()
        self.fresh_ms = -inf  # the latest time as of which the store is known to have all committed records

    @property
    def age_ms(self) -> float:
        return self._context.clock.elapsed_ms() - self.fresh_ms

    def is_within(self, max_age_ms: float, max_records: int) -> bool:
        """Whether the store has all records that were committed `max_age_ms` ago, except the last `max_records`."""
        if self.age_ms <= max_age_ms:
            return True
        known = self._context.clock.elapsed_ms() - self._last.asked_ms <= max_age_ms
        return known and self._context.replica.state.offset >= self._last.offset - max_records

    def reached(self) -> asyncio.Future[View]:
        """Ends once the store has all records that are committed now. Many reads share the future.

        Raises `Stale`, and what `view` raises.
        """
        return self._join().reached

    async def reached_except(self, max_records: int) -> None:
        """Wait until the store has all records that are committed now, except the last ones. Raises `Stale`."""
        answer = await asyncio.shield(self._join().answered)
        await self._context.replica.applied(Offset(answer.offset - max_records))

    def _join(self) -> _Round:
        """The next round."""
        if self._next is None:
            self._next = _Round()
            task = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._next

    async def _run(self) -> None:
        """The next round, once the one before has its answer."""
        context = self._context
        async with self._asking:
            joined, self._next = self._next, None
            assert joined is not None
            try:
                answer = await self._source.ask()
            except ReplicatorError as error:
                _fail(joined.answered, error)
                _fail(joined.reached, error)
                return
        self._last = max(self._last, answer)
        _end(joined.answered, answer)
        try:
            async with asyncio.timeout(context.timeouts.read_ms / 1000):
                await context.replica.applied(answer.offset)
        except TimeoutError:
            _fail(joined.reached, read_timed_out(context))
            return
        self.fresh_ms = max(self.fresh_ms, answer.asked_ms)
        try:
            view = self._view()
        except ReplicatorError as error:
            _fail(joined.reached, error)
            return
        _end(joined.reached, view)


def _end(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: ReplicatorError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be waiting any more
