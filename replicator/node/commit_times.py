"""When the records of a term were committed: the longer ago, the coarser."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from replicator.position import Offset

SPACING_MS = 100  # between the newest ones
PRECISION = 0.02  # of older ones, as a share of how long ago they were
MAX_NEW = 300  # as many are added before older ones are dropped


class CommitTime(NamedTuple):
    offset: Offset  # up to which records were committed
    at_ms: float


class CommitTimes:
    """Some hundred of them, even in a long term: their number grows with the logarithm of its duration."""

    def __init__(self) -> None:
        self._times: list[CommitTime] = []
        self._new = 0  # since older ones were dropped

    def __len__(self) -> int:
        return len(self._times)

    def note(self, offset: Offset, now_ms: float) -> None:
        """The log is committed up to `offset`."""
        times = self._times
        if times and now_ms - times[-1].at_ms < SPACING_MS:
            return
        times.append(CommitTime(offset, now_ms))
        self._new += 1
        if self._new == MAX_NEW:
            self._new = 0
            self._drop_some(now_ms)

    def waiting_ms(self, offset: Offset, now_ms: float) -> float:
        """How long ago the first record after `offset` was committed; 0 if none is known to be.

        To `SPACING_MS`, or to `PRECISION` of the result if that is coarser; never too long.
        """
        at = bisect_right(self._times, offset, key=lambda time: time.offset)
        return 0.0 if at == len(self._times) else max(0.0, now_ms - self._times[at].at_ms)

    def clear(self) -> None:
        self._times.clear()

    def _drop_some(self, now_ms: float) -> None:
        times = self._times
        kept = times[:1]
        for at in range(1, len(times) - 1):
            if times[at + 1].at_ms - kept[-1].at_ms > PRECISION * (now_ms - times[at].at_ms):
                kept.append(times[at])
        self._times = [*kept, times[-1]]
