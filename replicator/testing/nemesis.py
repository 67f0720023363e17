"""Injects faults into a running cluster: kills, pauses, network cuts, outages and administrative changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from replicator.records.types import Mode
from replicator.testing.broker import Broker
from replicator.testing.cluster import SimNode
from replicator.testing.observer import Observer
from replicator.testing.operator import Operator

_HOUR_US = 3_600_000_000
_SHORT_S, _LONG_S = 0.05, 3.0


class Nemesis:
    def __init__(
        self,
        nodes: Sequence[SimNode],
        broker: Broker,
        rng: random.Random,
        observer: Observer,
        operator: Operator,
        trace: Callable[[str], None],
    ) -> None:
        self._nodes = nodes
        self._broker = broker
        self._loop = broker.loop
        self._rng = rng
        self._observer = observer
        self._operator = operator
        self._trace = trace
        self._busy: set[str] = set()  # nodes that are stopping, stopped or paused
        self.stopping = False

    async def run(self) -> None:
        """Start random events until `stopping`, then wait until all of them have ended."""
        faults, rng = self._broker.faults, self._rng
        running: list[asyncio.Task[None]] = []
        while faults.events:
            await asyncio.sleep(rng.expovariate(1000 / faults.disturbance_ms))
            if self.stopping:
                break
            name = rng.choice(faults.events)
            running.append(asyncio.create_task(FAULT_EVENTS[name](self, self._rng.choice(self._nodes))))
        for task in running:
            await task

    def start(self, node: SimNode) -> None:
        self._observer.watch(node, node.start())

    async def kill(self, node: SimNode, *, system: bool = False) -> None:
        assert node.life is not None
        self._observer.forget(node, node.life)
        await node.kill(system=system)

    def _random_duration_s(self) -> float:
        return self._rng.random() * self._rng.choice((_SHORT_S, 1.0, _LONG_S))

    async def _wait(self, duration_s: float) -> None:
        """Wait for that time, or until `stopping`."""
        end_s = self._loop.time() + duration_s
        while not self.stopping and self._loop.time() < end_s:  # noqa: ASYNC110 (virtual time)
            await asyncio.sleep(min(0.1, end_s - self._loop.time()))

    async def kill_one(self, node: SimNode) -> None:
        if node.name in self._busy:
            return
        self._busy.add(node.name)
        await self.kill(node, system=self._rng.random() < 0.3)
        await self._wait(self._random_duration_s())
        self.start(node)
        self._busy.discard(node.name)

    async def kill_all(self, _: SimNode) -> None:
        """Kill all nodes at once and restart them one by one."""
        nodes = [it for it in self._nodes if it.name not in self._busy]
        self._busy.update(it.name for it in nodes)
        for node in nodes:
            await self.kill(node)
        for node in nodes:
            await self._wait(self._rng.random() * _SHORT_S)
            self.start(node)
            self._busy.discard(node.name)

    async def pause(self, node: SimNode) -> None:
        """Like SIGSTOP and, later, SIGCONT: the node's clocks keep running meanwhile."""
        await self._pause(node, self._random_duration_s())

    async def _pause(self, node: SimNode, duration_s: float) -> None:
        if node.name in self._busy or node.life is None:
            return
        self._busy.add(node.name)
        self._trace(f"{node.name}: paused")
        self._loop.pause(node.life.process)
        await self._wait(duration_s)
        self._loop.resume(node.life.process)
        self._trace(f"{node.name}: resumed")
        self._busy.discard(node.name)

    async def stall_reader(self, node: SimNode) -> None:
        """One node receives no entries of the log for some time."""
        if node.life is not None:
            duration_s = self._random_duration_s()
            self._trace(f"{node.name}: receives no entries for {duration_s:.3f} s")
            node.life.link.stalled_until_s = self._loop.time() + duration_s

    async def cut_off(self, node: SimNode) -> None:
        if node.life is not None:
            duration_s = self._random_duration_s()
            self._trace(f"{node.name}: cut off from the broker for {duration_s:.3f} s")
            node.life.link.away_until_s = self._loop.time() + duration_s
            if self._rng.random() < 0.5:
                node.life.link.isolated_until_s = node.life.link.away_until_s

    async def isolate(self, node: SimNode) -> None:
        if node.life is not None:
            duration_s = self._random_duration_s()
            self._trace(f"{node.name}: cut off from the other nodes for {duration_s:.3f} s")
            node.life.link.isolated_until_s = self._loop.time() + duration_s

    async def depose_broker(self, node: SimNode) -> None:
        if node.life is not None:
            duration_s = self._random_duration_s()
            self._trace(f"{node.name}: talks to a deposed broker for {duration_s:.3f} s")
            node.life.link.depose_broker(duration_s)

    async def cut_off_and_set_async(self, node: SimNode) -> None:
        """Set a member async while it is cut off and cannot read that record; leases may be shortened before it."""
        changes_timing = self._rng.random() < 0.3
        if changes_timing:
            self._operator.lengthen_leases()
            await self._wait(self._rng.random())
        if node.life is None or node.life.node.leads:
            return
        duration_s = _LONG_S * self._rng.random()
        self._trace(f"{node.name}: cut off for {duration_s:.3f} s and set async")
        node.life.link.away_until_s = node.life.link.stalled_until_s = self._loop.time() + duration_s
        if changes_timing:
            self._operator.change_timing()
            await self._wait(_SHORT_S)
        self._operator.set_mode(node, Mode.ASYNC)
        await self._wait(duration_s)
        self._operator.set_mode(node, Mode.SYNC)

    async def outage(self, _: SimNode) -> None:
        duration_s = self._random_duration_s()
        self._trace(f"broker: down for {duration_s:.3f} s")
        self._broker.down_until_s = self._loop.time() + duration_s

    async def transfer_leadership(self, node: SimNode) -> None:
        self._operator.transfer_leadership(node)

    async def change_mode(self, node: SimNode) -> None:
        self._operator.change_mode(node)

    async def change_policy(self, _: SimNode) -> None:
        self._operator.change_policy()

    async def change_timing(self, _: SimNode) -> None:
        """Leases become long, and later short: often the leader is paused before it knows that this is committed."""
        self._operator.lengthen_leases()
        await self._wait(self._rng.random())
        self._operator.change_timing()
        leader = next((it for it in self._nodes if it.life is not None and it.life.node.leads), None)
        await self._wait(self._rng.random() * 2 * self._broker.faults.delay_ms / 1000)
        if leader is not None and self._rng.random() < 0.5:
            await self._pause(leader, _LONG_S)

    async def force_promotion(self, node: SimNode) -> None:
        self._operator.force_promotion(node)

    async def set_wall_clock(self, node: SimNode) -> None:
        step_us = self._rng.choice((-_HOUR_US, _HOUR_US))
        self._trace(f"{node.name}: wall clock stepped by {step_us // 1_000_000} s")
        node.clock.wall_offset_us += step_us

    async def foreign_append(self, _: SimNode) -> None:
        """A foreign producer appends to the topic: noise, or a copy of one of our records."""
        log = self._broker.log
        copied = self._rng.choice(log.entries).payload if log.entries and self._rng.random() < 0.5 else b"noise"
        self._trace(f"foreign producer: appends {len(copied)} bytes at offset {len(log.entries)}")
        self._broker.append([copied])


FaultEvent = Callable[[Nemesis, SimNode], Coroutine[Any, Any, None]]

FAULT_EVENTS: dict[str, FaultEvent] = {
    "kill one": Nemesis.kill_one,
    "kill all": Nemesis.kill_all,
    "pause": Nemesis.pause,
    "stall reader": Nemesis.stall_reader,
    "cut off": Nemesis.cut_off,
    "isolate": Nemesis.isolate,
    "depose broker": Nemesis.depose_broker,
    "cut off and set async": Nemesis.cut_off_and_set_async,
    "outage": Nemesis.outage,
    "transfer leadership": Nemesis.transfer_leadership,
    "force promotion": Nemesis.force_promotion,
    "change mode": Nemesis.change_mode,
    "change policy": Nemesis.change_policy,
    "change timing": Nemesis.change_timing,
    "set wall clock": Nemesis.set_wall_clock,
    "foreign append": Nemesis.foreign_append,
}
