"""Random timings: of the nodes' configs, and as an operator changes them."""

from __future__ import annotations

import random
from math import ceil

from replicator.protocol.pace import Pace
from replicator.protocol.timing import longest_lease_ms, old_lease_ms
from replicator.records.types import Timing

LONG_LEASES = Timing(heartbeat_ms=200, lease_ms=1500, election_ms=1700, follower_lease_ms=1500)
QUICKLY_IDLE = Pace(idle_after_ms=200, idle_heartbeat_ms=2_000)
IDLE_THINK_MS = 2_000.0
_LEASES_MS = (200, 300, 600)


def draw_timing(rng: random.Random) -> Timing:
    """The defaults, or the shortest election timeout allowed, with little or no step by priority."""
    if rng.random() < 0.3:
        return Timing()
    lease_ms = rng.choice((300, 600))
    return _timing(rng, lease_ms, min(500, lease_ms), lease_ms)


def draw_change(rng: random.Random, present: Timing) -> Timing:
    """Other leases and the shortest election timeout for them; it may respect the present leases, too."""
    lease_ms, follower_lease_ms = rng.choice(_LEASES_MS), rng.choice(_LEASES_MS)
    longest_ms = max(lease_ms, follower_lease_ms)
    if rng.random() < 0.5:
        longest_ms = max(longest_ms, longest_lease_ms(present))
    return _timing(rng, lease_ms, follower_lease_ms, longest_ms)


def _timing(rng: random.Random, lease_ms: int, follower_lease_ms: int, longest_ms: int) -> Timing:
    return Timing(
        heartbeat_ms=lease_ms // rng.choice((2, 4)),
        lease_ms=lease_ms,
        election_ms=ceil(old_lease_ms(longest_ms)),
        step_ms=rng.choice((0, 20)),
        jitter_ms=rng.choice((5, 50)),
        follower_lease_ms=follower_lease_ms,
    )
