"""Shares the event loop among the connections, and leaves the rest of it to the node.

The commands of all clients together run for at most `SLICE_MS` in one iteration of the loop. What has to go on in a
later iteration waits for its turn, first come, first served.
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


class ReplyTooLarge(BadRequest):
    def __init__(self) -> None:
        super().__init__(f"the reply would take more than {MAX_REPLY_BYTES >> 20} MiB: ask for less at a time")


class Turns:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._waiting: deque[Callable[[], None]] = deque()
        self._until_s: float | None = None  # None: no command has run in this iteration of the loop

    def until_s(self) -> float:
        """By the clock, until when commands may run in this iteration of the loop."""
        if self._until_s is None:
            self._until_s = self.clock() + SLICE_MS / 1000
            asyncio.get_running_loop().call_soon(self._next_iteration)
        return self._until_s

    def wait(self, run: Callable[[], None]) -> None:
        """`run` is called in a later iteration of the loop."""
        self.until_s()
        self._waiting.append(run)

    async def run(self, steps: Steps[T]) -> T:
        """Run long work in slices. Raises `ReplyTooLarge`."""
        size = 0
        while True:
            until_s = self.until_s()
            try:
                size += next(steps)
                while self.clock() < until_s:
                    size += next(steps)
                    if size > MAX_REPLY_BYTES:
                        raise ReplyTooLarge
            except StopIteration as end:
                result: T = end.value
                return result
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.wait(lambda turn=turn: None if turn.done() else turn.set_result(None))  # type: ignore[misc]
            await turn

    def _next_iteration(self) -> None:
        self._until_s = None
        if not self._waiting:
            return
        until_s = self.until_s()
        for _ in range(len(self._waiting)):
            self._waiting.popleft()()
            if self.clock() >= until_s:
                break


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
