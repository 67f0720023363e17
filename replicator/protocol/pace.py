"""How often a leader that appends nothing else appends heartbeats.

    pace      heartbeats                                          while
    steady    in the log, every `heartbeat_ms`                    the leader is in use, its last append failed, or a
                                                                  member does not ack over a stream
    idle      in the log, every `idle_heartbeat_ms`;              nothing has used its lease for `idle_after_ms`, Kafka
              over the streams, every `heartbeat_ms` / 2          answers, and all other members ack over their streams

A heartbeat over a stream renews no lease, because it proves nothing about the log: it only delays elections. So an idle
leader usually holds no lease. A read that needs one ends the idle pace, and waits for the heartbeat that is appended
then. Safety rests on the log, as before.

The idle pace also ends as soon as Kafka does not answer a request for the end of the log before the next heartbeat over
the streams is due, or a member has acked neither of the last two. So a member that receives no more heartbeats can read
one in the log 1.5 `heartbeat_ms` after the last one. No election begins earlier than 2.2 `heartbeat_ms` after it
(`timing`). A process that is not a member has no stream: it waits longer before it starts an election
(`extra_candidacy_ms`), unless the records show that the leader was not idle when it wrote the last one. So a cluster
whose first leader dies before others have registered does not wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from replicator.position import Author
from replicator.records.types import Membership, Timing

NON_MEMBER_INTERVALS = 2
"""For how many intervals of an idle leader's heartbeats in the log a process that is not a member waits longer: one of
them may be late, and clocks differ in rate."""
STEADY_INTERVALS = 2
"""Of heartbeats: a leader is not idle before its next one, and it may be late."""


@dataclass(frozen=True, slots=True)
class Pace:
    idle_after_ms: float = 10_000
    idle_heartbeat_ms: float = 5_000

    def log_interval_ms(self, timing: Timing) -> float:
        """Between two heartbeats in the log, at the idle pace."""
        return max(self.idle_heartbeat_ms, timing.heartbeat_ms)

    def extra_candidacy_ms(self, membership: Membership, author: Author, timing: Timing, unused_ms: float) -> float:
        """How much longer than a member a process that is not one waits before it starts an election.

        `unused_ms`: for how long the leader had written nothing but heartbeats when it wrote the last record; inf if
        that is not known.
        """
        if self.idle_after_ms == inf or not membership.members or membership.includes(author):
            return 0
        if unused_ms < self.idle_after_ms - STEADY_INTERVALS * timing.heartbeat_ms:
            return 0
        return NON_MEMBER_INTERVALS * self.log_interval_ms(timing)


DEFAULT_PACE = Pace()
ALWAYS_STEADY = Pace(idle_after_ms=inf)


def stream_interval_ms(timing: Timing) -> float:
    """Between two heartbeats over a stream."""
    return timing.heartbeat_ms / 2
