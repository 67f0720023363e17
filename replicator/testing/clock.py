"""The clocks of one node: a monotonic clock with its own rate, and a wall clock that can be set.

On some nodes, time may pass before the clock is read: the process is delayed in the middle of what it does.
"""

from __future__ import annotations

import asyncio
import math
import random
from itertools import pairwise

from replicator.protocol.timing import MAX_DRIFT
from replicator.testing.loop import SimLoop

_FASTEST = math.sqrt(1 + MAX_DRIFT)
_EPOCH_US = 1_700_000_000_000_000  # virtual time 0, since 1970


class SimClock:
    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        """The rates of any two clocks differ by at most `MAX_DRIFT`; the extremes are drawn often."""
        self._loop = loop
        self.rate = rng.choice((1 / _FASTEST, _FASTEST, rng.uniform(1 / _FASTEST, _FASTEST)))
        self._rng = rng
        self._delay_probability = rng.choice((0.0, 0.0, 0.001, 0.01))  # of each reading
        self._delay_s = rng.choice((0.005, 0.05, 0.3))  # maximum
        self._begin_ms = rng.uniform(0, 1e6)
        self._steps = [(0.0, rng.randrange(-1_000_000, 1_000_000))]  # since when, and the offset of the wall clock

    def elapsed_ms(self) -> float:
        return self._begin_ms + self._read_s() * 1000 * self.rate

    def peek_s(self) -> float:
        return self._begin_ms / 1000 + self._loop.time() * self.rate

    def wall_us(self) -> int:
        return self._wall_us(self._read_s(), self._steps[-1][1])

    def step_wall(self, step_us: int) -> None:
        self._steps.append((self._loop.time(), self._steps[-1][1] + step_us))

    def latest_wall_ms(self, until_s: float) -> int:
        """The latest time that the wall clock has shown until then."""
        steps = pairwise([*self._steps, (math.inf, 0)])
        ends = [(min(end_s, until_s), offset) for (begin_s, offset), (end_s, _) in steps if begin_s <= until_s]
        return max(self._wall_us(*end) for end in ends) // 1000

    def _read_s(self) -> float:
        if self._delay_probability and self._rng.random() < self._delay_probability:
            self._loop.spend(self._rng.random() * self._delay_s)
        return self._loop.time()

    def _wall_us(self, at_s: float, offset_us: int) -> int:
        return _EPOCH_US + offset_us + int(at_s * 1e6 * self.rate)

    async def sleep(self, duration_ms: float) -> None:
        await asyncio.sleep(duration_ms / 1000 / self.rate)

    def true_s(self, duration_ms: float) -> float:
        """The true seconds in which this clock advances by `duration_ms`."""
        return duration_ms / 1000 / self.rate
