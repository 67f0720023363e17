"""How long a leader may rest, is trusted, and is waited for; and the relations that keep this safe.

    heartbeat  <  lease  <  election time-out of the most eager candidate
    heartbeat  <  sync

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
    read_ms: int = 2000  # after which a read whose level cannot be met is answered with STALE
    sync_ms: int = 1000  # after which a sync replica that has not been heard of counts as gone
    follower_lease_ms: int = 500  # for which a sync replica that was level with the log may answer as if it still were

    def __post_init__(self) -> None:
        """Raises `ConfigError` with the relation that does not hold."""
        if self.jitter_ms < 0 or self.step_ms < 0:
            raise ConfigError("step_ms and jitter_ms must not be negative")
        for name in ("heartbeat_ms", "answer_ms", "read_ms", "follower_lease_ms"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")
        if self.sync_ms < 2 * self.heartbeat_ms:
            raise ConfigError(
                f"sync_ms ({self.sync_ms}) must be at least twice heartbeat_ms ({self.heartbeat_ms}), "
                "or an idle replica counts as gone with each late heartbeat"
            )
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

    @property
    def old_follower_lease_ms(self) -> float:
        """By this node's clock, how long a replica's lease may last that had begun before now."""
        return self.follower_lease_ms * (1 + MAX_DRIFT)

    def candidacy_ms(self, rank: int, random: float) -> float:
        """How long a candidate waits since it last heard of the leader.

        `rank` counts from 0 in the order of candidates, `random` is in [0, 1).
        """
        return self.election_ms + rank * self.step_ms + random * self.jitter_ms
