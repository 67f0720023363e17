"""A model of a replica that answers reads during its lease, and of a leader that removes it from the sync members.

Time is in whole ticks. The leader may change the timing, remove the replica, crash and restart; it leads again after an
election or a forced claim. The replica asks for the read index, and reads the log when it likes. Before its removal a
write waits for its ack, so the model begins to look at writes after that.

Invariant: while the replica holds its lease, the leader neither appends nor confirms a write that the replica may not
know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from replicator.errors import BadRequest, Busy
from replicator.protocol.timing import LoggedTiming, TimingState, candidacy_ms, old_lease_ms
from replicator.records.types import Timing

SLOW = Timing(heartbeat_ms=1, lease_ms=2, election_ms=5, step_ms=0, jitter_ms=0, follower_lease_ms=4)
BETWEEN = replace(SLOW, follower_lease_ms=2)
FAST = replace(BETWEEN, election_ms=3)
TIMINGS = (SLOW, BETWEEN, FAST)
REMOVAL = None
NOW = 0
LONG_AGO = -SLOW.election_ms


class ReplicaModel(NamedTuple):
    known: int = 0  # how much of the log it has read
    asked: int = LONG_AGO  # when it asked for the read index
    read_index: int = 0  # the answer

    def holds_lease(self, log: tuple[Timing | None, ...]) -> bool:
        known = log[: self.known]
        if REMOVAL in known or self.known < self.read_index:
            return False
        return NOW - self.asked < next(it for it in reversed(known) if it).follower_lease_ms


class LeaderModel(NamedTuple):
    timing: TimingState
    leads: bool = True
    started: int = LONG_AGO  # its process
    write_from: float = 0.0


class ModelState(NamedTuple):
    log: tuple[Timing | None, ...]
    leader: LeaderModel
    replica: ReplicaModel

    @property
    def violation(self) -> bool:
        leader = self.leader
        may_write = REMOVAL in self.log and leader.leads and leader.write_from <= NOW
        return may_write and self.replica.holds_lease(self.log)


START = ModelState((SLOW,), LeaderModel(TimingState(SLOW, None, LONG_AGO)), ReplicaModel(1))


def steps(state: ModelState) -> Iterator[tuple[str, ModelState]]:
    log, leader, replica = state
    yield "tick", _tick_later(state)
    if replica.known < len(log):
        yield "the replica reads", state._replace(replica=replica._replace(known=replica.known + 1))
    if not leader.leads:
        if NOW - leader.started >= candidacy_ms(leader.timing.current, rank=0, random=0.0):
            yield "the leader is elected", state._replace(leader=leader._replace(leads=True))
        wait_ms = old_lease_ms(leader.timing.longest_lease_ms(NOW))
        forced = leader._replace(leads=True, write_from=max(leader.write_from, wait_ms))
        yield "the leader is forced", state._replace(leader=forced)
        return
    yield "the replica asks", state._replace(replica=replica._replace(asked=NOW, read_index=len(log)))
    yield "the leader restarts", state._replace(leader=_restarted(log))
    if REMOVAL not in log:
        wait_ms = old_lease_ms(leader.timing.longest_follower_lease_ms(NOW))
        yield "the replica is removed", state._replace(log=(*log, REMOVAL), leader=leader._replace(write_from=wait_ms))
    for number, timing in enumerate(TIMINGS):
        if timing != leader.timing.current:
            with suppress(BadRequest, Busy):
                leader.timing.check_change(timing, NOW)
                changed = leader._replace(timing=leader.timing.read(timing, NOW))
                yield f"timing {number}", state._replace(log=(*log, timing), leader=changed)


def _restarted(log: tuple[Timing | None, ...]) -> LeaderModel:
    """It forgets how long it had to wait."""
    logged = LoggedTiming()
    for timing in log:
        logged = logged.after(timing) if timing else logged
    return LeaderModel(TimingState.opened(logged, SLOW, NOW), False, NOW)


def _tick_later(state: ModelState) -> ModelState:
    log, leader, replica = state
    timing = leader.timing._replace(since_ms=max(leader.timing.since_ms - 1, LONG_AGO))
    return ModelState(
        log,
        LeaderModel(timing, leader.leads, max(leader.started - 1, LONG_AGO), max(0.0, leader.write_from - 1)),
        replica._replace(asked=max(replica.asked - 1, LONG_AGO)),
    )


def explore(depth: int) -> tuple[int, str]:
    """How many states there are within that many steps, and the shortest way to a violation; empty if there is none."""
    came_from: dict[ModelState, tuple[ModelState, str]] = {}
    frontier = {START}
    for _ in range(depth):
        further = set()
        for state in frontier:
            for name, after in steps(state):
                if after not in came_from and after != START:
                    came_from[after] = state, name
                    further.add(after)
                    if after.violation:
                        return len(came_from), _path(came_from, after)
        frontier = further
    return len(came_from), ""


def _path(came_from: dict[ModelState, tuple[ModelState, str]], state: ModelState) -> str:
    names: list[str] = []
    while state != START:
        state, name = came_from[state]
        names.append(name)
    return ", ".join(reversed(names))
