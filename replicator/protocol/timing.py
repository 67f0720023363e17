"""How long a leader may rest, is trusted, and is waited for; and the relations that keep this safe.

    heartbeat  <  lease  <  election time-out of the most eager candidate

The leader trusts itself for `lease` from when it *sent* its last committed record; a candidate waits `election` from
when it *received* that record. Clocks need not agree, only run at about the same rate: `MAX_DRIFT` is what they may
differ by.
"""

from __future__ import annotations

from dataclasses import dataclass

from replicator.errors import ConfigError

MAX_DRIFT = 0.1
"""Largest difference of two nodes' clock rates that is still safe."""


@dataclass(frozen=True, slots=True)
class Timing:
    heartbeat_ms: int = 250
    lease_ms: int = 600
    election_ms: int = 750
    step_ms: int = 150  # each rank in the order of priorities waits this much longer
    jitter_ms: int = 50
    answer_ms: int = 5000  # after which a write in flight is answered with UNKNOWN

    def __post_init__(self) -> None:
        """Raises `ConfigError` with the relation that does not hold."""
        if self.heartbeat_ms < 1 or self.jitter_ms < 0 or self.step_ms < 0 or self.answer_ms < 1:
            raise ConfigError("heartbeat_ms and answer_ms must be at least 1, step_ms and jitter_ms not negative")
        if self.lease_ms < 2 * self.heartbeat_ms:
            raise ConfigError(
                f"lease_ms ({self.lease_ms}) must be at least twice heartbeat_ms ({self.heartbeat_ms}), "
                "or an idle leader loses its lease with each late heartbeat"
            )
        if self.election_ms < self.old_lease_ms:
            least = f"{self.old_lease_ms:.0f}"
            raise ConfigError(
                f"election_ms ({self.election_ms}) must be at least lease_ms x {1 + MAX_DRIFT} ({least}), "
                "or a new leader may write while the old one still answers reads"
            )

    @property
    def old_lease_ms(self) -> float:
        """By this node's clock, how long another node's lease may last that had begun before now."""
        return self.lease_ms * (1 + MAX_DRIFT)

    def candidacy_ms(self, rank: int, random: float) -> float:
        """How long a candidate waits since it last heard of the leader.

        `rank` counts from 0 in the order of candidates, `random` is in [0, 1).
        """
        return self.election_ms + rank * self.step_ms + random * self.jitter_ms
