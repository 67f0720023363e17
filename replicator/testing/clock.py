"""The clocks of one node: a monotonic clock with its own rate, and a wall clock that can be set."""

from __future__ import annotations

import asyncio
import math
import random

from replicator.protocol.timing import MAX_DRIFT
from replicator.testing.loop import SimLoop

_FASTEST = math.sqrt(1 + MAX_DRIFT)
_EPOCH_US = 1_700_000_000_000_000  # virtual time 0, since 1970


class SimClock:
    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        """The rates of any two clocks differ by at most `MAX_DRIFT`; the extremes are drawn often."""
        self._loop = loop
        self.rate = rng.choice((1 / _FASTEST, _FASTEST, rng.uniform(1 / _FASTEST, _FASTEST)))
        self._begin_ms = rng.uniform(0, 1e6)
        self.wall_offset_us = rng.randrange(-1_000_000, 1_000_000)

    def elapsed_ms(self) -> float:
        return self._begin_ms + self._loop.time() * 1000 * self.rate

    def wall_us(self) -> int:
        return _EPOCH_US + self.wall_offset_us + int(self._loop.time() * 1e6 * self.rate)

    async def sleep(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000 / self.rate)

    def true_s(self, duration_ms: float) -> float:
        """The true seconds in which this clock advances by `duration_ms`."""
        return duration_ms / 1000 / self.rate
