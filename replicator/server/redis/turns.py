"""Shares the event loop among the connections, and leaves the rest of it to the node.

The commands of all clients together run for at most `SLICE_MS`; then the event loop gets through one iteration before
the next slice begins. What has to go on in a later slice waits for its turn, first come, first served. Commands that
have not begun come before long work, so that a short one does not wait for all the long ones; but once they have used
up a slice, the next one is for long work.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from replicator.errors import BadRequest
from replicator.limits import MAX_REPLY_BYTES, SLICE_MS

T = TypeVar("T")

Steps: TypeAlias = Generator[int, None, T]
"""Long work. It yields after each short step: the number of bytes that the step has added to the result."""


def finish(steps: Steps[T]) -> T:
    """The result of work, however many steps it takes."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result: T = end.value
        return result


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
        """`run` is called in a later slice."""
        self._waiting.append(run)
        self._schedule()

    async def run(self, steps: Steps[T]) -> T:
        """Run long work in slices. Raises `ReplyTooLarge`.

        A turn runs the steps itself: if it only woke the task, all that wait would get a step in one slice.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        size = 0

        def wait() -> None:
            self._long.append(advance)
            self._schedule()

        def advance() -> None:
            nonlocal size
            if result.done():  # the task was cancelled
                return
            try:
                while True:
                    size += next(steps)
                    if size > MAX_REPLY_BYTES:
                        raise ReplyTooLarge
                    if self.clock() >= self.until_s:
                        wait()
                        return
            except StopIteration as end:
                result.set_result(end.value)
            except Exception as error:  # noqa: BLE001 (raised in the task)
                result.set_exception(error)

        if self.clock() < self.until_s:
            advance()
        else:
            wait()
        try:
            return await result
        finally:
            steps.close()
            if result.done() and not result.cancelled():
                result.exception()  # the task may have been cancelled meanwhile

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
            waiting.popleft()()
            if self.clock() >= self.until_s:
                return False
        return True

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_slice)


class CpuLimit:
    """A limit of CPU time. The other clock, which takes no system call, says when to look at it."""

    def __init__(
        self,
        limit_ms: float,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
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

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._bytes = MAX_REPLY_BYTES

    def spend(self, size: int) -> None:
        """For a part of the reply. Raises `ReplyTooLarge`."""
        self._bytes -= size
        if self._bytes < 0:
            raise ReplyTooLarge

    def finish(self, steps: Steps[T]) -> T | None:
        """The result of long work; None if it takes more steps than are left. Raises `ReplyTooLarge`."""
        try:
            while self._steps > 0:
                self._steps -= 1
                self.spend(next(steps))
        except StopIteration as end:
            result: T = end.value
            return result
        steps.close()
        return None
