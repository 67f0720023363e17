"""The times that decide when leadership changes and how long clients wait; and the relations that keep this safe.

    2 x heartbeat   <=  lease  <  election timeout of the first candidate
    follower lease              <  the same
    2 x heartbeat   <=  sync

The lease of a leader begins when it *sent* its last committed record; the election timeout of a candidate begins when
it *received* that record. A replica that was removed from the sync members may answer reads until its follower lease
ends, which is earlier than any election. Clocks need not agree, only run at about the same rate: within `MAX_DRIFT`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from replicator.errors import ConfigError

MAX_DRIFT = 0.1
"""Largest difference of two nodes' clock rates that is still safe."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The settings of `[timing]`; the text beside each is its description in docs/configuration.md."""

    heartbeat_ms: Annotated[int, "An idle leader appends a heartbeat this often."] = 250
    lease_ms: Annotated[
        int, "A leader answers reads from its store for this long after it sent its last committed record."
    ] = 600
    election_ms: Annotated[
        int, "Election timeout: a candidate claims leadership this long after the last record of the leader."
    ] = 750
    step_ms: Annotated[int, "Added to the election timeout for each candidate that is preferred to this one."] = 150
    jitter_ms: Annotated[int, "Largest random addition to the election timeout."] = 50
    answer_ms: Annotated[int, "A write that is not confirmed within this time fails with `UNKNOWN`."] = 5000
    read_ms: Annotated[int, "A read whose level cannot be met within this time fails with `STALE`."] = 2000
    sync_ms: Annotated[
        int, "A sync replica that sent no ack for this long is unresponsive: new writes fail with `NOREPLICAS`."
    ] = 1000
    follower_lease_ms: Annotated[
        int,
        "In suspend and invalidate mode, a sync replica answers linearizable reads for this long after it asked for "
        "the read index and had applied it.",
    ] = 500

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
                "or a single late heartbeat makes idle replicas unresponsive"
            )
        if self.lease_ms < 2 * self.heartbeat_ms:
            raise ConfigError(
                f"lease_ms ({self.lease_ms}) must be at least twice heartbeat_ms ({self.heartbeat_ms}), "
                "or a single late heartbeat costs an idle leader its lease"
            )
        if self.election_ms < self.old_lease_ms:
            least = f"{self.old_lease_ms:.0f}"
            raise ConfigError(
                f"election_ms ({self.election_ms}) must be at least lease_ms x {1 + MAX_DRIFT} ({least}), "
                "or a new leader may write while the old one still answers reads"
            )
        if self.election_ms < self.old_follower_lease_ms:
            least = f"{self.old_follower_lease_ms:.0f}"
            raise ConfigError(
                f"election_ms ({self.election_ms}) must be at least follower_lease_ms x {1 + MAX_DRIFT} ({least}), "
                "or a new leader may write while a replica that was removed from the sync members still answers reads"
            )

    @property
    def longest_lease_ms(self) -> int:
        """The longest for which a leader or a sync replica may answer reads although it has lost touch with the log."""
        return max(self.lease_ms, self.follower_lease_ms)

    @property
    def old_lease_ms(self) -> float:
        """The longest that another node's lease which began before now may last, by this node's clock."""
        return self.lease_ms * (1 + MAX_DRIFT)

    @property
    def old_follower_lease_ms(self) -> float:
        """The longest that a replica's lease which began before now may last, by this node's clock."""
        return self.follower_lease_ms * (1 + MAX_DRIFT)

    def candidacy_ms(self, rank: int, random: float) -> float:
        """How long a candidate waits after the last record of the leader.

        `rank` counts from 0 in the order of candidates, `random` is in [0, 1).
        """
        return self.election_ms + rank * self.step_ms + random * self.jitter_ms
