"""Decides which timing a node follows, and which changes of it are safe.

    2 x heartbeat         <=  lease
    2 x heartbeat         <=  sync
    1.1 x lease           <=  election timeout of the first candidate
    1.1 x follower lease  <=  the same

The lease of a leader begins when it *sent* its last committed record; the election timeout of a candidate begins when
it *received* that record. A replica that was removed from the sync members may answer reads until its follower lease
ends, which is earlier than any election. Clocks need not agree, only run at about the same rate: within `MAX_DRIFT`.

The timing is a record in the log. A follower follows the last one that it has read, a leader the last one that it has
committed. The first leader appends what it is configured with. Nobody holds a lease before that record, so it does no
harm if the nodes are configured differently.

Nodes learn of a change one after the other. It is safe for these reasons:

* Only the election timeout of the new timing matters, because a claim is void unless its author has read the last
  record of the leader: a candidate that has not read the change cannot become leader after it.
* Leases of the former timing may still be held: by the leader, which has sent the record and does not know yet that it
  is committed; and by replicas that have not read it. So the new election timeout must be longer than these, too.
* No such lease begins once the record is committed: the leader follows it, and a replica must have applied it to meet
  the read index. So they have all expired after the longest of them, counted from when any node has read the record.
  Until then, whoever has to wait for the leases of others (after a forced claim, or because a replica was removed from
  the sync members) waits for the longer ones of both timings, and the next change is refused. So no lease is ever
  older than the former timing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, NamedTuple

from replicator.errors import BadRequest, Busy, ConfigError
from replicator.limits import MAX_TIMING_MS
from replicator.records.types import Timing

MAX_DRIFT = 0.1
"""Largest difference of two nodes' clock rates that is still safe."""


MAX_STREAM_SLACK_MS = 500
"""How late a heartbeat may come over a stream, however long the election timeout is."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long clients wait at most. They do not affect safety, so each node has its own."""

    answer_ms: Annotated[int, "A write that is not confirmed within this time fails with `UNKNOWN`."] = 5000
    read_ms: Annotated[int, "A read whose level cannot be met within this time fails with `STALE`."] = 2000

    def __post_init__(self) -> None:
        """Raises `ConfigError`."""
        for name in ("answer_ms", "read_ms"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")


SETTINGS = frozenset(Timing.__dataclass_fields__ | Timeouts.__dataclass_fields__)
"""Names of the section `[timing]`."""


DEFAULT_TIMEOUTS = Timeouts()


class LoggedTiming(NamedTuple):
    """The timing according to the log; part of the state of a store."""

    current: Timing | None = None  # None: the log has no record of it yet
    former: Timing | None = None  # the one before

    def after(self, timing: Timing) -> LoggedTiming:
        """After a record with `timing`."""
        return self if timing == self.current else LoggedTiming(timing, self.current)


class TimingState(NamedTuple):
    """The timing that a process follows."""

    current: Timing
    former: Timing | None  # of which leases may still be held
    since_ms: float  # when this process read the record of `current`, or started with it; inf: there is no record yet

    @staticmethod
    def opened(logged: LoggedTiming, configured: Timing, now_ms: float) -> TimingState:
        """Of a process that starts now. `configured`: what it follows, but for leases, before there is a record."""
        if logged.current is None:
            return TimingState(_without_leases(configured), configured, inf)
        return TimingState(logged.current, logged.former, now_ms)

    def read(self, timing: Timing, now_ms: float) -> TimingState:
        """After a record with `timing` was read, or committed by this process."""
        return self if timing == self.current else TimingState(timing, self.current, now_ms)

    def former_left_ms(self, now_ms: float) -> float:
        """How long leases of the former timing may still be held; 0: they have expired."""
        if self.former is None:
            return 0.0
        return max(0.0, self.since_ms + old_lease_ms(longest_lease_ms(self.former)) - now_ms)

    def longest_lease_ms(self, now_ms: float) -> int:
        """The longest lease that any node may hold now."""
        return max(map(longest_lease_ms, self._held(now_ms)))

    def longest_follower_lease_ms(self, now_ms: float) -> int:
        """The longest lease that any replica may hold now."""
        return max(timing.follower_lease_ms for timing in self._held(now_ms))

    def check_change(self, timing: Timing, now_ms: float) -> None:
        """Raises `ConfigError`, `BadRequest` or `Busy` if a leader must not append a record with `timing` now."""
        check(timing)
        least_ms = old_lease_ms(longest_lease_ms(self.current))
        if timing.election_ms < least_ms:
            raise BadRequest(
                f"election_ms ({timing.election_ms}) must be at least {least_ms:.0f} in this change, because leases "
                f"of {longest_lease_ms(self.current)} ms may still be held: shorten lease_ms and follower_lease_ms "
                "first, and election_ms in a second change"
            )
        left_ms = self.former_left_ms(now_ms)
        if left_ms > 0:
            raise Busy(
                f"leases of the timing before the last change may still be held: try again after {left_ms:.0f} ms"
            )

    def _held(self, now_ms: float) -> tuple[Timing, ...]:
        """The timings of which leases may be held now."""
        if self.former is None or self.former_left_ms(now_ms) <= 0:
            return (self.current,)
        return self.current, self.former


def check(timing: Timing) -> None:
    """Raises `ConfigError` with the relation that does not hold."""
    for name in ("step_ms", "jitter_ms"):
        _check_range(name, getattr(timing, name), 0)
    for name in ("heartbeat_ms", "lease_ms", "election_ms", "follower_lease_ms", "sync_ms"):
        _check_range(name, getattr(timing, name), 1)
    if timing.sync_ms < 2 * timing.heartbeat_ms:
        raise ConfigError(
            f"sync_ms ({timing.sync_ms}) must be at least twice heartbeat_ms ({timing.heartbeat_ms}), "
            "or, while there are no writes, a single late heartbeat makes replicas unresponsive"
        )
    if timing.lease_ms < 2 * timing.heartbeat_ms:
        raise ConfigError(
            f"lease_ms ({timing.lease_ms}) must be at least twice heartbeat_ms ({timing.heartbeat_ms}), "
            "or, while there are no writes, a single late heartbeat costs the leader its lease"
        )
    _check_election(timing, "lease_ms", "a new leader may write while the old one still answers reads")
    _check_election(
        timing,
        "follower_lease_ms",
        "a new leader may write while a replica that was removed from the sync members still answers reads",
    )


def longest_lease_ms(timing: Timing) -> int:
    """The longest for which a leader or a sync replica may answer reads although it has lost touch with the log."""
    return max(timing.lease_ms, timing.follower_lease_ms)


def old_lease_ms(lease_ms: float) -> float:
    """The longest that another node's lease which began before now may last, by this node's clock."""
    return round(lease_ms * (1 + MAX_DRIFT), 3)


def candidacy_ms(timing: Timing, rank: int, random: float) -> float:
    """How long a candidate waits after the last record of the leader.

    `rank` counts from 0 in the order of candidates, `random` is in [0, 1).
    """
    return timing.election_ms + rank * timing.step_ms + random * timing.jitter_ms


def stream_timeout_ms(timing: Timing) -> float:
    """How long a follower waits for the next record over a stream before it reads the log.

    Longer than `heartbeat_ms`; it ends well before `election_ms`.
    """
    return timing.heartbeat_ms + min((timing.election_ms - timing.heartbeat_ms) / 2, MAX_STREAM_SLACK_MS)


def _without_leases(timing: Timing) -> Timing:
    return replace(timing, lease_ms=0, follower_lease_ms=0)


def _check_range(name: str, value: int, least: int) -> None:
    if not least <= value <= MAX_TIMING_MS:
        raise ConfigError(f"{name} is {value}: it must be at least {least}, and at most {MAX_TIMING_MS}")


def _check_election(timing: Timing, lease: str, otherwise: str) -> None:
    least_ms = old_lease_ms(getattr(timing, lease))
    if timing.election_ms < least_ms:
        raise ConfigError(
            f"election_ms ({timing.election_ms}) must be at least {lease} x {1 + MAX_DRIFT} ({least_ms:.0f}), "
            f"or {otherwise}"
        )
