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
from replicator.protocol.lease import follower_lease_until_ms
from replicator.protocol.verification import check_term
from replicator.store.view import View

T = TypeVar("T")


def read_timed_out(context: NodeContext, *, key_blocked: bool = False) -> Stale:
    """`key_blocked`: the read was waiting for a write to a key that it reads."""
    return Stale(
        f"a read of this level cannot be answered here within {context.timeouts.read_ms} ms: this node is at offset "
        f"{context.replica.state.offset}. {_cause(context, key_blocked)}Try again, ask another node, or use a weaker "
        "level"
    )


def _cause(context: NodeContext, key_blocked: bool) -> str:
    """A sentence, as far as the cause is known."""
    if failure := context.roles.append_failure:
        return f"Kafka takes no records from it: {failure.cause}. "
    if refusal := context.writes.refusal:
        return f"Writes wait for replicas: {refusal.missing}. "
    if key_blocked:
        return "A write to a key of the read is in flight, and not acknowledged by all replicas that it requires. "
    return ""


class _Round:
    """One request, and all reads that wait for its answer, or for the store to reach it. It ends within `read_ms`."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[IndexAnswer] = loop.create_future()
        self.reached: asyncio.Future[View] = loop.create_future()

    def fail(self, error: ReplicatorError) -> None:
        _fail(self.answered, error)
        _fail(self.reached, error)


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
        self.lease_until_ms = (
            -inf
        )  # until then, no write is confirmed that this store lacks, unless this replica acked it

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
            task = asyncio.get_running_loop().create_task(self._run(self._next))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._next

    async def _run(self, joined: _Round) -> None:
        try:
            async with asyncio.timeout(self._context.timeouts.read_ms / 1000):
                await self._ask_and_reach(joined)
        except ReplicatorError as error:
            joined.fail(error)
        except TimeoutError:
            pass
        finally:
            if self._next is joined:
                self._next = None
            joined.fail(read_timed_out(self._context))  # also after an unexpected error: a read must not wait for ever

    async def _ask_and_reach(self, joined: _Round) -> None:
        """Once the round before has its answer."""
        context = self._context
        async with self._asking:
            self._next = None
            answer = await self._source.ask()
        self._check_past(answer)
        self._last = max(self._last, answer, key=lambda it: it[:2])
        _end(joined.answered, answer)
        await context.replica.applied(answer.offset)
        self._check_past(answer)
        self.fresh_ms = max(self.fresh_ms, answer.asked_ms)
        until_ms = follower_lease_until_ms(answer.asked_ms, context.timing.follower_lease_ms, answer.lease_ms)
        self.lease_until_ms = max(self.lease_until_ms, until_ms)
        _end(joined.reached, self._view())

    def _check_past(self, answer: IndexAnswer) -> None:
        """Raises `LogDamage` if the store has reached the index, but not by the log of the leader that answered."""
        state = self._context.replica.state
        if answer.term is not None and state.offset >= answer.offset:
            check_term(state, *answer.term)


def _end(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: ReplicatorError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be waiting any more
