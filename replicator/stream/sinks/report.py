"""How a running sink is doing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from replicator.stream.position import StreamPosition

RATE_WINDOW_S = 5.0


class SinkState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    RETRYING = "retrying"  # the target or Kafka does not answer
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    KILLED = "killed"  # it has ended without a report


@dataclass(frozen=True, slots=True)
class SinkReport:
    """All numbers are of this process."""

    state: SinkState
    position: StreamPosition | None  # after the last change written; None: before the first one
    written: int = 0  # changes
    batches: int = 0
    write_s: float = 0.0  # in which the target took them
    changes_per_s: float = 0.0  # lately
    lag_messages: int = 0  # messages in the topic that are not written
    lag_s: float = 0.0  # age of the last change written while there are more
    target_failures: int = 0
    kafka_failures: int = 0
    last_error: str | None = None


class RateMeter:
    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, count: int) -> float:
        """The rate of the last few seconds, with this count."""
        seen = self._seen
        seen.append((now_s, count))
        while len(seen) > 2 and seen[1][0] <= now_s - RATE_WINDOW_S:
            seen.popleft()
        (first_s, first), (last_s, last) = seen[0], seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0
