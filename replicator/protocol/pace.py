"""How often an idle leader appends heartbeats.

    pace      heartbeats                                          while
    steady    in the log, every `heartbeat_ms`                    the leader is in use, or a member reads the log
    quiet     in the log, every `quiet_heartbeat_ms`;             nothing has needed its lease for `quiet_after_ms`, and
              over the streams, every `heartbeat_ms` / 2          all members that may become leader ack over a stream

A heartbeat over a stream renews no lease, because it proves nothing about the log: it only delays elections. So a quiet
leader usually holds no lease. A read that needs one ends the quiet pace, and waits for the heartbeat that is appended
then. Safety rests on the log, as before.

The quiet pace ends as soon as a member has not acked for `heartbeat_ms`. That is at most 1.5 `heartbeat_ms` after the
last heartbeat that it has received, and elections begin later than 2.2 (`timing`). A process that is not a member has
no stream, and may start an election only after the interval in the log has passed, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from replicator.position import Author, NodeId
from replicator.records.types import Membership, Mode, Timing


@dataclass(frozen=True, slots=True)
class Pace:
    quiet_after_ms: float = 10_000
    quiet_heartbeat_ms: float = 5_000

    def log_interval_ms(self, timing: Timing) -> float:
        """Between two heartbeats in the log, at the quiet pace."""
        return max(self.quiet_heartbeat_ms, timing.heartbeat_ms)

    def extra_candidacy_ms(self, membership: Membership, node: NodeId) -> float:
        """How much longer than a member a process waits before it starts an election, if it is not one."""
        return self.quiet_heartbeat_ms if membership.members and membership.get(node) is None else 0


DEFAULT_PACE = Pace()
ALWAYS_STEADY = Pace(quiet_after_ms=inf, quiet_heartbeat_ms=0)


def stream_interval_ms(timing: Timing) -> float:
    """Between two heartbeats over a stream."""
    return timing.heartbeat_ms / 2


def followers_answer(
    membership: Membership, leader: Author, acked_ms: Mapping[Author, float], now_ms: float, timing: Timing
) -> bool:
    """Whether every other member that may become leader has acked lately.

    `acked_ms`: when the last ack of each process came over its stream, if it has one.
    """
    candidates: Iterable[Author] = (
        member.author
        for member in membership.members
        if member.author != leader and member.mode is not Mode.SNAPSHOTTER
    )
    return all(now_ms - acked_ms.get(candidate, -inf) <= timing.heartbeat_ms for candidate in candidates)
