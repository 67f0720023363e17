"""Observes a process after each of its steps: the state of its store, its lease, and whether it counts as its node."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replicator.node.health import NodeState
from replicator.position import Author, Epoch, Offset
from replicator.protocol.ack_policy import required
from replicator.protocol.log_state import LogState
from replicator.testing.checks.acks import Unacknowledged
from replicator.testing.cluster import Running, SimNode
from replicator.testing.loop import Process


class Sample(NamedTuple):
    """A store at one moment."""

    node: str
    at_s: float
    state: LogState
    digest: int
    entries: int


class Overlap(NamedTuple):
    """Two processes held a lease at the same true time."""

    at_s: float
    node: str
    other: str


class Unstopped(NamedTuple):
    """A process had read that another one replaced it, and did not stop."""

    at_s: float
    node: str


class Observer:
    def __init__(self, now_s: Callable[[], float], trace: Callable[[str], None]) -> None:
        self._now_s = now_s
        self._trace = trace
        self._nodes: dict[Process, tuple[SimNode, Running]] = {}
        self._states: dict[Process, LogState] = {}
        self._lease_until_s: dict[Process, float] = {}
        self._leading: set[Process] = set()  # since the step before
        self._reached: dict[Author, tuple[Epoch, Offset]] = {}  # the furthest that each process has applied
        self._registered: set[Process] = set()
        self.samples: list[Sample] = []
        self.overlaps: list[Overlap] = []
        self.unstopped: list[Unstopped] = []
        self.unacknowledged: list[Unacknowledged] = []
        self._overlapping: set[frozenset[Process]] = set()  # pairs that were reported

    def watch(self, node: SimNode, life: Running) -> None:
        self._nodes[life.process] = node, life

    def forget(self, life: Running) -> None:
        """Call it before the process is killed."""
        for known in (self._nodes, self._states, self._lease_until_s):
            known.pop(life.process, None)
        self._registered.discard(life.process)
        self._leading.discard(life.process)

    def sample(self, life: Running) -> Sample:
        meta = life.machine.meta
        return Sample(life.process.name, self._now_s(), meta.state, meta.digest, meta.entries)

    def after_step(self, process: Process) -> None:
        watched = self._nodes.get(process)
        if watched is None:
            return
        sim, life = watched
        meta = life.machine.meta
        if self._states.get(process) is not meta.state:
            self._states[process] = meta.state
            self.samples.append(self.sample(life))
            self._note_registration(process, life)
            if process in self._leading and life.node.leads:
                self._note_confirmed(life)
            self._reached[life.author] = meta.state.epoch, meta.state.offset
        if life.node.leads:
            self._leading.add(process)
        else:
            self._leading.discard(process)
        left_ms = life.node.lease_left_ms
        if left_ms > 0:
            self._note_lease(process, sim, left_ms)
        else:
            self._lease_until_s.pop(process, None)

    def _note_confirmed(self, life: Running) -> None:
        """A leader has applied what it takes to be confirmed."""
        meta = life.machine.meta
        if life.node.membership_changes.latest != meta.membership:
            return  # a change is in flight, and the writes before it may follow either policy
        requirement, state = required(meta.membership, life.author), meta.state
        missing = requirement.missing(lambda it: self._has_applied(it, state))
        if missing:
            self.unacknowledged.append(Unacknowledged(self._now_s(), life.process.name, state.offset, missing))

    def _has_applied(self, replica: Author, state: LogState) -> bool:
        epoch, offset = self._reached.get(replica, (0, -1))
        return epoch >= state.epoch and offset >= state.offset

    def _note_registration(self, process: Process, life: Running) -> None:
        if life.node.is_registered:
            self._registered.add(process)
        elif process in self._registered and life.node.state is not NodeState.REPLACED:
            member = life.node.membership.get(life.author.node)
            if member is not None and member.incarnation:
                self.unstopped.append(Unstopped(self._now_s(), process.name))

    def _note_lease(self, process: Process, sim: SimNode, left_ms: float) -> None:
        now_s = self._now_s()
        if process not in self._lease_until_s:
            self._trace(f"{process.name}: holds a lease")
        self._lease_until_s[process] = now_s + sim.clock.true_s(left_ms)
        for other, until_s in self._lease_until_s.items():
            pair = frozenset((process, other))
            if other is not process and until_s > now_s and pair not in self._overlapping:
                self._overlapping.add(pair)
                self._trace(f"{process.name}: holds a lease while {other.name} holds one")
                self.overlaps.append(Overlap(now_s, process.name, other.name))
