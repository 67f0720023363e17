"""Injects faults into a running cluster: kills, pauses, network cuts, outages and administrative changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from replicator.node.health import NodeState
from replicator.records.codec import RecordCodec
from replicator.records.types import Mode
from replicator.testing.checks.canonical import read_log
from replicator.testing.cluster import Running, SimNode
from replicator.testing.kafka import Kafka
from replicator.testing.observer import Observer
from replicator.testing.operator import Operator
from replicator.testing.partition import Replica

_HOUR_US = 3_600_000_000
_SHORT_S, _LONG_S = 0.05, 3.0
_REBUILD_S = 0.3
_LARGEST_MAP_BYTES = 64 << 20  # that grows


class Nemesis:
    def __init__(
        self,
        nodes: Sequence[SimNode],
        kafka: Kafka,
        rng: random.Random,
        observer: Observer,
        operator: Operator,
        trace: Callable[[str], None],
    ) -> None:
        self._nodes = nodes
        self._kafka = kafka
        self._loop = kafka.loop
        self._rng = rng
        self._observer = observer
        self._operator = operator
        self._trace = trace
        self._busy: set[str] = set()  # nodes that are stopping, stopped or paused
        self.stopping = False

    async def run(self) -> None:
        """Start random events until `stopping`, then wait until all of them have ended."""
        faults, rng = self._kafka.faults, self._rng
        running: list[asyncio.Task[None]] = []
        if faults.loses_records:
            running.append(asyncio.create_task(self.lose_records()))
        while faults.events:
            await asyncio.sleep(rng.expovariate(1000 / faults.disturbance_ms))
            if self.stopping:
                break
            name = rng.choice(faults.events)
            running.append(asyncio.create_task(EVENTS[name](self, self._rng.choice(self._nodes))))
        for task in running:
            await task

    def start(self, node: SimNode) -> None:
        self._observer.watch(node, node.start())

    async def kill(self, node: SimNode, *, system: bool = False) -> None:
        assert node.life is not None
        self._observer.forget(node.life)
        await node.kill(system=system)

    async def restart_replaced(self) -> None:
        """As an operator does: restart nodes of which an earlier process, which has ended, was the last to register."""
        for node in self._nodes:
            if node.life is not None and node.life.node.state is NodeState.REPLACED:
                await self.kill(node)
                self.start(node)

    def _lives(self) -> list[Running]:
        return [life for node in self._nodes for life in node.lives]

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

    async def start_elsewhere(self, node: SimNode) -> None:
        """Start a second process of a node. The first is paused, cut off or neither, and ends later."""
        if node.name in self._busy or node.life is None:
            return
        self._busy.add(node.name)
        first, link = node.life, node.life.link
        self._trace(f"{node.name}: started elsewhere")
        self._observer.watch(node, node.start_elsewhere())
        await self._wait(self._rng.choice((0.0, _SHORT_S, 0.3)) * self._rng.random())
        fault, duration_s = self._rng.choice(("paused", "cut off", "running")), self._random_duration_s()
        self._trace(f"{first.author}: {fault} for {duration_s:.3f} s")
        if fault == "paused":
            self._loop.pause(first.process)
        elif fault == "cut off":
            link.away_until_s = link.stalled_until_s = self._loop.time() + duration_s
        await self._wait(duration_s)
        if first.process.paused:
            self._loop.resume(first.process)
            self._trace(f"{first.author}: resumed")
        await self._wait(self._random_duration_s())
        self._observer.forget(first)
        await node.kill_former(first)
        self._busy.discard(node.name)

    async def stall_reader(self, node: SimNode) -> None:
        """One node receives no entries of the log for some time."""
        if node.life is not None:
            duration_s = self._random_duration_s()
            self._trace(f"{node.name}: receives no entries for {duration_s:.3f} s")
            node.life.link.stalled_until_s = self._loop.time() + duration_s

    def _let_fall_behind(self, life: Running, duration_s: float) -> None:
        """It receives no records, neither from Kafka nor from the leader. It can still ask the leader."""
        self._trace(f"{life.author}: receives no records for {duration_s:.3f} s")
        life.link.stalled_until_s = life.link.unsent_until_s = self._loop.time() + duration_s

    async def pause_leader_until_deposed(self, node: SimNode) -> None:
        """Another node becomes leader meanwhile, and a third one, `node`, learns of it later than the first."""
        leader = next((it for it in self._nodes if it.life is not None and it.life.node.leads), None)
        if leader is None or leader.life is None or leader.name in self._busy or leader is node or node.life is None:
            return
        self._busy.add(leader.name)
        process, behind = leader.life.process, node.life
        self._let_fall_behind(behind, _LONG_S)
        self._trace(f"{leader.name}: paused")
        self._loop.pause(process)
        for _ in range(300):
            if self.stopping or any(it.life and it.life.node.leads for it in self._nodes if it is not leader):
                break
            await asyncio.sleep(_LONG_S / 300)
        await self._wait(0.3 * self._rng.random())
        self._let_fall_behind(behind, _SHORT_S)
        self._loop.resume(process)
        self._trace(f"{leader.name}: resumed")
        self._busy.discard(leader.name)

    async def start_elsewhere_and_fall_behind(self, node: SimNode) -> None:
        """Start a second process of a node under long leases. One of the two does not learn what the other does."""
        self._operator.lengthen_leases()
        await self._wait(self._rng.random())
        if node.name in self._busy or node.life is None:
            return
        self._busy.add(node.name)
        first = node.life
        self._trace(f"{node.name}: started elsewhere")
        second = node.start_elsewhere()
        self._observer.watch(node, second)
        node.disconnect(first)
        await self._wait(self._rng.choice((_SHORT_S, 0.3)) * self._rng.random())
        duration_s = _LONG_S * self._rng.random()
        self._let_fall_behind(self._rng.choice((first, second)), duration_s)
        await self._wait(duration_s)
        self._observer.forget(first)
        await node.kill_former(first)
        self._busy.discard(node.name)

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

    async def depose_leader(self, _: SimNode) -> None:
        """The leader of the partition is cut off from the other brokers, which elect another one."""
        successors = self._successors()
        if successors:
            await self._depose_leader(self._rng.choice(successors))

    def _successors(self) -> list[Replica]:
        return [it for it in self._kafka.partition.others if it.in_sync and not self._kafka.down_ms(it)]

    async def _depose_leader(self, successor: Replica) -> None:
        """Some nodes can reach only the former leader, and some only the others. The rest notice nothing at first."""
        partition, rng = self._kafka.partition, self._rng
        former, duration_s = partition.leader, self._random_duration_s()
        partition.cut_off(former)
        partition.elect(successor, self._loop.time())
        self._trace(f"broker {former.broker}: deposed by {successor.broker} and cut off for {duration_s:.3f} s")
        until_s = self._loop.time() + duration_s
        for life in self._lives():
            reached = rng.choice((None, True, False))
            if reached is None:
                continue
            self._trace(f"{life.author}: reaches only {'the former leader' if reached else 'the other brokers'}")
            for replica in partition.replicas:
                if (replica is former) is reached:
                    continue
                life.link.unreachable_until_s[replica.broker] = until_s
        await self._wait(duration_s)
        if former.cut_off:
            partition.rejoin(former)

    async def stop_leading_broker(self, _: SimNode) -> None:
        """It is down for some time, and another one is elected at once or, if there is none, it itself later."""
        partition, successors, duration_s = self._kafka.partition, self._successors(), self._random_duration_s()
        stopped = partition.leader
        self._trace(f"broker {stopped.broker}: down for {duration_s:.3f} s")
        self._kafka.take_down(stopped, duration_s)
        stopped.restart()
        partition.elect(self._rng.choice(successors) if successors else stopped, self._loop.time())

    async def slow_replicas(self, _: SimNode) -> None:
        """Only the leader of the partition is in sync for some time: it refuses appends."""
        partition = self._kafka.partition
        slow = [it for it in partition.others if not it.cut_off]
        duration_s = self._random_duration_s()
        self._trace(f"brokers: only {partition.leader.broker} is in sync for {duration_s:.3f} s")
        for replica in slow:
            replica.stop_at_end()
        await self._wait(duration_s)
        for replica in slow:
            if not replica.in_sync and not replica.cut_off:
                partition.rejoin(replica)

    async def reserve_for_copies(self, rng: random.Random) -> None:
        """Again and again in some store, as before a comparison: readers have to begin again, some on a larger map."""
        while True:
            await asyncio.sleep(rng.expovariate(1 / _SHORT_S))
            life = rng.choice(self._nodes).life
            if life is not None and not life.process.paused:
                self._trace(f"{life.author}: its store is to be copied")
                free_bytes = rng.choice((0, life.machine.map_bytes))
                life.machine.reserve_for_copy(free_bytes if free_bytes < _LARGEST_MAP_BYTES else 0)

    async def lose_records(self) -> None:
        """Kafka loses acknowledged records. Some nodes have read them, and some have not.

        A broker that was behind is elected while the leader is cut off, or the machines of the brokers have crashed.
        Nodes may crash with them.
        """
        partition, rng, loop = self._kafka.partition, self._rng, self._loop
        await self._wait(rng.random())
        behind = next((it for it in partition.others if it.in_sync), None)
        if behind is not None:
            behind.stop_at_end()
        kept = partition.log.end
        for life in self._lives():
            if rng.random() < 0.5:
                life.link.stalled_until_s = loop.time() + _LONG_S
        await self._wait(rng.random() * rng.choice((0.3, 1.0)))
        crashing = [it for it in self._nodes if it.life and rng.random() < (0.8 if it.life.node.leads else 0.2)]
        killing = [asyncio.create_task(self.kill_one(node)) for node in crashing]
        await asyncio.sleep(0)
        self._trace(f"Kafka loses the records from offset {kept} to {partition.log.end - 1}")
        for life in self._lives():
            life.link.stalled_until_s = 0.0
        if behind is None or behind.in_sync or behind.cut_off or rng.random() < 0.5:
            partition.restart_with(kept, loop.time())
        else:
            await self._depose_leader(behind)
        for task in killing:
            await task

    async def rebuild_failed_nodes(self) -> None:
        """Until cancelled: after a loss, an operator starts each node that has failed again, with an empty store."""
        while True:
            await asyncio.sleep(_REBUILD_S)
            partition = self._kafka.partition
            for node in self._nodes:
                failed = node.life is not None and node.life.node.state is NodeState.FAILED
                if not failed or node.name in self._busy or not partition.losses:
                    continue
                if read_log(partition.log.entries(), RecordCodec()).damage:
                    continue
                self._busy.add(node.name)
                self._trace(f"{node.name}: is rebuilt")
                await self.kill(node)
                node.discard_store()
                self.start(node)
                self._busy.discard(node.name)

    async def delete_ack_topic(self, _: SimNode) -> None:
        """Someone creates it again soon."""
        duration_s = self._random_duration_s()
        self._trace(f"the ack topic is missing for {duration_s:.3f} s")
        self._kafka.acks_missing_until_s = self._loop.time() + duration_s

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
        self._trace(f"brokers: down for {duration_s:.3f} s")
        self._kafka.take_all_down(duration_s)

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
        await self._wait(self._rng.random() * 2 * self._kafka.faults.delay_ms / 1000)
        if leader is not None and self._rng.random() < 0.5:
            await self._pause(leader, _LONG_S)

    async def force_promotion(self, node: SimNode) -> None:
        self._operator.force_promotion(node)

    async def set_wall_clock(self, node: SimNode) -> None:
        step_us = self._rng.choice((-_HOUR_US, _HOUR_US))
        self._trace(f"{node.name}: wall clock stepped by {step_us // 1_000_000} s")
        node.clock.step_wall(step_us)

    async def foreign_append(self, _: SimNode) -> None:
        """A foreign producer appends to the topic: noise, or a copy of one of our records.

        No copy after a loss: a node cannot tell a lost claim of its leader from a copy of another one in its place.
        """
        partition = self._kafka.partition
        entries = [] if partition.losses else partition.log.entries()
        copied = self._rng.choice(entries).payload if entries and self._rng.random() < 0.5 else b"noise"
        self._trace(f"foreign producer: appends {len(copied)} bytes at offset {partition.log.end}")
        self._kafka.append([copied])


FaultEvent = Callable[[Nemesis, SimNode], Coroutine[Any, Any, None]]

FAULT_EVENTS: dict[str, FaultEvent] = {
    "kill one": Nemesis.kill_one,
    "kill all": Nemesis.kill_all,
    "pause": Nemesis.pause,
    "start elsewhere": Nemesis.start_elsewhere,
    "stall reader": Nemesis.stall_reader,
    "cut off": Nemesis.cut_off,
    "isolate": Nemesis.isolate,
    "depose leader": Nemesis.depose_leader,
    "stop leading broker": Nemesis.stop_leading_broker,
    "slow replicas": Nemesis.slow_replicas,
    "delete ack topic": Nemesis.delete_ack_topic,
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

CHOSEN_EVENTS: dict[str, FaultEvent] = {
    "pause leader until deposed": Nemesis.pause_leader_until_deposed,
    "start elsewhere and fall behind": Nemesis.start_elsewhere_and_fall_behind,
}
"""Each leads to a state that is too rare otherwise. They are part only of plans that name them."""

EVENTS = FAULT_EVENTS | CHOSEN_EVENTS
