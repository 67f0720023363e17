"""The objects that the parts of one node share while its process runs, and the function that creates them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from replicator.limits import REPLICATION_BACKLOG_BYTES
from replicator.log.port import Log, Reader
from replicator.node.clock import Clock
from replicator.node.commit_point import CommitPoint
from replicator.node.disk_tail import DiskTail
from replicator.node.latencies import StageLatencies
from replicator.node.registration import Registration
from replicator.node.replica import Replica
from replicator.node.role_state import RoleState
from replicator.node.writes import PendingWrite, Writes
from replicator.position import Author, Offset
from replicator.protocol.pace import DEFAULT_PACE, Pace
from replicator.protocol.timing import DEFAULT_TIMEOUTS, Timeouts, TimingState
from replicator.protocol.upstream import DEFAULT_UPSTREAM, UpstreamRule
from replicator.records.codec import RecordCodec
from replicator.records.types import Single, Timing
from replicator.store.machine import Machine


@dataclass(frozen=True, slots=True)
class NodeContext:
    author: Author
    priority: int  # nodes with lower numbers become leader sooner
    upstream: UpstreamRule
    tail: DiskTail | None  # the part of the backlog that is on disk
    backlog_bytes: int  # in memory
    replica: Replica
    registration: Registration
    writes: Writes
    roles: RoleState
    commit_point: CommitPoint
    log: Log
    reader: Reader
    clock: Clock
    timeouts: Timeouts
    pace: Pace
    configured_timing: Timing  # of this node's config, for a new cluster
    configured_names: frozenset[str]  # fields of it that the config gives; the others are defaults
    random: random.Random
    latencies: StageLatencies

    @property
    def timing(self) -> Timing:
        """The timing that this node follows now."""
        return self.roles.timing.current

    def enqueue_own(self, body: Single) -> PendingWrite:
        """Queue a record of the leader itself, which changes no rows."""
        deadline_ms = self.clock.elapsed_ms() + self.timeouts.answer_ms
        pending = PendingWrite(body, self.replica.codec.encode_body(body), {}, None, deadline_ms)
        self.writes.add_own(pending)
        return pending


def open_context(
    author: Author,
    priority: int,
    machine: Machine,
    log: Log,
    clock: Clock,
    timing: Timing,
    rng: random.Random,
    *,
    configured_names: Iterable[str] = (),
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    pace: Pace = DEFAULT_PACE,
    eligible: bool = True,
    upstream: UpstreamRule = DEFAULT_UPSTREAM,
    tail: DiskTail | None = None,
    backlog_bytes: int = REPLICATION_BACKLOG_BYTES,
) -> NodeContext:
    """`timing`: for a new cluster. `eligible`: whether the node may start elections at once (`RoleState.eligible`)."""
    writes = Writes(machine.view)
    latencies = StageLatencies()
    followed = TimingState.opened(machine.timing, timing, clock.elapsed_ms())
    return NodeContext(
        author=author,
        priority=priority,
        upstream=upstream,
        tail=tail,
        backlog_bytes=backlog_bytes,
        replica=Replica(machine, RecordCodec(), clock, latencies.apply),
        registration=Registration(author),
        writes=writes,
        roles=RoleState(author, writes, clock, followed, eligible=eligible),
        commit_point=CommitPoint(),
        log=log,
        reader=log.reader(Offset(machine.state.offset + 1)),
        clock=clock,
        timeouts=timeouts,
        pace=pace,
        configured_timing=timing,
        configured_names=frozenset(configured_names),
        random=rng,
        latencies=latencies,
    )
