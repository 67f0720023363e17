"""Observes a node after each of its steps: the state of its store, and whether it holds a lease."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from replicator.protocol.log_state import LogState
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
    """Two nodes held a lease at the same true time."""

    at_s: float
    node: str
    other: str


class Observer:
    def __init__(self, now_s: Callable[[], float], trace: Callable[[str], None]) -> None:
        self._now_s = now_s
        self._trace = trace
        self._nodes: dict[Process, tuple[SimNode, Running]] = {}
        self._states: dict[str, LogState] = {}
        self._lease_until_s: dict[str, float] = {}
        self.samples: list[Sample] = []
        self.overlaps: list[Overlap] = []
        self._overlapping: set[frozenset[str]] = set()  # pairs of nodes that were reported

    def watch(self, node: SimNode, life: Running) -> None:
        self._nodes[life.process] = node, life
        self._states.pop(node.name, None)

    def forget(self, node: SimNode, life: Running) -> None:
        """To be called before the node is killed."""
        del self._nodes[life.process]
        self._lease_until_s.pop(node.name, None)

    def sample(self, node: SimNode, life: Running) -> Sample:
        meta = life.machine.meta
        return Sample(node.name, self._now_s(), meta.state, meta.digest, meta.entries)

    def after_step(self, process: Process) -> None:
        watched = self._nodes.get(process)
        if watched is None:
            return
        sim, life = watched
        meta = life.machine.meta
        if self._states.get(sim.name) is not meta.state:
            self._states[sim.name] = meta.state
            self.samples.append(self.sample(sim, life))
        left_ms = life.node.lease_left_ms
        if left_ms > 0:
            self._note_lease(sim, left_ms)
        else:
            self._lease_until_s.pop(sim.name, None)

    def _note_lease(self, sim: SimNode, left_ms: float) -> None:
        now_s = self._now_s()
        if sim.name not in self._lease_until_s:
            self._trace(f"{sim.name}: holds a lease")
        self._lease_until_s[sim.name] = now_s + sim.clock.true_s(left_ms)
        for other, until_s in self._lease_until_s.items():
            pair = frozenset((sim.name, other))
            if other != sim.name and until_s > now_s and pair not in self._overlapping:
                self._overlapping.add(pair)
                self._trace(f"{sim.name}: holds a lease while {other} holds one")
                self.overlaps.append(Overlap(now_s, sim.name, other))
