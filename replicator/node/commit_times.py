"""When the records of a term were committed: the longer ago, the coarser."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from replicator.position import Offset

SPACING_MS = 100  # between the newest ones
PRECISION = 0.02  # of how long ago older ones were
MAX_NEW = 300  # that are added before older ones are dropped


class CommitTime(NamedTuple):
    offset: Offset  # up to which records were committed
    at_ms: float


class CommitTimes:
    """Some hundred of them, however long the term is: their number grows with its logarithm."""

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
        """How long ago the first record after `offset` was committed; 0 if there is none, or it is newer than that."""
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
