"""Shares the event loop among the connections, and leaves the rest of it to the node.

The commands of all clients together run for at most `SLICE_MS`; then the event loop gets through one iteration before
the next slice begins. What has to go on in a later slice waits for its turn, first come, first served. Commands that
have not begun come before long work, so that a short one does not wait for all the long ones; but once they have used
up a slice, the next one is for long work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from replicator.errors import BadRequest
from replicator.limits import MAX_REPLY_BYTES, SLICE_MS
from replicator.server.keyspace import TimeLimit
from replicator.sql.stepping import cpu_s
from replicator.steps import Steps

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ReplyTooLarge(BadRequest):
    def __init__(self) -> None:
        super().__init__(f"the reply would take more than {MAX_REPLY_BYTES >> 20} MiB: ask for less at a time")


class Turns:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.until_s = 0.0
        """By the clock, until when commands may run. Later, they have to `wait` for the next slice."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._long: deque[Callable[[], None]] = deque()  # the same, of long work
        self._long_first = False  # in the next slice: commands have used up this one
        self._scheduled = False  # `_next_slice`; always if anything waits

    def wait(self, run: Callable[[], None]) -> None:
        """`run` is called in a later slice. If it raises, the log says so."""
        self._waiting.append(run)
        self._schedule()

    async def run(self, steps: Steps[T]) -> T:
        """Run long work in slices. Raises `ReplyTooLarge`.

        A turn runs the steps itself: if it only woke the task, all that wait would get a step in one slice.
        """
        work = _LongWork(self, steps)
        if self.clock() < self.until_s:
            work.advance()
        else:
            self.wait_long(work.advance)
        try:
            return await work.result
        finally:
            work.close()
            del work  # the traceback of a failure refers to this frame

    def wait_long(self, run: Callable[[], None]) -> None:
        """As `wait`, of long work."""
        self._long.append(run)
        self._schedule()

    def _next_slice(self) -> None:
        self._scheduled = False
        self.until_s = self.clock() + SLICE_MS / 1000
        first, second = (self._long, self._waiting) if self._long_first else (self._waiting, self._long)
        if self._take_turns(first):
            self._long_first = False
            self._take_turns(second)
        else:
            self._long_first = not self._long_first and bool(self._long)
        if first or second:
            self._schedule()

    def _take_turns(self, waiting: deque[Callable[[], None]]) -> bool:
        """Whether there is time left."""
        for _ in range(len(waiting)):
            try:
                waiting.popleft()()
            except Exception:  # those that come after it must get their turn
                logger.exception("what waited for a slice has failed, which is a bug")
            if self.clock() >= self.until_s:
                return False
        return True

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_slice)


class _LongWork(Generic[T]):
    """Steps, and their result.

    Once they have ended, no cycle of references keeps the result or failure: these are large, and garbage is collected
    seldom.
    """

    def __init__(self, turns: Turns, steps: Steps[T]) -> None:
        self.result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._turns = turns
        self._steps = steps
        self._size = 0

    def advance(self) -> None:
        turns = self._turns
        if self.result.done():  # the task was cancelled
            return
        try:
            while True:
                self._size += next(self._steps)
                if self._size > MAX_REPLY_BYTES:
                    raise ReplyTooLarge
                if turns.clock() >= turns.until_s:
                    turns.wait_long(self.advance)
                    return
        except StopIteration as end:
            self.result.set_result(end.value)
        except Exception as error:  # noqa: BLE001 (raised in the task)
            within = error.__traceback__.tb_next if error.__traceback__ is not None else None
            self.result.set_exception(error.with_traceback(within))  # without this frame, which refers to the result

    def close(self) -> None:
        self._steps.close()
        if self.result.done() and not self.result.cancelled():
            self.result.exception()  # the task may have been cancelled meanwhile


class SliceLimit:
    """The time of a slice, from the first question on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s: float | None = None

    def is_exceeded(self) -> bool:
        now_s = self._clock()
        if self._until_s is None:
            self._until_s = now_s + SLICE_MS / 1000
        return now_s >= self._until_s


class CpuLimit:
    """A limit of CPU time, with the time for which the thread has waited for SQL.

    The other clock, which takes no system call, says when to look at it.
    """

    def __init__(
        self,
        limit_ms: float,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = cpu_s,
    ) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._until_s = cpu_clock() + limit_ms / 1000
        self._look_s = clock() + limit_ms / 1000

    def is_exceeded(self) -> bool:
        now_s = self._clock()
        if now_s < self._look_s:
            return False
        left_s = self._until_s - self._cpu_clock()
        self._look_s = now_s + left_s
        return left_s <= 0


class Budget:
    """What may be done without letting other code run."""

    def __init__(self, steps: int, limit: TimeLimit | None = None) -> None:
        self._steps = steps
        self._limit = limit
        self._bytes = MAX_REPLY_BYTES

    def spend(self, size: int) -> None:
        """For a part of the reply. Raises `ReplyTooLarge`."""
        self._bytes -= size
        if self._bytes < 0:
            raise ReplyTooLarge

    def finish(self, steps: Steps[T]) -> T | None:
        """The result of long work; None if it takes more steps or time than is left. Raises `ReplyTooLarge`."""
        try:
            while self._steps > 0:
                self._steps -= 1
                self.spend(next(steps))
                if self._limit is not None and self._limit.is_exceeded():
                    break
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()
        return None
