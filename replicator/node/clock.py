"""The clock of one node: a port, so that a simulated cluster can run many nodes on clocks of different rates."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    def elapsed_ms(self) -> float:
        """Time since an arbitrary moment. Never steps, and continues while the machine is suspended."""
        ...

    def peek_s(self) -> float:
        """The same time in seconds, for metrics only. Cheaper, and in a simulation looking at it takes no time."""
        ...

    def wall_us(self) -> int:
        """Time since 1970; may step."""
        ...

    async def sleep(self, duration_ms: float) -> None: ...


class SystemClock:
    peek_s = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME))

    def elapsed_ms(self) -> float:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e6

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    async def sleep(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000)
